//! The gate around an inner convolution, token after token.

use std::ops::Range;

use super::GatedInner;
use crate::array::Array;
use crate::backend::Kernel;
use crate::taps::{LANES, Lanes, Taps, TapsGradient, load, store};

impl GatedInner {
    /// The filter of the one part, in rows that hold three.
    fn taps(&self, filter: &Array, bias: &Array) -> Taps {
        let taps = Taps::new(filter, bias, 1, self.ahead);
        let row = 3 * taps.width;
        taps.within(row, 0)
    }
}

impl Kernel<3> for GatedInner {
    fn forward(&self, [qkv, filter, bias]: &[Array; 3], _keep: bool) -> (Array, Vec<Array>) {
        (self.taps(filter, bias).forward(qkv, forward), Vec::new())
    }

    fn backward(
        &self,
        [qkv, filter, bias]: &[Array; 3],
        _kept: &[Array],
        grad: &Array,
        wanted: [bool; 3],
    ) -> [Option<Array>; 3] {
        self.taps(filter, bias).backward(qkv, grad, backward, wanted)
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
    load(image, taps.at(token, part), block, taps.width)
}

/// k⊙v of a token.
#[inline(always)]
fn keyed(taps: &Taps, image: &[f32], token: usize, block: usize) -> Lanes {
    product(part(taps, image, token, 1, block), part(taps, image, token, 2, block))
}

multiversioned! {
    /// q⊙inner(k⊙v) of a run of tokens.
    fn forward(taps: &Taps, image: &[f32], run: Range<usize>, y: &mut [f32]) {
        let (width, tokens) = (taps.width, taps.tokens(image));
        for (at, t) in run.enumerate() {
            for block in 0..taps.blocks {
                let mut mixed = taps.bias[block];
                for (tap, source) in taps.sources(t, tokens) {
                    let (w, u) = (taps.weight(0, tap, block), keyed(taps, image, source, block));
                    for i in 0..LANES {
                        mixed[i] += w[i] * u[i];
                    }
                }
                store(y, at * width, block, width, &product(part(taps, image, t, 0, block), mixed));
            }
        }
    }
}

multiversioned! {
    /// Gradients of a run of tokens: writes `dx`, adds to those of the filter and the bias.
    fn backward(
        taps: &Taps, image: &[f32], grad: &[f32], run: Range<usize>, dx: &mut [f32], sums: &mut TapsGradient,
    ) {
        let (width, behind, tokens) = (taps.width, taps.behind(), taps.tokens(image));
        for (at, t) in run.enumerate() {
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
                for (part, gradient) in [product(dy, mixed), product(d_keyed, v), product(d_keyed, k)].iter().enumerate() {
                    store(dx, taps.at(at, part), block, width, gradient);
                }
            }
        }
    }
}
