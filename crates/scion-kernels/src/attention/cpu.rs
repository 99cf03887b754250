//! Full attention in tiles of queries × keys that stay in the cache (Dao et al. 2022, FlashAttention): scratch does not grow
//! with T, but for the packed operands of one head.

use rayon::prelude::*;

use super::softmax::{self, Online};
use super::{Attention, window};
use crate::array::{Array, unfilled};
use crate::backend::Kernel;
use crate::gemm::{MatRef, Panel, Precision, Side};
use crate::shared::SharedMut;

/// Queries and keys of a tile: large enough for the products, small enough for the cache.
const QUERIES: usize = 256;
const KEYS: usize = 256;

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
    precision: Precision,
    /// Softmax weights of a tile, [queries, keys].
    p: Vec<f32>,
    /// Their gradient.
    ds: Vec<f32>,
    /// Outputs of a tile's queries, [queries, channels].
    out: Vec<f32>,
    online: Online,
    /// Of every block of keys, as right-hand sides: keys and values, by token and by channel.
    keys: Vec<Panel>,
    keys_by_channel: Vec<Panel>,
    values: Vec<Panel>,
    /// Of a block of queries: these, and the gradient of their output; by token as left-hand sides, by channel as right-hand
    /// ones.
    queries: Panel,
    queries_by_channel: Panel,
    d_out: Panel,
    d_out_by_channel: Panel,
    /// The left-hand side of the moment.
    left: Panel,
}

impl Scratch {
    fn new(precision: Precision) -> Self {
        let (left, right) = (|| Panel::new(Side::Left, precision), || Panel::new(Side::Right, precision));
        Self {
            precision,
            p: Vec::new(),
            ds: Vec::new(),
            out: Vec::new(),
            online: Online::default(),
            keys: Vec::new(),
            keys_by_channel: Vec::new(),
            values: Vec::new(),
            queries: left(),
            queries_by_channel: right(),
            d_out: left(),
            d_out_by_channel: right(),
            left: left(),
        }
    }
}

/// The blocks of at most `size` tokens: each one's first token and length.
fn blocks(tokens: usize, size: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..tokens).step_by(size).map(move |first| (first, size.min(tokens - first)))
}

/// Packs a head's keys or values, block by block.
fn pack<'a>(
    panels: &mut Vec<Panel>,
    precision: Precision,
    tokens: usize,
    block: impl Fn(usize, usize) -> MatRef<'a>,
) {
    panels.resize_with(tokens.div_ceil(KEYS), || Panel::new(Side::Right, precision));
    panels
        .iter_mut()
        .zip(blocks(tokens, KEYS))
        .for_each(|(panel, (first, count))| panel.pack(block(first, count)));
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
        // SAFETY: the tasks below write those of every image and head.
        let mut logarithms = unsafe { unfilled(s.batch * s.heads * s.tokens) };
        let shared = SharedMut::new(&mut out);
        logarithms.par_chunks_mut(s.tokens).enumerate().for_each_init(
            || Scratch::new(self.precision),
            |scratch, (task, logarithms)| {
                head_forward(Head::new(s, task), qkv.values(), &shared, logarithms, scratch);
            },
        );
        let out = Array::from_vec(out, dims);
        let logarithms = Array::from_vec(logarithms, [s.batch, s.heads, s.tokens]);
        let kept = if keep { vec![out.clone(), logarithms] } else { Vec::new() };
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
        let (out, logarithms) = (kept[0].values(), kept[1].values());
        logarithms.par_chunks(s.tokens).enumerate().for_each_init(
            || Scratch::new(self.precision),
            |scratch, (task, logarithms)| {
                let h = Head::new(s, task);
                head_backward(h, qkv.values(), out, logarithms, grad.values(), &shared, scratch);
            },
        );
        [Some(Array::from_vec(d_qkv, qkv.dims()))]
    }
}

