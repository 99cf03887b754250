use burn::Tensor;
use burn::module::Module;
use serde::{Deserialize, Serialize};

use super::block::{Block, Tap};
use super::conditioning::Context;
use crate::operator::Linear;

/// How the merge of a new pair starts; its bias starts at zero unless it is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MergeInit {
    /// `[I, I]`: the tokens plus both blocks' updates.
    #[default]
    Sum,
    /// `[½I, ½I]`: the mean of both blocks' outputs.
    Average,
    /// PyTorch's default random initialisation.
    Random,
}

impl MergeInit {
    /// Its name in recipes and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Average => "average",
            Self::Random => "random",
        }
    }

    /// The merge's weight [D, 2·D], row-major, for tokens of width D; none where it is drawn.
    pub fn weight(self, width: usize) -> Option<Vec<f32>> {
        let share = match self {
            Self::Sum => 1.0,
            Self::Average => 0.5,
            Self::Random => return None,
        };
        let entry = |i: usize| if i / (2 * width) == i % width { share } else { 0.0 };
        Some((0..2 * width * width).map(entry).collect())
    }
}

/// Two blocks side by side, as a part of its own.
#[derive(Module, Debug)]
pub struct Pair {
    /// The block that came first.
    pub first: Block,
    /// The block that came behind it.
    pub second: Block,
    /// [D, 2·D] and [D].
    pub merge: Linear,
}

impl Pair {
    /// Tokens `x` [N, T, D] in a context → [N, T, D].
    pub fn forward(&self, x: Tensor<3>, context: &Context) -> Tensor<3> {
        Layer::Pair(0, [&self.first, &self.second], &self.merge).forward(x, context, &mut |_| {})
    }
}

/// A step of a model's forward pass, with the index of its first block.
#[derive(Clone, Copy, Debug)]
pub(super) enum Layer<'a> {
    /// One block.
    Block(usize, &'a Block),
    /// Two blocks that get the same tokens, and the merge of their updates.
    Pair(usize, [&'a Block; 2], &'a Linear),
}

impl Layer<'_> {
    /// Index of the first block.
    pub fn index(&self) -> usize {
        match *self {
            Self::Block(index, _) | Self::Pair(index, ..) => index,
        }
    }

    /// Index of the last block.
    pub fn last(&self) -> usize {
        match *self {
            Self::Block(index, _) => index,
            Self::Pair(index, ..) => index + 1,
        }
    }

    /// Tokens `x` [N, T, D] in a context → [N, T, D].
    ///
    /// Of blocks a and b side by side: `x + W·[a(x) − x ; b(x) − x] + bias`.
    pub fn forward(&self, x: Tensor<3>, context: &Context, tap: &mut Tap) -> Tensor<3> {
        match *self {
            Self::Block(index, block) => block.forward(index, x, context, tap),
            Self::Pair(index, [first, second], merge) => {
                let updates = vec![
                    first.forward(index, x.clone(), context, tap) - x.clone(),
                    second.forward(index + 1, x.clone(), context, tap) - x.clone(),
                ];
                x + merge.forward(Tensor::cat(updates, 2)) // [N, T, 2·D] → [N, T, D]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_start_as_named() {
        assert_eq!(MergeInit::Sum.weight(2).unwrap(), [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0]);
        assert_eq!(MergeInit::Average.weight(2).unwrap(), [0.5, 0.0, 0.5, 0.0, 0.0, 0.5, 0.0, 0.5]);
        assert_eq!(MergeInit::Random.weight(2), None);
    }
}
