use burn::Tensor;
use burn::module::{Module, Param};
use scion_kernels::feature_conv::gated_feature_conv;
use serde::{Deserialize, Serialize};

use super::{Init, Linear, MlpConfig, Scheme};
use crate::error::Result;

/// MLP Hyena-X: an MLP whose nonlinearity is a gated convolution along the features (paper §4). It has one filter a
/// token position, so the number of tokens is fixed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct MlpHyenaXConfig {
    /// Hidden width over token width; 2 in the paper.
    pub ratio: f64,
    /// Taps of the filters.
    pub kernel: usize,
    /// Tokens of an image; 0 takes the model's.
    pub tokens: usize,
}

impl Default for MlpHyenaXConfig {
    /// The published settings.
    fn default() -> Self {
        Self { ratio: 2.0, kernel: 4, tokens: 0 }
    }
}

impl MlpHyenaXConfig {
    /// The hidden width for tokens of the given width.
    ///
    /// # Errors
    /// When ratio × width is not a whole number of at least 1.
    pub fn hidden(&self, width: usize) -> Result<usize> {
        MlpConfig { ratio: self.ratio }.hidden(width)
    }

    /// Draws projections and filters as PyTorch does by default.
    ///
    /// # Errors
    /// When the ratio gives no whole hidden width.
    pub fn init(&self, width: usize, init: &mut Init) -> Result<MlpHyenaX> {
        let hidden = self.hidden(width)?;
        let bound = 1.0 / (self.kernel as f64).sqrt();
        Ok(MlpHyenaX {
            in_proj: Linear::new(width, 3 * hidden, Scheme::Torch, init),
            short_filter: PositionFilter {
                weight: init.uniform([self.tokens, self.kernel], bound),
                bias: init.uniform([self.tokens], bound),
            },
            out_proj: Linear::new(hidden, width, Scheme::Torch, init),
        })
    }
}

/// `out(q⊙k⊙v)` with `[q, k, v]` a convolution of `in(x)` along the features.
#[derive(Module, Debug)]
pub struct MlpHyenaX {
    /// [3·hidden, D], rows q, k, v.
    pub in_proj: Linear,
    /// One filter a token position.
    pub short_filter: PositionFilter,
    /// [D, hidden]
    pub out_proj: Linear,
}

/// A causal filter along the features for each token position.
#[derive(Module, Debug)]
pub struct PositionFilter {
    /// [tokens, taps], the last tap on the current feature; [tokens, 1, taps] in checkpoints.
    pub weight: Param<Tensor<2>>,
    /// [tokens]
    pub bias: Param<Tensor<1>>,
}

impl MlpHyenaX {
    /// [N, T, D] → [N, T, D], for the number of tokens that it was made for.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let filter = &self.short_filter;
        let gated = gated_feature_conv(self.in_proj.forward(x), filter.weight.val(), filter.bias.val());
        self.out_proj.forward(gated)
    }
}
