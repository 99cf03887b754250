//! Windowed attention: each query touches its own few keys only, so cost is linear in the tokens.

use rayon::prelude::*;

use super::Window;
use super::cpu::Sizes;
use super::softmax::softmax_rows;

/// Keys that query `i` sees.
fn keys(i: usize, tokens: usize, window: Window) -> std::ops::Range<usize> {
    i.saturating_sub(window.left)..(i + window.right + 1).min(tokens)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let (chunks_a, rest_a) = a.as_chunks::<8>();
    let (chunks_b, rest_b) = b.as_chunks::<8>();
    for (x, y) in chunks_a.iter().zip(chunks_b) {
        for l in 0..8 {
            lanes[l] += x[l] * y[l];
        }
    }
    lanes.iter().sum::<f32>() + rest_a.iter().zip(rest_b).map(|(x, y)| x * y).sum::<f32>()
}

fn add_scaled(to: &mut [f32], factor: f32, from: &[f32]) {
    for (t, f) in to.iter_mut().zip(from) {
        *t += factor * f;
    }
}

/// Softmax weights of query `i` of one head over its keys; `image` is one image's packed qkv.
fn weights(s: Sizes, window: Window, image: &[f32], head: usize, i: usize, p: &mut Vec<f32>) {
    let (row, width) = (3 * s.width(), s.width());
    let q = &image[i * row + head * s.head..][..s.head];
    p.clear();
    p.extend(keys(i, s.tokens, window).map(|j| {
        let k = &image[j * row + width + head * s.head..][..s.head];
        dot(q, k) * s.scale()
    }));
    let count = p.len();
    softmax_rows(p, count);
}

/// Writes the attention output [N, T, D].
pub(super) fn forward(s: Sizes, window: Window, qkv: &[f32], out: &mut [f32]) {
    let (row, width) = (3 * s.width(), s.width());
    out.par_chunks_mut(s.tokens * width).zip(qkv.par_chunks(s.tokens * row)).for_each(|(out, image)| {
        let mut p = Vec::new();
        for i in 0..s.tokens {
            for head in 0..s.heads {
                weights(s, window, image, head, i, &mut p);
                let o = &mut out[i * width + head * s.head..][..s.head];
                for (j, &p) in keys(i, s.tokens, window).zip(&p) {
                    add_scaled(o, p, &image[j * row + 2 * width + head * s.head..][..s.head]);
                }
            }
        }
    });
}

/// Accumulates the gradient of the packed qkv.
pub(super) fn backward(s: Sizes, window: Window, qkv: &[f32], grad: &[f32], d_qkv: &mut [f32]) {
    let (row, width) = (3 * s.width(), s.width());
    d_qkv
        .par_chunks_mut(s.tokens * row)
        .zip(qkv.par_chunks(s.tokens * row))
        .zip(grad.par_chunks(s.tokens * width))
        .for_each(|((d, image), grad)| {
            let (mut p, mut dp) = (Vec::new(), Vec::new());
            for i in 0..s.tokens {
                for head in 0..s.heads {
                    let at = head * s.head;
                    weights(s, window, image, head, i, &mut p);
                    let d_out = &grad[i * width + at..][..s.head];
                    dp.clear();
                    for (j, &p) in keys(i, s.tokens, window).zip(&p) {
                        let v = j * row + 2 * width + at;
                        dp.push(dot(d_out, &image[v..][..s.head]));
                        add_scaled(&mut d[v..][..s.head], p, d_out);
                    }
                    let delta = dot(&p, &dp);
                    for ((j, &p), &dp) in keys(i, s.tokens, window).zip(&p).zip(&dp) {
                        let ds = s.scale() * p * (dp - delta);
                        let (q, k) = (i * row + at, j * row + width + at);
                        add_scaled(&mut d[q..][..s.head], ds, &image[k..][..s.head]);
                        add_scaled(&mut d[k..][..s.head], ds, &image[q..][..s.head]);
                    }
                }
            }
        });
}
