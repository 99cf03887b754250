//! The operators a block can hold in its two slots, one file each.
//!
//! Choices are two closed enums side by side: [`OperatorConfig`], what a recipe or a checkpoint header
//! says, and [`Operator`], the module it builds. All map tokens [N, T, D] to tokens [N, T, D].

mod attention;
mod hyena_se;
mod hyena_x;
mod hyena_y;
mod init;
mod layers;
mod locality;
mod mlp;

use burn::Tensor;
use burn::module::Module;
use serde::{Deserialize, Serialize};

pub use attention::{Attention, AttentionConfig, SlidingWindow, SlidingWindowConfig};
pub use hyena_se::{HyenaSe, HyenaSeConfig};
pub use hyena_x::{HyenaX, HyenaXConfig};
pub use hyena_y::{HyenaY, HyenaYConfig};
pub use init::{Init, Scheme};
pub use layers::Linear;
pub use mlp::{Mlp, MlpConfig};

use crate::error::{Error, Result};

/// The two places of a block that a graft can replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Slot {
    /// The token mixer.
    Attention,
    /// The channel mixer.
    Mlp,
}

impl Slot {
    /// Both slots in the order a block runs them.
    pub const ALL: [Slot; 2] = [Slot::Attention, Slot::Mlp];

    /// The slot's name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Slot::Attention => "attention",
            Slot::Mlp => "mlp",
        }
    }

    /// The slot's name in checkpoints of the original layout.
    pub fn key(self) -> &'static str {
        match self {
            Slot::Attention => "attn",
            Slot::Mlp => "mlp",
        }
    }
}

/// Which operator, with its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum OperatorConfig {
    /// Multi-head softmax attention over all tokens.
    Attention(AttentionConfig),
    /// Softmax attention over neighbours in raster order.
    SlidingWindow(SlidingWindowConfig),
    /// Gated short convolution with featuriser and inner filter.
    HyenaSe(HyenaSeConfig),
    /// Gated short convolution without an inner filter.
    HyenaX(HyenaXConfig),
    /// Gated short convolution without a featuriser.
    HyenaY(HyenaYConfig),
    /// Two linear layers with tanh-GELU between them.
    Mlp(MlpConfig),
}

impl OperatorConfig {
    /// The operator's name in recipes and reports.
    pub fn name(&self) -> String {
        match self {
            Self::Attention(_) => "attention".into(),
            Self::SlidingWindow(c) => format!("sliding-window {}+1+{}", c.left, c.right),
            Self::HyenaSe(_) => "hyena-se".into(),
            Self::HyenaX(_) => "hyena-x".into(),
            Self::HyenaY(_) => "hyena-y".into(),
            Self::Mlp(c) => format!("mlp ×{}", c.ratio),
        }
    }

    /// The slot this operator can stand in.
    pub fn slot(&self) -> Slot {
        match self {
            Self::Attention(_)
            | Self::SlidingWindow(_)
            | Self::HyenaSe(_)
            | Self::HyenaX(_)
            | Self::HyenaY(_) => Slot::Attention,
            Self::Mlp(_) => Slot::Mlp,
        }
    }

    /// Checks the settings against the tokens' width and number.
    ///
    /// # Errors
    /// A plan error that names the setting, what it is and what it has to be.
    pub fn check(&self, width: usize, tokens: usize) -> Result<()> {
        let fail = |detail: String| Err(Error::Plan(detail));
        match self {
            Self::Attention(AttentionConfig { heads })
            | Self::SlidingWindow(SlidingWindowConfig { heads, .. })
                if *heads == 0 || !width.is_multiple_of(*heads) =>
            {
                fail(format!("{}: width {width} does not divide into {heads} heads", self.name()))
            }
            Self::SlidingWindow(c) if c.left.max(c.right) >= tokens.max(1) => fail(format!(
                "{}: the window reaches {} tokens to a side, but there are only {tokens}",
                self.name(),
                c.left.max(c.right)
            )),
            Self::HyenaSe(c) => {
                self.check_taps("kernel", c.kernel, tokens)?;
                self.check_taps("inner-kernel", c.inner_kernel, tokens)
            }
            Self::HyenaX(c) => self.check_taps("kernel", c.kernel, tokens),
            Self::HyenaY(c) => self.check_taps("inner-kernel", c.inner_kernel, tokens),
            Self::Mlp(c) => c.hidden(width).map(|_| ()),
            _ => Ok(()),
        }
    }

    fn check_taps(&self, setting: &str, taps: usize, tokens: usize) -> Result<()> {
        if (1..=tokens).contains(&taps) {
            return Ok(());
        }
        Err(Error::Plan(format!(
            "{}: {setting} must lie between 1 and the number of tokens, {tokens}; found {taps}",
            self.name()
        )))
    }

    /// Builds the operator for tokens of the given width.
    ///
    /// # Errors
    /// When the settings do not fit the width.
    pub fn init(&self, width: usize, init: &mut Init) -> Result<Operator> {
        Ok(match self {
            Self::Attention(c) => Operator::Attention(c.init(width, init)),
            Self::SlidingWindow(c) => Operator::SlidingWindow(c.init(width, init)),
            Self::HyenaSe(c) => Operator::HyenaSe(c.init(width, init)),
            Self::HyenaX(c) => Operator::HyenaX(c.init(width, init)),
            Self::HyenaY(c) => Operator::HyenaY(c.init(width, init)),
            Self::Mlp(c) => Operator::Mlp(c.init(width, init)?),
        })
    }

