//! Gated convolution, token after token, in blocks of channels that stay in registers.

use rayon::prelude::*;

use super::GatedConv;
use crate::array::{Array, unfilled};
use crate::backend::Kernel;

/// Channels of a block: one AVX-512 register.
const LANES: usize = 16;
type Lanes = [f32; LANES];

/// Filter and bias with the channels of one tap together, each part padded to whole blocks.
struct Taps {
    /// [part, tap, block] of q, k and v.
    weights: Vec<Lanes>,
    /// [part, block]
    bias: Vec<Lanes>,
    count: usize,
    blocks: usize,
    width: usize,
}

impl Taps {
    fn new(filter: &Array, bias: &Array) -> Self {
        let (width, count) = (filter.rows() / 3, filter.width());
        let blocks = width.div_ceil(LANES);
        let mut taps = Self {
            weights: vec![[0.0; LANES]; 3 * count * blocks],
            bias: vec![[0.0; LANES]; 3 * blocks],
            count,
            blocks,
            width,
        };
        for (channel, (row, &b)) in filter.values().chunks_exact(count).zip(bias.values()).enumerate() {
            let (part, block, lane) = taps.place(channel);
            taps.bias[part * blocks + block][lane] = b;
            for (tap, &w) in row.iter().enumerate() {
                taps.weights[(part * count + tap) * blocks + block][lane] = w;
            }
        }
        taps
    }

    /// Part, block and lane of a channel of the packed q, k and v.
    fn place(&self, channel: usize) -> (usize, usize, usize) {
        let (part, within) = (channel / self.width, channel % self.width);
        (part, within / LANES, within % LANES)
    }

    #[inline(always)]
    fn weight(&self, part: usize, tap: usize, block: usize) -> &Lanes {
        &self.weights[(part * self.count + tap) * self.blocks + block]
    }

    /// (tap, token it multiplies) pairs of output token `t`.
    #[inline(always)]
    fn sources(&self, t: usize) -> impl Iterator<Item = (usize, usize)> {
        (self.count.saturating_sub(t + 1)..self.count).map(move |tap| (tap, t + tap + 1 - self.count))
    }

    /// One block of the convolution's output for part q, k or v at token `t`.
    #[inline(always)]
    fn convolve(&self, image: &[f32], part: usize, block: usize, t: usize) -> Lanes {
        let mut sum = self.bias[part * self.blocks + block];
        for (tap, source) in self.sources(t) {
            let x = load(image, (3 * source + part) * self.width, block, self.width);
            let w = self.weight(part, tap, block);
            for i in 0..LANES {
                sum[i] += w[i] * x[i];
            }
        }
        sum
    }
}

/// Block `block` of the `width` values at `start`, zeros behind the last.
#[inline(always)]
fn load(values: &[f32], start: usize, block: usize, width: usize) -> Lanes {
    let first = block * LANES;
    let mut lanes = [0f32; LANES];
    if first + LANES <= width {
        lanes.copy_from_slice(&values[start + first..start + first + LANES]);
    } else {
        lanes[..width - first].copy_from_slice(&values[start + first..start + width]);
    }
    lanes
}

/// The inverse of [`load`].
#[inline(always)]
fn store(values: &mut [f32], start: usize, block: usize, width: usize, lanes: &Lanes) {
    let first = block * LANES;
    let count = LANES.min(width - first);
    if count == LANES {
        values[start + first..start + first + LANES].copy_from_slice(lanes);
    } else {
        values[start + first..start + width].copy_from_slice(&lanes[..count]);
    }
}

