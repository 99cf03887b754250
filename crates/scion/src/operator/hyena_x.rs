use burn::Tensor;
use burn::module::Module;
use serde::{Deserialize, Serialize};

use super::{Direction, Init, Linear, Scheme, ShortFilter};

/// Hyena-X: a gated short convolution without an inner filter (paper §4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct HyenaXConfig {
    /// Tokens that the featuriser convolution reaches back, the current one among them.
    pub kernel: usize,
    /// Whether filters see the tokens behind the current one too.
    pub direction: Direction,
}

impl Default for HyenaXConfig {
    /// The published settings.
    fn default() -> Self {
        Self { kernel: 4, direction: Direction::Forward }
    }
}

impl HyenaXConfig {
    /// Draws projections and filter as PyTorch does by default.
    pub fn init(&self, width: usize, init: &mut Init) -> HyenaX {
        HyenaX {
            in_proj: Linear::new(width, 3 * width, Scheme::Torch, init),
            short_filter: ShortFilter::new(3 * width, self.kernel, self.direction, init),
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
        self.out_proj.forward(self.short_filter.gate(self.in_proj.forward(x)))
    }
}
