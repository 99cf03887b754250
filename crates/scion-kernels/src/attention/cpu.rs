//! Full attention, a block of queries at a time: scratch grows with T, never with T².

use rayon::prelude::*;

use super::softmax::softmax_rows;
use super::{Attention, window};
use crate::array::{Array, unfilled};
use crate::backend::Kernel;
use crate::product::{Strided, product};
use crate::shared::SharedMut;

/// Queries handled together: large enough for the products, small enough for the cache.
const QUERIES: usize = 64;

/// Sizes of one attention call.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub batch: usize,
    pub tokens: usize,
    pub heads: usize,
    pub head: usize,
}

impl Sizes {
    fn new(qkv: &Array, heads: usize) -> Self {
        let [batch, tokens, width] = qkv.dims()[..] else { unreachable!("qkv is [N, T, 3·D]") };
        Self { batch, tokens, heads, head: width / 3 / heads }
    }

    pub fn width(&self) -> usize {
        self.heads * self.head
    }

    pub fn scale(&self) -> f32 {
        1.0 / (self.head as f32).sqrt()
    }

    /// Offset of (image, part q|k|v, head) in the packed array, whose rows are 3·D apart.
    pub fn part(&self, image: usize, part: usize, head: usize) -> usize {
        image * self.tokens * 3 * self.width() + part * self.width() + head * self.head
    }

    /// Offset of (image, head) in an array of [N, T, D].
    pub fn out(&self, image: usize, head: usize) -> usize {
        image * self.tokens * self.width() + head * self.head
    }
}

impl Kernel<1> for Attention {
    fn forward(&self, [qkv]: &[Array; 1], keep: bool) -> (Array, Vec<Array>) {
        let s = Sizes::new(qkv, self.heads);
        let elements = s.batch * s.tokens * s.width();
        if let Some(window) = self.window {
            let mut out = vec![0f32; elements];
            window::forward(s, window, qkv.values(), &mut out);
            return (Array::from_vec(out, [s.batch, s.tokens, s.width()]), Vec::new());
        }
        // SAFETY: the tasks below write the rows of every image and head.
        let mut out = unsafe { unfilled(elements) };
        let shared = SharedMut::new(&mut out);
        (0..s.batch * s.heads).into_par_iter().for_each_init(Vec::new, |p, task| {
            let (image, head) = (task / s.heads, task % s.heads);
            for first in (0..s.tokens).step_by(QUERIES) {
                let count = QUERIES.min(s.tokens - first);
                probabilities(s, qkv.values(), image, head, first, count, p);
                let p = Strided::rows(p, 0, s.tokens);
                let v = Strided::rows(qkv.values(), s.part(image, 2, head), 3 * s.width());
                let at = s.out(image, head) + first * s.width();
                // SAFETY: each (image, head) task writes its own columns of its own rows.
                unsafe { product(count, s.head, s.tokens, 1.0, p, v, &shared, at, s.width(), false) };
            }
        });
        let out = Array::from_vec(out, [s.batch, s.tokens, s.width()]);
        let kept = if keep { vec![out.clone()] } else { Vec::new() };
        (out, kept)
    }

    fn backward(
        &self,
        [qkv]: &[Array; 1],
        kept: &[Array],
        grad: &Array,
        _wanted: [bool; 1],
    ) -> [Option<Array>; 1] {
        let s = Sizes::new(qkv, self.heads);
        if let Some(window) = self.window {
            let mut d_qkv = vec![0f32; qkv.values().len()];
            window::backward(s, window, qkv.values(), grad.values(), &mut d_qkv);
            return [Some(Array::from_vec(d_qkv, qkv.dims()))];
        }
        // SAFETY: the tasks below write q, k and v of every image and head.
        let mut d_qkv = unsafe { unfilled(qkv.values().len()) };
        let shared = SharedMut::new(&mut d_qkv);
        let out = kept[0].values();
        (0..s.batch * s.heads).into_par_iter().for_each_init(
            || (Vec::new(), Vec::new()),
            |(p, ds), task| head_backward(s, qkv.values(), out, grad.values(), &shared, task, p, ds),
        );
        [Some(Array::from_vec(d_qkv, qkv.dims()))]
    }
}

/// Softmax rows of `count` queries from `first`, into `p` [count, T].
fn probabilities(
    s: Sizes,
    qkv: &[f32],
    image: usize,
    head: usize,
    first: usize,
    count: usize,
    p: &mut Vec<f32>,
) {
    let row = 3 * s.width();
    p.resize(count * s.tokens, 0.0);
    let q = Strided::rows(qkv, s.part(image, 0, head) + first * row, row);
    let k = Strided::columns(qkv, s.part(image, 1, head), row);
    let shared = SharedMut::new(p);
    // SAFETY: `p` belongs to this thread alone.
    unsafe { product(count, s.tokens, s.head, s.scale(), q, k, &shared, 0, s.tokens, false) };
    softmax_rows(p, s.tokens);
}

/// Gradient of one (image, head): with P the softmax rows, dP = dO·Vᵀ and dS = P∘(dP − rowsum(dO∘O)),
/// dQ = scale·dS·K, dK = scale·dSᵀ·Q, dV = Pᵀ·dO.
#[allow(clippy::too_many_arguments)]
fn head_backward(
    s: Sizes,
    qkv: &[f32],
    out: &[f32],
    grad: &[f32],
    d_qkv: &SharedMut,
    task: usize,
    p: &mut Vec<f32>,
    ds: &mut Vec<f32>,
) {
    let (image, head) = (task / s.heads, task % s.heads);
    let (row, width) = (3 * s.width(), s.width());
    for first in (0..s.tokens).step_by(QUERIES) {
        let count = QUERIES.min(s.tokens - first);
        probabilities(s, qkv, image, head, first, count, p);
        let at = s.out(image, head) + first * width;
        let d_out = Strided::rows(grad, at, width);
        ds.resize(count * s.tokens, 0.0);
        let scratch = SharedMut::new(ds);
        // SAFETY: `ds` belongs to this thread; of `d_qkv`, each (image, head) task writes its own columns.
        unsafe {
            let v = Strided::columns(qkv, s.part(image, 2, head), row);
            product(count, s.tokens, s.head, 1.0, d_out, v, &scratch, 0, s.tokens, false);
            let pt = Strided::columns(p, 0, s.tokens);
            product(s.tokens, s.head, count, 1.0, pt, d_out, d_qkv, s.part(image, 2, head), row, first > 0);
        }
        for i in 0..count {
            let span = at + i * width..at + i * width + s.head;
            let delta: f32 = out[span.clone()].iter().zip(&grad[span]).map(|(o, g)| o * g).sum();
            let line = i * s.tokens..(i + 1) * s.tokens;
            for (d, p) in ds[line.clone()].iter_mut().zip(&p[line]) {
                *d = p * (*d - delta);
            }
        }
        let q = Strided::rows(qkv, s.part(image, 0, head) + first * row, row);
        let k = Strided::rows(qkv, s.part(image, 1, head), row);
        let (rows, columns) = (Strided::rows(ds, 0, s.tokens), Strided::columns(ds, 0, s.tokens));
        // SAFETY: as above.
        unsafe {
            let dq = s.part(image, 0, head) + first * row;
            product(count, s.head, s.tokens, s.scale(), rows, k, d_qkv, dq, row, false);
            let dk = s.part(image, 1, head);
            product(s.tokens, s.head, count, s.scale(), columns, q, d_qkv, dk, row, first > 0);
        }
    }
}
