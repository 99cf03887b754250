//! Short depthwise filters, token after token, in blocks of channels that stay in registers.

use std::ops::Range;

use crate::array::{Array, unfilled};
use crate::runs::over_runs;

/// Channels of a block: one AVX-512 register.
pub(crate) const LANES: usize = 16;
pub(crate) type Lanes = [f32; LANES];

/// Filter and bias with the channels of one tap together, and where the channels stand in a token's row. The channels
/// are `parts` parts of `width`, each padded to whole blocks.
pub(crate) struct Taps {
    /// [part, tap, block]
    pub weights: Vec<Lanes>,
    /// [part, block]
    pub bias: Vec<Lanes>,
    pub parts: usize,
    pub count: usize,
    /// Taps on tokens behind the current one; 0 for a causal filter.
    pub ahead: usize,
    pub blocks: usize,
    pub width: usize,
    /// Values of a token's row, of which the channels are those from `start`.
    pub row: usize,
    pub start: usize,
}

impl Taps {
    /// Lays out a filter of [parts · width, taps] and a bias of [parts · width] for rows of that many channels.
    ///
    /// # Panics
    /// When more taps look ahead than there are beside the current token's.
    pub fn new(filter: &Array, bias: &Array, parts: usize, ahead: usize) -> Self {
        let (width, count) = (filter.rows() / parts, filter.width());
        assert!(ahead < count, "{ahead} of {count} taps look ahead");
        let blocks = width.div_ceil(LANES);
        let mut taps = Self {
            weights: vec![[0.0; LANES]; parts * count * blocks],
            bias: vec![[0.0; LANES]; parts * blocks],
            parts,
            count,
            ahead,
            blocks,
            width,
            row: parts * width,
            start: 0,
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

    /// The same filter on channels inside wider rows.
    pub fn within(self, row: usize, start: usize) -> Self {
        Self { row, start, ..self }
    }

    /// Tokens of an image.
    #[inline(always)]
    pub fn tokens(&self, image: &[f32]) -> usize {
        image.len() / self.row
    }

    /// Where a part of a token's channels begins in an image.
    #[inline(always)]
    pub fn at(&self, token: usize, part: usize) -> usize {
        token * self.row + self.start + part * self.width
    }

    /// Part, block and lane of a channel.
    pub fn place(&self, channel: usize) -> (usize, usize, usize) {
        let (part, within) = (channel / self.width, channel % self.width);
        (part, within / LANES, within % LANES)
    }

    #[inline(always)]
    pub fn weight(&self, part: usize, tap: usize, block: usize) -> &Lanes {
        &self.weights[(part * self.count + tap) * self.blocks + block]
    }

    /// Taps on tokens before the current one.
    #[inline(always)]
    pub fn behind(&self) -> usize {
        self.count - 1 - self.ahead
    }

    /// (tap, token it multiplies) pairs of output token `t` of `tokens`.
    #[inline(always)]
    pub fn sources(&self, t: usize, tokens: usize) -> impl Iterator<Item = (usize, usize)> {
        let behind = self.behind();
        (behind.saturating_sub(t)..self.count.min(tokens + behind - t))
            .map(move |tap| (tap, t + tap - behind))
    }

    /// One block of a part of the convolution's output at token `t` of `tokens`.
    #[inline(always)]
    pub fn convolve(&self, image: &[f32], part: usize, block: usize, t: usize, tokens: usize) -> Lanes {
        let mut sum = self.bias[part * self.blocks + block];
        for (tap, source) in self.sources(t, tokens) {
            let x = load(image, self.at(source, part), block, self.width);
            let w = self.weight(part, tap, block);
            for i in 0..LANES {
                sum[i] += w[i] * x[i];
            }
        }
        sum
    }
}

/// Writes all outputs of a run of an image's tokens, [run, width]; image and run are told in that order.
pub(crate) type Forward = fn(&Taps, &[f32], Range<usize>, &mut [f32]);

/// Gradients of a run of an image's tokens, from that of the image's output, [T, width]: writes all values of the run's rows,
/// adds to those of filter and bias what the run's outputs contribute.
pub(crate) type Backward = fn(&Taps, &[f32], &[f32], Range<usize>, &mut [f32], &mut TapsGradient);

impl Taps {
    /// What `op` makes of `x` [N, T, row], [N, T, width].
    pub fn forward(&self, x: &Array, op: Forward) -> Array {
        let [batch, tokens, _] = x.dims()[..] else { unreachable!("tokens are [N, T, C]") };
        // SAFETY: every token is written below.
        let mut y = unsafe { unfilled(batch * tokens * self.width) };
        let images: Vec<&[f32]> = x.values().chunks_exact(tokens * self.row).collect();
        over_runs(&mut y, tokens, self.width, |image, run, y| op(self, images[image], run, y));
        Array::from_vec(y, [batch, tokens, self.width])
    }

    /// The gradients of `x`, filter and bias, where wanted.
    pub fn backward(&self, x: &Array, grad: &Array, op: Backward, wanted: [bool; 3]) -> [Option<Array>; 3] {
        let [_, tokens, _] = x.dims()[..] else { unreachable!("tokens are [N, T, C]") };
        assert_eq!(self.row, x.width(), "every value of a row gets its gradient");
        // SAFETY: an operation writes all rows of its run.
        let mut dx = unsafe { unfilled(x.values().len()) };
        let images: Vec<_> = x
            .values()
            .chunks_exact(tokens * self.row)
            .zip(grad.values().chunks_exact(tokens * self.width))
            .collect();
        let sums = over_runs(&mut dx, tokens, self.row, |image, run, dx| {
            let mut sums = TapsGradient::zeros(self);
            let (image, grad) = images[image];
            op(self, image, grad, run, dx, &mut sums);
            sums
        });
        let (d_filter, d_bias) = TapsGradient::sum(&sums, self);
        let channels = self.parts * self.width;
        [
            wanted[0].then(|| Array::from_vec(dx, x.dims())),
            wanted[1].then(|| Array::from_vec(d_filter, [channels, self.count])),
            wanted[2].then(|| Array::from_vec(d_bias, [channels])),
        ]
    }
}

/// Block `block` of the `width` values at `start`, zeros behind the last.
#[inline(always)]
pub(crate) fn load(values: &[f32], start: usize, block: usize, width: usize) -> Lanes {
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
pub(crate) fn store(values: &mut [f32], start: usize, block: usize, width: usize, lanes: &Lanes) {
    let first = block * LANES;
    let count = LANES.min(width - first);
    if count == LANES {
        values[start + first..start + first + LANES].copy_from_slice(lanes);
    } else {
        values[start + first..start + width].copy_from_slice(&lanes[..count]);
    }
}

/// Gradients of filter and bias in the layout of [`Taps`].
pub(crate) struct TapsGradient {
    pub weights: Vec<Lanes>,
    pub bias: Vec<Lanes>,
}

impl TapsGradient {
    pub fn zeros(taps: &Taps) -> Self {
        Self { weights: vec![[0.0; LANES]; taps.weights.len()], bias: vec![[0.0; LANES]; taps.bias.len()] }
    }

    /// The sum of the runs' gradients, in their order whatever thread each was done on, as [channels, taps] and
    /// [channels].
    pub fn sum(runs: &[Self], taps: &Taps) -> (Vec<f32>, Vec<f32>) {
        let channels = taps.parts * taps.width;
        let (mut weights, mut bias) = (vec![0f32; channels * taps.count], vec![0f32; channels]);
        for run in runs {
            for channel in 0..channels {
                let (part, block, lane) = taps.place(channel);
                bias[channel] += run.bias[part * taps.blocks + block][lane];
                for tap in 0..taps.count {
                    weights[channel * taps.count + tap] +=
                        run.weights[(part * taps.count + tap) * taps.blocks + block][lane];
                }
            }
        }
        (weights, bias)
    }
}
