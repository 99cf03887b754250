use burn::Tensor;
use burn::module::Module;
use serde::{Deserialize, Serialize};

use super::layers::{ShortFilter, four_taps};
use super::{Init, Linear, Scheme};

/// Hyena-SE: a gated convolution with short featuriser and inner filters (paper §4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HyenaSeConfig {
    /// Taps of the causal featuriser convolution.
    #[serde(default = "four_taps")]
    pub kernel: usize,
    /// Taps of the causal inner convolution.
    #[serde(default = "four_taps", rename = "inner-kernel")]
    pub inner_kernel: usize,
}

impl HyenaSeConfig {
    /// Draws projections and featuriser as PyTorch does by default; the inner filter changes nothing yet.
    pub fn init(&self, width: usize, init: &mut Init) -> HyenaSe {
        HyenaSe {
            in_proj: Linear::new(width, 3 * width, Scheme::Torch, init),
            short_filter: ShortFilter::new(3 * width, self.kernel, init),
            inner_filter: ShortFilter::identity(width, self.inner_kernel, init),
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
        self.out_proj.forward(gate(self.short_filter.forward(self.in_proj.forward(x)), &self.inner_filter))
    }
}

/// `q⊙inner(k⊙v)`: [N, T, 3·D] → [N, T, D].
pub(super) fn gate(qkv: Tensor<3>, inner: &ShortFilter) -> Tensor<3> {
    let width = qkv.dims()[2] / 3;
    let part = |i: usize| qkv.clone().narrow(2, i * width, width);
    part(0) * inner.forward(part(1) * part(2))
}
