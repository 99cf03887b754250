use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::selection::{All, BlockSelection};
use crate::error::{Error, Result};
use crate::model::{Architecture, MergeInit};

/// One `[[restructure]]` entry. Blocks are those of the original model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum RestructureConfig {
    /// Takes blocks out.
    Drop(DropConfig),
    /// Lets consecutive blocks run side by side.
    ParallelPairs(ParallelPairsConfig),
}

/// Blocks that are taken out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DropConfig {
    /// Which.
    pub blocks: BlockSelection,
}

/// Pairs of blocks that get the same tokens, their updates merged by a linear layer (the paper's section 6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ParallelPairsConfig {
    /// Which.
    pub pairs: PairSelection,
    /// How the merges start.
    #[serde(default)]
    pub merge_init: MergeInit,
}

/// Which blocks run side by side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected pairs = \"all\" or a list such as [[0, 1], [4, 5]]")]
pub enum PairSelection {
    /// `"all"`: blocks 0 and 1, 2 and 3, …
    All(All),
    /// Pairs of consecutive blocks.
    List(Vec<[usize; 2]>),
}

impl PairSelection {
    /// The pairs of a model.
    ///
    /// # Errors
    /// When there are none, `"all"` leaves a block over, or a listed pair is none of two consecutive blocks.
    pub fn resolve(&self, model: &Architecture) -> Result<Vec<[usize; 2]>> {
        let depth = model.dit.depth;
        match self {
            Self::All(All::All) if !depth.is_multiple_of(2) => Err(Error::Plan(format!(
                "pairs: \"all\" needs an even number of blocks, but the model has {depth}; list the pairs, such as [[0, 1], [2, 3]]"
            ))),
            Self::All(All::All) => Ok((0..depth / 2).map(|j| [2 * j, 2 * j + 1]).collect()),
            Self::List(list) if list.is_empty() => {
                Err(Error::Plan(format!("pairs: nothing is selected of {depth} blocks")))
            }
            Self::List(list) => Ok(model.with_pairs(list.clone())?.pairs),
        }
    }
}

/// What a restructure did to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restructure {
    /// It was taken out.
    Dropped,
    /// It runs side by side with the block of this number.
    ParallelWith(usize),
}

impl fmt::Display for Restructure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Dropped => f.write_str("dropped"),
            Self::ParallelWith(block) => write!(f, "in parallel with block {block}"),
        }
    }
}

/// What all `[[restructure]]` entries come to.
pub(super) struct Resolved {
    /// What becomes of each block.
    pub blocks: Vec<Option<Restructure>>,
    /// How the merges of new pairs start, by the pair's first block.
    pub merges: BTreeMap<usize, MergeInit>,
}

/// What entries make of the blocks of `model`.
///
/// # Errors
/// When a selection does not fit the model, or two restructures meet in a block.
pub(super) fn resolve(model: &Architecture, entries: &[RestructureConfig]) -> Result<Resolved> {
    let mut blocks = vec![None; model.dit.depth];
    for &[first, second] in &model.pairs {
        blocks[first] = Some(Restructure::ParallelWith(second));
        blocks[second] = Some(Restructure::ParallelWith(first));
    }
    let mut put = |block: usize, change: Restructure| match blocks[block].replace(change) {
        Some(other) => {
            Err(Error::Plan(format!("block {block} is restructured twice: {other}, and {change}")))
        }
        None => Ok(()),
    };
    let mut merges = BTreeMap::new();
    for entry in entries {
        match entry {
            RestructureConfig::Drop(config) => {
                let dropped = config.blocks.resolve(model.dit.depth)?;
                dropped.into_iter().try_for_each(|block| put(block, Restructure::Dropped))?;
            }
            RestructureConfig::ParallelPairs(config) => {
                for [first, second] in config.pairs.resolve(model)? {
                    put(first, Restructure::ParallelWith(second))?;
                    put(second, Restructure::ParallelWith(first))?;
                    merges.insert(first, config.merge_init);
                }
            }
        }
    }
    // What earlier edits did is none of this one's doing.
    model.pairs.as_flattened().iter().for_each(|&block| blocks[block] = None);
    Ok(Resolved { blocks, merges })
}
