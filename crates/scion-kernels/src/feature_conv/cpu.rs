use rayon::prelude::*;

use super::GatedFeatureConv;
use crate::array::{Array, unfilled};
use crate::backend::Kernel;
use crate::sums::{axpy, dot, total};

impl Kernel<3> for GatedFeatureConv {
    fn forward(&self, [features, filter, bias]: &[Array; 3], _keep: bool) -> (Array, Vec<Array>) {
        let [batch, tokens, width] = features.dims()[..] else { unreachable!("features are [N, T, 3·H]") };
        let (taps, hidden) = (filter.width(), width / 3);
        // SAFETY: every token is written below.
        let mut y = unsafe { unfilled(batch * tokens * hidden) };
        y.par_chunks_mut(hidden).zip(features.values().par_chunks(width)).enumerate().for_each_init(
            || Scratch::new(width, taps),
            |scratch, (row, (y, x))| {
                let (filter, b) = token(filter, bias, row % tokens);
                scratch.convolve(filter, b, x);
                gate(&scratch.mixed, y);
            },
        );
        (Array::from_vec(y, [batch, tokens, hidden]), Vec::new())
    }

    fn backward(
        &self,
        [features, filter, bias]: &[Array; 3],
        _kept: &[Array],
        grad: &Array,
        wanted: [bool; 3],
    ) -> [Option<Array>; 3] {
        let [_, tokens, width] = features.dims()[..] else { unreachable!("features are [N, T, 3·H]") };
        let (taps, hidden) = (filter.width(), width / 3);
        // SAFETY: the backward pass writes every token.
        let mut dx = unsafe { unfilled(features.values().len()) };
        // Of each row, the gradients of its taps and of its bias.
        let mut rows = vec![0f32; features.rows() * (taps + 1)];
        dx.par_chunks_mut(width)
            .zip(features.values().par_chunks(width))
            .zip(grad.values().par_chunks(hidden))
            .zip(rows.par_chunks_mut(taps + 1))
            .enumerate()
            .for_each_init(
                || Scratch::new(width, taps),
                |scratch, (row, (((dx, x), dy), sums))| {
                    let (filter, b) = token(filter, bias, row % tokens);
                    scratch.convolve(filter, b, x);
                    gate_backward(&scratch.mixed, dy, &mut scratch.slopes[..width]);
                    filter_backward(filter, &scratch.padded, &scratch.slopes, dx, sums);
                },
            );
        let (mut d_filter, mut d_bias) = (vec![0f32; filter.values().len()], vec![0f32; tokens]);
        for (row, sums) in rows.chunks_exact(taps + 1).enumerate() {
            let t = row % tokens;
            d_filter[t * taps..(t + 1) * taps].iter_mut().zip(sums).for_each(|(d, s)| *d += s);
            d_bias[t] += sums[taps];
        }
        [
            wanted[0].then(|| Array::from_vec(dx, features.dims())),
            wanted[1].then(|| Array::from_vec(d_filter, filter.dims())),
            wanted[2].then(|| Array::from_vec(d_bias, [tokens])),
        ]
    }
}

/// Filter and bias of a token position.
fn token<'a>(filter: &'a Array, bias: &Array, t: usize) -> (&'a [f32], f32) {
    let taps = filter.width();
    (&filter.values()[t * taps..(t + 1) * taps], bias.values()[t])
}

/// What a thread needs for one token after another.
struct Scratch {
    /// Zeros for the taps before the first feature, then the features.
    padded: Vec<f32>,
    /// The convolution's output.
    mixed: Vec<f32>,
    /// Its gradient, then zeros for the taps behind the last feature.
    slopes: Vec<f32>,
}

impl Scratch {
    fn new(width: usize, taps: usize) -> Self {
        let padded = vec![0.0; width + taps - 1];
        Self { slopes: padded.clone(), mixed: vec![0.0; width], padded }
    }

    fn convolve(&mut self, filter: &[f32], bias: f32, x: &[f32]) {
        self.padded[filter.len() - 1..].copy_from_slice(x);
        self.mixed.fill(bias);
        for (tap, &w) in filter.iter().enumerate() {
            axpy(&mut self.mixed, w, &self.padded[tap..]);
        }
    }
}

multiversioned! {
    /// The product of three parts.
    fn gate(mixed: &[f32], y: &mut [f32]) {
        let hidden = y.len();
        let (q, k, v) = (&mixed[..hidden], &mixed[hidden..2 * hidden], &mixed[2 * hidden..3 * hidden]);
        for i in 0..hidden {
            y[i] = q[i] * k[i] * v[i];
        }
    }
}

multiversioned! {
    /// Gradient of the three parts.
    fn gate_backward(mixed: &[f32], dy: &[f32], slopes: &mut [f32]) {
        let hidden = dy.len();
        let (q, k, v) = (&mixed[..hidden], &mixed[hidden..2 * hidden], &mixed[2 * hidden..3 * hidden]);
        let (dq, rest) = slopes.split_at_mut(hidden);
        let (dk, dv) = rest.split_at_mut(hidden);
        for i in 0..hidden {
            dq[i] = dy[i] * k[i] * v[i];
            dk[i] = dy[i] * q[i] * v[i];
            dv[i] = dy[i] * q[i] * k[i];
        }
    }
}

multiversioned! {
    /// Writes the features' gradient; `sums` gets that of each tap, then that of the bias.
    fn filter_backward(filter: &[f32], padded: &[f32], slopes: &[f32], dx: &mut [f32], sums: &mut [f32]) {
        let (taps, width) = (filter.len(), dx.len());
        dx.fill(0.0);
        for (tap, &w) in filter.iter().enumerate() {
            // The output that this tap joins with feature i is i + taps − 1 − tap.
            for (dx, slope) in dx.iter_mut().zip(&slopes[taps - 1 - tap..]) {
                *dx += w * slope;
            }
            sums[tap] = dot::<16>(&slopes[..width], &padded[tap..tap + width]);
        }
        sums[taps] = total(&slopes[..width]);
    }
}
