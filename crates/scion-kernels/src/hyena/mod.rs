//! The gated causal convolution of the Hyena family: `[q,k,v] = conv(qkv)`, `y = q⊙k⊙v`.

mod cpu;
mod reference;

use burn::Tensor;
use burn::backend::Dispatch;

use crate::backend::KernelBackend;
pub use reference::gated_conv_reference;

/// The gated convolution's settings: none, all sizes come from the tensors.
#[derive(Clone, Copy, Debug)]
pub struct GatedConv;

/// Depthwise causal convolution along the tokens, then the product of its three parts (Hyena-X).
///
/// The last tap multiplies the current token; tokens before the first count as zero.
/// Shapes: `qkv` [N, T, 3·D], `filter` [3·D, K], `bias` [3·D] → [N, T, D].
pub fn gated_conv(qkv: Tensor<3>, filter: Tensor<2>, bias: Tensor<1>) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as KernelBackend>::fused_gated_conv(
        qkv.into_dispatch(),
        filter.into_dispatch(),
        bias.into_dispatch(),
        GatedConv,
    ))
}
