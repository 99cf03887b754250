use rayon::prelude::*;

use super::ShortConv;
use crate::array::{Array, unfilled};
use crate::backend::Kernel;
use crate::taps::{LANES, Taps, TapsGradient, load, store};

impl Kernel<3> for ShortConv {
    fn forward(&self, [x, filter, bias]: &[Array; 3], _keep: bool) -> (Array, Vec<Array>) {
        let [_, tokens, width] = x.dims()[..] else { unreachable!("tokens are [N, T, C]") };
        let taps = Taps::new(filter, bias, 1, self.ahead);
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
        let taps = Taps::new(filter, bias, 1, self.ahead);
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
    /// One image's convolution, [T, C].
    pub(crate) fn image_forward(taps: &Taps, image: &[f32], y: &mut [f32]) {
        let tokens = y.len() / taps.width;
        for t in 0..tokens {
            for block in 0..taps.blocks {
                store(y, t * taps.width, block, taps.width, &taps.convolve(image, 0, block, t, tokens));
            }
        }
    }
}

multiversioned! {
    /// Gradients of one image, from that of its output, [T, C]: writes those of the channels into `dx`, laid out as the
    /// image; adds to those of the filter and the bias.
    pub(crate) fn image_backward(taps: &Taps, image: &[f32], dy: &[f32], dx: &mut [f32], sums: &mut TapsGradient) {
        let (width, behind) = (taps.width, taps.behind());
        let tokens = dy.len() / width;
        for t in 0..tokens {
            for block in 0..taps.blocks {
                let slope = load(dy, t * width, block, width);
                sums.bias[block].iter_mut().zip(slope).for_each(|(sum, slope)| *sum += slope);
                for (tap, source) in taps.sources(t, tokens) {
                    let x = load(image, taps.at(source, 0), block, width);
                    let sum = &mut sums.weights[tap * taps.blocks + block];
                    for i in 0..LANES {
                        sum[i] += slope[i] * x[i];
                    }
                }
                // The output tokens in which token `t` takes part, each through one tap.
                let mut gradient = [0f32; LANES];
                for output in t.saturating_sub(taps.ahead)..tokens.min(t + behind + 1) {
                    let slope = load(dy, output * width, block, width);
                    let w = taps.weight(0, t + behind - output, block);
                    for i in 0..LANES {
                        gradient[i] += slope[i] * w[i];
                    }
                }
                store(dx, taps.at(t, 0), block, width, &gradient);
            }
        }
    }
}
