use std::path::Path;

use serde::{Deserialize, Serialize};

use super::prompts::prompts_fingerprint;
use super::{Glimpse, Progress, Teacher, watch};
use crate::config::{PrecisionConfig, Recipe};
use crate::data::samples::labels_in_groups;
use crate::error::{Error, Result};
use crate::model::{Seen, fingerprint};
use crate::operator::Operator;
use crate::plan::{self, LocalityConfig};
use crate::report::results::LocalityResult;

/// Where a run keeps what it measured.
pub(super) const FILE: &str = "locality.json";

/// How local a teacher's attention is, and all that this was measured with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Locality {
    settings: LocalityConfig,
    seed: u64,
    precision: PrecisionConfig,
    teacher_sha256: String,
    /// Of what a text-to-image teacher drew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prompts_sha256: Option<String>,
    /// L_k of each block, from 0 to 1.
    blocks: Vec<f64>,
}

impl Locality {
    /// L_k of each block, from 0 to 1.
    pub fn blocks(&self) -> &[f64] {
        &self.blocks
    }

    /// For a report, with the blocks that were chosen.
    pub(super) fn result(self, chosen: Vec<usize>) -> LocalityResult {
        let LocalityConfig { k, samples, steps, cfg } = self.settings;
        LocalityResult { k, samples, steps, cfg, blocks: self.blocks, chosen }
    }

    /// What a file holds, if it was measured as the recipe says on this teacher.
    ///
    /// # Errors
    /// When the file is damaged.
    pub(super) fn stored(recipe: &Recipe, teacher: &Teacher, file: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", file, e)),
        };
        let found: Self =
            serde_json::from_str(&text).map_err(|e| Error::invalid(file, format!("is damaged: {e}")))?;
        Ok(found.is_of(recipe, teacher)?.then_some(found))
    }

    /// Whether this was measured as the recipe says on this teacher.
    ///
    /// # Errors
    /// When the recipe's prompts cannot be read.
    pub(super) fn is_of(&self, recipe: &Recipe, teacher: &Teacher) -> Result<bool> {
        let wanted = Self { blocks: self.blocks.clone(), ..Self::unmeasured(recipe, teacher)? };
        Ok(*self == wanted && self.blocks.len() == teacher.architecture.dit.depth)
    }

    fn unmeasured(recipe: &Recipe, teacher: &Teacher) -> Result<Self> {
        Ok(Self {
            settings: recipe.locality.clone().unwrap_or_default(),
            seed: recipe.seed,
            precision: recipe.precision,
            teacher_sha256: fingerprint(&teacher.model),
            prompts_sha256: prompts_fingerprint(recipe, &teacher.architecture.dit)?,
            blocks: Vec::new(),
        })
    }

    /// Samples from the teacher and watches its attention.
    ///
    /// # Errors
    /// When it cannot be measured as asked.
    pub(super) fn measure(recipe: &Recipe, teacher: &Teacher, quiet: bool) -> Result<Self> {
        let mut measured = Self::unmeasured(recipe, teacher)?;
        let (sizes, settings) = (&teacher.architecture.dit, &measured.settings);
        plan::check_locality(&recipe.grafts, settings, &teacher.architecture)?;
        let count = settings.samples;
        let labels = labels_in_groups(count, teacher.model.labels(sizes)?);
        // Summed image by image, so that batches do not change the order.
        let mut sums = vec![vec![0f64; count]; sizes.depth];
        let mut progress = Progress::new("locality", count as u64, 0, quiet);
        let sampling = settings.sampling(recipe.sample.batch);
        let see = |Glimpse { first, images, seen, .. }: Glimpse| {
            let Seen::Operator { block, slot, input, .. } = seen else { return };
            let Operator::Attention(attention) = teacher.model.blocks()[block].operator(slot) else { return };
            let near = attention.locality(input.clone(), settings.k);
            near.iter().enumerate().for_each(|(i, near)| sums[block][first + i % images] += near);
        };
        let mut done = 0;
        watch(&teacher.model, sizes, &sampling, recipe.seed, &labels, see, |images| {
            done += images as u64;
            progress.set(done, "");
        })?;
        let passes = settings.passes();
        let mean = |sums: Vec<f64>| sums.iter().map(|sum| sum / passes as f64).sum::<f64>() / count as f64;
        measured.blocks = sums.into_iter().map(mean).collect();
        Ok(measured)
    }
}
