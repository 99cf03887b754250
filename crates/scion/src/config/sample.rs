use serde::{Deserialize, Serialize};

use crate::diffusion::{GuidanceChannels, Respacing, Sampler, Schedule};
use crate::error::Result;

/// How noise is removed when sampling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SamplerConfig {
    /// Ancestral sampling with the learned variance.
    Ddpm,
    /// Deterministic (eta 0) implicit sampling.
    #[default]
    Ddim,
    /// Deterministic, of second order: better than DDIM in few steps.
    #[serde(rename = "dpm-solver++")]
    DpmSolverPlusPlus,
}

/// How images are drawn from a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SampleConfig {
    /// How noise is removed.
    pub sampler: SamplerConfig,
    /// Model calls an image.
    pub steps: usize,
    /// Scale of classifier-free guidance; 1 is none.
    pub cfg: f64,
    /// Which channels guidance moves; left out, the first three as DiT's published samples, and all of a text-to-image model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<GuidanceChannels>,
    /// Images a model in an evaluation.
    pub count: usize,
    /// Images a batch; never changes an image.
    pub batch: usize,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self { sampler: SamplerConfig::Ddim, steps: 25, cfg: 1.5, guidance: None, count: 2000, batch: 64 }
    }
}

impl SampleConfig {
    /// The schedule of the wanted number of model calls, and the rule that steps along it.
    ///
    /// # Errors
    /// When the sampler cannot take that number of steps.
    pub fn schedule(&self) -> Result<(Schedule, Sampler)> {
        let full = Schedule::linear();
        Ok(match self.sampler {
            SamplerConfig::Ddim => (full.ddim(self.steps)?, Sampler::Ddim { eta: 0.0 }),
            SamplerConfig::DpmSolverPlusPlus => {
                (full.respaced(&Respacing::Dpm(self.steps))?, Sampler::DpmSolverPlusPlus)
            }
            SamplerConfig::Ddpm => (full.respaced(&Respacing::Stride(self.steps))?, Sampler::Ddpm),
        })
    }

    pub(super) fn check(&self) -> std::result::Result<(), String> {
        if self.batch == 0 || self.steps == 0 {
            return Err("batch and steps must be at least 1".into());
        }
        if self.count < MIN_SAMPLES {
            return Err(format!(
                "count must be at least {MIN_SAMPLES} for distances with errors, found {}",
                self.count
            ));
        }
        if !self.cfg.is_finite() {
            return Err(format!("cfg must be finite, found {}", self.cfg));
        }
        self.schedule().map(drop).map_err(|e| format!("steps: {e}"))
    }
}

/// Fewest images of which a distance with its error can be estimated.
const MIN_SAMPLES: usize = 10;
