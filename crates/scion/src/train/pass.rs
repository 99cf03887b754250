//! One forward pass of training and the way back through it, with or without activation checkpointing.

use std::collections::BTreeMap;

use burn::Tensor;
use scion_kernels::pull;

use super::gradient::collect;
use crate::model::{Checkpointed, Dit};

/// Gradients of a loss by what a model puts out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Slopes {
    /// By the output, [N, C_out, H, W].
    pub out: Vec<f32>,
    /// By the tokens [N, T, D] after blocks that the loss depends on.
    pub blocks: BTreeMap<usize, Vec<f32>>,
}

/// A forward pass that can be gone through backwards once.
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub(super) enum Pass<'a> {
    /// All activations are kept.
    Whole { out: Tensor<4>, blocks: BTreeMap<usize, Tensor<3>> },
    /// The tokens before each block are kept.
    Checkpointed(Checkpointed<'a>),
}

impl<'a> Pass<'a> {
    /// Runs a model on an autodiff device. [`Pass::after_block`] needs `blocks`.
    pub fn forward(
        model: &'a Dit,
        x: Tensor<4>,
        (t, y): (&[f32], &[usize]),
        checkpointing: bool,
        blocks: bool,
    ) -> Self {
        if checkpointing {
            return Self::Checkpointed(Checkpointed::forward(model, x, t, y));
        }
        let (out, blocks) = if blocks {
            model.forward_with_blocks(x, t, y)
        } else {
            (model.forward(x, t, y), BTreeMap::new())
        };
        Self::Whole { out, blocks }
    }

    /// The model's output, [N, C_out, H, W].
    pub fn out(&self) -> &Tensor<4> {
        match self {
            Self::Whole { out, .. } => out,
            Self::Checkpointed(pass) => pass.out(),
        }
    }

    /// The tokens [N, T, D] after a block.
    pub fn after_block(&self, index: usize) -> &Tensor<3> {
        match self {
            Self::Whole { blocks, .. } => &blocks[&index],
            Self::Checkpointed(pass) => pass.after_block(index),
        }
    }

    /// Gradients of the parameters that train, by name.
    pub fn backward(self, model: &Dit, slopes: Slopes) -> BTreeMap<String, Vec<f32>> {
        let mut by_name = BTreeMap::new();
        match self {
            Self::Whole { out, blocks } => {
                let begin = pull(out, slopes.out);
                let all = slopes
                    .blocks
                    .into_iter()
                    .fold(begin, |sum, (index, slope)| sum + pull(blocks[&index].clone(), slope));
                drop(blocks);
                by_name = collect(model, all.backward());
            }
            Self::Checkpointed(pass) => pass.backward(slopes.out, slopes.blocks, |part| {
                for (name, gradient) in collect(model, part) {
                    let other = by_name.insert(name, gradient);
                    assert!(other.is_none(), "a parameter belongs to one part of the model");
                }
            }),
        }
        by_name
    }
}
