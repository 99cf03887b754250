use burn::Tensor;

/// [`short_conv`](super::short_conv) in plain tensor operations.
pub fn short_conv_reference(x: Tensor<3>, filter: Tensor<2>, bias: Tensor<1>, ahead: usize) -> Tensor<3> {
    let [batch, tokens, channels] = x.dims();
    let taps = filter.dims()[1];
    let zeros = |tokens: usize| Tensor::zeros([batch, tokens, channels], &x.device());
    let padded = Tensor::cat(vec![zeros(taps - 1 - ahead), x.clone(), zeros(ahead)], 1);
    let mut mixed = bias.reshape([1, 1, channels]).expand([batch, tokens, channels]);
    for tap in 0..taps {
        let weight = filter.clone().narrow(1, tap, 1).reshape([1, 1, channels]);
        mixed = mixed + padded.clone().narrow(1, tap, tokens) * weight;
    }
    mixed
}
