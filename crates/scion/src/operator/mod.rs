//! The operators a block can hold in its two slots, one file each.
//!
//! Choices are two closed enums side by side: [`OperatorConfig`], what a recipe or a checkpoint header
//! says, and [`Operator`], the module it builds. All map tokens [N, T, D] to tokens [N, T, D].

mod attention;
mod cost;
mod hyena_se;
mod hyena_x;
mod hyena_y;
mod identity;
mod init;
mod kv_compression;
mod layers;
mod linear_attention;
mod locality;
mod mamba2;
mod mlp;
mod mlp_hyena_x;
mod neighborhood;

use burn::Tensor;
use burn::module::Module;
use serde::{Deserialize, Serialize};

pub use attention::{Attention, AttentionConfig, SlidingWindow, SlidingWindowConfig};
pub use cost::Flops;
pub use hyena_se::{HyenaSe, HyenaSeConfig};
pub use hyena_x::{HyenaX, HyenaXConfig};
pub use hyena_y::{HyenaY, HyenaYConfig};
pub use identity::{Identity, IdentityConfig};
pub use init::{Init, Scheme};
pub use kv_compression::{KvCompression, KvCompressionConfig, LayerNorm, SquareFilter};
pub use layers::{Direction, Linear, Projection, ShortFilter};
pub use linear_attention::{FeatureMap, LinearAttention, LinearAttentionConfig};
pub use locality::Spread;
pub use mamba2::{Mamba2, Mamba2Config, Scale};
pub use mlp::{Mlp, MlpConfig};
pub use mlp_hyena_x::{MlpHyenaX, MlpHyenaXConfig, PositionFilter};
pub use neighborhood::{GridWindow, Neighborhood, NeighborhoodConfig};

use crate::error::{Error, Result};

/// Rows and columns of the tokens of a square image.
pub fn square_grid(tokens: usize) -> [usize; 2] {
    [tokens.isqrt(); 2]
}

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
    /// Softmax attention over neighbours on the grid of tokens.
    Neighborhood(NeighborhoodConfig),
    /// Softmax attention to one key for each square of the grid of tokens.
    KvCompression(KvCompressionConfig),
    /// Attention with a feature map instead of softmax.
    LinearAttention(LinearAttentionConfig),
    /// A state-space layer.
    Mamba2(Mamba2Config),
    /// Two linear layers with tanh-GELU between them.
    Mlp(MlpConfig),
    /// A gated convolution along the features between two linear layers.
    MlpHyenaX(MlpHyenaXConfig),
    /// Its input, unchanged, in either slot.
    Identity(IdentityConfig),
}

impl OperatorConfig {
    /// The operator's name in recipes and reports.
    pub fn name(&self) -> String {
        match self {
            Self::Attention(_) => "attention".into(),
            Self::SlidingWindow(c) => format!("sliding-window {}+1+{}", c.left, c.right),
            Self::HyenaSe(c) => format!("hyena-se{}", c.direction.suffix()),
            Self::HyenaX(c) => format!("hyena-x{}", c.direction.suffix()),
            Self::HyenaY(c) => format!("hyena-y{}", c.direction.suffix()),
            Self::Neighborhood(c) => match c.window {
                GridWindow::Square(side) => format!("neighborhood {side}×{side}"),
                GridWindow::Circle(radius) => format!("neighborhood radius {radius}"),
            },
            Self::KvCompression(c) => format!("kv-compression {0}×{0}", c.factor),
            Self::LinearAttention(_) => "linear-attention".into(),
            Self::Mamba2(c) => format!("mamba2{}", c.direction.suffix()),
            Self::Mlp(c) => format!("mlp ×{}", c.ratio),
            Self::MlpHyenaX(c) => format!("mlp-hyena-x ×{}", c.ratio),
            Self::Identity(_) => "identity".into(),
        }
    }

