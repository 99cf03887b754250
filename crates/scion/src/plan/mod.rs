//! What a recipe would change: from block selections to a checked architecture.

mod foreign;
mod inherit;
mod locality;
mod selection;

use std::collections::BTreeMap;

pub use foreign::{grafted_architecture, model_architecture};
pub use inherit::{Ancestor, check_inherits, needs_activations};
pub use locality::{LocalityConfig, choose, needs_locality};
pub use selection::BlockSelection;

use crate::capture::Site;
use crate::config::GraftConfig;
use crate::error::{Error, Result};
use crate::model::{Architecture, Replacement};

/// Applies `[[graft]]` entries to an untouched model.
///
/// # Errors
/// When a selection or an operator does not fit the model, or two entries meet in one slot.
pub fn graft(model: &Architecture, grafts: &[GraftConfig]) -> Result<Architecture> {
    let mut replacements = model.grafts.clone();
    for ((block, slot), entry) in entries(grafts, model.dit.depth)? {
        replacements.push(Replacement { block, slot, operator: grafts[entry].operator.clone() });
    }
    model.with_grafts(replacements)
}

/// The sites that `[[graft]]` entries name, each with the entry's index.
///
/// # Errors
/// When a selection does not fit a model of that depth, or two entries meet in one slot.
pub fn entries(grafts: &[GraftConfig], depth: usize) -> Result<BTreeMap<Site, usize>> {
    let mut sites = BTreeMap::new();
    for (entry, graft) in grafts.iter().enumerate() {
        for block in graft.blocks.resolve(depth)? {
            if sites.insert((block, graft.target), entry).is_some() {
                let slot = graft.target.name();
                return Err(Error::Plan(format!("{slot} of block {block} is grafted twice")));
            }
        }
    }
    Ok(sites)
}
