//! Multi-head linear attention on the packed output of the qkv projection (Katharopoulos et al. 2020).

mod cpu;
mod reference;

use burn::Tensor;
use burn::backend::Dispatch;

use crate::backend::KernelBackend;
use crate::gemm::Precision;
pub use reference::linear_attention_reference;

/// What makes queries and keys positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureMap {
    /// `elu(x) + 1`.
    EluPlusOne,
    /// `max(x, 0)`.
    Relu,
}

/// A linear attention layer's fixed settings.
#[derive(Clone, Copy, Debug)]
pub struct LinearAttention {
    heads: usize,
    map: FeatureMap,
    precision: Precision,
}

/// Added to the sum of a query's weights.
const EPS: f32 = 1e-6;

/// `φ(q)·(Σφ(k)ᵀ·v) / (φ(q)·Σφ(k) + 10⁻⁶)` over all tokens, head by head. It consists of products, whose operands have
/// the chosen precision.
///
/// Shapes: `qkv` [N, T, 3·D], the last axis holding q, k, v, each head after head → [N, T, D].
///
/// # Panics
/// When the last axis does not divide into three times `heads`.
pub fn linear_attention(qkv: Tensor<3>, heads: usize, map: FeatureMap) -> Tensor<3> {
    let width = qkv.dims()[2];
    assert!(width.is_multiple_of(3 * heads), "qkv width {width} is not a multiple of 3 × {heads} heads");
    let op = LinearAttention { heads, map, precision: crate::precision() };
    Tensor::from_dispatch(<Dispatch as KernelBackend>::fused_linear_attention(qkv.into_dispatch(), op))
}
