//! `y = activation(x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ)`: a linear layer with a low-rank adapter (LoRA, Hu et al. 2021,
//! arXiv:2106.09685), without ever making `W + s·B·A`, nor W's gradient where nobody asks for it.

mod cpu;
mod reference;

use burn::Tensor;
use burn::backend::Dispatch;

use crate::backend::KernelBackend;
use crate::gemm::Precision;
use crate::linear::Activation;
pub use reference::adapted_linear_reference;

/// An adapted linear layer's fixed settings.
#[derive(Clone, Copy, Debug)]
pub struct AdaptedLinear {
    activation: Activation,
    scale: f32,
    precision: Precision,
}

/// Applies a linear layer in PyTorch's weight layout with a low-rank adapter beside its weight.
///
/// Shapes: `x` [.., in], `weight` [out, in], `bias` [out], `a` [rank, in], `b` [out, rank] → [.., out]. With `b` zero,
/// the result has the bits of [`linear`](crate::linear::linear).
pub fn adapted_linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    a: Tensor<2>,
    b: Tensor<2>,
    scale: f32,
    activation: Activation,
) -> Tensor<D> {
    let op = AdaptedLinear { activation, scale, precision: crate::precision() };
    Tensor::from_dispatch(<Dispatch as KernelBackend>::fused_adapted_linear(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        a.into_dispatch(),
        b.into_dispatch(),
        op,
    ))
}