    /// Whether this operator can stand in the slot.
    pub fn fits(&self, slot: Slot) -> bool {
        match self {
            Self::Mlp(_) | Self::MlpHyenaX(_) => slot == Slot::Mlp,
            Self::Identity(_) => true,
            _ => slot == Slot::Attention,
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
            | Self::Neighborhood(NeighborhoodConfig { heads, .. })
            | Self::KvCompression(KvCompressionConfig { heads, .. })
            | Self::LinearAttention(LinearAttentionConfig { heads, .. })
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
            Self::Neighborhood(c) => self.check_window(c.window, tokens),
            Self::KvCompression(c) if c.factor < 2 => {
                fail(format!("{}: factor must be at least 2, found {}", self.name(), c.factor))
            }
            Self::Mamba2(c) => {
                c.heads(width)?;
                self.check_taps("conv-kernel", c.conv_kernel, tokens)
            }
            Self::Mlp(c) => c.hidden(width).map(|_| ()),
            Self::MlpHyenaX(c) if c.tokens != tokens => fail(format!(
                "{}: it has a filter for each of {} tokens, but the model has {tokens} tokens an image",
                self.name(),
                c.tokens
            )),
            Self::MlpHyenaX(c) => {
                let hidden = c.hidden(width)?;
                if (1..=3 * hidden).contains(&c.kernel) {
                    return Ok(());
                }
                fail(format!(
                    "{}: kernel must lie between 1 and the number of features, {}; found {}",
                    self.name(),
                    3 * hidden,
                    c.kernel
                ))
            }
            Self::Attention(_)
            | Self::SlidingWindow(_)
            | Self::KvCompression(_)
            | Self::LinearAttention(_)
            | Self::Identity(_) => Ok(()),
        }
    }

    /// Checks the settings against the rows and columns of an image's tokens.
    ///
    /// # Errors
    /// A plan error that names the operator, the grid that it needs and the one that there is.
    pub fn check_grid(&self, [rows, columns]: [usize; 2]) -> Result<()> {
        let divides = |side: usize| rows.is_multiple_of(side) && columns.is_multiple_of(side);
        let needed = match self {
            Self::Neighborhood(_) if rows != columns => "a square grid of tokens".into(),
            Self::KvCompression(c) if !divides(c.factor) => {
                format!("a grid of tokens whose sides are multiples of {}", c.factor)
            }
            _ => return Ok(()),
        };
        Err(Error::Plan(format!("{}: it needs {needed}, found {rows}×{columns}", self.name())))
    }

    fn check_window(&self, window: GridWindow, tokens: usize) -> Result<()> {
        let columns = neighborhood::columns(tokens);
        let fail = |detail: String| Err(Error::Plan(format!("{}: {detail}", self.name())));
        if columns * columns != tokens {
            return fail(format!("it needs a square grid, but the model has {tokens} tokens an image"));
        }
        match window {
            GridWindow::Square(side) if side > columns => {
                fail(format!("the window is larger than the grid of {columns}×{columns} tokens"))
            }
            GridWindow::Square(side) if side.is_multiple_of(2) => {
                fail(format!("the side of a square window must be odd, found {side}"))
            }
            GridWindow::Circle(radius) if radius == 0 || radius > columns => {
                fail(format!("the radius must lie between 1 and the side of the grid, {columns}"))
            }
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
            Self::Neighborhood(c) => Operator::Neighborhood(c.init(width, init)),
            Self::KvCompression(c) => Operator::KvCompression(c.init(width, init)),
            Self::LinearAttention(c) => Operator::LinearAttention(c.init(width, init)),
            Self::Mamba2(c) => Operator::Mamba2(c.init(width, init)?),
            Self::Mlp(c) => Operator::Mlp(c.init(width, init)?),
            Self::MlpHyenaX(c) => Operator::MlpHyenaX(c.init(width, init)?),
            Self::Identity(_) => Operator::Identity(Identity {}),
        })
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
    /// Softmax attention over neighbours on the grid of tokens.
    Neighborhood(Neighborhood),
    /// Softmax attention to one key for each square of the grid of tokens.
    KvCompression(KvCompression),
    /// Attention with a feature map instead of softmax.
    LinearAttention(LinearAttention),
    /// A state-space layer.
    Mamba2(Mamba2),
    /// Two linear layers with tanh-GELU between them.
    Mlp(Mlp),
    /// A gated convolution along the features between two linear layers.
    MlpHyenaX(MlpHyenaX),
    /// Its input, unchanged, in either slot.
    Identity(Identity),
}

