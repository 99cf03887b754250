//! `y = x + gate·branch`, the gate being a chunk of the modulation row.

mod cpu;
mod reference;

use burn::Tensor;
use burn::backend::Dispatch;

use crate::backend::KernelBackend;
pub use reference::gated_residual_reference;

/// Where the gate lies in the modulation row, in units of the token width.
#[derive(Clone, Copy, Debug)]
pub struct GatedResidual {
    gate: usize,
}

/// Adds a gated branch to the residual stream.
///
/// Shapes: `x` and `branch` [N, T, D], `modulation` [N, k·D] whose chunk `gate` is used → [N, T, D].
pub fn gated_residual(x: Tensor<3>, branch: Tensor<3>, modulation: Tensor<2>, gate: usize) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as KernelBackend>::fused_gated_residual(
        x.into_dispatch(),
        branch.into_dispatch(),
        modulation.into_dispatch(),
        GatedResidual { gate },
    ))
}
