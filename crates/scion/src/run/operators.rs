use std::path::Path;

use burn::tensor::Device;

use crate::checkpoint::Checkpoint;
use crate::config::Recipe;
use crate::error::{Error, Result};
use crate::model::{Architecture, Dit, load, load_operator};
use crate::operator::{OperatorConfig, Slot};
use crate::plan::{self, Plan};

/// Stands for a block's index in the names of operator files.
const BLOCK: &str = "{block}";
/// The entry of a stage-1 file of the published code that holds the operator.
const ENTRY: &str = "model";

/// A checkpoint with operators that were trained apart, one file each, as the published stage 1 leaves them.
///
/// `files` holds one name for each `[[graft]]` entry, in which `{block}` stands for the block's index. Of PyTorch files
/// the entry `model` is taken.
///
/// # Errors
/// When names and entries do not match, a file cannot be read, or its tensors are not those of the entry's operator.
pub fn with_stored_operators(
    teacher: &Checkpoint,
    recipe: &Recipe,
    files: &[String],
    device: &Device,
) -> Result<(Dit, Architecture)> {
    plan::refuse_restructures(recipe)?;
    let native = plan::model_architecture(teacher, &recipe.model)?;
    let grafted = Plan::new(&native, &recipe.grafts, &[])?.after;
    let sites = plan::entries(&recipe.grafts, native.dit.depth)?;
    check_names(files, sites.values().copied(), recipe.grafts.len())?;
    let mut model = load(teacher, &native, device)?;
    for ((block, slot), entry) in sites {
        let name = files[entry].replace(BLOCK, &block.to_string());
        let operator = grafted.operator(block, slot);
        let read = open(Path::new(&name))
            .and_then(|file| load_operator(&file, &operator, native.dit.hidden, device))
            .map_err(|e| told(e, entry, &operator, (block, slot)))?;
        *model.blocks_mut()[block].operator_mut(slot) = read;
    }
    Ok((model, grafted))
}

/// An error about tensors, with what the recipe says of them.
fn told(error: Error, entry: usize, operator: &OperatorConfig, (block, slot): (usize, Slot)) -> Error {
    let Error::Tensors { path, detail } = error else { return error };
    let (entry, name, slot) = (entry + 1, operator.name(), slot.name());
    let detail = format!("[[graft]] entry {entry} says {name} in {slot} of block {block}: {detail}");
    Error::Tensors { path, detail }
}

fn open(path: &Path) -> Result<Checkpoint> {
    let pickled = path.extension().is_none_or(|end| end != "safetensors");
    Checkpoint::open_entry(path, pickled.then_some(ENTRY))
}

/// Checks that there is one name for each entry, and that it tells the entry's blocks apart.
fn check_names(files: &[String], sites: impl Iterator<Item = usize>, entries: usize) -> Result<()> {
    if files.len() != entries {
        return Err(Error::Usage(format!(
            "--operators is given {} times, but the recipe has {entries} [[graft]] entries; expected one name for each",
            files.len()
        )));
    }
    let mut blocks = vec![0; entries];
    sites.for_each(|entry| blocks[entry] += 1);
    let mut unclear = files.iter().zip(blocks).filter(|(name, blocks)| *blocks > 1 && !name.contains(BLOCK));
    match unclear.next() {
        None => Ok(()),
        Some((name, blocks)) => Err(Error::Usage(format!(
            "--operators {name}: its [[graft]] entry names {blocks} blocks; write {BLOCK} where a file's name has the \
             block's index"
        ))),
    }
}
