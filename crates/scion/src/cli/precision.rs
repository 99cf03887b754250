use clap::ValueEnum;

use crate::config::PrecisionConfig;

/// Operand precision of products, as the command line names it.
#[derive(Clone, Copy, ValueEnum)]
pub enum PrecisionChoice {
    F32,
    Bf16,
    /// bf16 where this machine multiplies it clearly faster
    Auto,
}

impl PrecisionChoice {
    /// The same as recipes have it.
    pub fn config(self) -> PrecisionConfig {
        match self {
            Self::F32 => PrecisionConfig::F32,
            Self::Bf16 => PrecisionConfig::Bf16,
            Self::Auto => PrecisionConfig::Auto,
        }
    }
}
