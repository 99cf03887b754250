use burn::Tensor;

use crate::chunk;

/// [`modulated_norm`](super::modulated_norm) in plain tensor operations.
pub fn modulated_norm_reference(
    x: Tensor<3>,
    modulation: Tensor<2>,
    shift: usize,
    scale: usize,
    eps: f32,
) -> Tensor<3> {
    let [_, _, width] = x.dims();
    let centred = x.clone() - x.mean_dim(2);
    let variance = centred.clone().powi_scalar(2).mean_dim(2);
    let normal = centred / (variance + eps).sqrt();
    normal * (chunk(&modulation, scale, width) + 1.0) + chunk(&modulation, shift, width)
}
