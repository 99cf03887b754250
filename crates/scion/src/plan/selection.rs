use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Which blocks a graft goes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected blocks = \"all\", a list such as [1, 3], { interleaved = 0.5 }, { first = 2 } or { last = 2 }"
)]
pub enum BlockSelection {
    /// `"all"`.
    All(All),
    /// Block indices from 0.
    List(Vec<usize>),
    /// A rule.
    Rule(Rule),
}

/// The word `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum All {
    /// Every block.
    All,
}

/// A rule that picks blocks of a model of any depth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// This share of the blocks, spread evenly; 0.5 is every second block, beginning with block 1.
    Interleaved(f64),
    /// The first n blocks.
    First(usize),
    /// The last n blocks.
    Last(usize),
}

impl BlockSelection {
    /// The selected block indices, ascending.
    ///
    /// # Errors
    /// When the selection is empty, names a block twice or one that does not exist, or a share is not in
    /// (0, 1].
    pub fn resolve(&self, depth: usize) -> Result<Vec<usize>> {
        let fail = |detail: String| Err(Error::Plan(format!("blocks: {detail}")));
        let blocks: Vec<usize> = match self {
            Self::All(All::All) => (0..depth).collect(),
            Self::List(list) => {
                let mut sorted = list.clone();
                sorted.sort_unstable();
                if let Some(pair) = sorted.windows(2).find(|p| p[0] == p[1]) {
                    return fail(format!("block {} is listed twice", pair[0]));
                }
                if let Some(&far) = sorted.last().filter(|&&b| b >= depth) {
                    return fail(format!(
                        "block {far} does not exist: the model has {depth} blocks, 0 to {}",
                        depth - 1
                    ));
                }
                sorted
            }
            Self::Rule(Rule::Interleaved(share)) => {
                if !(*share > 0.0 && *share <= 1.0) {
                    return fail(format!("interleaved must lie in (0, 1], found {share}"));
                }
                // Block i is taken when the running share passes a whole number: 0.5 gives 1, 3, 5, …
                let passed = |i: usize| (i as f64 * share + 1e-9).floor() as usize;
                (0..depth).filter(|&i| passed(i + 1) > passed(i)).collect()
            }
            Self::Rule(Rule::First(n) | Rule::Last(n)) if *n > depth => {
                return fail(format!("{n} blocks are asked for, but the model has {depth}"));
            }
            Self::Rule(Rule::First(n)) => (0..*n).collect(),
            Self::Rule(Rule::Last(n)) => (depth - n..depth).collect(),
        };
        if blocks.is_empty() { fail(format!("nothing is selected of {depth} blocks")) } else { Ok(blocks) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_pick_the_papers_blocks() {
        let odd: Vec<usize> = (0..14).map(|i| 2 * i + 1).collect();
        assert_eq!(BlockSelection::Rule(Rule::Interleaved(0.5)).resolve(28).unwrap(), odd);
        let three_of_four = BlockSelection::Rule(Rule::Interleaved(0.75)).resolve(8).unwrap();
        assert_eq!(three_of_four, [1, 2, 3, 5, 6, 7]);
        assert_eq!(BlockSelection::Rule(Rule::Interleaved(1.0)).resolve(3).unwrap(), [0, 1, 2]);
        assert_eq!(BlockSelection::Rule(Rule::Last(2)).resolve(5).unwrap(), [3, 4]);
        assert_eq!(BlockSelection::Rule(Rule::First(2)).resolve(5).unwrap(), [0, 1]);
    }

    #[test]
    fn impossible_selections_are_refused() {
        for bad in [
            BlockSelection::List(vec![1, 1]),
            BlockSelection::List(vec![5]),
            BlockSelection::List(vec![]),
            BlockSelection::Rule(Rule::Interleaved(0.0)),
            BlockSelection::Rule(Rule::Interleaved(1.5)),
            BlockSelection::Rule(Rule::Last(6)),
        ] {
            assert!(bad.resolve(5).is_err(), "{bad:?}");
        }
    }
}
