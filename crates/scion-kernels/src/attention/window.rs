//! Windowed attention: each query touches its own few keys only, so cost is linear in the tokens.

use std::ops::Range;

use rayon::prelude::*;

use super::Window;
use super::cpu::Sizes;
use super::softmax::softmax_rows;
use crate::runs::over_runs;
use crate::shared::SharedMut;
use crate::sums::{add_scaled, dot};

/// Groups into which an image's heads are cut in the backward pass, whose tasks write to the same tokens.
const GROUPS: usize = 4;

/// Part q, k or v (0, 1, 2) of one head of one token of an image's packed qkv.
#[inline(always)]
fn part(s: Sizes, part: usize, token: usize, head: usize) -> Range<usize> {
    let start = (3 * token + part) * s.width() + head * s.head;
    start..start + s.head
}

multiversioned! {
    /// Unscaled scores of query `i` with its keys, head by head, into `p` [heads, keys].
    fn scores(s: Sizes, heads: Range<usize>, keys: &[usize], image: &[f32], i: usize, p: &mut Vec<f32>) {
        p.clear();
        for head in heads {
            let q = &image[part(s, 0, i, head)];
            p.extend(keys.iter().map(|&j| dot::<8>(q, &image[part(s, 1, j, head)])));
        }
    }
}

/// Softmax weights of query `i` over its keys, [heads, keys]; `image` is one image's packed qkv.
fn weights(s: Sizes, heads: Range<usize>, keys: &[usize], image: &[f32], i: usize, p: &mut Vec<f32>) {
    scores(s, heads, keys, image, i, p);
    softmax_rows(p, keys.len(), s.scale());
}

multiversioned! {
    /// Writes the output of a query, [D].
    fn mix(s: Sizes, keys: &[usize], image: &[f32], p: &[f32], out: &mut [f32]) {
        out.fill(0.0);
        for (head, (p, out)) in p.chunks_exact(keys.len()).zip(out.chunks_exact_mut(s.head)).enumerate() {
            for (&j, &p) in keys.iter().zip(p) {
                add_scaled(out, p, &image[part(s, 2, j, head)]);
            }
        }
    }
}

/// Writes the attention output [N, T, D].
pub(super) fn forward(s: Sizes, window: Window, qkv: &[f32], out: &mut [f32]) {
    let images: Vec<&[f32]> = qkv.chunks_exact(s.tokens * 3 * s.width()).collect();
    over_runs(out, s.tokens, s.width(), |image, run, out| {
        let (mut keys, mut p) = (Vec::new(), Vec::new());
        for (i, out) in run.zip(out.chunks_exact_mut(s.width())) {
            window.keys(i, s.tokens, &mut keys);
            weights(s, 0..s.heads, &keys, images[image], i, &mut p);
            mix(s, &keys, images[image], &p, out);
        }
    });
}

/// The gradient of one image's packed qkv, in which tasks write the columns of their own heads.
struct Gradient<'a> {
    values: &'a SharedMut<'a>,
    /// Where the image begins.
    first: usize,
}

impl Gradient<'_> {
    /// # Safety
    /// No one else uses these elements while the slice lives.
    #[inline(always)]
    #[expect(clippy::mut_from_ref)]
    unsafe fn at(&self, place: Range<usize>) -> &mut [f32] {
        let start = self.values.at(self.first + place.start, place.len());
        // SAFETY: inside the array, and used by the caller alone.
        unsafe { std::slice::from_raw_parts_mut(start, place.len()) }
    }
}

multiversioned! {
    /// Adds what query `i` contributes to the gradient of `heads`; `dp` is scratch.
    ///
    /// # Safety
    /// No other thread touches the columns of these heads in `d` meanwhile.
    unsafe fn mix_backward(
        s: Sizes, heads: Range<usize>, keys: &[usize], image: &[f32], i: usize, p: &[f32], d_out: &[f32],
        dp: &mut Vec<f32>, d: &Gradient,
    ) {
        // SAFETY: places of one head, of which one slice lives at a time.
        let add = |place, factor, from: &[f32]| add_scaled(unsafe { d.at(place) }, factor, from);
        for (head, p) in heads.zip(p.chunks_exact(keys.len())) {
            let d_out = &d_out[head * s.head..(head + 1) * s.head];
            dp.clear();
            for (&j, &p) in keys.iter().zip(p) {
                dp.push(dot::<8>(d_out, &image[part(s, 2, j, head)]));
                add(part(s, 2, j, head), p, d_out);
            }
            let delta = dot::<8>(p, dp);
            for ((&j, &p), &dp) in keys.iter().zip(p).zip(&*dp) {
                let ds = s.scale() * p * (dp - delta);
                add(part(s, 0, i, head), ds, &image[part(s, 1, j, head)]);
                add(part(s, 1, j, head), ds, &image[part(s, 0, i, head)]);
            }
        }
    }
}

/// Writes the gradient of the packed qkv.
pub(super) fn backward(s: Sizes, window: Window, qkv: &[f32], grad: &[f32], d_qkv: &mut [f32]) {
    let (row, width) = (3 * s.width(), s.width());
    let group = s.heads.div_ceil(GROUPS);
    let groups = s.heads.div_ceil(group);
    let values = SharedMut::new(d_qkv);
    (0..s.batch * groups).into_par_iter().for_each(|task| {
        let (index, heads) = (task / groups, task % groups * group..s.heads.min((task % groups + 1) * group));
        let image = &qkv[index * s.tokens * row..(index + 1) * s.tokens * row];
        let grad = &grad[index * s.tokens * width..(index + 1) * s.tokens * width];
        let d = Gradient { values: &values, first: index * s.tokens * row };
        for t in 0..s.tokens {
            for part in 0..3 {
                let start = t * row + part * width;
                // SAFETY: each task has heads of its own.
                unsafe { d.at(start + heads.start * s.head..start + heads.end * s.head) }.fill(0.0);
            }
        }
        let (mut keys, mut p, mut dp) = (Vec::new(), Vec::new(), Vec::new());
        for (i, d_out) in grad.chunks_exact(width).enumerate() {
            window.keys(i, s.tokens, &mut keys);
            weights(s, heads.clone(), &keys, image, i, &mut p);
            // SAFETY: as above.
            unsafe { mix_backward(s, heads.clone(), &keys, image, i, &p, d_out, &mut dp, &d) };
        }
    });
}
