use burn::Tensor;
use burn::module::{Module, Param};
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

    /// `x·Wᵀ + b`: [.., in] → [.., out].
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        linear(x, self.weight.val(), self.bias.val(), Activation::None)
    }
}
