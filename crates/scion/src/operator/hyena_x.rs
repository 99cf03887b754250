use burn::Tensor;
use burn::module::{Module, Param};
use scion_kernels::hyena::gated_conv;
use serde::{Deserialize, Serialize};

use super::{Init, Linear, Scheme};

/// Hyena-X: a gated short convolution without an inner filter (paper §4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HyenaXConfig {
    /// Taps of the causal featuriser convolution.
    #[serde(default = "four")]
    pub kernel: usize,
}

fn four() -> usize {
    4
}

impl HyenaXConfig {
    /// Draws projections and filter as PyTorch does by default.
    pub fn init(&self, width: usize, init: &mut Init) -> HyenaX {
        let bound = 1.0 / (self.kernel as f64).sqrt();
        HyenaX {
            in_proj: Linear::new(width, 3 * width, Scheme::Torch, init),
            short_filter: ShortFilter {
                weight: init.uniform([3 * width, self.kernel], bound),
                bias: init.uniform([3 * width], bound),
            },
            out_proj: Linear::new(width, width, Scheme::Torch, init),
        }
    }
}

/// `out(q⊙k⊙v)` with `[q, k, v] = conv(in(x))`.
#[derive(Module, Debug)]
pub struct HyenaX {
    /// [3·D, D], rows q, k, v.
    pub in_proj: Linear,
    /// The featuriser convolution.
    pub short_filter: ShortFilter,
    /// [D, D]
    pub out_proj: Linear,
}

/// A causal depthwise convolution along the tokens in raster order.
#[derive(Module, Debug)]
pub struct ShortFilter {
    /// [3·D, taps], the last tap on the current token; [3·D, 1, taps] in checkpoints.
    pub weight: Param<Tensor<2>>,
    /// [3·D]
    pub bias: Param<Tensor<1>>,
}

impl HyenaX {
    /// [N, T, D] → [N, T, D].
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let filter = &self.short_filter;
        self.out_proj.forward(gated_conv(self.in_proj.forward(x), filter.weight.val(), filter.bias.val()))
    }
}
