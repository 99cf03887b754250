//! Tokens shared out to tasks.

use std::ops::Range;

use rayon::prelude::*;

/// Tokens of an image that one task works on: few enough that cores share an image, many enough that what neighbours
/// compute twice does not count.
const RUN: usize = 128;

/// Does `work` with each run of tokens of each image, in parallel: with the image's index, the run, and its rows of
/// `out`, which holds images of `tokens` rows. What it makes comes back in order.
pub(crate) fn over_runs<T: Send>(
    out: &mut [f32],
    tokens: usize,
    row: usize,
    work: impl Fn(usize, Range<usize>, &mut [f32]) -> T + Sync,
) -> Vec<T> {
    let mut runs = Vec::new();
    for (image, out) in out.chunks_mut(tokens * row).enumerate() {
        for (index, out) in out.chunks_mut(RUN * row).enumerate() {
            runs.push((image, index * RUN..index * RUN + out.len() / row, out));
        }
    }
    runs.into_par_iter().map(|(image, run, out)| work(image, run, out)).collect()
}
