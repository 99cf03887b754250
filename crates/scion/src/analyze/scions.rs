//! The operators that a run's stage 1 trained, for trying each alone in the model.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::Subject;
use crate::checkpoint::Checkpoint;
use crate::config::{DataConfig, Recipe};
use crate::error::{Error, Result};
use crate::model::{Part, Site, architecture_of, load};
use crate::operator::Slot;
use crate::run::TEACHER;

/// What a run offers.
#[derive(Debug)]
pub struct Scions {
    /// The run's folder as it was called.
    pub run: String,
    /// SHA-256 of its weights after stage 1.
    pub sha256: String,
    /// Its data.
    pub data: DataConfig,
    /// Name and operator by place.
    pub(super) operators: BTreeMap<Site, (String, Part)>,
}

impl Scions {
    /// Reads the operators that differ from the model's from a run's folder; `fingerprint` tells the model's weights.
    ///
    /// # Errors
    /// When the folder holds no run, its stage 1 is not finished, its teacher is another model, or its edit renumbers blocks
    /// or replaces no single operator.
    pub fn read(run: &Path, subject: &Subject, fingerprint: &str) -> Result<Self> {
        let weights = run.join("stage1.safetensors");
        for file in [&run.join("recipe.toml"), &weights] {
            if !file.is_file() {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                let detail = format!("has no {name}; expected the folder of a run whose stage 1 is finished");
                return Err(Error::invalid(run, detail));
            }
        }
        let teacher = run.join(TEACHER);
        let found = fs::read_to_string(&teacher).map_err(|e| Error::io("read", &teacher, e))?;
        if found.trim() != fingerprint {
            let detail = format!(
                "is the run of a teacher with other weights (SHA-256 {}…) than this model's ({}…)",
                found.trim().get(..12).unwrap_or_default(),
                &fingerprint[..12]
            );
            return Err(Error::invalid(run, detail));
        }
        let recipe = Recipe::read(&run.join("recipe.toml"))?;
        let file = Checkpoint::open(&weights)?;
        let grafted = architecture_of(&file, None)?;
        let before = subject.architecture;
        if grafted.dit != before.dit || grafted.pairs != before.pairs {
            let detail =
                "drops blocks or lets them run side by side; expected a run that only replaces operators";
            return Err(Error::invalid(run, detail));
        }
        let model = load(&file, &grafted, &subject.model.device())?;
        let weights_hash = crate::model::fingerprint(&model);
        let sites = (0..before.dit.depth).flat_map(|block| Slot::ALL.map(|slot| (block, slot)));
        let operators: BTreeMap<Site, (String, Part)> = sites
            .filter(|&(block, slot)| grafted.replacement(block, slot) != before.replacement(block, slot))
            .map(|(block, slot)| {
                let site = Site::Operator(block, slot);
                (site, (grafted.operator(block, slot).name(), model.part(site)))
            })
            .collect();
        if operators.is_empty() {
            return Err(Error::invalid(run, "has no operator that differs from the model's"));
        }
        Ok(Self { run: run.display().to_string(), sha256: weights_hash, data: recipe.data, operators })
    }
}
