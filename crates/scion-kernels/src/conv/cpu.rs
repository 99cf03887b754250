use std::ops::Range;

use super::ShortConv;
use crate::array::Array;
use crate::backend::Kernel;
use crate::taps::{LANES, Taps, TapsGradient, load, store};

impl Kernel<3> for ShortConv {
    fn forward(&self, [x, filter, bias]: &[Array; 3], _keep: bool) -> (Array, Vec<Array>) {
        (Taps::new(filter, bias, 1, self.ahead).forward(x, forward), Vec::new())
    }

    fn backward(
        &self,
        [x, filter, bias]: &[Array; 3],
        _kept: &[Array],
        grad: &Array,
        wanted: [bool; 3],
    ) -> [Option<Array>; 3] {
        Taps::new(filter, bias, 1, self.ahead).backward(x, grad, backward, wanted)
    }
}

multiversioned! {
    /// The convolution of a run of tokens, [run, C].
    pub(crate) fn forward(taps: &Taps, image: &[f32], run: Range<usize>, y: &mut [f32]) {
        let tokens = taps.tokens(image);
        for (at, t) in run.enumerate() {
            for block in 0..taps.blocks {
                store(y, at * taps.width, block, taps.width, &taps.convolve(image, 0, block, t, tokens));
            }
        }
    }
}

multiversioned! {
    /// Gradients of a run of tokens, from that of the image's output, [T, C]: writes those of the channels into `dx`,
    /// rows as the image's; adds to those of the filter and the bias.
    pub(crate) fn backward(
        taps: &Taps, image: &[f32], dy: &[f32], run: Range<usize>, dx: &mut [f32], sums: &mut TapsGradient,
    ) {
        let (width, behind, tokens) = (taps.width, taps.behind(), taps.tokens(image));
        for (at, t) in run.enumerate() {
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
                store(dx, taps.at(at, 0), block, width, &gradient);
            }
        }
    }
}
