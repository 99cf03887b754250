//! What stands in a checkpoint, told by the file and a recipe together. Files of the original layout hold no
//! architecture: where they were grafted, the recipe's `[[graft]]` entries say with what.

use super::{Plan, entries};
use crate::checkpoint::{Checkpoint, Layout, check_names};
use crate::config::{GraftConfig, ModelConfig, Recipe};
use crate::error::{Error, Result};
use crate::model::{Architecture, DitConfig, architecture_of, operator_tensors};
use crate::operator::Slot;

/// The architecture of the checkpoint that `[model]` names.
///
/// # Errors
/// When the file is no DiT, or has other sizes than the section names.
pub fn model_architecture(file: &Checkpoint, model: &ModelConfig) -> Result<Architecture> {
    let sizes = model.named_sizes()?;
    let found = read(file, model.heads, sizes.as_ref())?;
    check_sizes(file, &found.dit, sizes.as_ref())?;
    Ok(found)
}

/// The architecture of a checkpoint of the original layout that was grafted as the recipe says. `heads` overrides the
/// recipe's.
///
/// # Errors
/// When the file is no DiT, tells its grafts itself, or holds other tensors in a slot than the recipe leads to expect;
/// names the entry and the tensors.
pub fn grafted_architecture(
    file: &Checkpoint,
    recipe: &Recipe,
    heads: Option<usize>,
) -> Result<Architecture> {
    if file.layout() == Layout::Scion {
        return Err(Error::Usage(format!(
            "{}: this Scion file's header says what was grafted; leave out --recipe",
            file.path().display()
        )));
    }
    refuse_restructures(recipe)?;
    let sizes = recipe.model.named_sizes()?;
    let mut native = read(file, heads.or(recipe.model.heads), sizes.as_ref())?;
    let taken = entries(&recipe.grafts, native.dit.depth)?;
    let own = (0..native.dit.depth).filter(|&block| !taken.contains_key(&(block, Slot::Mlp)));
    let stored = file.mlp_ratio(own, native.dit.hidden)?;
    // A model whose every MLP was replaced does not tell what stood there.
    let told = sizes.as_ref().map_or(4.0, |sizes| sizes.mlp_ratio);
    native.dit.mlp_ratio = stored.unwrap_or(told);
    check_sizes(file, &native.dit, sizes.as_ref())?;
    let grafted = Plan::new(&native, &recipe.grafts, &[])?.after;
    check_operators(file, &grafted, &recipe.grafts)?;
    Ok(grafted)
}

/// Refuses a recipe that does more than graft, where it is to describe files of the published code.
///
/// # Errors
/// When the recipe has a `[[restructure]]` entry.
pub fn refuse_restructures(recipe: &Recipe) -> Result<()> {
    if recipe.restructures.is_empty() {
        return Ok(());
    }
    Err(Error::Usage(
        "the recipe has [[restructure]] entries, of which files of the original layout tell nothing; expected [[graft]] \
         entries alone"
            .into(),
    ))
}

/// The file's architecture, with the head count of `sizes` where nothing better tells it.
fn read(file: &Checkpoint, heads: Option<usize>, sizes: Option<&DitConfig>) -> Result<Architecture> {
    let Some(sizes) = sizes.filter(|_| file.layout() != Layout::Scion) else {
        return architecture_of(file, heads);
    };
    let (hidden, ..) = file.patches()?;
    if hidden != sizes.hidden {
        return Err(other_sizes(file, &format!("hidden {hidden} instead of {}", sizes.hidden)));
    }
    architecture_of(file, heads.or(Some(sizes.heads)))
}

/// Checks a checkpoint's sizes against those that the recipe names.
fn check_sizes(file: &Checkpoint, found: &DitConfig, wanted: Option<&DitConfig>) -> Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    let fields = |sizes: &DitConfig| serde_json::to_value(sizes).expect("sizes are plain data");
    let (found, wanted) = (fields(found), fields(wanted));
    let wanted = wanted.as_object().expect("sizes are a struct");
    let differ = wanted.iter().filter(|(name, value)| found[name.as_str()] != **value);
    let differences: Vec<String> =
        differ.map(|(name, value)| format!("{name} {} instead of {value}", found[name.as_str()])).collect();
    if differences.is_empty() { Ok(()) } else { Err(other_sizes(file, &differences.join(", "))) }
}

fn other_sizes(file: &Checkpoint, differences: &str) -> Error {
    Error::Usage(format!(
        "{}: has other sizes than the recipe's [model] says: {differences}",
        file.path().display()
    ))
}

/// Checks what the file holds in each slot.
fn check_operators(file: &Checkpoint, grafted: &Architecture, grafts: &[GraftConfig]) -> Result<()> {
    let taken = entries(grafts, grafted.dit.depth)?;
    for (block, slot) in (0..grafted.dit.depth).flat_map(|block| Slot::ALL.map(|slot| (block, slot))) {
        let operator = grafted.operator(block, slot);
        let prefix = format!("blocks.{block}.{}.", slot.key());
        let expected: Vec<_> = operator_tensors(&operator, grafted.dit.hidden)?
            .into_iter()
            .map(|(name, shape)| (format!("{prefix}{name}"), shape))
            .collect();
        let found = file.names().filter(|name| name.starts_with(&prefix));
        let found = found.filter_map(|name| Some((name, file.entry(name)?.shape.as_slice())));
        let Err(Error::Tensors { path, detail }) = check_names(file.path(), &expected, found) else {
            continue;
        };
        let (name, slot_name) = (operator.name(), slot.name());
        let who = match taken.get(&(block, slot)) {
            Some(entry) => {
                format!(
                    "[[graft]] entry {} of the recipe says {name} in {slot_name} of block {block}",
                    entry + 1
                )
            }
            None => format!(
                "no [[graft]] entry of the recipe names {slot_name} of block {block}, where {name} is expected then"
            ),
        };
        return Err(Error::Tensors { path, detail: format!("{who}: {detail}") });
    }
    Ok(())
}
