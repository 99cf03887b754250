use burn::Tensor;

use crate::conv::short_conv_reference;

/// [`gated_conv`](super::gated_conv) in plain tensor operations.
pub fn gated_conv_reference(qkv: Tensor<3>, filter: Tensor<2>, bias: Tensor<1>, ahead: usize) -> Tensor<3> {
    let [q, k, v] = thirds(short_conv_reference(qkv, filter, bias, ahead));
    q * k * v
}

/// [`gated_inner`](super::gated_inner) in plain tensor operations.
pub fn gated_inner_reference(qkv: Tensor<3>, filter: Tensor<2>, bias: Tensor<1>, ahead: usize) -> Tensor<3> {
    let [q, k, v] = thirds(qkv);
    q * short_conv_reference(k * v, filter, bias, ahead)
}

fn thirds(qkv: Tensor<3>) -> [Tensor<3>; 3] {
    let width = qkv.dims()[2] / 3;
    [0, 1, 2].map(|i| qkv.clone().narrow(2, i * width, width))
}
