use std::path::Path;

use burn::tensor::Device;

use super::locality::{self, Locality};
use super::teacher::Teacher;
use super::{is_at_hand, with_checkpoint};
use crate::checkpoint::Checkpoint;
use crate::config::Recipe;
use crate::error::Result;
use crate::model::{Architecture, load};
use crate::plan;

/// What a recipe would change.
#[derive(Debug)]
pub struct Planned {
    /// The model before the grafts.
    pub native: Architecture,
    /// The model after them.
    pub grafted: Architecture,
    /// Whether the sizes are those that the recipe names, because its checkpoint is not on this machine. Blocks that the
    /// checkpoint's attention would choose are then the first ones.
    pub unread: bool,
}

/// Plans a recipe. Sizes that the recipe names stand for a checkpoint that is not on this machine; without them it is
/// fetched. Nothing is computed but the locality of the teacher's attention, where the recipe chooses blocks by it and the
/// run folder `out` does not hold it yet.
///
/// # Errors
/// When the checkpoint cannot be read or has other sizes than the recipe names, or the grafts do not fit the model.
pub fn plan_of(recipe: &Recipe, out: &Path, quiet: bool) -> Result<Planned> {
    let model = &recipe.model;
    let sizes = model.named_sizes()?;
    let from_sizes = |native: Architecture, unread| {
        let unknown = vec![0.0; native.dit.depth];
        let grafted = plan::graft(&native, &plan::choose(&recipe.grafts, &unknown)?)?;
        Ok(Planned { native, grafted, unread })
    };
    match (&model.checkpoint, sizes) {
        (Some(name), Some(sizes)) if !is_at_hand(name) => from_sizes(Architecture::native(sizes), true),
        (Some(name), _) => with_checkpoint(name, |file| {
            let native = plan::model_architecture(file, model)?;
            let grafted = if plan::needs_locality(&recipe.grafts) {
                let locality = measured(recipe, file, &native, out, quiet)?;
                plan::graft(&native, &plan::choose(&recipe.grafts, locality.blocks())?)?
            } else {
                plan::graft(&native, &recipe.grafts)?
            };
            Ok(Planned { native, grafted, unread: false })
        }),
        (None, sizes) => {
            from_sizes(Architecture::native(sizes.expect("a recipe names a checkpoint or sizes")), false)
        }
    }
}

fn measured(
    recipe: &Recipe,
    file: &Checkpoint,
    native: &Architecture,
    out: &Path,
    quiet: bool,
) -> Result<Locality> {
    let model = load(file, native, &Device::flex())?;
    let teacher = Teacher { model, architecture: native.clone() };
    match Locality::stored(recipe, &teacher, &out.join(locality::FILE))? {
        Some(stored) => Ok(stored),
        None => Locality::measure(recipe, &teacher, quiet),
    }
}