    /// Number of parameters at the given width.
    pub fn parameters(&self, width: usize) -> usize {
        let projections = 4 * width * width + 4 * width;
        match self {
            Self::Attention(_) | Self::SlidingWindow(_) => projections,
            Self::HyenaSe(c) => projections + 3 * width * (c.kernel + 1) + width * (c.inner_kernel + 1),
            Self::HyenaX(c) => projections + 3 * width * (c.kernel + 1),
            Self::HyenaY(c) => projections + width * (c.inner_kernel + 1),
            Self::Mlp(c) => c.hidden(width).map_or(0, |hidden| 2 * width * hidden + width + hidden),
        }
    }

    /// Floating-point operations for one image of `tokens` tokens: multiply-adds count 2, a softmax 3 for each score of
    /// each head, which gives the paper's operator column; biases and activations are left out.
    pub fn flops(&self, width: usize, tokens: usize) -> Flops {
        let projections = 2 * tokens * 4 * width * width;
        // q ⊙ · and k ⊙ v
        let gates = 2 * tokens * width;
        // Two products and a softmax over `keys` keys a query.
        let attention = |keys: usize, heads: usize| tokens * keys * (2 * 2 * width + 3 * heads);
        match self {
            Self::Attention(c) => Flops { operator: attention(tokens, c.heads), features: projections },
            Self::SlidingWindow(c) => {
                Flops { operator: attention(c.left + c.right + 1, c.heads), features: projections }
            }
            Self::HyenaSe(c) => Flops {
                operator: gates + 2 * tokens * width * c.inner_kernel,
                features: projections + 2 * tokens * 3 * width * c.kernel,
            },
            Self::HyenaX(c) => {
                Flops { operator: gates, features: projections + 2 * tokens * 3 * width * c.kernel }
            }
            Self::HyenaY(c) => {
                Flops { operator: gates + 2 * tokens * width * c.inner_kernel, features: projections }
            }
            Self::Mlp(c) => {
                Flops { operator: 0, features: c.hidden(width).map_or(0, |h| 2 * 2 * tokens * width * h) }
            }
        }
    }
}

/// Cost of an operator, split as the paper's tables split it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flops {
    /// Mixing proper: softmax attention, or the gating that replaces it.
    pub operator: usize,
    /// Projections and featuriser convolutions; for an MLP, all of it.
    pub features: usize,
}

impl Flops {
    /// Both parts together.
    pub fn total(self) -> usize {
        self.operator + self.features
    }
}

/// An operator standing in a block's slot.
#[derive(Module, Debug)]
pub enum Operator {
    /// Multi-head softmax attention over all tokens.
    Attention(Attention),
    /// Softmax attention over neighbours in raster order.
    SlidingWindow(SlidingWindow),
    /// Gated short convolution with featuriser and inner filter.
    HyenaSe(HyenaSe),
    /// Gated short convolution without an inner filter.
    HyenaX(HyenaX),
    /// Gated short convolution without a featuriser.
    HyenaY(HyenaY),
    /// Two linear layers with tanh-GELU between them.
    Mlp(Mlp),
}

impl Operator {
    /// Maps tokens [N, T, D] to tokens [N, T, D].
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Attention(operator) => operator.forward(x),
            Self::SlidingWindow(operator) => operator.forward(x),
            Self::HyenaSe(operator) => operator.forward(x),
            Self::HyenaX(operator) => operator.forward(x),
            Self::HyenaY(operator) => operator.forward(x),
            Self::Mlp(operator) => operator.forward(x),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// The published operators at DiT-XL's width, with their parameters.
    fn published() -> [(OperatorConfig, usize); 7] {
        [
            (OperatorConfig::Attention(AttentionConfig { heads: 16 }), 5_313_024),
            (OperatorConfig::SlidingWindow(SlidingWindowConfig { left: 4, right: 4, heads: 16 }), 5_313_024),
            (OperatorConfig::HyenaSe(HyenaSeConfig { kernel: 4, inner_kernel: 4 }), 5_336_064),
            (OperatorConfig::HyenaX(HyenaXConfig { kernel: 4 }), 5_330_304),
            (OperatorConfig::HyenaY(HyenaYConfig { inner_kernel: 4 }), 5_318_784),
            (OperatorConfig::Mlp(MlpConfig { ratio: 3.0 }), 7_967_232),
            (OperatorConfig::Mlp(MlpConfig { ratio: 6.0 }), 15_933_312),
        ]
    }

    #[test]
    fn parameters_are_the_published_counts_and_those_of_the_module() {
        for (config, expected) in published() {
            assert_eq!(config.parameters(1152), expected, "{}", config.name());
            let module = config.init(1152, &mut Init::empty(&Device::flex())).unwrap();
            assert_eq!(module.num_params(), expected, "{}", config.name());
        }
    }

    #[test]
    fn impossible_filters_are_plan_errors_that_name_the_setting() {
        let refused = |config: OperatorConfig| config.check(16, 9).unwrap_err().to_string();
        for (config, setting) in [
            (OperatorConfig::HyenaX(HyenaXConfig { kernel: 0 }), "hyena-x: kernel"),
            (OperatorConfig::HyenaSe(HyenaSeConfig { kernel: 10, inner_kernel: 4 }), "hyena-se: kernel"),
            (OperatorConfig::HyenaSe(HyenaSeConfig { kernel: 4, inner_kernel: 0 }), "hyena-se: inner-kernel"),
            (OperatorConfig::HyenaY(HyenaYConfig { inner_kernel: 10 }), "hyena-y: inner-kernel"),
        ] {
            assert!(refused(config).contains(setting));
        }
        assert!(OperatorConfig::HyenaX(HyenaXConfig { kernel: 9 }).check(16, 9).is_ok());
    }
}
