//! A short causal depthwise convolution along the tokens.

mod cpu;
mod reference;

use burn::Tensor;
use burn::backend::Dispatch;

use crate::backend::KernelBackend;
pub use reference::short_conv_reference;

/// The convolution's settings: none, all sizes come from the tensors.
#[derive(Clone, Copy, Debug)]
pub struct ShortConv;

/// Depthwise causal convolution along the tokens.
///
/// The last tap multiplies the current token; tokens before the first count as zero.
/// Shapes: `x` [N, T, C], `filter` [C, K], `bias` [C] → [N, T, C].
pub fn short_conv(x: Tensor<3>, filter: Tensor<2>, bias: Tensor<1>) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as KernelBackend>::fused_short_conv(
        x.into_dispatch(),
        filter.into_dispatch(),
        bias.into_dispatch(),
        ShortConv,
    ))
}
