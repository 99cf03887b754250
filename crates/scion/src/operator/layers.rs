use burn::Tensor;
use burn::module::{LoraAdapter, Module, Param};
use scion_kernels::adapted::adapted_linear;
use scion_kernels::conv::short_conv;
use scion_kernels::hyena::{gated_conv, gated_inner};
use scion_kernels::linear::{Activation, linear};
use serde::{Deserialize, Serialize};

use super::{Init, Scheme};

/// A linear layer with PyTorch's weight layout.
#[derive(Module, Debug)]
pub struct Linear {
    /// [out, in]
    pub weight: Param<Tensor<2>>,
    /// [out]
    pub bias: Param<Tensor<1>>,
}

impl Linear {
    /// A layer drawn as the scheme says.
    pub fn new(inputs: usize, outputs: usize, scheme: Scheme, init: &mut Init) -> Self {
        let shape = [outputs, inputs];
        match scheme {
            Scheme::Torch => {
                let bound = 1.0 / (inputs as f64).sqrt();
                Self { weight: init.uniform(shape, bound), bias: init.uniform([outputs], bound) }
            }
            Scheme::Xavier => {
                let bound = (6.0 / (inputs + outputs) as f64).sqrt();
                Self { weight: init.uniform(shape, bound), bias: init.constant([outputs], 0.0) }
            }
            Scheme::Embedder => {
                Self { weight: init.normal(shape, 0.02), bias: init.constant([outputs], 0.0) }
            }
            Scheme::Zero => Self { weight: init.constant(shape, 0.0), bias: init.constant([outputs], 0.0) },
        }
    }

    /// `x·Wᵀ + b`: [.., in] → [.., out]; where the weight has a low-rank adapter, W with it.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.activated(x, Activation::None)
    }

    /// [`Linear::forward`] and an activation.
    pub(crate) fn activated<const D: usize>(&self, x: Tensor<D>, activation: Activation) -> Tensor<D> {
        apply(&self.weight, self.bias.val(), x, activation)
    }

    /// Whether the weight has a low-rank adapter.
    pub(super) fn is_adapted(&self) -> bool {
        self.weight.adapter().is_some()
    }
}

/// A linear layer, with the low-rank adapter that its weight may have.
fn apply<const D: usize>(
    weight: &Param<Tensor<2>>,
    bias: Tensor<1>,
    x: Tensor<D>,
    activation: Activation,
) -> Tensor<D> {
    match weight.adapter() {
        // Burn adds a·b, [out, rank] · [rank, in], so that its `a` is what LoRA calls B.
        Some(LoraAdapter { a, b, scale }) => {
            adapted_linear(x, weight.base(), bias, b.val(), a.val(), *scale as f32, activation)
        }
        None => linear(x, weight.base(), bias, activation),
    }
}

/// A linear layer without a bias.
#[derive(Module, Debug)]
pub struct Projection {
    /// [out, in]
    pub weight: Param<Tensor<2>>,
}

impl Projection {
    /// Drawn as PyTorch does by default.
    pub fn new(inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self { weight: init.uniform([outputs, inputs], 1.0 / (inputs as f64).sqrt()) }
    }

    /// `x·Wᵀ`: [.., in] → [.., out].
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let bias = Tensor::zeros([self.weight.base().dims()[0]], &x.device());
        apply(&self.weight, bias, x, Activation::None)
    }
}

/// Which tokens, in raster order, an operator along the tokens sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Those before the current one, as the published operators do.
    #[default]
    Forward,
    /// Those on both sides.
    Both,
}

impl Direction {
    /// Taps of a filter that reaches as far as `taps` causal ones: to both sides, with the middle on the current token,
    /// or back alone.
    pub fn taps(self, taps: usize) -> usize {
        match self {
            Self::Forward => taps,
            Self::Both => 2 * taps - 1,
        }
    }

    /// Those of [`Direction::taps`] that look ahead.
    pub fn ahead(self, taps: usize) -> usize {
        self.taps(taps) - taps
    }

    /// What an operator's name ends in.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Forward => "",
            Self::Both => " both ways",
        }
    }
}

/// A short depthwise convolution along the tokens in raster order.
#[derive(Module, Debug)]
pub struct ShortFilter {
    /// [channels, taps], the last tap that does not look ahead on the current token; [channels, 1, taps] in checkpoints.
    pub weight: Param<Tensor<2>>,
    /// [channels]
    pub bias: Param<Tensor<1>>,
    ahead: usize,
}

impl ShortFilter {
    /// Drawn as PyTorch does by default, reaching `taps` tokens, the current one among them.
    pub fn new(channels: usize, taps: usize, direction: Direction, init: &mut Init) -> Self {
        let count = direction.taps(taps);
        let bound = 1.0 / (count as f64).sqrt();
        Self {
            weight: init.uniform([channels, count], bound),
            bias: init.uniform([channels], bound),
            ahead: direction.ahead(taps),
        }
    }

    /// A filter that changes nothing yet, as the published code starts inner filters.
    pub fn identity(channels: usize, taps: usize, direction: Direction, init: &mut Init) -> Self {
        let count = direction.taps(taps);
        let own = |i: usize| if i % count + 1 == taps { 1.0 } else { 0.0 };
        Self {
            weight: init.parameter((0..channels * count).map(own).collect(), [channels, count]),
            bias: init.constant([channels], 0.0),
            ahead: direction.ahead(taps),
        }
    }

    /// [N, T, channels] → [N, T, channels].
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        short_conv(x, self.weight.val(), self.bias.val(), self.ahead)
    }

    /// q⊙k⊙v with [q, k, v] the convolution's output: [N, T, 3·D] → [N, T, D].
    pub(super) fn gate(&self, qkv: Tensor<3>) -> Tensor<3> {
        gated_conv(qkv, self.weight.val(), self.bias.val(), self.ahead)
    }

    /// q⊙conv(k⊙v): [N, T, 3·D] → [N, T, D].
    pub(super) fn gate_inside(&self, qkv: Tensor<3>) -> Tensor<3> {
        gated_inner(qkv, self.weight.val(), self.bias.val(), self.ahead)
    }
}
