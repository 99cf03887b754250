use std::collections::HashMap;

use burn::tensor::Device;

use crate::capture::Site;
use crate::error::Result;
use crate::model::{Architecture, Dit, apply_weights, parameters};
use crate::operator::{Init, Operator};

/// Stream of the seed from which new operators are drawn.
const GRAFT_STREAM: u64 = 1;

/// The teacher with fresh operators at the grafted sites, everything else as it was.
///
/// # Errors
/// When an operator's settings do not fit the model.
pub(crate) fn with_fresh_operators(
    teacher: &Dit,
    native: &Architecture,
    grafted: &Architecture,
    seed: u64,
    device: &Device,
) -> Result<Dit> {
    let mut kept: HashMap<String, Vec<f32>> = HashMap::new();
    let replaced: Vec<String> = new_sites(native, grafted)
        .iter()
        .map(|(block, slot)| format!("blocks.{block}.{}.", slot.key()))
        .collect();
    parameters(teacher, |name, data| {
        if !replaced.iter().any(|prefix| name.starts_with(prefix)) {
            kept.insert(name, data.try_into_vec().expect("parameters are f32"));
        }
    });
    let model = Dit::new(grafted, &mut Init::new(seed, GRAFT_STREAM, device))?;
    apply_weights(model, |name| Ok(kept.remove(name)))
}

/// The sites that a plan replaces, ordered by block and slot.
pub(crate) fn new_sites(native: &Architecture, grafted: &Architecture) -> Vec<Site> {
    let sites = grafted.grafts.iter().map(|g| (g.block, g.slot));
    sites
        .filter(|&(block, slot)| native.replacement(block, slot) != grafted.replacement(block, slot))
        .collect()
}

/// Puts operators into a model.
pub(super) fn place(mut model: Dit, operators: impl IntoIterator<Item = (Site, Operator)>) -> Dit {
    for ((block, slot), operator) in operators {
        *model.blocks_mut()[block].operator_mut(slot) = operator;
    }
    model
}
