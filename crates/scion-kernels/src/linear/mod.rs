//! `y = activation(x·Wᵀ + b)`: a linear layer with its activation, in one pass over the output.

mod cpu;
#[cfg(target_arch = "x86_64")]
mod few;
mod reference;

use burn::Tensor;
use burn::backend::Dispatch;

use crate::backend::KernelBackend;
use crate::gemm::Precision;
pub(crate) use cpu::{
    bias_gradient, companion, input_gradient, of_companion, through_activation, weight_gradient,
};
pub use reference::linear_reference;

/// What is applied to the product and bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// The tanh form of GELU, as DiT uses it.
    GeluTanh,
}

/// A linear layer's fixed settings.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    activation: Activation,
    precision: Precision,
}

/// Applies a linear layer with PyTorch's weight layout.
///
/// Shapes: `x` [.., in], `weight` [out, in], `bias` [out] → [.., out].
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    activation: Activation,
) -> Tensor<D> {
    let op = Linear { activation, precision: crate::precision() };
    Tensor::from_dispatch(<Dispatch as KernelBackend>::fused_linear(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        op,
    ))
}
