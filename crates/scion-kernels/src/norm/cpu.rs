use rayon::prelude::*;

use super::ModulatedNorm;
use crate::array::{Array, unfilled};
use crate::backend::Kernel;

/// Mean and reciprocal standard deviation of a token.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sum(x) / n;
    let mut squares = [0f32; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for (s, v) in squares.iter_mut().zip(chunk) {
            *s += (v - mean) * (v - mean);
        }
    }
    let variance =
        (squares.iter().sum::<f32>() + rest.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>()) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// A sum in sixteen lanes: vectorises, and rounds less than a running total.
#[inline(always)]
fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for (s, v) in lanes.iter_mut().zip(chunk) {
            *s += v;
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

impl ModulatedNorm {
    fn chunks<'a>(&self, row: &'a [f32], width: usize) -> (&'a [f32], &'a [f32]) {
        (&row[self.shift * width..][..width], &row[self.scale * width..][..width])
    }
}

impl Kernel<2> for ModulatedNorm {
    fn forward(&self, [x, modulation]: &[Array; 2], _keep: bool) -> (Array, Vec<Array>) {
        let [_, tokens, width] = x.dims()[..] else { unreachable!("tokens are [N, T, D]") };
        // SAFETY: every token is written below.
        let mut y = unsafe { unfilled(x.values().len()) };
        y.par_chunks_mut(tokens * width)
            .zip(x.values().par_chunks(tokens * width))
            .zip(modulation.values().par_chunks(modulation.width()))
            .for_each(|((y, x), row)| {
                let (shift, scale) = self.chunks(row, width);
                image_forward(self.eps, x, shift, scale, y);
            });
        (Array::from_vec(y, x.dims()), Vec::new())
    }

    fn backward(
        &self,
        [x, modulation]: &[Array; 2],
        _kept: &[Array],
        grad: &Array,
        wanted: [bool; 2],
    ) -> [Option<Array>; 2] {
        let [_, tokens, width] = x.dims()[..] else { unreachable!("tokens are [N, T, D]") };
        // SAFETY: every token is written below.
        let mut dx = unsafe { unfilled(x.values().len()) };
        let mut dm = vec![0f32; modulation.values().len()];
        dx.par_chunks_mut(tokens * width)
            .zip(dm.par_chunks_mut(modulation.width()))
            .zip(x.values().par_chunks(tokens * width))
            .zip(grad.values().par_chunks(tokens * width))
            .zip(modulation.values().par_chunks(modulation.width()))
            .for_each(|((((dx, dm), x), dy), row)| {
                let (_, scale) = self.chunks(row, width);
                let mut dscale = vec![0f32; width];
                let mut dshift = vec![0f32; width];
                image_backward(self.eps, x, dy, scale, dx, &mut dscale, &mut dshift);
                dm[self.shift * width..][..width].copy_from_slice(&dshift);
                dm[self.scale * width..][..width].copy_from_slice(&dscale);
            });
        [
            wanted[0].then(|| Array::from_vec(dx, x.dims())),
            wanted[1].then(|| Array::from_vec(dm, modulation.dims())),
        ]
    }
}

multiversioned! {
    /// All tokens of one image; `scale` and `shift` are as long as a token.
    fn image_forward(eps: f32, x: &[f32], shift: &[f32], scale: &[f32], y: &mut [f32]) {
        let width = scale.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let (mean, inv) = moments(x, eps);
            for (((y, x), scale), shift) in y.iter_mut().zip(x).zip(scale).zip(shift) {
                *y = (x - mean) * inv * (1.0 + scale) + shift;
            }
        }
    }
}

multiversioned! {
    /// Gradients of one image. For a token, with n = (x−mean)·inv and g = dy·(1+scale):
    /// dx = inv·(g − mean(g) − n·mean(g·n)).
    fn image_backward(
        eps: f32, x: &[f32], dy: &[f32], scale: &[f32], dx: &mut [f32], dscale: &mut [f32], dshift: &mut [f32],
    ) {
        let width = scale.len();
        for ((dx, x), dy) in dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(dy.chunks_exact(width)) {
            token_backward(eps, x, dy, scale, dx, dscale, dshift);
        }
    }
}

#[inline(always)]
fn token_backward(
    eps: f32,
    x: &[f32],
    dy: &[f32],
    scale: &[f32],
    dx: &mut [f32],
    dscale: &mut [f32],
    dshift: &mut [f32],
) {
    let width = x.len();
    let (mean, inv) = moments(x, eps);
    let (dy, scale, dscale, dshift) =
        (&dy[..width], &scale[..width], &mut dscale[..width], &mut dshift[..width]);
    for i in 0..width {
        let normal = (x[i] - mean) * inv;
        dscale[i] += dy[i] * normal;
        dshift[i] += dy[i];
        dx[i] = dy[i] * (1.0 + scale[i]);
    }
    let mean_g = sum(dx) / width as f32;
    let mut lanes = [0f32; 16];
    let ((dx_chunks, dx_rest), (x_chunks, x_rest)) = (dx.as_chunks::<16>(), x.as_chunks::<16>());
    for (dx, x) in dx_chunks.iter().zip(x_chunks) {
        for ((lane, dx), x) in lanes.iter_mut().zip(dx).zip(x) {
            *lane += dx * (x - mean) * inv;
        }
    }
    let rest: f32 = dx_rest.iter().zip(x_rest).map(|(dx, x)| dx * (x - mean) * inv).sum();
    let mean_gn = (lanes.iter().sum::<f32>() + rest) / width as f32;
    for (dx, x) in dx.iter_mut().zip(x) {
        *dx = inv * (*dx - mean_g - (x - mean) * inv * mean_gn);
    }
}
