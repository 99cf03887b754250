//! Choosing blocks by how local the teacher's attention is.

use serde::{Deserialize, Serialize};

use crate::config::{GraftConfig, SampleConfig, SamplerConfig};
use crate::error::{Error, Result};
use crate::model::Architecture;
use crate::operator::Slot;

/// How the locality of the teacher's attention is measured, `[locality]`. It is averaged over the images, the sampling
/// steps, and the conditional and unconditional passes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct LocalityConfig {
    /// Tokens on either side, in raster order, that count as near.
    pub k: usize,
    /// Images that are sampled for it, spread over the classes.
    pub samples: usize,
    /// DDIM steps an image.
    pub steps: usize,
    /// Scale of classifier-free guidance; 1 is none.
    pub cfg: f64,
}

impl Default for LocalityConfig {
    /// The paper's setting (§3).
    fn default() -> Self {
        Self { k: 32, samples: 250, steps: 50, cfg: 1.5 }
    }
}

/// More samples are a slip of the keyboard.
const MAX_SAMPLES: usize = 1 << 20;

impl LocalityConfig {
    /// How the images are drawn, `batch` at a time.
    pub fn sampling(&self, batch: usize) -> SampleConfig {
        let (sampler, steps, cfg, count) = (SamplerConfig::Ddim, self.steps, self.cfg, self.samples);
        SampleConfig { sampler, steps, cfg, count, batch, ..SampleConfig::default() }
    }

    /// How often the model sees each image: once a step, and with guidance once more.
    pub fn passes(&self) -> usize {
        self.steps * (1 + usize::from(self.cfg != 1.0))
    }

    /// Checks that the numbers are possible.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.samples == 0 || self.steps == 0 {
            return Err("samples and steps must be at least 1".into());
        }
        if self.samples > MAX_SAMPLES {
            return Err(format!("samples must be at most {MAX_SAMPLES}, found {}", self.samples));
        }
        if !self.cfg.is_finite() {
            return Err(format!("cfg must be finite, found {}", self.cfg));
        }
        self.sampling(1).schedule().map(drop).map_err(|e| format!("steps: {e}"))
    }
}

/// Whether any entry chooses blocks by locality.
pub fn needs_locality(grafts: &[GraftConfig]) -> bool {
    grafts.iter().any(|graft| graft.blocks.by_locality())
}

/// The entries with the blocks that the teacher's locality, one value a block, leads to.
///
/// # Errors
/// When a share is not in (0, 1], or more blocks are asked for than there are.
pub fn choose(grafts: &[GraftConfig], locality: &[f64]) -> Result<Vec<GraftConfig>> {
    let chosen =
        |graft: &GraftConfig| Ok(GraftConfig { blocks: graft.blocks.choose(locality)?, ..graft.clone() });
    grafts.iter().map(chosen).collect()
}

/// Locality of a model's blocks where it is unknown: the first ones stand for the most local.
pub fn unknown_locality(depth: usize) -> Vec<f64> {
    (0..depth).rev().map(|block| block as f64).collect()
}

/// Checks that blocks can be chosen by the locality of a teacher's attention, before anything is measured.
///
/// # Errors
/// When a block has no full attention, every token is near, or an entry asks for blocks that are not there.
pub fn check_locality(
    grafts: &[GraftConfig],
    settings: &LocalityConfig,
    teacher: &Architecture,
) -> Result<()> {
    if let Some(graft) = teacher.grafts.iter().find(|graft| graft.slot == Slot::Attention) {
        return Err(Error::Plan(format!(
            "block {} of the teacher holds {} instead of attention; blocks can be chosen by locality in an ungrafted \
             model only",
            graft.block,
            graft.operator.name()
        )));
    }
    let tokens = teacher.dit.tokens();
    if settings.k + 1 >= tokens {
        return Err(Error::Plan(format!(
            "locality.k = {} reaches every one of the {tokens} tokens; expected less than {}",
            settings.k,
            tokens.saturating_sub(1)
        )));
    }
    choose(grafts, &unknown_locality(teacher.dit.depth)).map(drop)
}
