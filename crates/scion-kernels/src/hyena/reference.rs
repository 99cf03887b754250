use burn::Tensor;

use crate::conv::short_conv_reference;

/// [`gated_conv`](super::gated_conv) in plain tensor operations.
pub fn gated_conv_reference(qkv: Tensor<3>, filter: Tensor<2>, bias: Tensor<1>) -> Tensor<3> {
    let width = qkv.dims()[2] / 3;
    let mixed = short_conv_reference(qkv, filter, bias);
    let part = |i: usize| mixed.clone().narrow(2, i * width, width);
    part(0) * part(1) * part(2)
}