impl Operator {
    /// Maps tokens [N, T, D], which stand on a grid of rows and columns, to tokens [N, T, D].
    pub fn forward(&self, x: Tensor<3>, grid: [usize; 2]) -> Tensor<3> {
        match self {
            Self::Attention(operator) => operator.forward(x),
            Self::SlidingWindow(operator) => operator.forward(x),
            Self::HyenaSe(operator) => operator.forward(x),
            Self::HyenaX(operator) => operator.forward(x),
            Self::HyenaY(operator) => operator.forward(x),
            Self::Neighborhood(operator) => operator.forward(x),
            Self::KvCompression(operator) => operator.forward(x, grid),
            Self::LinearAttention(operator) => operator.forward(x),
            Self::Mamba2(operator) => operator.forward(x),
            Self::Mlp(operator) => operator.forward(x),
            Self::MlpHyenaX(operator) => operator.forward(x),
            Self::Identity(operator) => operator.forward(x),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_settings_are_plan_errors_that_name_them() {
        let hyena_se = |kernel, inner_kernel| {
            OperatorConfig::HyenaSe(HyenaSeConfig { kernel, inner_kernel, ..Default::default() })
        };
        let neighborhood = |window| OperatorConfig::Neighborhood(NeighborhoodConfig { heads: 2, window });
        let compression =
            |heads, factor| OperatorConfig::KvCompression(KvCompressionConfig { heads, factor });
        let mlp = |ratio, tokens| {
            OperatorConfig::MlpHyenaX(MlpHyenaXConfig { ratio, tokens, ..Default::default() })
        };
        let mamba2 = |head_dim| OperatorConfig::Mamba2(Mamba2Config { head_dim, ..Default::default() });
        for (config, message) in [
            (OperatorConfig::HyenaX(HyenaXConfig { kernel: 0, ..Default::default() }), "hyena-x: kernel"),
            (hyena_se(10, 4), "hyena-se: kernel"),
            (hyena_se(4, 0), "hyena-se: inner-kernel"),
            (OperatorConfig::HyenaY(HyenaYConfig { inner_kernel: 10, ..Default::default() }), "inner-kernel"),
            (neighborhood(GridWindow::Square(5)), "larger than the grid of 3×3 tokens"),
            (neighborhood(GridWindow::Square(2)), "must be odd"),
            (neighborhood(GridWindow::Circle(0)), "radius"),
            (OperatorConfig::LinearAttention(LinearAttentionConfig { heads: 5, ..linear() }), "5 heads"),
            (compression(5, 3), "5 heads"),
            (compression(2, 1), "kv-compression 1×1: factor must be at least 2, found 1"),
            (mamba2(0), "head-dim"),
            (mamba2(5), "do not divide into heads of 5"),
            (
                OperatorConfig::Mamba2(Mamba2Config { expand: usize::MAX, ..Default::default() }),
                "at most 1000000",
            ),
            (
                OperatorConfig::Mamba2(Mamba2Config { d_state: 1 << 40, ..Default::default() }),
                "at most 1000000",
            ),
            (mlp(2.0, 16), "16 tokens, but the model has 9"),
            (mlp(0.3, 9), "whole number"),
        ] {
            let error = config.check(16, 9).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        assert!(
            neighborhood(GridWindow::Square(3)).check(16, 8).unwrap_err().to_string().contains("square grid")
        );
        for config in
            [hyena_se(9, 1), neighborhood(GridWindow::Circle(3)), compression(2, 3), mlp(0.5, 9), mamba2(4)]
        {
            config.check(16, 9).unwrap();
            config.check_grid([3, 3]).unwrap();
        }
        compression(2, 3).check_grid([6, 9]).unwrap();
        for (config, grid, message) in [
            (
                compression(2, 2),
                [3, 3],
                "kv-compression 2×2: it needs a grid of tokens whose sides are multiples of 2",
            ),
            (compression(2, 2), [4, 7], "found 4×7"),
            (compression(2, 4), [6, 8], "found 6×8"),
            (neighborhood(GridWindow::Square(3)), [4, 9], "a square grid of tokens, found 4×9"),
        ] {
            let error = config.check_grid(grid).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    fn linear() -> LinearAttentionConfig {
        LinearAttentionConfig { heads: 2, feature_map: FeatureMap::EluPlusOne }
    }
}
