use burn::Tensor;

/// [`short_conv`](super::short_conv) in plain tensor operations.
pub fn short_conv_reference(x: Tensor<3>, filter: Tensor<2>, bias: Tensor<1>) -> Tensor<3> {
    let [batch, tokens, channels] = x.dims();
    let taps = filter.dims()[1];
    let padded = Tensor::cat(vec![Tensor::zeros([batch, taps - 1, channels], &x.device()), x], 1);
    let mut mixed = bias.reshape([1, 1, channels]).expand([batch, tokens, channels]);
    for tap in 0..taps {
        let weight = filter.clone().narrow(1, tap, 1).reshape([1, 1, channels]);
        mixed = mixed + padded.clone().narrow(1, tap, tokens) * weight;
    }
    mixed
}
