//! Attention to other tokens than the queries' own, in the tiles of self-attention.

use rayon::prelude::*;

use super::CrossAttention;
use super::cpu::{Found, Given, Lane, Lone, Scratch, head_backward, head_forward};
use crate::array::{Array, unfilled};
use crate::backend::Kernel;
use crate::shared::SharedMut;

/// Sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    width: usize,
}

impl Sizes {
    fn new(op: &CrossAttention, q: &Array, kv: &Array) -> Self {
        let (&[batch, queries, width], &[_, keys, _]) = (&q.dims()[..], &kv.dims()[..]) else {
            unreachable!("queries are [N, T, D], keys and values [N, L, 2·D]")
        };
        Self { batch, queries, keys, heads: op.heads, width }
    }

    /// A head of an image, and that image.
    fn head(&self, task: usize) -> (Lone, usize) {
        let (image, head, width) = (task / self.heads, task % self.heads, self.width / self.heads);
        let q = Lane { offset: image * self.queries * self.width + head * width, row: self.width };
        let kv = |part: usize| Lane {
            offset: (image * self.keys * 2 + part) * self.width + head * width,
            row: 2 * self.width,
        };
        let (queries, keys) = (self.queries, self.keys);
        (Lone { queries, keys, width, q, k: kv(0), v: kv(1), out: q }, image)
    }

    /// What an image's heads attend with. A bias of zeros is none.
    fn given<'a>(&self, [q, kv, bias]: &'a [Array; 3], image: usize) -> Given<'a> {
        let bias = &bias.values()[image * self.keys..][..self.keys];
        let bias = bias.iter().any(|&bias| bias != 0.0).then_some(bias);
        Given { q: q.values(), kv: kv.values(), bias }
    }
}

impl Kernel<3> for CrossAttention {
    fn forward(&self, inputs: &[Array; 3], keep: bool) -> (Array, Vec<Array>) {
        let s = Sizes::new(self, &inputs[0], &inputs[1]);
        // SAFETY: the tasks below write those of every image and head.
        let (mut out, mut logarithms) =
            unsafe { (unfilled(s.batch * s.queries * s.width), unfilled(s.batch * s.heads * s.queries)) };
        let shared = SharedMut::new(&mut out);
        logarithms.par_chunks_mut(s.queries).enumerate().for_each_init(
            || Scratch::new(self.precision),
            |scratch, (task, logarithms)| {
                let (head, image) = s.head(task);
                head_forward(head, s.given(inputs, image), &shared, logarithms, scratch);
            },
        );
        let out = Array::from_vec(out, [s.batch, s.queries, s.width]);
        let logarithms = Array::from_vec(logarithms, [s.batch, s.heads, s.queries]);
        let kept = if keep { vec![out.clone(), logarithms] } else { Vec::new() };
        (out, kept)
    }

    fn backward(
        &self,
        inputs: &[Array; 3],
        kept: &[Array],
        grad: &Array,
        wanted: [bool; 3],
    ) -> [Option<Array>; 3] {
        assert!(!wanted[2], "the bias is a mask, of which no gradient is taken");
        let s = Sizes::new(self, &inputs[0], &inputs[1]);
        // SAFETY: the tasks below write queries, keys and values of every image and head.
        let (mut d_q, mut d_kv) =
            unsafe { (unfilled(inputs[0].values().len()), unfilled(inputs[1].values().len())) };
        let shared = [&SharedMut::new(&mut d_q), &SharedMut::new(&mut d_kv)];
        kept[1].values().par_chunks(s.queries).enumerate().for_each_init(
            || Scratch::new(self.precision),
            |scratch, (task, logarithms)| {
                let (head, image) = s.head(task);
                let found = Found { out: kept[0].values(), logarithms, grad: grad.values() };
                head_backward(head, s.given(inputs, image), found, shared, scratch);
            },
        );
        let [q, kv, _] = inputs;
        [Some(Array::from_vec(d_q, q.dims())), Some(Array::from_vec(d_kv, kv.dims())), None]
    }
}
