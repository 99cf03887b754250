//! A short depthwise convolution along the tokens.

mod cpu;
mod reference;

use burn::Tensor;
use burn::backend::Dispatch;

use crate::backend::KernelBackend;
pub(crate) use cpu::{backward, forward};
pub use reference::short_conv_reference;

/// Checks a filter of as many channels and its bias.
pub(crate) fn check_taps(channels: usize, filter: &Tensor<2>, bias: &Tensor<1>, ahead: usize) {
    let [rows, taps] = filter.dims();
    assert_eq!([rows, bias.dims()[0]], [channels; 2], "filter and bias of {channels} channels");
    assert!(ahead < taps, "{ahead} of {taps} taps look ahead");
}

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
///
/// # Panics
/// When filter or bias are not of the channels of `x`, or more taps look ahead than there are beside the current one.
pub fn short_conv(x: Tensor<3>, filter: Tensor<2>, bias: Tensor<1>, ahead: usize) -> Tensor<3> {
    check_taps(x.dims()[2], &filter, &bias, ahead);
    Tensor::from_dispatch(<Dispatch as KernelBackend>::fused_short_conv(
        x.into_dispatch(),
        filter.into_dispatch(),
        bias.into_dispatch(),
        ShortConv { ahead },
    ))
}
