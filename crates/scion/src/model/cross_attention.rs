use burn::Tensor;
use burn::module::Module;
use scion_kernels::attention::cross_attention;

use super::conditioning::Text;
use crate::operator::{Init, Linear, Scheme};

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
        let kv = self.kv_linear.forward(text.tokens.clone());
        self.proj.forward(cross_attention(self.q_linear.forward(x), kv, text.bias(), self.heads))
    }
}
