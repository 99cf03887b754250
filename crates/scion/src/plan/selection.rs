use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Which blocks a graft goes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected blocks = \"all\", a list such as [1, 3], { interleaved = 0.5 }, { pattern = \"1 of 2\" }, { first = 2 }, { last = 2 }, { most-local = 0.5 } or { least-local = 0.5 }"
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
    /// The last n of each m blocks: `"1 of 2"` is every second block, beginning with block 1.
    Pattern(Pattern),
    /// The first n blocks.
    First(usize),
    /// The last n blocks.
    Last(usize),
    /// The blocks whose attention, in the teacher, is the most local; of equals the first.
    MostLocal(Amount),
    /// The blocks whose attention is the least local; of equals the first.
    LeastLocal(Amount),
}

/// How many blocks: a number such as 14, or a share such as 0.5.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Amount {
    /// So many.
    Count(usize),
    /// This share of all, rounded down.
    Share(f64),
}

/// `"n of m"`, with 1 ≤ n ≤ m.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    taken: usize,
    of: usize,
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let numbers = text.split_once(" of ").and_then(|(n, m)| Some((n.parse().ok()?, m.parse().ok()?)));
        match numbers {
            Some((taken, of)) if (1..=of).contains(&taken) => Ok(Self { taken, of }),
            _ => Err(format!("pattern \"{text}\"; expected \"n of m\" such as \"3 of 4\", n from 1 to m")),
        }
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        format!("{} of {}", pattern.taken, pattern.of)
    }
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
            Self::Rule(Rule::Pattern(Pattern { taken, of })) => {
                (0..depth).filter(|i| i % of >= of - taken).collect()
            }
            Self::Rule(Rule::MostLocal(_) | Rule::LeastLocal(_)) => {
                return fail(
                    "most-local and least-local need the teacher's attention; list the blocks here".into(),
                );
            }
            Self::Rule(Rule::First(n) | Rule::Last(n)) if *n > depth => {
                return fail(format!("{n} blocks are asked for, but the model has {depth}"));
            }
            Self::Rule(Rule::First(n)) => (0..*n).collect(),
            Self::Rule(Rule::Last(n)) => (depth - n..depth).collect(),
        };
        if blocks.is_empty() { fail(format!("nothing is selected of {depth} blocks")) } else { Ok(blocks) }
    }

    /// Whether the blocks depend on the teacher's attention.
    pub fn by_locality(&self) -> bool {
        matches!(self, Self::Rule(Rule::MostLocal(_) | Rule::LeastLocal(_)))
    }

    /// The selection with blocks instead of a rule that depends on locality, given as one value a block.
    ///
    /// # Errors
    /// When the share is not in (0, 1], or more blocks are asked for than there are.
    pub fn choose(&self, locality: &[f64]) -> Result<Self> {
        let (name, amount, sign) = match self {
            Self::Rule(Rule::MostLocal(amount)) => ("most-local", amount, -1.0),
            Self::Rule(Rule::LeastLocal(amount)) => ("least-local", amount, 1.0),
            other => return Ok(other.clone()),
        };
        let depth = locality.len();
        let count = match *amount {
            Amount::Count(n) if n <= depth => n,
            Amount::Share(share) if share > 0.0 && share <= 1.0 => {
                (share * depth as f64 + 1e-9).floor() as usize
            }
            Amount::Count(n) => {
                let detail = format!("blocks: {n} blocks are asked for, but the model has {depth}");
                return Err(Error::Plan(detail));
            }
            Amount::Share(share) => {
                let detail =
                    format!("blocks: {name} must be a number of blocks or a share in (0, 1], found {share}");
                return Err(Error::Plan(detail));
            }
        };
        let mut order: Vec<usize> = (0..depth).collect();
        // Stable: of equals the first comes first.
        order.sort_by(|&a, &b| (sign * locality[a]).total_cmp(&(sign * locality[b])));
        order.truncate(count);
        order.sort_unstable();
        Ok(Self::List(order))
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
    fn patterns_take_the_last_of_each_group() {
        let resolve = |text: &str, depth| {
            BlockSelection::Rule(Rule::Pattern(text.to_string().try_into().unwrap())).resolve(depth).unwrap()
        };
        assert_eq!(resolve("2 of 4", 10), [2, 3, 6, 7]);
        assert_eq!(resolve("4 of 4", 3), [0, 1, 2]);
        for (pattern, share) in [("1 of 2", 0.5), ("3 of 4", 0.75)] {
            let interleaved = BlockSelection::Rule(Rule::Interleaved(share)).resolve(28).unwrap();
            assert_eq!(resolve(pattern, 28), interleaved);
        }
        for bad in ["0 of 4", "5 of 4", "2/4", "a of b", "2 of", ""] {
            assert!(Pattern::try_from(bad.to_string()).is_err(), "{bad}");
        }
    }

    #[test]
    fn locality_orders_blocks_and_the_first_of_equals_wins() {
        let locality = [0.5, 0.9, 0.5, 0.1, 0.5];
        let choose = |rule: Rule| BlockSelection::Rule(rule).choose(&locality);
        let most = |amount| choose(Rule::MostLocal(amount)).unwrap();
        let least = |amount| choose(Rule::LeastLocal(amount)).unwrap();
        assert_eq!(most(Amount::Count(1)), BlockSelection::List(vec![1]));
        assert_eq!(most(Amount::Count(3)), BlockSelection::List(vec![0, 1, 2]));
        assert_eq!(most(Amount::Share(0.5)), BlockSelection::List(vec![0, 1]));
        assert_eq!(least(Amount::Share(0.6)), BlockSelection::List(vec![0, 2, 3]));
        assert_eq!(least(Amount::Share(1.0)), BlockSelection::List(vec![0, 1, 2, 3, 4]));
        assert!(choose(Rule::MostLocal(Amount::Count(6))).is_err());
        assert!(choose(Rule::MostLocal(Amount::Share(1.5))).is_err());
        assert!(choose(Rule::LeastLocal(Amount::Share(0.0))).is_err());
        // Too small a share selects nothing, which is an error as for any list.
        assert!(most(Amount::Share(0.1)).resolve(5).is_err());
        let unmeasured = BlockSelection::Rule(Rule::MostLocal(Amount::Count(2))).resolve(5).unwrap_err();
        assert!(unmeasured.to_string().contains("teacher's attention"));
        assert_eq!(choose(Rule::First(2)).unwrap(), BlockSelection::Rule(Rule::First(2)));
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