impl Kernel<3> for GatedConv {
    fn forward(&self, [qkv, filter, bias]: &[Array; 3], _keep: bool) -> (Array, Vec<Array>) {
        let [batch, tokens, channels] = qkv.dims()[..] else { unreachable!("qkv is [N, T, 3·D]") };
        let width = channels / 3;
        let taps = Taps::new(filter, bias);
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
        let taps = Taps::new(filter, bias);
        // SAFETY: the backward pass writes every token.
        let mut dx = unsafe { unfilled(qkv.values().len()) };
        let partial: Vec<(Vec<Lanes>, Vec<Lanes>)> = dx
            .par_chunks_mut(tokens * channels)
            .zip(qkv.values().par_chunks(tokens * channels))
            .zip(grad.values().par_chunks(tokens * channels / 3))
            .map(|((dx, image), grad)| {
                let mut d_weights = vec![[0f32; LANES]; taps.weights.len()];
                let mut d_bias = vec![[0f32; LANES]; taps.bias.len()];
                image_backward(&taps, image, grad, dx, &mut d_weights, &mut d_bias);
                (d_weights, d_bias)
            })
            .collect();
        let (mut d_weights, mut d_bias) = (vec![0f32; filter.values().len()], vec![0f32; channels]);
        // Image after image, whatever thread each was done on.
        for (weights, biases) in partial {
            for channel in 0..channels {
                let (part, block, lane) = taps.place(channel);
                d_bias[channel] += biases[part * taps.blocks + block][lane];
                for tap in 0..taps.count {
                    d_weights[channel * taps.count + tap] +=
                        weights[(part * taps.count + tap) * taps.blocks + block][lane];
                }
            }
        }
        [
            wanted[0].then(|| Array::from_vec(dx, qkv.dims())),
            wanted[1].then(|| Array::from_vec(d_weights, filter.dims())),
            wanted[2].then(|| Array::from_vec(d_bias, [channels])),
        ]
    }
}

multiversioned! {
    /// q·k·v of one image, each convolved.
    fn image_forward(taps: &Taps, image: &[f32], y: &mut [f32]) {
        let width = taps.width;
        for t in 0..y.len() / width {
            for block in 0..taps.blocks {
                let [q, k, v] = [0, 1, 2].map(|part| taps.convolve(image, part, block, t));
                let mut product = [0f32; LANES];
                for i in 0..LANES {
                    product[i] = q[i] * k[i] * v[i];
                }
                store(y, t * width, block, width, &product);
            }
        }
    }
}

multiversioned! {
    /// Gradients of one image: writes `dx`, adds to those of the filter and the bias.
    ///
    /// A token's input takes part in the outputs of the next `taps.count` tokens. The gradients of their convolutions
    /// are kept in a ring until the last is there; then that of the input is gathered from them.
    fn image_backward(
        taps: &Taps, image: &[f32], grad: &[f32], dx: &mut [f32], d_weights: &mut [Lanes], d_bias: &mut [Lanes],
    ) {
        let (width, blocks, count) = (taps.width, taps.blocks, taps.count);
        let tokens = grad.len() / width;
        let mut ring = vec![[0f32; LANES]; count * 3 * blocks];
        for t in 0..tokens + count - 1 {
            let slot = &mut ring[t % count * 3 * blocks..][..3 * blocks];
            if t < tokens {
                for block in 0..blocks {
                    let [q, k, v] = [0, 1, 2].map(|part| taps.convolve(image, part, block, t));
                    let dy = load(grad, t * width, block, width);
                    let mut slopes = [[0f32; LANES]; 3];
                    for i in 0..LANES {
                        slopes[0][i] = dy[i] * k[i] * v[i];
                        slopes[1][i] = dy[i] * q[i] * v[i];
                        slopes[2][i] = dy[i] * q[i] * k[i];
                    }
                    for (part, slope) in slopes.iter().enumerate() {
                        slot[part * blocks + block] = *slope;
                        let d_bias = &mut d_bias[part * blocks + block];
                        for i in 0..LANES {
                            d_bias[i] += slope[i];
                        }
                        for (tap, source) in taps.sources(t) {
                            let x = load(image, (3 * source + part) * width, block, width);
                            let d_weight = &mut d_weights[(part * count + tap) * blocks + block];
                            for i in 0..LANES {
                                d_weight[i] += slope[i] * x[i];
                            }
                        }
                    }
                }
            } else {
                slot.fill([0.0; LANES]);
            }
            let Some(source) = (t + 1).checked_sub(count) else { continue };
            for part in 0..3 {
                for block in 0..blocks {
                    let mut sum = [0f32; LANES];
                    for tap in 0..count {
                        // The output token that this tap joins with the source.
                        let output = source + count - 1 - tap;
                        let slope = &ring[(output % count * 3 + part) * blocks + block];
                        let w = taps.weight(part, tap, block);
                        for i in 0..LANES {
                            sum[i] += slope[i] * w[i];
                        }
                    }
                    store(dx, (3 * source + part) * width, block, width, &sum);
                }
            }
        }
    }
}
