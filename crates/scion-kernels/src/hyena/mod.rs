//! The gated short convolutions of the Hyena family.

mod cpu;
mod inner;
mod reference;

use burn::Tensor;
use burn::backend::Dispatch;

use crate::backend::KernelBackend;
use crate::conv::check_taps;
pub use reference::{gated_conv_reference, gated_inner_reference};

/// [`gated_conv`]'s settings; all sizes come from the tensors.
#[derive(Clone, Copy, Debug)]
pub struct GatedConv {
    ahead: usize,
}

/// [`gated_inner`]'s settings; all sizes come from the tensors.
#[derive(Clone, Copy, Debug)]
pub struct GatedInner {
    ahead: usize,
}

/// `q⊙k⊙v` with `[q, k, v]` a depthwise convolution of `qkv` along the tokens (Hyena-X).
///
/// The last `ahead` taps multiply the tokens behind the current one, the tap before them the current one; with none
/// ahead the convolution is causal. Tokens beyond the ends count as zero.
/// Shapes: `qkv` [N, T, 3·D], `filter` [3·D, K], `bias` [3·D] → [N, T, D].
///
/// # Panics
/// When filter or bias are not of the channels of `qkv`, or more taps look ahead than there are beside the current one.
pub fn gated_conv(qkv: Tensor<3>, filter: Tensor<2>, bias: Tensor<1>, ahead: usize) -> Tensor<3> {
    let channels = qkv.dims()[2];
    assert!(channels.is_multiple_of(3), "{channels} channels are not q, k and v");
    check_taps(channels, &filter, &bias, ahead);
    Tensor::from_dispatch(<Dispatch as KernelBackend>::fused_gated_conv(
        qkv.into_dispatch(),
        filter.into_dispatch(),
        bias.into_dispatch(),
        GatedConv { ahead },
    ))
}

/// `q⊙inner(k⊙v)` with `inner` a depthwise convolution along the tokens, its taps as those of [`gated_conv`]
/// (Hyena-SE, Hyena-Y).
///
/// Shapes: `qkv` [N, T, 3·D], `filter` [D, K], `bias` [D] → [N, T, D].
///
/// # Panics
/// As [`gated_conv`], for filter and bias of a third of the channels.
pub fn gated_inner(qkv: Tensor<3>, filter: Tensor<2>, bias: Tensor<1>, ahead: usize) -> Tensor<3> {
    let channels = qkv.dims()[2];
    assert!(channels.is_multiple_of(3), "{channels} channels are not q, k and v");
    check_taps(channels / 3, &filter, &bias, ahead);
    Tensor::from_dispatch(<Dispatch as KernelBackend>::fused_gated_inner(
        qkv.into_dispatch(),
        filter.into_dispatch(),
        bias.into_dispatch(),
        GatedInner { ahead },
    ))
}
