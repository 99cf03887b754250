//! Full attention, a block of queries at a time: scratch grows with T, never with T².

use rayon::prelude::*;

use super::softmax::softmax_rows;
use super::{Attention, window};
use crate::array::{Array, unfilled};
use crate::backend::Kernel;
use crate::gemm::{MatRef, Panel, Precision, Side};
use crate::shared::SharedMut;

/// Queries handled together: large enough for the products, small enough for the cache.
const QUERIES: usize = 64;

/// Sizes of one attention call.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub batch: usize,
    pub tokens: usize,
    pub heads: usize,
    pub head: usize,
}

impl Sizes {
    pub fn new(qkv: &Array, heads: usize) -> Self {
        let [batch, tokens, width] = qkv.dims()[..] else { unreachable!("qkv is [N, T, 3·D]") };
        Self { batch, tokens, heads, head: width / 3 / heads }
    }

    pub fn width(&self) -> usize {
        self.heads * self.head
    }

    pub fn scale(&self) -> f32 {
        1.0 / (self.head as f32).sqrt()
    }
}

/// One head of one image: where its q, k, v and output are.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    s: Sizes,
    image: usize,
    head: usize,
}

impl Head {
    pub fn new(s: Sizes, task: usize) -> Self {
        Self { s, image: task / s.heads, head: task % s.heads }
    }

    /// Channels of the head.
    pub fn width(&self) -> usize {
        self.s.head
    }

    /// Offset of token `first` of q, k or v (0, 1, 2) in the packed array, whose rows are 3·D apart.
    pub fn part(&self, part: usize, first: usize) -> usize {
        let width = self.s.width();
        ((self.image * self.s.tokens + first) * 3 + part) * width + self.head * self.s.head
    }

    /// Offset of token `first` in an array of [N, T, D].
    pub fn out(&self, first: usize) -> usize {
        (self.image * self.s.tokens + first) * self.s.width() + self.head * self.s.head
    }

    /// `count` tokens from `first` of q, k or v, [count, head].
    pub fn matrix<'a>(&self, qkv: &'a [f32], part: usize, first: usize, count: usize) -> MatRef<'a> {
        MatRef::strided(&qkv[self.part(part, first)..], count, self.s.head, 3 * self.s.width())
    }

    /// The same of an array of [N, T, D].
    pub fn out_matrix<'a>(&self, out: &'a [f32], first: usize, count: usize) -> MatRef<'a> {
        MatRef::strided(&out[self.out(first)..], count, self.s.head, self.s.width())
    }
}

/// What a thread needs for one head after another.
struct Scratch {
    /// Softmax weights of a block of queries, [queries, T].
    p: Vec<f32>,
    /// Their gradient.
    ds: Vec<f32>,
    /// All keys and values, by token and by channel.
    keys: Panel,
    keys_by_channel: Panel,
    values: Panel,
    /// The left-hand and right-hand sides of the moment.
    left: Panel,
    right: Panel,
}

impl Scratch {
    fn new(precision: Precision) -> Self {
        let right = || Panel::new(Side::Right, precision);
        Self {
            p: Vec::new(),
            ds: Vec::new(),
            keys: right(),
            keys_by_channel: right(),
            values: right(),
            left: Panel::new(Side::Left, precision),
            right: right(),
        }
    }

    /// Softmax weights of `count` queries from `first`, into `p`. The keys are packed.
    fn weigh(&mut self, h: Head, qkv: &[f32], first: usize, count: usize) {
        let tokens = h.s.tokens;
        self.p.resize(count * tokens, 0.0);
        self.left.pack(h.matrix(qkv, 0, first, count));
        let p = SharedMut::new(&mut self.p);
        // SAFETY: `p` belongs to this thread alone.
        unsafe { self.left.times(&self.keys, &p, 0, tokens, false) };
        softmax_rows(&mut self.p, tokens, h.s.scale());
    }
}

impl Kernel<1> for Attention {
    fn forward(&self, [qkv]: &[Array; 1], keep: bool) -> (Array, Vec<Array>) {
        let s = Sizes::new(qkv, self.heads);
        let elements = s.batch * s.tokens * s.width();
        // SAFETY: the window's pass writes the output of every query, the tasks below those of every image and head.
        let mut out = unsafe { unfilled(elements) };
        let dims = [s.batch, s.tokens, s.width()];
        if let Some(window) = self.window {
            window::forward(s, window, qkv.values(), &mut out);
            return (Array::from_vec(out, dims), Vec::new());
        }
        let shared = SharedMut::new(&mut out);
        (0..s.batch * s.heads).into_par_iter().for_each_init(
            || Scratch::new(self.precision),
            |scratch, task| head_forward(Head::new(s, task), qkv.values(), &shared, scratch),
        );
        let out = Array::from_vec(out, dims);
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
        // SAFETY: the window's pass clears the gradients of every image before it adds to them; the tasks below write
        // q, k and v of every image and head.
        let mut d_qkv = unsafe { unfilled(qkv.values().len()) };
        if let Some(window) = self.window {
            window::backward(s, window, qkv.values(), grad.values(), &mut d_qkv);
            return [Some(Array::from_vec(d_qkv, qkv.dims()))];
        }
        let shared = SharedMut::new(&mut d_qkv);
        let out = kept[0].values();
        (0..s.batch * s.heads).into_par_iter().for_each_init(
            || Scratch::new(self.precision),
            |scratch, task| {
                head_backward(Head::new(s, task), qkv.values(), out, grad.values(), &shared, scratch);
            },
        );
        [Some(Array::from_vec(d_qkv, qkv.dims()))]
    }
}

