use std::fmt;

use burn::module::Module;

use super::dit::Dit;
use super::pair::Pair;
use crate::operator::{Operator, Slot};

/// A place in a model that holds a [`Part`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// A slot of a block.
    Operator(usize, Slot),
    /// Two consecutive blocks, by the index of the first.
    Pair(usize),
}

impl Site {
    /// Index of the block, or of the pair's first.
    pub fn block(self) -> usize {
        match self {
            Self::Operator(block, _) | Self::Pair(block) => block,
        }
    }

    /// Index of a pair's second block.
    pub fn second(self) -> Option<usize> {
        match self {
            Self::Operator(..) => None,
            Self::Pair(first) => Some(first + 1),
        }
    }

    /// The slot's name, or `pair`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Operator(_, slot) => slot.name(),
            Self::Pair(_) => "pair",
        }
    }

    /// The same place in a model whose blocks have other numbers.
    #[must_use]
    pub fn renumbered(self, number: impl Fn(usize) -> usize) -> Self {
        match self {
            Self::Operator(block, slot) => Self::Operator(number(block), slot),
            Self::Pair(first) => Self::Pair(number(first)),
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Operator(block, slot) => write!(f, "{} of block {block}", slot.name()),
            Self::Pair(first) => write!(f, "the pair of blocks {first} and {}", first + 1),
        }
    }
}

/// What stage 1 trains as one.
// A run has a few dozen of them, and modules cannot stand in boxes.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum Part {
    /// A new operator: tokens to tokens.
    Operator(Operator),
    /// Two blocks side by side: tokens and conditioning to tokens.
    Pair(Pair),
}

impl Dit {
    /// What stands at a site.
    ///
    /// # Panics
    /// When the model has no such block, or no pair there.
    pub fn part(&self, site: Site) -> Part {
        match site {
            Site::Operator(block, slot) => Part::Operator(self.blocks()[block].operator(slot).clone()),
            Site::Pair(first) => Part::Pair(Pair {
                first: self.blocks()[first].clone(),
                second: self.blocks()[first + 1].clone(),
                merge: self.merge(first).clone(),
            }),
        }
    }

    /// Puts a part into the model.
    ///
    /// # Panics
    /// When the model has no such block, no pair there, or the part is of another kind than the site.
    pub fn place(&mut self, site: Site, part: Part) {
        match (site, part) {
            (Site::Operator(block, slot), Part::Operator(operator)) => {
                *self.blocks_mut()[block].operator_mut(slot) = operator;
            }
            (Site::Pair(at), Part::Pair(Pair { first, second, merge })) => {
                self.blocks_mut()[at] = first;
                self.blocks_mut()[at + 1] = second;
                *self.merge_mut(at) = merge;
            }
            (site, _) => panic!("{site} holds another kind of part"),
        }
    }
}
