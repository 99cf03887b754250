use burn::Tensor;
use burn::module::{LoraAdapter, Module, Param};
use scion_kernels::adapted::adapted_linear;
use scion_kernels::conv::short_conv;
use scion_kernels::linear::{Activation, linear};

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
    pub(super) fn activated<const D: usize>(&self, x: Tensor<D>, activation: Activation) -> Tensor<D> {
        let (weight, bias) = (self.weight.base(), self.bias.val());
        match self.weight.adapter() {
            // Burn adds a·b, [out, rank] · [rank, in], so that its `a` is what LoRA calls B.
            Some(LoraAdapter { a, b, scale }) => {
                adapted_linear(x, weight, bias, b.val(), a.val(), *scale as f32, activation)
            }
            None => linear(x, weight, bias, activation),
        }
    }

    /// Whether the weight has a low-rank adapter.
    pub(super) fn is_adapted(&self) -> bool {
        self.weight.adapter().is_some()
    }
}

/// A causal depthwise convolution along the tokens in raster order.
#[derive(Module, Debug)]
pub struct ShortFilter {
    /// [channels, taps], the last tap on the current token; [channels, 1, taps] in checkpoints.
    pub weight: Param<Tensor<2>>,
    /// [channels]
    pub bias: Param<Tensor<1>>,
}

/// The number of taps of the published operators.
pub(super) fn four_taps() -> usize {
    4
}

impl ShortFilter {
    /// Drawn as PyTorch does by default.
    pub fn new(channels: usize, taps: usize, init: &mut Init) -> Self {
        let bound = 1.0 / (taps as f64).sqrt();
        Self { weight: init.uniform([channels, taps], bound), bias: init.uniform([channels], bound) }
    }

    /// A filter that changes nothing yet, as the published code starts inner filters.
    pub fn identity(channels: usize, taps: usize, init: &mut Init) -> Self {
        let last = (0..channels * taps).map(|i| if i % taps + 1 == taps { 1.0 } else { 0.0 }).collect();
        Self { weight: init.parameter(last, [channels, taps]), bias: init.constant([channels], 0.0) }
    }

    /// [N, T, channels] → [N, T, channels].
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        short_conv(x, self.weight.val(), self.bias.val())
    }
}
