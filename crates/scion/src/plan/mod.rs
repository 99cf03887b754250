//! What a recipe would change: from block selections to a checked architecture.

mod finetuning;
mod selection;

pub use finetuning::{BlockPair, check_finetuning, matched_blocks};
pub use selection::BlockSelection;

use crate::config::GraftConfig;
use crate::error::Result;
use crate::model::{Architecture, Replacement};

/// Applies `[[graft]]` entries to an untouched model.
///
/// # Errors
/// When a selection or an operator does not fit the model, or two entries meet in one slot.
pub fn graft(model: &Architecture, grafts: &[GraftConfig]) -> Result<Architecture> {
    let mut replacements = model.grafts.clone();
    for graft in grafts {
        for block in graft.blocks.resolve(model.dit.depth)? {
            replacements.push(Replacement { block, slot: graft.target, operator: graft.operator.clone() });
        }
    }
    model.with_grafts(replacements)
}
