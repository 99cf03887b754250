use rayon::prelude::*;

use super::GatedConv;
use crate::array::{Array, unfilled};
use crate::backend::Kernel;

/// Filters with the taps as rows, so that the channels of one tap lie together.
struct Taps {
    rows: Vec<f32>,
    count: usize,
    channels: usize,
}

impl Taps {
    fn new(filter: &Array) -> Self {
        let (channels, count) = (filter.rows(), filter.width());
        let mut rows = vec![0f32; channels * count];
        for (c, taps) in filter.values().chunks_exact(count).enumerate() {
            for (k, &w) in taps.iter().enumerate() {
                rows[k * channels + c] = w;
            }
        }
        Self { rows, count, channels }
    }

    /// (tap, token it multiplies) pairs for output token `t`.
    fn sources(&self, t: usize) -> impl Iterator<Item = (&[f32], usize, usize)> {
        (0..self.count).filter_map(move |k| {
            let source = (t + k + 1).checked_sub(self.count)?;
            Some((&self.rows[k * self.channels..][..self.channels], k, source))
        })
    }

    /// The convolution's output at token `t` of one image, into `mixed` [3·D].
    fn convolve(&self, image: &[f32], bias: &[f32], t: usize, mixed: &mut [f32]) {
        mixed.copy_from_slice(bias);
        for (weight, _, source) in self.sources(t) {
            let x = &image[source * self.channels..][..self.channels];
            for ((m, w), x) in mixed.iter_mut().zip(weight).zip(x) {
                *m += w * x;
            }
        }
    }
}

impl Kernel<3> for GatedConv {
    fn forward(&self, [qkv, filter, bias]: &[Array; 3], _keep: bool) -> (Array, Vec<Array>) {
        let [batch, tokens, channels] = qkv.dims()[..] else { unreachable!("qkv is [N, T, 3·D]") };
        let width = channels / 3;
        let taps = Taps::new(filter);
        // SAFETY: every token is written below.
        let mut y = unsafe { unfilled(batch * tokens * width) };
        y.par_chunks_mut(tokens * width).zip(qkv.values().par_chunks(tokens * channels)).for_each(
            |(y, image)| {
                let mut mixed = vec![0f32; channels];
                for (t, y) in y.chunks_exact_mut(width).enumerate() {
                    taps.convolve(image, bias.values(), t, &mut mixed);
                    for i in 0..width {
                        y[i] = mixed[i] * mixed[width + i] * mixed[2 * width + i];
                    }
                }
            },
        );
        (Array::from_vec(y, [batch, tokens, width]), Vec::new())
    }

    fn backward(
        &self,
        [qkv, filter, bias]: &[Array; 3],
        _kept: &[Array],
        grad: &Array,
        wanted: [bool; 3],
    ) -> [Option<Array>; 3] {
        let [_, tokens, channels] = qkv.dims()[..] else { unreachable!("qkv is [N, T, 3·D]") };
        let taps = Taps::new(filter);
        let mut dx = vec![0f32; qkv.values().len()];
        let partial: Vec<(Vec<f32>, Vec<f32>)> = dx
            .par_chunks_mut(tokens * channels)
            .zip(qkv.values().par_chunks(tokens * channels))
            .zip(grad.values().par_chunks(tokens * channels / 3))
            .map(|((dx, image), grad)| image_backward(&taps, image, bias.values(), grad, dx))
            .collect();
        let (mut d_taps, mut d_bias) = (vec![0f32; taps.rows.len()], vec![0f32; channels]);
        for (t, b) in partial {
            d_taps.iter_mut().zip(t).for_each(|(d, t)| *d += t);
            d_bias.iter_mut().zip(b).for_each(|(d, b)| *d += b);
        }
        let mut d_filter = vec![0f32; d_taps.len()];
        for (c, row) in d_filter.chunks_exact_mut(taps.count).enumerate() {
            for (k, d) in row.iter_mut().enumerate() {
                *d = d_taps[k * channels + c];
            }
        }
        [
            wanted[0].then(|| Array::from_vec(dx, qkv.dims())),
            wanted[1].then(|| Array::from_vec(d_filter, filter.dims())),
            wanted[2].then(|| Array::from_vec(d_bias, [channels])),
        ]
    }
}

/// Gradients of one image: writes `dx`, returns those of the taps (taps as rows) and the bias.
fn image_backward(
    taps: &Taps,
    image: &[f32],
    bias: &[f32],
    grad: &[f32],
    dx: &mut [f32],
) -> (Vec<f32>, Vec<f32>) {
    let channels = taps.channels;
    let width = channels / 3;
    let (mut d_taps, mut d_bias) = (vec![0f32; taps.rows.len()], vec![0f32; channels]);
    let (mut mixed, mut d_mixed) = (vec![0f32; channels], vec![0f32; channels]);
    for (t, dy) in grad.chunks_exact(width).enumerate() {
        taps.convolve(image, bias, t, &mut mixed);
        for i in 0..width {
            let (q, k, v) = (mixed[i], mixed[width + i], mixed[2 * width + i]);
            d_mixed[i] = dy[i] * k * v;
            d_mixed[width + i] = dy[i] * q * v;
            d_mixed[2 * width + i] = dy[i] * q * k;
        }
        d_bias.iter_mut().zip(&d_mixed).for_each(|(d, m)| *d += m);
        for (weight, k, source) in taps.sources(t) {
            let x = &image[source * channels..][..channels];
            let dx = &mut dx[source * channels..][..channels];
            let dw = &mut d_taps[k * channels..][..channels];
            for i in 0..channels {
                dx[i] += d_mixed[i] * weight[i];
                dw[i] += d_mixed[i] * x[i];
            }
        }
    }
    (d_taps, d_bias)
}
