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

    /// The head on its own, of queries that are keys as well.
    fn alone(&self) -> Lone {
        let (tokens, row) = (self.s.tokens, 3 * self.s.width());
        let part = |part: usize| Lane { offset: self.part(part, 0), row };
        Lone {
            queries: tokens,
            keys: tokens,
            width: self.s.head,
            q: part(0),
            k: part(1),
            v: part(2),
            out: Lane { offset: self.out(0), row: self.s.width() },
        }
    }
}

/// Where the vectors of one head lie: that of token 0, and how far apart they are.
#[derive(Clone, Copy)]
pub(super) struct Lane {
    pub offset: usize,
    pub row: usize,
}

impl Lane {
    /// Offset of the vector of a token.
    fn at(self, token: usize) -> usize {
        self.offset + token * self.row
    }

    /// `count` vectors from `first` on, [count, width].
    fn matrix<'a>(self, values: &'a [f32], first: usize, count: usize, width: usize) -> MatRef<'a> {
        MatRef::strided(&values[self.at(first)..], count, width, self.row)
    }
}

/// One head of one image: how many queries and keys it has, of how many channels, and where they lie.
#[derive(Clone, Copy)]
pub(super) struct Lone {
    pub queries: usize,
    pub keys: usize,
    pub width: usize,
    pub q: Lane,
    pub k: Lane,
    pub v: Lane,
    pub out: Lane,
}

impl Lone {
    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }
}

/// What one head attends with: arrays with its queries, and with its keys and values, and what is added to the scores of each
/// key.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub q: &'a [f32],
    pub kv: &'a [f32],
    pub bias: Option<&'a [f32]>,
}

impl Given<'_> {
    /// Adds the bias of the keys from `first` on to scores [queries, keys], which it scales first; returns by what they are to
    /// be scaled still.
    fn biased(&self, scores: &mut [f32], first: usize, keys: usize, scale: f32) -> f32 {
        let Some(bias) = self.bias else { return scale };
        scores.chunks_exact_mut(keys).for_each(|row| add_scaled_to(&bias[first..first + keys], scale, row));
        1.0
    }

    /// By what scores are scaled once they are biased.
    fn scale_left(&self, scale: f32) -> f32 {
        if self.bias.is_some() { 1.0 } else { scale }
    }
}

multiversioned! {
    /// Values times `scale` plus the bias.
    fn add_scaled_to(bias: &[f32], scale: f32, values: &mut [f32]) {
        for (value, bias) in values.iter_mut().zip(bias) {
            *value = *value * scale + bias;
        }
    }
}

/// What a thread needs for one head after another.
pub(super) struct Scratch {
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
    pub fn new(precision: Precision) -> Self {
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
                let given = Given { q: qkv.values(), kv: qkv.values(), bias: None };
                head_forward(Head::new(s, task).alone(), given, &shared, logarithms, scratch);
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
                let given = Given { q: qkv.values(), kv: qkv.values(), bias: None };
                let found = Found { out, logarithms, grad: grad.values() };
                head_backward(Head::new(s, task).alone(), given, found, [&shared; 2], scratch);
            },
        );
        [Some(Array::from_vec(d_qkv, qkv.dims()))]
    }
}

