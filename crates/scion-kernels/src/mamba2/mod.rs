//! The mixer of a Mamba-2 layer between its two projections (Dao & Gu 2024; `mamba_ssm/modules/mamba2.py`).

mod chunk;
mod cpu;
mod norm;
mod reference;
mod scan;

use burn::Tensor;
use burn::backend::Dispatch;

use crate::backend::KernelBackend;
pub use reference::mamba2_reference;

/// A mixer's fixed settings; the other sizes come from the tensors.
#[derive(Clone, Copy, Debug)]
pub struct Mamba2 {
    /// Number of heads H.
    pub heads: usize,
    /// Size S of a head's state for each of its channels.
    pub state: usize,
    /// Whether a second scan runs from the last token to the first, its result added. The convolution then looks as
    /// far ahead as back.
    pub both: bool,
}

/// What a mixer learns, H heads and I = H·P inner channels; with scans in both directions, H stands for 2·H in the
/// vectors of heads: those of the forward scan, then those of the other.
#[derive(Clone, Debug)]
pub struct Mamba2Weights {
    /// [I + 2·S, K]: the convolution's filter, the last tap (or with both directions the middle one) on the current
    /// token.
    pub filter: Tensor<2>,
    /// [I + 2·S]: the convolution's bias.
    pub bias: Tensor<1>,
    /// [H]: added to the step sizes before softplus.
    pub dt_bias: Tensor<1>,
    /// [H]: logarithm of the decay rates.
    pub a_log: Tensor<1>,
    /// [H]: weight of the scan's input beside its output.
    pub d: Tensor<1>,
    /// [I]: weight of the norm.
    pub norm: Tensor<1>,
}

/// Epsilon of the norm.
const EPS: f32 = 1e-5;
/// From here on softplus is taken to be the identity.
const LINEAR_FROM: f32 = 20.0;

/// `RMSNorm(y ⊙ SiLU(z))` of `y = scan(SiLU(conv(x, B, C)), softplus(Δ + bias))`.
///
/// For each head and its P channels x the state S, from zero, follows `S ← exp(−Δ·e^A_log)·S + Δ·x·Bᵀ`, and
/// `y = S·C + d·x`; B and C, [S] each, are shared by all heads.
///
/// Shapes: `projected` [N, T, I + (I + 2·S) + H], the last axis holding z, (x, B, C) and Δ → [N, T, I].
///
/// # Panics
/// When the last axis does not hold these parts.
pub fn mamba2(projected: Tensor<3>, weights: Mamba2Weights, op: Mamba2) -> Tensor<3> {
    let (inner, convolved) = (weights.norm.dims()[0], weights.bias.dims()[0]);
    let width = projected.dims()[2];
    assert!(
        inner.is_multiple_of(op.heads)
            && convolved == inner + 2 * op.state
            && width == inner + convolved + op.heads,
        "{width} projected values are not those of {op:?} with {inner} inner channels"
    );
    Tensor::from_dispatch(<Dispatch as KernelBackend>::fused_mamba2(
        projected.into_dispatch(),
        weights.filter.into_dispatch(),
        weights.bias.into_dispatch(),
        weights.dt_bias.into_dispatch(),
        weights.a_log.into_dispatch(),
        weights.d.into_dispatch(),
        weights.norm.into_dispatch(),
        op,
    ))
}
