//! Multi-head self-attention on the packed output of the qkv projection, over all tokens or a window.

mod cpu;
mod reference;
mod softmax;
mod window;

use burn::Tensor;
use burn::backend::Dispatch;

use crate::backend::KernelBackend;
use crate::gemm::Precision;
pub use reference::attention_reference;

/// How many keys a query sees before and behind itself in raster order; both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Keys before the query.
    pub left: usize,
    /// Keys behind the query.
    pub right: usize,
}

/// An attention layer's fixed settings.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    heads: usize,
    window: Option<Window>,
    precision: Precision,
}

/// Softmax attention with scale `head_dim^-½`, without a mask beyond the window. Without a window it consists of
/// products, whose operands have the chosen precision; with one, all is f32.
///
/// Shapes: `qkv` [N, T, 3·D], the last axis holding q, k, v, each head after head → [N, T, D].
///
/// # Panics
/// When the last axis does not divide into three times `heads`.
pub fn attention(qkv: Tensor<3>, heads: usize, window: Option<Window>) -> Tensor<3> {
    let width = qkv.dims()[2];
    assert!(width.is_multiple_of(3 * heads), "qkv width {width} is not a multiple of 3 × {heads} heads");
    let op = Attention { heads, window, precision: crate::precision() };
    Tensor::from_dispatch(<Dispatch as KernelBackend>::fused_attention(qkv.into_dispatch(), op))
}