/// Output of one head, and the logarithm of each query's sum of exponentials.
pub(super) fn head_forward(
    h: Lone,
    given: Given,
    out: &SharedMut,
    logarithms: &mut [f32],
    scratch: &mut Scratch,
) {
    let (width, scale) = (h.width, h.scale());
    let Scratch { precision, p, out: sums, online, keys, values, queries, left, .. } = scratch;
    pack(keys, *precision, h.keys, |first, count| h.k.matrix(given.kv, first, count, width));
    pack(values, *precision, h.keys, |first, count| h.v.matrix(given.kv, first, count, width).t());
    for (first, count) in blocks(h.queries, QUERIES) {
        queries.pack(h.q.matrix(given.q, first, count, width));
        online.begin(count);
        sums.clear();
        sums.resize(count * width, 0.0);
        for ((key, among), (keys, values)) in blocks(h.keys, KEYS).zip(keys.iter().zip(&*values)) {
            p.resize(count * among, 0.0);
            // SAFETY: `p` and `sums` belong to this thread.
            unsafe { queries.times(keys, &SharedMut::new(p), 0, among, false) };
            let scale = given.biased(p, key, among, scale);
            online.add(p, among, scale, sums);
            left.pack(MatRef::new(p, count, among));
            // SAFETY: as above.
            unsafe { left.times(values, &SharedMut::new(sums), 0, width, key > 0) };
        }
        online.finish(sums);
        for (i, row) in sums.chunks_exact(width).enumerate() {
            // SAFETY: each (image, head) task writes its own columns.
            unsafe { std::slice::from_raw_parts_mut(out.at(h.out.at(first + i), width), width) }
                .copy_from_slice(row);
        }
        let found = online.logarithms(given.scale_left(scale));
        logarithms[first..first + count].iter_mut().zip(found).for_each(|(to, found)| *to = found);
    }
}

/// What the forward pass found, all images' and heads' output and one head's logarithms, and the gradient of that output.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    pub out: &'a [f32],
    pub logarithms: &'a [f32],
    pub grad: &'a [f32],
}

/// Gradient of one head: with P the softmax rows, dP = dO·Vᵀ and dS = scale·P∘(dP − rowsum(dO∘O)),
/// dQ = dS·K, dK = dSᵀ·Q, dV = Pᵀ·dO.
pub(super) fn head_backward(
    h: Lone,
    given: Given,
    found: Found,
    [d_q, d_kv]: [&SharedMut; 2],
    scratch: &mut Scratch,
) {
    let (width, scale, left_scale) = (h.width, h.scale(), given.scale_left(h.scale()));
    let Scratch { precision, p, ds, keys, keys_by_channel, values, .. } = scratch;
    let Scratch { queries, queries_by_channel, d_out, d_out_by_channel, left, .. } = scratch;
    pack(keys, *precision, h.keys, |first, count| h.k.matrix(given.kv, first, count, width));
    pack(keys_by_channel, *precision, h.keys, |first, count| h.k.matrix(given.kv, first, count, width).t());
    pack(values, *precision, h.keys, |first, count| h.v.matrix(given.kv, first, count, width));
    for (first, count) in blocks(h.queries, QUERIES) {
        let (q, d) =
            (h.q.matrix(given.q, first, count, width), h.out.matrix(found.grad, first, count, width));
        queries.pack(q);
        queries_by_channel.pack(q.t());
        d_out.pack(d);
        d_out_by_channel.pack(d.t());
        for (block, (key, among)) in blocks(h.keys, KEYS).enumerate() {
            p.resize(count * among, 0.0);
            ds.resize(count * among, 0.0);
            // SAFETY: `p` and `ds` belong to this thread; of `d_q` and `d_kv`, each (image, head) task writes its own columns.
            unsafe { queries.times(&keys[block], &SharedMut::new(p), 0, among, false) };
            given.biased(p, key, among, scale);
            softmax::weights(p, among, left_scale, &found.logarithms[first..first + count]);
            left.pack(MatRef::new(p, count, among).t());
            // SAFETY: as above.
            unsafe {
                left.times(d_out_by_channel, d_kv, h.v.at(key), h.v.row, first > 0);
                d_out.times(&values[block], &SharedMut::new(ds), 0, among, false);
            }
            for (i, (p, ds)) in p.chunks_exact(among).zip(ds.chunks_exact_mut(among)).enumerate() {
                let own = h.out.at(first + i)..h.out.at(first + i) + width;
                softmax_backward(p, &found.out[own.clone()], &found.grad[own], scale, ds);
            }
            left.pack(MatRef::new(ds, count, among));
            // SAFETY: as above.
            unsafe { left.times(&keys_by_channel[block], d_q, h.q.at(first), h.q.row, key > 0) };
            left.pack(MatRef::new(ds, count, among).t());
            // SAFETY: as above.
            unsafe { left.times(queries_by_channel, d_kv, h.k.at(key), h.k.row, first > 0) };
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
