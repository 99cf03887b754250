use burn::Tensor;

use crate::linear::{Activation, linear_reference};

/// [`adapted_linear`](super::adapted_linear) in plain tensor operations.
pub fn adapted_linear_reference<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    a: Tensor<2>,
    b: Tensor<2>,
    scale: f32,
    activation: Activation,
) -> Tensor<D> {
    linear_reference(x, weight + b.matmul(a) * scale, bias, activation)
}
