use std::path::Path;

use burn::tensor::Device;

use super::locality::{self, Locality};
use super::prompts::with_prompts;
use super::teacher::Teacher;
use super::{is_at_hand, with_checkpoint};
use crate::checkpoint::Checkpoint;
use crate::config::Recipe;
use crate::error::Result;
use crate::model::{Architecture, DitConfig, load};
use crate::plan::{self, Plan};

/// What a recipe would change.
#[derive(Debug)]
pub struct Planned {
    /// The model before and after.
    pub plan: Plan,
    /// Whether the sizes are those that the recipe names, because its checkpoint is no file here. Blocks that the
    /// checkpoint's attention would choose are then the first ones, where it is most local, or the last.
    pub unread: bool,
}

/// Plans a recipe. Sizes that the recipe names stand for a checkpoint that is no file here; without them it is
/// fetched. Nothing is computed but the locality of the teacher's attention, where the recipe chooses blocks by it and the
/// run folder `out` does not hold it yet.
///
/// # Errors
/// When the checkpoint cannot be read or has other sizes than the recipe names, or the edit does not fit the model.
pub fn plan_of(recipe: &Recipe, out: &Path, quiet: bool) -> Result<Planned> {
    plan_with(recipe, out, &mut Vec::new(), quiet)
}

/// [`plan_of`] with what was measured for other recipes, to which it adds what it measures.
///
/// # Errors
/// As [`plan_of`].
pub(crate) fn plan_with(
    recipe: &Recipe,
    out: &Path,
    known: &mut Vec<Locality>,
    quiet: bool,
) -> Result<Planned> {
    let model = &recipe.model;
    let sizes = model.named_sizes()?;
    let edit = |before: &Architecture, locality: &[f64]| {
        let plan = Plan::new(before, &plan::choose(&recipe.grafts, locality)?, &recipe.restructures)?;
        plan::check_finetuning(recipe, &plan)?;
        Ok(plan)
    };
    let from_sizes = |sizes: DitConfig, unread| {
        let before = Architecture::native(sizes);
        if plan::needs_locality(&recipe.grafts) {
            plan::check_locality(&recipe.grafts, &recipe.locality.clone().unwrap_or_default(), &before)?;
        }
        Ok(Planned { plan: edit(&before, &plan::unknown_locality(before.dit.depth))?, unread })
    };
    match (&model.checkpoint, sizes) {
        (Some(name), Some(sizes)) if !is_at_hand(name) => from_sizes(sizes, true),
        (Some(name), _) => with_checkpoint(name, |file| {
            let before = plan::model_architecture(file, model)?;
            let locality = if plan::needs_locality(&recipe.grafts) {
                measured(recipe, file, &before, out, known, quiet)?.blocks().to_vec()
            } else {
                vec![0.0; before.dit.depth]
            };
            Ok(Planned { plan: edit(&before, &locality)?, unread: false })
        }),
        (None, sizes) => from_sizes(sizes.expect("a recipe names a checkpoint or sizes"), false),
    }
}

fn measured(
    recipe: &Recipe,
    file: &Checkpoint,
    native: &Architecture,
    out: &Path,
    known: &mut Vec<Locality>,
    quiet: bool,
) -> Result<Locality> {
    let model = with_prompts(load(file, native, &Device::flex())?, recipe, &native.dit, None, quiet)?;
    let teacher = Teacher { model, architecture: native.clone() };
    if let Some(stored) = Locality::stored(recipe, &teacher, &out.join(locality::FILE))? {
        return Ok(stored);
    }
    for other in &*known {
        if other.is_of(recipe, &teacher)? {
            return Ok(other.clone());
        }
    }
    let measured = Locality::measure(recipe, &teacher, quiet)?;
    known.push(measured.clone());
    Ok(measured)
}
