use burn::Tensor;
use burn::module::Module;
use scion_kernels::hyena::gated_conv;
use serde::{Deserialize, Serialize};

use super::layers::{ShortFilter, four_taps};
use super::{Init, Linear, Scheme};

/// Hyena-X: a gated short convolution without an inner filter (paper §4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HyenaXConfig {
    /// Taps of the causal featuriser convolution.
    #[serde(default = "four_taps")]
    pub kernel: usize,
}

impl HyenaXConfig {
    /// Draws projections and filter as PyTorch does by default.
    pub fn init(&self, width: usize, init: &mut Init) -> HyenaX {
        HyenaX {
            in_proj: Linear::new(width, 3 * width, Scheme::Torch, init),
            short_filter: ShortFilter::new(3 * width, self.kernel, init),
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

impl HyenaX {
    /// [N, T, D] → [N, T, D].
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let filter = &self.short_filter;
        self.out_proj.forward(gated_conv(self.in_proj.forward(x), filter.weight.val(), filter.bias.val()))
    }
}
