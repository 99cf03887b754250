use rayon::prelude::*;

use super::ShortConv;
use crate::array::{Array, unfilled};
use crate::backend::Kernel;
use crate::taps::{LANES, Taps, TapsGradient, load, store};

impl Kernel<3> for ShortConv {
    fn forward(&self, [x, filter, bias]: &[Array; 3], _keep: bool) -> (Array, Vec<Array>) {
        let [_, tokens, width] = x.dims()[..] else { unreachable!("tokens are [N, T, C]") };
        let taps = Taps::new(filter, bias, 1);
        // SAFETY: every token is written below.
        let mut y = unsafe { unfilled(x.values().len()) };
        y.par_chunks_mut(tokens * width)
            .zip(x.values().par_chunks(tokens * width))
            .for_each(|(y, image)| image_forward(&taps, image, y));
        (Array::from_vec(y, x.dims()), Vec::new())
    }

    fn backward(
        &self,
        [x, filter, bias]: &[Array; 3],
        _kept: &[Array],
        grad: &Array,
        wanted: [bool; 3],
    ) -> [Option<Array>; 3] {
        let [_, tokens, width] = x.dims()[..] else { unreachable!("tokens are [N, T, C]") };
        let taps = Taps::new(filter, bias, 1);
        // SAFETY: the backward pass writes every token.
        let mut dx = unsafe { unfilled(x.values().len()) };
        let images: Vec<TapsGradient> = dx
            .par_chunks_mut(tokens * width)
            .zip(x.values().par_chunks(tokens * width))
            .zip(grad.values().par_chunks(tokens * width))
            .map(|((dx, image), dy)| {
                let mut gradient = TapsGradient::zeros(&taps);
                image_backward(&taps, image, dy, dx, &mut gradient);
                gradient
            })
            .collect();
        let (d_weights, d_bias) = TapsGradient::sum(&images, &taps);
        [
            wanted[0].then(|| Array::from_vec(dx, x.dims())),
            wanted[1].then(|| Array::from_vec(d_weights, filter.dims())),
            wanted[2].then(|| Array::from_vec(d_bias, [width])),
        ]
    }
}

multiversioned! {
    /// One image's convolution.
    fn image_forward(taps: &Taps, image: &[f32], y: &mut [f32]) {
        for t in 0..y.len() / taps.width {
            for block in 0..taps.blocks {
                store(y, t * taps.width, block, taps.width, &taps.convolve(image, 0, block, t));
            }
        }
    }
}

multiversioned! {
    /// Gradients of one image: writes `dx`, adds to those of the filter and the bias.
    fn image_backward(taps: &Taps, image: &[f32], dy: &[f32], dx: &mut [f32], sums: &mut TapsGradient) {
        let (width, count) = (taps.width, taps.count);
        let tokens = dy.len() / width;
        for t in 0..tokens {
            for block in 0..taps.blocks {
                let slope = load(dy, t * width, block, width);
                sums.bias[block].iter_mut().zip(slope).for_each(|(sum, slope)| *sum += slope);
                for (tap, source) in taps.sources(t) {
                    let x = load(image, source * width, block, width);
                    let sum = &mut sums.weights[tap * taps.blocks + block];
                    for i in 0..LANES {
                        sum[i] += slope[i] * x[i];
                    }
                }
                // The outputs in which token `t` takes part are itself and those behind it.
                let mut gradient = [0f32; LANES];
                for tap in (0..count).rev().take(tokens - t) {
                    let slope = load(dy, (t + count - 1 - tap) * width, block, width);
                    let w = taps.weight(0, tap, block);
                    for i in 0..LANES {
                        gradient[i] += slope[i] * w[i];
                    }
                }
                store(dx, t * width, block, width, &gradient);
            }
        }
    }
}