/// Output of one head.
fn head_forward(h: Head, qkv: &[f32], out: &SharedMut, scratch: &mut Scratch) {
    let tokens = h.s.tokens;
    scratch.keys.pack(h.matrix(qkv, 1, 0, tokens));
    scratch.values.pack(h.matrix(qkv, 2, 0, tokens).t());
    for first in (0..tokens).step_by(QUERIES) {
        let count = QUERIES.min(tokens - first);
        scratch.weigh(h, qkv, first, count);
        scratch.left.pack(MatRef::new(&scratch.p, count, tokens));
        // SAFETY: each (image, head) task writes its own columns of its own rows.
        unsafe { scratch.left.times(&scratch.values, out, h.out(first), h.s.width(), false) };
    }
}

/// Gradient of one head: with P the softmax rows, dP = dO·Vᵀ and dS = scale·P∘(dP − rowsum(dO∘O)),
/// dQ = dS·K, dK = dSᵀ·Q, dV = Pᵀ·dO.
fn head_backward(h: Head, qkv: &[f32], out: &[f32], grad: &[f32], d_qkv: &SharedMut, scratch: &mut Scratch) {
    let (tokens, row) = (h.s.tokens, 3 * h.s.width());
    scratch.keys.pack(h.matrix(qkv, 1, 0, tokens));
    scratch.keys_by_channel.pack(h.matrix(qkv, 1, 0, tokens).t());
    scratch.values.pack(h.matrix(qkv, 2, 0, tokens));
    for first in (0..tokens).step_by(QUERIES) {
        let count = QUERIES.min(tokens - first);
        scratch.weigh(h, qkv, first, count);
        let Scratch { p, ds, keys_by_channel, values, left, right, .. } = &mut *scratch;
        let d_out = h.out_matrix(grad, first, count);
        ds.resize(count * tokens, 0.0);
        left.pack(d_out);
        // SAFETY: `ds` belongs to this thread; of `d_qkv`, each (image, head) task writes its own columns.
        unsafe { left.times(values, &SharedMut::new(ds), 0, tokens, false) };
        left.pack(MatRef::new(p, count, tokens).t());
        right.pack(d_out.t());
        // SAFETY: as above.
        unsafe { left.times(right, d_qkv, h.part(2, 0), row, first > 0) };
        for i in 0..count {
            let at = h.out(first + i);
            let line = i * tokens..(i + 1) * tokens;
            let (out, grad) = (&out[at..at + h.s.head], &grad[at..at + h.s.head]);
            softmax_backward(&p[line.clone()], out, grad, h.s.scale(), &mut ds[line]);
        }
        left.pack(MatRef::new(ds, count, tokens));
        // SAFETY: as above.
        unsafe { left.times(keys_by_channel, d_qkv, h.part(0, first), row, false) };
        left.pack(MatRef::new(ds, count, tokens).t());
        right.pack(h.matrix(qkv, 0, first, count).t());
        // SAFETY: as above.
        unsafe { left.times(right, d_qkv, h.part(1, 0), row, first > 0) };
    }
}

multiversioned! {
    /// From the gradient of one query's softmax weights `p`, in `ds`, to that of its unscaled scores.
    fn softmax_backward(p: &[f32], out: &[f32], grad: &[f32], scale: f32, ds: &mut [f32]) {
        let mut lanes = [0f32; 16];
        let ((o, o_rest), (g, g_rest)) = (out.as_chunks::<16>(), grad.as_chunks::<16>());
        for (o, g) in o.iter().zip(g) {
            for ((lane, o), g) in lanes.iter_mut().zip(o).zip(g) {
                *lane += o * g;
            }
        }
        let rest: f32 = o_rest.iter().zip(g_rest).map(|(o, g)| o * g).sum();
        let delta = lanes.iter().sum::<f32>() + rest;
        for (d, p) in ds.iter_mut().zip(p) {
            *d = scale * p * (*d - delta);
        }
    }
}
