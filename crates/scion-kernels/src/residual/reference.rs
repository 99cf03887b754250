use burn::Tensor;

use crate::chunk;

/// [`gated_residual`](super::gated_residual) in plain tensor operations.
pub fn gated_residual_reference(
    x: Tensor<3>,
    branch: Tensor<3>,
    modulation: Tensor<2>,
    gate: usize,
) -> Tensor<3> {
    let [_, _, width] = x.dims();
    x + branch * chunk(&modulation, gate, width)
}
