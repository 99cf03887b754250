use burn::Tensor;
use burn::module::Module;
use scion_kernels::linear::Activation;
use scion_kernels::mlp::mlp;
use serde::{Deserialize, Serialize};

use super::{Init, Linear, Scheme};
use crate::error::{Error, Result};

/// Two linear layers with tanh-GELU between them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpConfig {
    /// Hidden width over token width; 4 in DiT.
    pub ratio: f64,
}

/// Beyond this a ratio is a slip of the keyboard.
const MAX_HIDDEN: f64 = 1e6;

impl MlpConfig {
    /// The hidden width for tokens of the given width.
    ///
    /// # Errors
    /// When ratio × width is not a whole number of at least 1.
    pub fn hidden(&self, width: usize) -> Result<usize> {
        let hidden = self.ratio * width as f64;
        if !hidden.is_finite() || hidden < 1.0 || (hidden - hidden.round()).abs() > 1e-6 {
            return Err(Error::Plan(format!(
                "mlp: ratio {} of width {width} gives a hidden width of {hidden}, but it must be a whole number",
                self.ratio
            )));
        }
        if hidden > MAX_HIDDEN {
            return Err(Error::Plan(format!(
                "mlp: ratio {} of width {width} gives a hidden width of {hidden}, above {MAX_HIDDEN}",
                self.ratio
            )));
        }
        Ok(hidden.round() as usize)
    }

    /// Draws both layers as PyTorch does by default.
    ///
    /// # Errors
    /// When the ratio gives no whole hidden width.
    pub fn init(&self, width: usize, init: &mut Init) -> Result<Mlp> {
        self.init_with(width, Scheme::Torch, init)
    }

    /// Draws both layers as the scheme says.
    ///
    /// # Errors
    /// When the ratio gives no whole hidden width.
    pub fn init_with(&self, width: usize, scheme: Scheme, init: &mut Init) -> Result<Mlp> {
        let hidden = self.hidden(width)?;
        Ok(Mlp {
            fc1: Linear::new(width, hidden, scheme, init),
            fc2: Linear::new(hidden, width, scheme, init),
        })
    }
}

/// `fc2(gelu(fc1(x)))`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// [hidden, D]
    pub fc1: Linear,
    /// [D, hidden]
    pub fc2: Linear,
}

impl Mlp {
    /// [N, T, D] → [N, T, D].
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let (fc1, fc2) = (&self.fc1, &self.fc2);
        if fc1.is_adapted() || fc2.is_adapted() {
            return fc2.forward(fc1.activated(x, Activation::GeluTanh));
        }
        mlp(x, fc1.weight.val(), fc1.bias.val(), fc2.weight.val(), fc2.bias.val())
    }
}
