//! `RMSNorm(y ⊙ SiLU(z))·w`, row after row.

use rayon::prelude::*;

use super::EPS;
use crate::array::unfilled;
use crate::gemm::vmath;
use crate::sums::dot;

/// Rows whose weight gradients are summed together, whatever the number of threads.
const ROWS: usize = 64;

/// `z` begins every row of `stride` values of `projected`. Returns [rows, width].
pub(super) fn forward(y: &[f32], projected: &[f32], stride: usize, w: &[f32]) -> Vec<f32> {
    let width = w.len();
    // SAFETY: every row is written below.
    let mut out = unsafe { unfilled(y.len()) };
    out.par_chunks_mut(width).zip(y.par_chunks(width)).zip(projected.par_chunks(stride)).for_each(
        |((out, y), row)| {
            vmath::silu(&row[..width], out);
            normalise(y, w, out);
        },
    );
    out
}

/// Writes the gradient of z into the rows of `d_projected`; returns those of y, [rows, width], and of w.
pub(super) fn backward(
    y: &[f32],
    projected: &[f32],
    stride: usize,
    w: &[f32],
    grad: &[f32],
    d_projected: &mut [f32],
) -> (Vec<f32>, Vec<f32>) {
    let width = w.len();
    // SAFETY: every row is written below.
    let mut dy = unsafe { unfilled(y.len()) };
    let partial: Vec<Vec<f32>> =
        dy.par_chunks_mut(ROWS * width)
            .zip(d_projected.par_chunks_mut(ROWS * stride))
            .zip(y.par_chunks(ROWS * width))
            .zip(projected.par_chunks(ROWS * stride))
            .zip(grad.par_chunks(ROWS * width))
            .map(|((((dy, d_projected), y), projected), grad)| {
                let mut dw = vec![0f32; width];
                let mut silu = vec![0f32; width];
                let rows = dy.chunks_exact_mut(width).zip(d_projected.chunks_exact_mut(stride)).zip(
                    y.chunks_exact(width).zip(projected.chunks_exact(stride)).zip(grad.chunks_exact(width)),
                );
                for ((dy, d_projected), ((y, projected), grad)) in rows {
                    let (z, dz) = (&projected[..width], &mut d_projected[..width]);
                    vmath::silu(z, &mut silu);
                    normalise_backward(y, w, &silu, grad, dy, &mut dw);
                    // `dy` holds the gradient of y ⊙ SiLU(z) for now.
                    gate_backward(y, &mut silu, dy);
                    vmath::silu_backward(z, &silu, dz);
                }
                dw
            })
            .collect();
    let mut dw = vec![0f32; width];
    partial.iter().for_each(|rows| dw.iter_mut().zip(rows).for_each(|(dw, row)| *dw += row));
    (dy, dw)
}

multiversioned! {
    /// From the gate in `out` to the output.
    fn normalise(y: &[f32], w: &[f32], out: &mut [f32]) {
        for (out, y) in out.iter_mut().zip(y) {
            *out *= y;
        }
        let scale = 1.0 / (dot::<16>(out, out) / out.len() as f32 + EPS).sqrt();
        for (out, w) in out.iter_mut().zip(w) {
            *out *= scale * w;
        }
    }
}

multiversioned! {
    /// Writes the gradient of `y ⊙ gate` into `d`, adds to that of `w`.
    fn normalise_backward(y: &[f32], w: &[f32], gate: &[f32], grad: &[f32], d: &mut [f32], dw: &mut [f32]) {
        for i in 0..d.len() {
            d[i] = y[i] * gate[i];
        }
        let count = d.len() as f32;
        let scale = 1.0 / (dot::<16>(d, d) / count + EPS).sqrt();
        let mut lanes = [0f32; 16];
        for ((gated, grad), w) in d.chunks(16).zip(grad.chunks(16)).zip(w.chunks(16)) {
            for l in 0..gated.len() {
                lanes[l] += gated[l] * grad[l] * w[l];
            }
        }
        let along = lanes.iter().sum::<f32>() * scale * scale * scale / count;
        for i in 0..d.len() {
            dw[i] += grad[i] * d[i] * scale;
            d[i] = scale * w[i] * grad[i] - along * d[i];
        }
    }
}

multiversioned! {
    /// From the gradient `d` of `y ⊙ gate` to that of y, in its place, and that of the gate, in the gate's.
    fn gate_backward(y: &[f32], gate: &mut [f32], d: &mut [f32]) {
        for i in 0..d.len() {
            let slope = d[i];
            d[i] = slope * gate[i];
            gate[i] = slope * y[i];
        }
    }
}
