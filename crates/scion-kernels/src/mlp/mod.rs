//! `gelu(x·W₁ᵀ + b₁)·W₂ᵀ + b₂`: both layers of an MLP, so that the backward pass through GELU happens in the product
//! that leads to it.

mod cpu;
mod reference;

use burn::Tensor;
use burn::backend::Dispatch;

use crate::backend::KernelBackend;
use crate::gemm::Precision;
pub use reference::mlp_reference;

/// An MLP's fixed settings.
#[derive(Clone, Copy, Debug)]
pub struct Mlp {
    precision: Precision,
}

/// Applies two linear layers in PyTorch's weight layout with GELU (tanh form) between them.
///
/// Shapes: `x` [N, T, D], `w1` [H, D], `b1` [H], `w2` [D, H], `b2` [D] → [N, T, D].
pub fn mlp(x: Tensor<3>, w1: Tensor<2>, b1: Tensor<1>, w2: Tensor<2>, b2: Tensor<1>) -> Tensor<3> {
    let op = Mlp { precision: crate::precision() };
    Tensor::from_dispatch(<Dispatch as KernelBackend>::fused_mlp(
        x.into_dispatch(),
        w1.into_dispatch(),
        b1.into_dispatch(),
        w2.into_dispatch(),
        b2.into_dispatch(),
        op,
    ))
}
