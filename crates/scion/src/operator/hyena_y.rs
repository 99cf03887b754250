use burn::Tensor;
use burn::module::Module;
use serde::{Deserialize, Serialize};

use super::hyena_se::gate;
use super::layers::{ShortFilter, four_taps};
use super::{Init, Linear, Scheme};

/// Hyena-Y: a gated convolution with an inner filter and without a featuriser (paper §4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HyenaYConfig {
    /// Taps of the causal inner convolution.
    #[serde(default = "four_taps", rename = "inner-kernel")]
    pub inner_kernel: usize,
}

impl HyenaYConfig {
    /// Draws projections as PyTorch does by default; the inner filter changes nothing yet.
    pub fn init(&self, width: usize, init: &mut Init) -> HyenaY {
        HyenaY {
            in_proj: Linear::new(width, 3 * width, Scheme::Torch, init),
            inner_filter: ShortFilter::identity(width, self.inner_kernel, init),
            out_proj: Linear::new(width, width, Scheme::Torch, init),
        }
    }
}

/// `out(q⊙inner(k⊙v))` with `[q, k, v] = in(x)`.
#[derive(Module, Debug)]
pub struct HyenaY {
    /// [3·D, D], rows q, k, v.
    pub in_proj: Linear,
    /// The inner convolution, of D channels.
    pub inner_filter: ShortFilter,
    /// [D, D]
    pub out_proj: Linear,
}

impl HyenaY {
    /// [N, T, D] → [N, T, D].
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.out_proj.forward(gate(self.in_proj.forward(x), &self.inner_filter))
    }
}
