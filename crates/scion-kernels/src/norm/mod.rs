//! Layer normalisation without parameters, followed by adaLN modulation:
//! `y = LayerNorm(x)·(1 + scale) + shift`, shift and scale being chunks of one modulation row.

mod cpu;
mod reference;

use burn::Tensor;
use burn::backend::Dispatch;

use crate::backend::KernelBackend;
pub use reference::modulated_norm_reference;

/// Where shift and scale lie in the modulation row, in units of the token width.
#[derive(Clone, Copy, Debug)]
pub struct ModulatedNorm {
    shift: usize,
    scale: usize,
    eps: f32,
}

/// Normalises each token and modulates it by its image's conditioning.
///
/// Shapes: `x` [N, T, D], `modulation` [N, k·D] whose chunks `shift` and `scale` are used → [N, T, D].
pub fn modulated_norm(
    x: Tensor<3>,
    modulation: Tensor<2>,
    shift: usize,
    scale: usize,
    eps: f32,
) -> Tensor<3> {
    let op = ModulatedNorm { shift, scale, eps };
    Tensor::from_dispatch(<Dispatch as KernelBackend>::fused_modulated_norm(
        x.into_dispatch(),
        modulation.into_dispatch(),
        op,
    ))
}
