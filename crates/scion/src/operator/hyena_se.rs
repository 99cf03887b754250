use burn::Tensor;
use burn::module::Module;
use serde::{Deserialize, Serialize};

use super::{Direction, Init, Linear, Scheme, ShortFilter};

/// Hyena-SE: a gated convolution with short featuriser and inner filters (paper §4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct HyenaSeConfig {
    /// Tokens that the featuriser convolution reaches back, the current one among them.
    pub kernel: usize,
    /// Tokens that the inner convolution reaches back, the current one among them.
    pub inner_kernel: usize,
    /// Whether filters see the tokens behind the current one too.
    pub direction: Direction,
}

impl Default for HyenaSeConfig {
    /// The published settings.
    fn default() -> Self {
        Self { kernel: 4, inner_kernel: 4, direction: Direction::Forward }
    }
}

impl HyenaSeConfig {
    /// Draws projections and featuriser as PyTorch does by default; the inner filter changes nothing yet.
    pub fn init(&self, width: usize, init: &mut Init) -> HyenaSe {
        HyenaSe {
            in_proj: Linear::new(width, 3 * width, Scheme::Torch, init),
            short_filter: ShortFilter::new(3 * width, self.kernel, self.direction, init),
            inner_filter: ShortFilter::identity(width, self.inner_kernel, self.direction, init),
            out_proj: Linear::new(width, width, Scheme::Torch, init),
        }
    }
}

/// `out(q⊙inner(k⊙v))` with `[q, k, v] = conv(in(x))`.
#[derive(Module, Debug)]
pub struct HyenaSe {
    /// [3·D, D], rows q, k, v.
    pub in_proj: Linear,
    /// The featuriser convolution, of 3·D channels.
    pub short_filter: ShortFilter,
    /// The inner convolution, of D channels.
    pub inner_filter: ShortFilter,
    /// [D, D]
    pub out_proj: Linear,
}

impl HyenaSe {
    /// [N, T, D] → [N, T, D].
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let features = self.short_filter.forward(self.in_proj.forward(x));
        self.out_proj.forward(self.inner_filter.gate_inside(features))
    }
}
