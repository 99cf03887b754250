//! Gated convolution, token after token.

use std::ops::Range;

use super::GatedConv;
use crate::array::Array;
use crate::backend::Kernel;
use crate::taps::{LANES, Taps, TapsGradient, load, store};

impl Kernel<3> for GatedConv {
    fn forward(&self, [qkv, filter, bias]: &[Array; 3], _keep: bool) -> (Array, Vec<Array>) {
        (Taps::new(filter, bias, 3, self.ahead).forward(qkv, forward), Vec::new())
    }

    fn backward(
        &self,
        [qkv, filter, bias]: &[Array; 3],
        _kept: &[Array],
        grad: &Array,
        wanted: [bool; 3],
    ) -> [Option<Array>; 3] {
        Taps::new(filter, bias, 3, self.ahead).backward(qkv, grad, backward, wanted)
    }
}

multiversioned! {
    /// q·k·v of a run of tokens, each convolved.
    fn forward(taps: &Taps, image: &[f32], run: Range<usize>, y: &mut [f32]) {
        let (width, tokens) = (taps.width, taps.tokens(image));
        for (at, t) in run.enumerate() {
            for block in 0..taps.blocks {
                let [q, k, v] = [0, 1, 2].map(|part| taps.convolve(image, part, block, t, tokens));
                let mut product = [0f32; LANES];
                for i in 0..LANES {
                    product[i] = q[i] * k[i] * v[i];
                }
                store(y, at * width, block, width, &product);
            }
        }
    }
}

multiversioned! {
    /// Gradients of a run of tokens: writes `dx`, adds to those of the filter and the bias.
    ///
    /// A token's input takes part in the outputs of `taps.count` tokens around it. The gradients of their convolutions
    /// are kept in a ring until the last is there; then that of the input is gathered from them.
    fn backward(
        taps: &Taps, image: &[f32], grad: &[f32], run: Range<usize>, dx: &mut [f32], sums: &mut TapsGradient,
    ) {
        let (width, blocks, count, behind) = (taps.width, taps.blocks, taps.count, taps.behind());
        let tokens = taps.tokens(image);
        let mut ring = vec![[0f32; LANES]; count * 3 * blocks];
        for t in run.start.saturating_sub(taps.ahead)..run.end + behind {
            let slot = &mut ring[t % count * 3 * blocks..][..3 * blocks];
            if t < tokens {
                for block in 0..blocks {
                    let [q, k, v] = [0, 1, 2].map(|part| taps.convolve(image, part, block, t, tokens));
                    let dy = load(grad, t * width, block, width);
                    let mut slopes = [[0f32; LANES]; 3];
                    for i in 0..LANES {
                        slopes[0][i] = dy[i] * k[i] * v[i];
                        slopes[1][i] = dy[i] * q[i] * v[i];
                        slopes[2][i] = dy[i] * q[i] * k[i];
                    }
                    for (part, slope) in slopes.iter().enumerate() {
                        slot[part * blocks + block] = *slope;
                        if !run.contains(&t) {
                            continue; // another run counts this output
                        }
                        let d_bias = &mut sums.bias[part * blocks + block];
                        for i in 0..LANES {
                            d_bias[i] += slope[i];
                        }
                        for (tap, source) in taps.sources(t, tokens) {
                            let x = load(image, taps.at(source, part), block, width);
                            let d_weight = &mut sums.weights[(part * count + tap) * blocks + block];
                            for i in 0..LANES {
                                d_weight[i] += slope[i] * x[i];
                            }
                        }
                    }
                }
            } else {
                slot.fill([0.0; LANES]);
            }
            let Some(source) = t.checked_sub(behind).filter(|source| run.contains(source)) else { continue };
            for part in 0..3 {
                for block in 0..blocks {
                    let mut sum = [0f32; LANES];
                    for tap in 0..count {
                        // The output token that this tap joins with the source; the slots of those before the first
                        // are still zero.
                        let output = source + count + behind - tap;
                        let slope = &ring[(output % count * 3 + part) * blocks + block];
                        let w = taps.weight(part, tap, block);
                        for i in 0..LANES {
                            sum[i] += slope[i] * w[i];
                        }
                    }
                    store(dx, taps.at(source - run.start, part), block, width, &sum);
                }
            }
        }
    }
}
