use burn::Tensor;
use burn::module::Module;
use scion_kernels::attention::{Window, attention};
use serde::{Deserialize, Serialize};

use super::{Init, Linear, Scheme};

/// Multi-head softmax attention over all tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionConfig {
    /// Number of heads; 0 takes the model's.
    #[serde(default)]
    pub heads: usize,
}

impl AttentionConfig {
    /// Draws the projections as PyTorch does by default.
    pub fn init(&self, width: usize, init: &mut Init) -> Attention {
        self.init_with(width, Scheme::Torch, init)
    }

    /// Draws the projections as the scheme says.
    pub fn init_with(&self, width: usize, scheme: Scheme, init: &mut Init) -> Attention {
        Attention {
            qkv: Linear::new(width, 3 * width, scheme, init),
            proj: Linear::new(width, width, scheme, init),
            heads: self.heads,
        }
    }
}

/// Softmax attention with scale head_dim^-½ and no normalisation of q and k, as in timm.
#[derive(Module, Debug)]
pub struct Attention {
    /// [3·D, D], rows q, k, v, head after head in each.
    pub qkv: Linear,
    /// [D, D]
    pub proj: Linear,
    heads: usize,
}

impl Attention {
    /// Number of heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// [N, T, D] → [N, T, D].
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.proj.forward(attention(self.qkv.forward(x), self.heads, None))
    }
}

/// Softmax attention over neighbours in raster order (paper: 4 on each side).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlidingWindowConfig {
    /// Number of heads; 0 takes the model's.
    #[serde(default)]
    pub heads: usize,
    /// Keys seen before the query.
    #[serde(default = "four")]
    pub left: usize,
    /// Keys seen behind the query.
    #[serde(default = "four")]
    pub right: usize,
}

fn four() -> usize {
    4
}

impl SlidingWindowConfig {
    /// Draws the projections as PyTorch does by default.
    pub fn init(&self, width: usize, init: &mut Init) -> SlidingWindow {
        SlidingWindow {
            wqkv: Linear::new(width, 3 * width, Scheme::Torch, init),
            out_proj: Linear::new(width, width, Scheme::Torch, init),
            heads: self.heads,
            left: self.left,
            right: self.right,
        }
    }
}

/// Attention that sees only a window of raster neighbours, both ends inclusive, clipped at the edges.
#[derive(Module, Debug)]
pub struct SlidingWindow {
    /// [3·D, D], rows q, k, v; `Wqkv` in published checkpoints.
    pub wqkv: Linear,
    /// [D, D]
    pub out_proj: Linear,
    heads: usize,
    left: usize,
    right: usize,
}

impl SlidingWindow {
    /// [N, T, D] → [N, T, D].
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let window = Window::Raster { left: self.left, right: self.right };
        self.out_proj.forward(attention(self.wqkv.forward(x), self.heads, Some(window)))
    }
}
