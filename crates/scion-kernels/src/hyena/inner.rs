//! The gate around an inner convolution, token after token.

use rayon::prelude::*;

use super::GatedInner;
use crate::array::{Array, unfilled};
use crate::backend::Kernel;
use crate::taps::{LANES, Lanes, Taps, TapsGradient, load, store};

impl Kernel<3> for GatedInner {
    fn forward(&self, [qkv, filter, bias]: &[Array; 3], _keep: bool) -> (Array, Vec<Array>) {
        let [batch, tokens, channels] = qkv.dims()[..] else { unreachable!("qkv is [N, T, 3·D]") };
        let width = channels / 3;
        let taps = Taps::new(filter, bias, 1, self.ahead);
        // SAFETY: every token is written below.
        let mut y = unsafe { unfilled(batch * tokens * width) };
        y.par_chunks_mut(tokens * width)
            .zip(qkv.values().par_chunks(tokens * channels))
            .for_each(|(y, image)| image_forward(&taps, image, y));
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
        let taps = Taps::new(filter, bias, 1, self.ahead);
        // SAFETY: the backward pass writes every token.
        let mut dx = unsafe { unfilled(qkv.values().len()) };
        let images: Vec<TapsGradient> = dx
            .par_chunks_mut(tokens * channels)
            .zip(qkv.values().par_chunks(tokens * channels))
            .zip(grad.values().par_chunks(tokens * channels / 3))
            .map(|((dx, image), grad)| {
                let mut gradient = TapsGradient::zeros(&taps);
                image_backward(&taps, image, grad, dx, &mut gradient);
                gradient
            })
            .collect();
        let (d_weights, d_bias) = TapsGradient::sum(&images, &taps);
        [
            wanted[0].then(|| Array::from_vec(dx, qkv.dims())),
            wanted[1].then(|| Array::from_vec(d_weights, filter.dims())),
            wanted[2].then(|| Array::from_vec(d_bias, bias.dims())),
        ]
    }
}

#[inline(always)]
fn product(a: Lanes, b: Lanes) -> Lanes {
    let mut product = [0f32; LANES];
    for i in 0..LANES {
        product[i] = a[i] * b[i];
    }
    product
}

/// Block `block` of part q, k or v (0, 1, 2) of a token.
#[inline(always)]
fn part(taps: &Taps, image: &[f32], token: usize, part: usize, block: usize) -> Lanes {
    load(image, (3 * token + part) * taps.width, block, taps.width)
}

/// k⊙v of a token.
#[inline(always)]
fn keyed(taps: &Taps, image: &[f32], token: usize, block: usize) -> Lanes {
    product(part(taps, image, token, 1, block), part(taps, image, token, 2, block))
}

multiversioned! {
    /// q⊙inner(k⊙v) of one image.
    fn image_forward(taps: &Taps, image: &[f32], y: &mut [f32]) {
        let width = taps.width;
        let tokens = y.len() / width;
        for t in 0..tokens {
            for block in 0..taps.blocks {
                let mut mixed = taps.bias[block];
                for (tap, source) in taps.sources(t, tokens) {
                    let (w, u) = (taps.weight(0, tap, block), keyed(taps, image, source, block));
                    for i in 0..LANES {
                        mixed[i] += w[i] * u[i];
                    }
                }
                store(y, t * width, block, width, &product(part(taps, image, t, 0, block), mixed));
            }
        }
    }
}

multiversioned! {
    /// Gradients of one image: writes `dx`, adds to those of the filter and the bias.
    fn image_backward(
        taps: &Taps, image: &[f32], grad: &[f32], dx: &mut [f32], sums: &mut TapsGradient,
    ) {
        let (width, behind) = (taps.width, taps.behind());
        let tokens = grad.len() / width;
        for t in 0..tokens {
            for block in 0..taps.blocks {
                let dy = load(grad, t * width, block, width);
                let slope = product(dy, part(taps, image, t, 0, block)); // of the convolution's output
                sums.bias[block].iter_mut().zip(slope).for_each(|(sum, slope)| *sum += slope);
                let mut mixed = taps.bias[block];
                for (tap, source) in taps.sources(t, tokens) {
                    let (w, u) = (taps.weight(0, tap, block), keyed(taps, image, source, block));
                    let sum = &mut sums.weights[tap * taps.blocks + block];
                    for i in 0..LANES {
                        mixed[i] += w[i] * u[i];
                        sum[i] += slope[i] * u[i];
                    }
                }
                // The output tokens in which k⊙v of token `t` takes part, each through one tap.
                let mut d_keyed = [0f32; LANES];
                for output in t.saturating_sub(taps.ahead)..tokens.min(t + behind + 1) {
                    let w = taps.weight(0, t + behind - output, block);
                    let slope = product(load(grad, output * width, block, width), part(taps, image, output, 0, block));
                    for i in 0..LANES {
                        d_keyed[i] += slope[i] * w[i];
                    }
                }
                let (k, v) = (part(taps, image, t, 1, block), part(taps, image, t, 2, block));
                for (at, gradient) in [product(dy, mixed), product(d_keyed, v), product(d_keyed, k)].iter().enumerate() {
                    store(dx, (3 * t + at) * width, block, width, gradient);
                }
            }
        }
    }
}
