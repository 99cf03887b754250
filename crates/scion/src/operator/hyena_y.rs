use burn::Tensor;
use burn::module::Module;
use serde::{Deserialize, Serialize};

use super::{Direction, Init, Linear, Scheme, ShortFilter};

/// Hyena-Y: a gated convolution with an inner filter and without a featuriser (paper §4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct HyenaYConfig {
    /// Tokens that the inner convolution reaches back, the current one among them.
    pub inner_kernel: usize,
    /// Whether filters see the tokens behind the current one too.
    pub direction: Direction,
}

impl Default for HyenaYConfig {
    /// The published settings.
    fn default() -> Self {
        Self { inner_kernel: 4, direction: Direction::Forward }
    }
}

impl HyenaYConfig {
    /// Draws projections as PyTorch does by default; the inner filter changes nothing yet.
    pub fn init(&self, width: usize, init: &mut Init) -> HyenaY {
        HyenaY {
            in_proj: Linear::new(width, 3 * width, Scheme::Torch, init),
            inner_filter: ShortFilter::identity(width, self.inner_kernel, self.direction, init),
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
        self.out_proj.forward(self.inner_filter.gate_inside(self.in_proj.forward(x)))
    }
}
