//! What a recipe would change: from selections of blocks to a checked edit.

mod finetuning;
mod foreign;
mod inherit;
mod locality;
mod restructure;
mod selection;

use std::collections::BTreeMap;

pub use finetuning::{BlockPair, check_finetuning, matched_blocks};
pub use foreign::{grafted_architecture, model_architecture, refuse_restructures};
pub use inherit::{Ancestor, check_inherits, needs_activations};
pub use locality::{LocalityConfig, check_locality, choose, needs_locality, unknown_locality};
pub use restructure::{DropConfig, PairSelection, ParallelPairsConfig, Restructure, RestructureConfig};
pub use selection::{All, BlockSelection, Rule};

use restructure::Resolved;

use crate::config::{GraftConfig, InitConfig};
use crate::error::{Error, Result};
use crate::model::{Architecture, DitConfig, MergeInit, Replacement, Site};
use crate::operator::{OperatorConfig, Slot};

/// An edit of a model. Where nothing else is said, blocks have the numbers that they have before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The model before.
    pub before: Architecture,
    /// The model after, its blocks numbered anew.
    pub after: Architecture,
    /// The number before of every block of `after`, ascending.
    pub origin: Vec<usize>,
    /// What becomes of every block of `before`, besides grafts.
    pub restructured: Vec<Option<Restructure>>,
    /// How the merges of new pairs start, by the pair's first block.
    pub merges: BTreeMap<usize, MergeInit>,
    /// New operators and new pairs, in the order of their blocks.
    pub sites: Vec<Site>,
    /// How new operators start.
    pub inits: BTreeMap<Site, InitConfig>,
}

impl Plan {
    /// Applies `[[graft]]` and `[[restructure]]` entries to a model.
    ///
    /// # Errors
    /// When a selection or an operator does not fit the model, two edits meet in one place, or no block is left.
    pub fn new(
        before: &Architecture,
        grafts: &[GraftConfig],
        restructures: &[RestructureConfig],
    ) -> Result<Self> {
        let depth = before.dit.depth;
        let Resolved { blocks: restructured, merges } = restructure::resolve(before, restructures)?;
        let (mut replacements, mut inits) = (before.grafts.clone(), BTreeMap::new());
        let mut sites: Vec<Site> = merges.keys().map(|&first| Site::Pair(first)).collect();
        let entries = entries(grafts, depth)?;
        // An operator of an earlier edit gives way.
        replacements.retain(|old| !entries.contains_key(&(old.block, old.slot)));
        for ((block, slot), entry) in entries {
            if let Some(change) = restructured[block] {
                let slot = slot.name();
                return Err(Error::Plan(format!(
                    "block {block} is {change}, so that its {slot} cannot be grafted; choose one of the two"
                )));
            }
            sites.push(Site::Operator(block, slot));
            inits.insert(Site::Operator(block, slot), grafts[entry].init);
            replacements.push(Replacement { block, slot, operator: grafts[entry].operator.clone() });
        }
        sites.sort_by_key(|site| (site.block(), *site));
        let origin: Vec<usize> =
            (0..depth).filter(|&block| restructured[block] != Some(Restructure::Dropped)).collect();
        if origin.is_empty() {
            return Err(Error::Plan(format!("all {depth} blocks are dropped; at least one must stay")));
        }
        let after = renumbered(before, before.with_grafts(replacements)?.grafts, &merges, &origin)?;
        let plan = Self { before: before.clone(), after, origin, restructured, merges, sites, inits };
        plan.inheriting().try_for_each(|(_, new, old)| check_inherits(&new, &old))?;
        Ok(plan)
    }

    /// The sites whose operators inherit, with the new operator and the old one.
    pub fn inheriting(&self) -> impl Iterator<Item = (Site, OperatorConfig, OperatorConfig)> + '_ {
        self.inits.iter().filter(|(_, init)| **init == InitConfig::Inherit).filter_map(|(&site, _)| {
            let Site::Operator(block, slot) = site else { return None };
            let new = self.after.operator(self.place(site).block(), slot);
            Some((site, new, self.before.operator(block, slot)))
        })
    }

    /// The number that a block has after the edit, if it is still there.
    pub fn number(&self, block: usize) -> Option<usize> {
        self.origin.binary_search(&block).ok()
    }

    /// Where a site of this edit is in the model after it.
    pub fn place(&self, site: Site) -> Site {
        site.renumbered(|block| self.number(block).expect("sites are on blocks that stay"))
    }

    /// What a new operator or pair is called in tables.
    pub fn part_name(&self, site: Site) -> String {
        match site {
            Site::Operator(_, slot) => {
                let name = self.after.operator(self.place(site).block(), slot).name();
                if self.inits.get(&site) == Some(&InitConfig::Inherit) {
                    format!("{name}, inherited")
                } else {
                    name
                }
            }
            Site::Pair(first) => format!("parallel pair, {}", self.merges[&first].name()),
        }
    }

    /// Whether the edit leaves the model as it is.
    pub fn is_empty(&self) -> bool {
        self.sites.is_empty() && self.before.dit.depth == self.after.dit.depth
    }

    /// The sites that stage 1 has something to train at: operators without parameters are done as they are.
    pub fn trained_sites(&self) -> Vec<Site> {
        let trains = |site: &Site| match self.place(*site) {
            Site::Operator(block, slot) => {
                self.after.operator(block, slot).parameters(self.after.dit.hidden) > 0
            }
            Site::Pair(_) => true,
        };
        self.sites.iter().copied().filter(trains).collect()
    }
}

