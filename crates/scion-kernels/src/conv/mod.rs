//! A short depthwise convolution along the tokens.

mod cpu;
mod reference;

use burn::Tensor;
use burn::backend::Dispatch;

use crate::backend::KernelBackend;
pub(crate) use cpu::{backward, forward};
pub use reference::short_conv_reference;

/// The convolution's settings; all sizes come from the tensors.
#[derive(Clone, Copy, Debug)]
pub struct ShortConv {
    ahead: usize,
}

/// Depthwise convolution along the tokens.
///
/// The last `ahead` taps multiply the tokens behind the current one, the tap before them the current one; with none
/// ahead the convolution is causal. Tokens beyond the ends count as zero.
/// Shapes: `x` [N, T, C], `filter` [C, K], `bias` [C] → [N, T, C].
pub fn short_conv(x: Tensor<3>, filter: Tensor<2>, bias: Tensor<1>, ahead: usize) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as KernelBackend>::fused_short_conv(
        x.into_dispatch(),
        filter.into_dispatch(),
        bias.into_dispatch(),
        ShortConv { ahead },
    ))
}