/// Output of one head, and the logarithm of each query's sum of exponentials.
fn head_forward(h: Head, qkv: &[f32], out: &SharedMut, logarithms: &mut [f32], scratch: &mut Scratch) {
    let (tokens, width) = (h.s.tokens, h.s.head);
    let Scratch { precision, p, out: sums, online, keys, values, queries, left, .. } = scratch;
    pack(keys, *precision, tokens, |first, count| h.matrix(qkv, 1, first, count));
    pack(values, *precision, tokens, |first, count| h.matrix(qkv, 2, first, count).t());
    for (first, count) in blocks(tokens, QUERIES) {
        queries.pack(h.matrix(qkv, 0, first, count));
        online.begin(count);
        sums.clear();
        sums.resize(count * width, 0.0);
        for ((key, among), (keys, values)) in blocks(tokens, KEYS).zip(keys.iter().zip(&*values)) {
            p.resize(count * among, 0.0);
            // SAFETY: `p` and `sums` belong to this thread.
            unsafe { queries.times(keys, &SharedMut::new(p), 0, among, false) };
            online.add(p, among, h.s.scale(), sums);
            left.pack(MatRef::new(p, count, among));
            // SAFETY: as above.
            unsafe { left.times(values, &SharedMut::new(sums), 0, width, key > 0) };
        }
        online.finish(sums);
        for (i, row) in sums.chunks_exact(width).enumerate() {
            // SAFETY: each (image, head) task writes its own columns.
            unsafe { std::slice::from_raw_parts_mut(out.at(h.out(first + i), width), width) }
                .copy_from_slice(row);
        }
        let found = online.logarithms(h.s.scale());
        logarithms[first..first + count].iter_mut().zip(found).for_each(|(to, found)| *to = found);
    }
}

/// Gradient of one head: with P the softmax rows, dP = dO·Vᵀ and dS = scale·P∘(dP − rowsum(dO∘O)),
/// dQ = dS·K, dK = dSᵀ·Q, dV = Pᵀ·dO.
fn head_backward(
    h: Head,
    qkv: &[f32],
    out: &[f32],
    logarithms: &[f32],
    grad: &[f32],
    d_qkv: &SharedMut,
    scratch: &mut Scratch,
) {
    let (tokens, row) = (h.s.tokens, 3 * h.s.width());
    let Scratch { precision, p, ds, keys, keys_by_channel, values, .. } = scratch;
    let Scratch { queries, queries_by_channel, d_out, d_out_by_channel, left, .. } = scratch;
    pack(keys, *precision, tokens, |first, count| h.matrix(qkv, 1, first, count));
    pack(keys_by_channel, *precision, tokens, |first, count| h.matrix(qkv, 1, first, count).t());
    pack(values, *precision, tokens, |first, count| h.matrix(qkv, 2, first, count));
    for (first, count) in blocks(tokens, QUERIES) {
        let (q, d) = (h.matrix(qkv, 0, first, count), h.out_matrix(grad, first, count));
        queries.pack(q);
        queries_by_channel.pack(q.t());
        d_out.pack(d);
        d_out_by_channel.pack(d.t());
        for (block, (key, among)) in blocks(tokens, KEYS).enumerate() {
            p.resize(count * among, 0.0);
            ds.resize(count * among, 0.0);
            // SAFETY: `p` and `ds` belong to this thread; of `d_qkv`, each (image, head) task writes its own columns.
            unsafe { queries.times(&keys[block], &SharedMut::new(p), 0, among, false) };
            softmax::weights(p, among, h.s.scale(), &logarithms[first..first + count]);
            left.pack(MatRef::new(p, count, among).t());
            // SAFETY: as above.
            unsafe {
                left.times(d_out_by_channel, d_qkv, h.part(2, key), row, first > 0);
                d_out.times(&values[block], &SharedMut::new(ds), 0, among, false);
            }
            for (i, (p, ds)) in p.chunks_exact(among).zip(ds.chunks_exact_mut(among)).enumerate() {
                let own = h.out(first + i)..h.out(first + i) + h.s.head;
                softmax_backward(p, &out[own.clone()], &grad[own], h.s.scale(), ds);
            }
            left.pack(MatRef::new(ds, count, among));
            // SAFETY: as above.
            unsafe { left.times(&keys_by_channel[block], d_qkv, h.part(0, first), row, key > 0) };
            left.pack(MatRef::new(ds, count, among).t());
            // SAFETY: as above.
            unsafe { left.times(queries_by_channel, d_qkv, h.part(1, key), row, first > 0) };
        }
    }
}

multiversioned! {
    /// From the gradient of some of a query's softmax weights, `p`, in `ds`, to that of their unscaled scores.
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
