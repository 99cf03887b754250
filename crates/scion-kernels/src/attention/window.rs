//! Windowed attention: each query touches its own few keys only, so cost is linear in the tokens.

use rayon::prelude::*;

use super::Window;
use super::cpu::Sizes;
use super::softmax::softmax_rows;
use crate::sums::dot;

#[inline(always)]
fn add_scaled(to: &mut [f32], factor: f32, from: &[f32]) {
    for (t, f) in to.iter_mut().zip(from) {
        *t += factor * f;
    }
}

/// Part q, k or v (0, 1, 2) of one head of one token of an image's packed qkv.
#[inline(always)]
fn part(s: Sizes, part: usize, token: usize, head: usize) -> std::ops::Range<usize> {
    let start = (3 * token + part) * s.width() + head * s.head;
    start..start + s.head
}

multiversioned! {
    /// Unscaled scores of query `i` with its keys, head by head, into `p` [heads, keys].
    fn scores(s: Sizes, keys: &[usize], image: &[f32], i: usize, p: &mut Vec<f32>) {
        p.clear();
        for head in 0..s.heads {
            let q = &image[part(s, 0, i, head)];
            p.extend(keys.iter().map(|&j| dot::<8>(q, &image[part(s, 1, j, head)])));
        }
    }
}

/// Softmax weights of query `i` over its keys, [heads, keys]; `image` is one image's packed qkv.
fn weights(s: Sizes, keys: &[usize], image: &[f32], i: usize, p: &mut Vec<f32>) {
    scores(s, keys, image, i, p);
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

multiversioned! {
    /// Adds what query `i` contributes to the gradient of the packed qkv; `dp` is scratch.
    fn mix_backward(
        s: Sizes, keys: &[usize], image: &[f32], i: usize, p: &[f32], d_out: &[f32], dp: &mut Vec<f32>, d: &mut [f32],
    ) {
        for (head, (p, d_out)) in p.chunks_exact(keys.len()).zip(d_out.chunks_exact(s.head)).enumerate() {
            dp.clear();
            for (&j, &p) in keys.iter().zip(p) {
                dp.push(dot::<8>(d_out, &image[part(s, 2, j, head)]));
                add_scaled(&mut d[part(s, 2, j, head)], p, d_out);
            }
            let delta = dot::<8>(p, dp);
            for ((&j, &p), &dp) in keys.iter().zip(p).zip(&*dp) {
                let ds = s.scale() * p * (dp - delta);
                add_scaled(&mut d[part(s, 0, i, head)], ds, &image[part(s, 1, j, head)]);
                add_scaled(&mut d[part(s, 1, j, head)], ds, &image[part(s, 0, i, head)]);
            }
        }
    }
}

/// Writes the attention output [N, T, D].
pub(super) fn forward(s: Sizes, window: Window, qkv: &[f32], out: &mut [f32]) {
    let (row, width) = (3 * s.width(), s.width());
    out.par_chunks_mut(s.tokens * width).zip(qkv.par_chunks(s.tokens * row)).for_each(|(out, image)| {
        let (mut keys, mut p) = (Vec::new(), Vec::new());
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            window.keys(i, s.tokens, &mut keys);
            weights(s, &keys, image, i, &mut p);
            mix(s, &keys, image, &p, out);
        }
    });
}

/// Writes the gradient of the packed qkv.
pub(super) fn backward(s: Sizes, window: Window, qkv: &[f32], grad: &[f32], d_qkv: &mut [f32]) {
    let (row, width) = (3 * s.width(), s.width());
    d_qkv
        .par_chunks_mut(s.tokens * row)
        .zip(qkv.par_chunks(s.tokens * row))
        .zip(grad.par_chunks(s.tokens * width))
        .for_each(|((d, image), grad)| {
            let (mut keys, mut p, mut dp) = (Vec::new(), Vec::new(), Vec::new());
            d.fill(0.0);
            for (i, d_out) in grad.chunks_exact(width).enumerate() {
                window.keys(i, s.tokens, &mut keys);
                weights(s, &keys, image, i, &mut p);
                mix_backward(s, &keys, image, i, &p, d_out, &mut dp, d);
            }
        });
}
