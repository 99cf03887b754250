use burn::Tensor;
use burn::module::Module;
use scion_kernels::linear_attention::{FeatureMap as Map, linear_attention};
use serde::{Deserialize, Serialize};

use super::{Init, Linear, Scheme};

/// Attention whose softmax is replaced by a positive feature map, so that its cost is linear in the tokens
/// (Katharopoulos et al. 2020).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LinearAttentionConfig {
    /// Number of heads; 0 takes the model's.
    #[serde(default)]
    pub heads: usize,
    /// What makes queries and keys positive.
    #[serde(default)]
    pub feature_map: FeatureMap,
}

/// What makes queries and keys positive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeatureMap {
    /// `elu(x) + 1`.
    #[default]
    #[serde(rename = "elu+1")]
    EluPlusOne,
    /// `max(x, 0)`.
    Relu,
}

impl LinearAttentionConfig {
    /// Draws the projections as PyTorch does by default.
    pub fn init(&self, width: usize, init: &mut Init) -> LinearAttention {
        LinearAttention {
            qkv: Linear::new(width, 3 * width, Scheme::Torch, init),
            proj: Linear::new(width, width, Scheme::Torch, init),
            heads: self.heads,
            relu: self.feature_map == FeatureMap::Relu,
        }
    }
}

/// `φ(q)·(Σφ(k)ᵀ·v)` over the sum of its weights, over all tokens.
#[derive(Module, Debug)]
pub struct LinearAttention {
    /// [3·D, D], rows q, k, v, head after head in each.
    pub qkv: Linear,
    /// [D, D]
    pub proj: Linear,
    heads: usize,
    relu: bool,
}

impl LinearAttention {
    /// [N, T, D] → [N, T, D].
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let map = if self.relu { Map::Relu } else { Map::EluPlusOne };
        self.proj.forward(linear_attention(self.qkv.forward(x), self.heads, map))
    }
}
