use crate::operator::{
    AttentionConfig, FeatureMap, GridWindow, HyenaSeConfig, HyenaXConfig, HyenaYConfig,
    LinearAttentionConfig, Mamba2Config, MlpConfig, MlpHyenaXConfig, NeighborhoodConfig, OperatorConfig,
    SlidingWindowConfig,
};

/// Width of the operators that are distilled: that of DiT-XL.
pub(super) const WIDTH: usize = 1152;
/// Tokens of an image of 256 pixels.
pub(super) const TOKENS: usize = 256;
/// Heads of DiT-XL.
const HEADS: usize = 16;

/// The operators that are distilled, at DiT-XL's width with the published settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distilled {
    /// Attention over all tokens.
    Attention,
    /// Sliding-window attention, four tokens to either side.
    Swa,
    /// Attention over 7 × 7 tokens.
    Neighborhood,
    /// Linear attention.
    LinearAttention,
    /// Hyena-SE.
    HyenaSe,
    /// Hyena-X.
    HyenaX,
    /// Hyena-Y.
    HyenaY,
    /// Mamba-2.
    Mamba2,
    /// An MLP of ratio 3.
    MlpR3,
    /// An MLP of ratio 6.
    MlpR6,
    /// MLP Hyena-X of ratio 2.
    MlpHyenaX,
}

impl Distilled {
    /// The token mixers whose cost at several lengths is compared.
    pub const MIXERS: [Self; 8] = [
        Self::Attention,
        Self::Swa,
        Self::Neighborhood,
        Self::LinearAttention,
        Self::HyenaSe,
        Self::HyenaX,
        Self::HyenaY,
        Self::Mamba2,
    ];

    /// Its settings.
    pub fn config(self) -> OperatorConfig {
        let heads = HEADS;
        match self {
            Self::Attention => OperatorConfig::Attention(AttentionConfig { heads }),
            Self::Swa => OperatorConfig::SlidingWindow(SlidingWindowConfig { left: 4, right: 4, heads }),
            Self::Neighborhood => {
                OperatorConfig::Neighborhood(NeighborhoodConfig { heads, window: GridWindow::Square(7) })
            }
            Self::LinearAttention => {
                let feature_map = FeatureMap::EluPlusOne;
                OperatorConfig::LinearAttention(LinearAttentionConfig { heads, feature_map })
            }
            Self::HyenaSe => OperatorConfig::HyenaSe(HyenaSeConfig::default()),
            Self::HyenaX => OperatorConfig::HyenaX(HyenaXConfig::default()),
            Self::HyenaY => OperatorConfig::HyenaY(HyenaYConfig::default()),
            Self::Mamba2 => OperatorConfig::Mamba2(Mamba2Config::default()),
            Self::MlpR3 => OperatorConfig::Mlp(MlpConfig { ratio: 3.0 }),
            Self::MlpR6 => OperatorConfig::Mlp(MlpConfig { ratio: 6.0 }),
            Self::MlpHyenaX => {
                OperatorConfig::MlpHyenaX(MlpHyenaXConfig { tokens: TOKENS, ..Default::default() })
            }
        }
    }
}
