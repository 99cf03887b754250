use burn::Tensor;

/// [`gated_conv`](super::gated_conv) in plain tensor operations.
pub fn gated_conv_reference(qkv: Tensor<3>, filter: Tensor<2>, bias: Tensor<1>) -> Tensor<3> {
    let [batch, tokens, channels] = qkv.dims();
    let taps = filter.dims()[1];
    let device = qkv.device();
    let padded = Tensor::cat(vec![Tensor::zeros([batch, taps - 1, channels], &device), qkv], 1);
    let mut mixed = bias.reshape([1, 1, channels]).expand([batch, tokens, channels]);
    for tap in 0..taps {
        let weight = filter.clone().narrow(1, tap, 1).reshape([1, 1, channels]);
        mixed = mixed + padded.clone().narrow(1, tap, tokens) * weight;
    }
    let part = |i: usize| mixed.clone().narrow(2, i * channels / 3, channels / 3);
    part(0) * part(1) * part(2)
}
