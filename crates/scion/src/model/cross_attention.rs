use burn::Tensor;
use burn::module::Module;
use burn::tensor::activation::softmax;

use super::conditioning::Text;
use crate::operator::{Init, Linear, Scheme};

/// Queries whose scores are held at once.
const QUERIES: usize = 1024;

/// Softmax attention of image tokens to the tokens of a prompt, without norm or gate (PixArt-sigma `PixArt_blocks.py`,
/// `MultiHeadCrossAttention`).
#[derive(Module, Debug)]
pub struct CrossAttention {
    /// [D, D]
    pub q_linear: Linear,
    /// [2·D, D], rows k, v, head after head in each.
    pub kv_linear: Linear,
    /// [D, D]
    pub proj: Linear,
    heads: usize,
}

impl CrossAttention {
    /// The last projection starts at zero, as the original's.
    pub fn new(width: usize, heads: usize, init: &mut Init) -> Self {
        Self {
            q_linear: Linear::new(width, width, Scheme::Xavier, init),
            kv_linear: Linear::new(width, 2 * width, Scheme::Xavier, init),
            proj: Linear::new(width, width, Scheme::Zero, init),
            heads,
        }
    }

    /// Tokens `x` [N, T, D] and prompts [N, L, D] → [N, T, D].
    pub fn forward(&self, x: Tensor<3>, text: &Text) -> Tensor<3> {
        let ([n, tokens, d], [_, len, _]) = (x.dims(), text.tokens.dims());
        let size = d / self.heads;
        let by_head = |x: Tensor<3>| {
            let len = x.dims()[1];
            x.reshape([n, len, self.heads, size]).swap_dims(1, 2) // [N, heads, len, size]
        };
        let kv = self.kv_linear.forward(text.tokens.clone());
        let keys = by_head(kv.clone().slice([0..n, 0..len, 0..d])).swap_dims(2, 3);
        let values = by_head(kv.slice([0..n, 0..len, d..2 * d]));
        let (queries, bias) = (self.q_linear.forward(x) * (size as f32).powf(-0.5), text.bias());
        let some = |start: usize| {
            let queries = queries.clone().slice([0..n, start..tokens.min(start + QUERIES), 0..d]);
            let scores = by_head(queries).matmul(keys.clone()) + bias.clone(); // [N, heads, some, L]
            let mixed = softmax(scores, 3).matmul(values.clone()).swap_dims(1, 2);
            let some = mixed.dims()[1];
            mixed.reshape([n, some, d])
        };
        self.proj.forward(Tensor::cat((0..tokens).step_by(QUERIES).map(some).collect(), 1))
    }
}
