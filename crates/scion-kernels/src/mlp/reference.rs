use burn::Tensor;

use crate::linear::{Activation, linear_reference};

/// [`mlp`](super::mlp) in plain tensor operations.
pub fn mlp_reference(x: Tensor<3>, w1: Tensor<2>, b1: Tensor<1>, w2: Tensor<2>, b2: Tensor<1>) -> Tensor<3> {
    linear_reference(linear_reference(x, w1, b1, Activation::GeluTanh), w2, b2, Activation::None)
}