/// The slots, each with its block, that `[[graft]]` entries name, with the entry's index.
///
/// # Errors
/// When a selection does not fit a model of that depth, or two entries meet in one slot.
pub fn entries(grafts: &[GraftConfig], depth: usize) -> Result<BTreeMap<(usize, Slot), usize>> {
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

/// The model that is left: `grafts` and all pairs on the blocks in `origin`, which are numbered from 0.
fn renumbered(
    before: &Architecture,
    grafts: Vec<Replacement>,
    merges: &BTreeMap<usize, MergeInit>,
    origin: &[usize],
) -> Result<Architecture> {
    let number = |block: usize| origin.binary_search(&block).ok();
    let grafts =
        grafts.into_iter().filter_map(|graft| Some(Replacement { block: number(graft.block)?, ..graft }));
    let firsts = before.pairs.iter().map(|pair| &pair[0]).chain(merges.keys());
    let pairs = firsts.filter_map(|&first| Some([number(first)?, number(first + 1)?]));
    Architecture::native(DitConfig { depth: origin.len(), ..before.dit.clone() })
        .with_grafts(grafts.collect())?
        .with_pairs(pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::{HyenaXConfig, OperatorConfig, SlidingWindowConfig, Slot};

    fn model(depth: usize) -> Architecture {
        let dit = DitConfig::preset("dit-s-2-256").unwrap();
        Architecture::native(DitConfig { depth, ..dit })
    }

    fn list(blocks: &[usize]) -> BlockSelection {
        BlockSelection::List(blocks.into())
    }

    fn hyena(blocks: &[usize]) -> GraftConfig {
        let operator = OperatorConfig::HyenaX(HyenaXConfig::default());
        GraftConfig { target: Slot::Attention, blocks: list(blocks), operator, init: Default::default() }
    }

    fn dropped(blocks: &[usize]) -> RestructureConfig {
        RestructureConfig::Drop(DropConfig { blocks: list(blocks) })
    }

    fn pairs(pairs: &[[usize; 2]]) -> RestructureConfig {
        RestructureConfig::ParallelPairs(ParallelPairsConfig {
            pairs: PairSelection::List(pairs.into()),
            merge_init: MergeInit::Average,
        })
    }

    #[test]
    fn blocks_keep_their_numbers_in_recipes_and_get_new_ones_in_models() {
        let plan =
            Plan::new(&model(8), &[hyena(&[3, 7])], &[dropped(&[0, 4]), pairs(&[[5, 6], [1, 2]])]).unwrap();
        assert_eq!(plan.origin, [1, 2, 3, 5, 6, 7]);
        assert_eq!(plan.after.dit.depth, 6);
        assert_eq!(plan.after.pairs, [[0, 1], [3, 4]]);
        assert_eq!(plan.after.grafts.iter().map(|g| g.block).collect::<Vec<_>>(), [2, 5]);
        let (op, pair) = (|block| Site::Operator(block, Slot::Attention), Site::Pair);
        assert_eq!(plan.sites, [pair(1), op(3), pair(5), op(7)]);
        assert_eq!(
            plan.sites.iter().map(|&s| plan.place(s)).collect::<Vec<_>>(),
            [pair(0), op(2), pair(3), op(5)]
        );
        assert_eq!(plan.trained_sites(), plan.sites);
        assert_eq!(plan.restructured[4], Some(Restructure::Dropped));
        assert_eq!(plan.restructured[6], Some(Restructure::ParallelWith(5)));
        assert_eq!(plan.restructured[3], None);
    }

    #[test]
    fn edited_models_are_edited_again() {
        let first = Plan::new(&model(6), &[hyena(&[5])], &[pairs(&[[2, 3]])]).unwrap().after;
        let plan = Plan::new(&first, &[hyena(&[2])], &[dropped(&[0, 4])]).unwrap();
        assert_eq!(plan.after.pairs, [[1, 2]]);
        assert_eq!(plan.after.grafts.iter().map(|g| g.block).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(plan.sites, [Site::Operator(2, Slot::Attention)]);
        assert!(plan.merges.is_empty());
        assert_eq!(plan.restructured[2], None, "the pair is of the first edit");
        let refused = |entry| Plan::new(&first, &[], &[entry]).unwrap_err().to_string();
        assert!(refused(dropped(&[3])).contains("block 3 is restructured twice: in parallel with block 2"));
        assert!(refused(pairs(&[[1, 2]])).contains("block 2 is restructured twice"));
        assert!(Plan::new(&first, &[], &[]).unwrap().is_empty());
    }

    #[test]
    fn operators_inherit_from_what_they_replace() {
        let inherited = |graft: GraftConfig| GraftConfig { init: InitConfig::Inherit, ..graft };
        let first = Plan::new(&model(4), &[inherited(hyena(&[1])), hyena(&[2])], &[dropped(&[0])]).unwrap();
        let (site, new, old) = first.inheriting().next().unwrap();
        assert_eq!(site, Site::Operator(1, Slot::Attention));
        assert_eq!((new.name(), old.name()), ("hyena-x".into(), "attention".into()));
        assert_eq!(first.inheriting().count(), 1);
        assert_eq!(
            first.sites.iter().map(|&site| first.part_name(site)).collect::<Vec<_>>(),
            ["hyena-x, inherited", "hyena-x"]
        );
        let operator = OperatorConfig::SlidingWindow(SlidingWindowConfig { left: 4, right: 4, heads: 2 });
        let window = GraftConfig { operator, ..inherited(hyena(&[1])) };
        let error = Plan::new(&model(4), &[window], &[]).unwrap_err().to_string();
        assert!(error.contains("cannot inherit from attention: it has 2 heads instead of 6"), "{error}");
    }

    #[test]
    fn an_operator_of_an_earlier_edit_gives_way() {
        let first = Plan::new(&model(4), &[hyena(&[1, 2])], &[]).unwrap().after;
        let operator = OperatorConfig::SlidingWindow(SlidingWindowConfig { left: 4, right: 4, heads: 6 });
        let window = GraftConfig { operator, ..hyena(&[1]) };
        let second = Plan::new(&first, std::slice::from_ref(&window), &[]).unwrap();
        let names = [1, 2].map(|block| second.after.operator(block, Slot::Attention).name());
        assert_eq!(names, ["sliding-window 4+1+4", "hyena-x"]);
        assert_eq!(second.sites, [Site::Operator(1, Slot::Attention)]);
        let inherited = GraftConfig { init: InitConfig::Inherit, ..window };
        let error = Plan::new(&first, &[inherited], &[]).unwrap_err().to_string();
        assert!(error.contains("cannot inherit from hyena-x"), "{error}");
    }

    #[test]
    fn a_drop_alone_trains_nothing() {
        let plan = Plan::new(&model(3), &[], &[dropped(&[1])]).unwrap();
        assert!(plan.trained_sites().is_empty() && !plan.is_empty());
        assert_eq!(plan.after, model(2));
    }

    #[test]
    fn edits_that_meet_are_refused() {
        let refused = |grafts: &[GraftConfig], entries: &[RestructureConfig]| {
            Plan::new(&model(6), grafts, entries).unwrap_err().to_string()
        };
        let all = RestructureConfig::Drop(DropConfig { blocks: BlockSelection::All(All::All) });
        for (message, parts) in [
            (refused(&[hyena(&[2])], &[dropped(&[2])]), ["block 2 is dropped", "grafted"]),
            (
                refused(&[hyena(&[1])], &[pairs(&[[0, 1]])]),
                ["block 1 is in parallel with block 0", "grafted"],
            ),
            (refused(&[], &[pairs(&[[0, 1], [1, 2]])]), ["block 1", "two pairs"]),
            (
                refused(&[], &[pairs(&[[0, 1]]), pairs(&[[1, 2]])]),
                ["block 1 is restructured twice", "block 2"],
            ),
            (refused(&[], &[pairs(&[[0, 2]])]), ["blocks 0 and 2", "consecutive"]),
            (refused(&[], &[dropped(&[1]), pairs(&[[0, 2]])]), ["blocks 0 and 2", "consecutive"]),
            (refused(&[], &[pairs(&[[1, 2]]), dropped(&[1])]), ["block 1", "and dropped"]),
            (refused(&[], &[dropped(&[1]), dropped(&[1])]), ["block 1", "dropped, and dropped"]),
            (refused(&[], &[pairs(&[])]), ["pairs", "nothing is selected"]),
            (refused(&[], &[pairs(&[[5, 6]])]), ["blocks 5 and 6", "6 blocks, 0 to 5"]),
            (refused(&[], &[all]), ["all 6 blocks are dropped", "at least one"]),
        ] {
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
        let every = PairSelection::All(All::All);
        assert_eq!(every.resolve(&model(4)).unwrap(), [[0, 1], [2, 3]]);
        assert!(every.resolve(&model(5)).unwrap_err().to_string().contains("even number of blocks"));
    }
}
