use super::{is_at_hand, with_checkpoint};
use crate::config::Recipe;
use crate::error::Result;
use crate::model::Architecture;
use crate::plan;

/// What a recipe would change.
#[derive(Debug)]
pub struct Planned {
    /// The model before the grafts.
    pub native: Architecture,
    /// The model after them.
    pub grafted: Architecture,
    /// Whether the sizes are those that the recipe names, because its checkpoint is not on this machine.
    pub unread: bool,
}

/// Plans a recipe without computing anything. Sizes that the recipe names stand for a checkpoint that is not on this
/// machine; without them it is fetched.
///
/// # Errors
/// When the checkpoint cannot be read or has other sizes than the recipe names, or the grafts do not fit the model.
pub fn plan_of(recipe: &Recipe) -> Result<Planned> {
    let (model, sizes) = (&recipe.model, recipe.model.named_sizes()?);
    let (native, unread) = match (&model.checkpoint, sizes) {
        (Some(name), Some(sizes)) if !is_at_hand(name) => (Architecture::native(sizes), true),
        (Some(name), _) => (with_checkpoint(name, |file| plan::model_architecture(file, model))?, false),
        (None, sizes) => (Architecture::native(sizes.expect("a recipe names a checkpoint or sizes")), false),
    };
    let grafted = plan::graft(&native, &recipe.grafts)?;
    Ok(Planned { native, grafted, unread })
}
