//! What operators cost: parameters, and arithmetic split as the paper's tables split it.

use serde::{Deserialize, Serialize};

use super::OperatorConfig;

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

impl OperatorConfig {
    /// Number of parameters at the given width.
    pub fn parameters(&self, width: usize) -> usize {
        let projections = 4 * width * width + 4 * width;
        let filter = |channels: usize, taps: usize| channels * (taps + 1);
        match self {
            Self::Attention(_)
            | Self::SlidingWindow(_)
            | Self::Neighborhood(_)
            | Self::LinearAttention(_) => projections,
            Self::KvCompression(c) => projections + c.compression_parameters(width),
            Self::HyenaSe(c) => {
                let (short, inner) = (c.direction.taps(c.kernel), c.direction.taps(c.inner_kernel));
                projections + filter(3 * width, short) + filter(width, inner)
            }
            Self::HyenaX(c) => projections + filter(3 * width, c.direction.taps(c.kernel)),
            Self::HyenaY(c) => projections + filter(width, c.direction.taps(c.inner_kernel)),
            Self::Mamba2(c) => c.parameters(width),
            Self::Mlp(c) => c.hidden(width).map_or(0, |hidden| 2 * width * hidden + width + hidden),
            Self::MlpHyenaX(c) => c
                .hidden(width)
                .map_or(0, |hidden| 4 * width * hidden + 3 * hidden + width + filter(c.tokens, c.kernel)),
            Self::Identity(_) => 0,
        }
    }

    /// Floating-point operations for one image of `tokens` tokens: multiply-adds count 2, a softmax 3 for each score of
    /// each head, which gives the paper's operator column; biases and activations are left out.
    pub fn flops(&self, width: usize, tokens: usize) -> Flops {
        let projections = 2 * tokens * 4 * width * width;
        // q ⊙ · and k ⊙ v
        let gates = 2 * tokens * width;
        // Scores, softmax and weighted values of this many pairs of a query and a key.
        let pairs = |pairs: usize, heads: usize| Flops {
            operator: pairs * (2 * 2 * width + 3 * heads),
            features: projections,
        };
        match self {
            Self::Attention(c) => pairs(tokens * tokens, c.heads),
            Self::SlidingWindow(c) => pairs(tokens * (c.left + c.right + 1), c.heads),
            Self::Neighborhood(c) => pairs(c.pairs(tokens), c.heads),
            // The filter's taps meet every key and every value once.
            Self::KvCompression(c) => {
                let attention = pairs(tokens * c.keys(tokens), c.heads);
                Flops { features: attention.features + 2 * 2 * tokens * width, ..attention }
            }
            // φ(k)ᵀ·v and φ(q) times it.
            Self::LinearAttention(c) => {
                Flops { operator: 2 * 2 * tokens * width * (width / c.heads.max(1)), features: projections }
            }
            Self::HyenaSe(c) => Flops {
                operator: gates + 2 * tokens * width * c.direction.taps(c.inner_kernel),
                features: projections + 2 * tokens * 3 * width * c.direction.taps(c.kernel),
            },
            Self::HyenaX(c) => Flops {
                operator: gates,
                features: projections + 2 * tokens * 3 * width * c.direction.taps(c.kernel),
            },
            Self::HyenaY(c) => Flops {
                operator: gates + 2 * tokens * width * c.direction.taps(c.inner_kernel),
                features: projections,
            },
            Self::Mamba2(c) => c.flops(width, tokens),
            Self::Mlp(c) => {
                Flops { operator: 0, features: c.hidden(width).map_or(0, |h| 2 * 2 * tokens * width * h) }
            }
            Self::MlpHyenaX(c) => Flops {
                operator: 0,
                features: c.hidden(width).map_or(0, |h| {
                    2 * 4 * tokens * width * h + 2 * tokens * 3 * h * c.kernel + 2 * tokens * h
                }),
            },
            Self::Identity(_) => Flops::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::tensor::Device;

    use crate::operator::*;

    /// The published operators at DiT-XL's width and tokens, with their parameters.
    fn published() -> [(OperatorConfig, usize); 9] {
        [
            (OperatorConfig::Attention(AttentionConfig { heads: 16 }), 5_313_024),
            (OperatorConfig::SlidingWindow(SlidingWindowConfig { left: 4, right: 4, heads: 16 }), 5_313_024),
            (OperatorConfig::HyenaSe(HyenaSeConfig::default()), 5_336_064),
            (OperatorConfig::HyenaX(HyenaXConfig::default()), 5_330_304),
            (OperatorConfig::HyenaY(HyenaYConfig::default()), 5_318_784),
            (OperatorConfig::Mamba2(Mamba2Config::default()), 8_290_864),
            (OperatorConfig::Mlp(MlpConfig { ratio: 3.0 }), 7_967_232),
            (OperatorConfig::Mlp(MlpConfig { ratio: 6.0 }), 15_933_312),
            (OperatorConfig::MlpHyenaX(MlpHyenaXConfig { tokens: 256, ..Default::default() }), 10_626_176),
        ]
    }

    fn counted(config: &OperatorConfig, width: usize) -> usize {
        config.init(width, &mut Init::empty(&Device::flex())).unwrap().num_params()
    }

    #[test]
    fn parameters_are_the_published_counts_and_those_of_the_module() {
        for (config, expected) in published() {
            assert_eq!(config.parameters(1152), expected, "{}", config.name());
            assert_eq!(counted(&config, 1152), expected, "{}", config.name());
        }
    }

    #[test]
    fn parameters_of_other_settings_are_those_of_the_module() {
        let both = Direction::Both;
        let window = GridWindow::Square(3);
        for config in [
            OperatorConfig::HyenaSe(HyenaSeConfig { kernel: 3, inner_kernel: 5, direction: both }),
            OperatorConfig::HyenaX(HyenaXConfig { kernel: 3, direction: both }),
            OperatorConfig::HyenaY(HyenaYConfig { inner_kernel: 2, direction: both }),
            OperatorConfig::Mamba2(Mamba2Config {
                d_state: 7,
                head_dim: 4,
                expand: 3,
                conv_kernel: 2,
                direction: both,
            }),
            OperatorConfig::Neighborhood(NeighborhoodConfig { heads: 2, window }),
            OperatorConfig::KvCompression(KvCompressionConfig { heads: 2, factor: 3 }),
            OperatorConfig::LinearAttention(LinearAttentionConfig {
                heads: 2,
                feature_map: FeatureMap::Relu,
            }),
            OperatorConfig::MlpHyenaX(MlpHyenaXConfig { ratio: 0.5, kernel: 3, tokens: 9 }),
            OperatorConfig::Identity(IdentityConfig {}),
        ] {
            assert_eq!(config.parameters(16), counted(&config, 16), "{}", config.name());
        }
    }
}
