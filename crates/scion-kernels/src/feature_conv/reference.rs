use burn::Tensor;

/// [`gated_feature_conv`](super::gated_feature_conv) in plain tensor operations.
pub fn gated_feature_conv_reference(features: Tensor<3>, filter: Tensor<2>, bias: Tensor<1>) -> Tensor<3> {
    let [batch, tokens, width] = features.dims();
    let taps = filter.dims()[1];
    let padded = Tensor::cat(vec![Tensor::zeros([batch, tokens, taps - 1], &features.device()), features], 2);
    let mut mixed = bias.reshape([1, tokens, 1]).expand([batch, tokens, width]);
    for tap in 0..taps {
        let weight = filter.clone().narrow(1, tap, 1).reshape([1, tokens, 1]);
        mixed = mixed + padded.clone().narrow(2, tap, width) * weight;
    }
    let part = |i: usize| mixed.clone().narrow(2, i * width / 3, width / 3);
    part(0) * part(1) * part(2)
}
