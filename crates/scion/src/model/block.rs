use burn::Tensor;
use burn::module::Module;
use scion_kernels::norm::modulated_norm;
use scion_kernels::residual::gated_residual;

use super::config::Architecture;
use crate::error::Result;
use crate::operator::{Init, Linear, Operator, OperatorConfig, Scheme, Slot};

/// LayerNorm's epsilon in DiT.
pub(super) const EPS: f32 = 1e-6;

/// What a tap sees while a model runs.
#[derive(Debug)]
pub enum Seen<'a> {
    /// An operator's input (after modulation) and output (before the gate), each [N, T, D].
    Operator {
        /// Index of the block.
        block: usize,
        /// The operator's slot.
        slot: Slot,
        /// What it gets.
        input: &'a Tensor<3>,
        /// What it gives.
        output: &'a Tensor<3>,
    },
    /// The tokens between two layers.
    Tokens {
        /// Index of the block that comes next, or the number of blocks after the last.
        before: usize,
        /// [N, T, D]
        tokens: &'a Tensor<3>,
        /// SiLU(t + y), [N, D].
        conditioning: &'a Tensor<2>,
    },
}

/// Looks on while a model runs.
pub type Tap<'a> = dyn FnMut(Seen<'_>) + 'a;

/// A transformer block with adaLN-Zero conditioning and two replaceable operators.
#[derive(Module, Debug)]
pub struct Block {
    /// The token mixer.
    pub attn: Operator,
    /// The channel mixer.
    pub mlp: Operator,
    /// SiLU's linear layer: [6·D, D], chunks shift, scale and gate of attention, then of the MLP.
    pub ada_ln: Linear,
}

impl Block {
    /// Initialised as the original where the operator is the model's own, else as PyTorch's default.
    ///
    /// # Errors
    /// When an operator's settings do not fit the model.
    pub fn new(architecture: &Architecture, index: usize, init: &mut Init) -> Result<Self> {
        let width = architecture.dit.hidden;
        let mut operator =
            |slot| match (architecture.replacement(index, slot), architecture.operator(index, slot)) {
                (None, OperatorConfig::Attention(c)) => {
                    Ok(Operator::Attention(c.init_with(width, Scheme::Xavier, init)))
                }
                (None, OperatorConfig::Mlp(c)) => {
                    Ok(Operator::Mlp(c.init_with(width, Scheme::Xavier, init)?))
                }
                (_, other) => other.init(width, init),
            };
        let (attn, mlp) = (operator(Slot::Attention)?, operator(Slot::Mlp)?);
        Ok(Self { attn, mlp, ada_ln: Linear::new(width, 6 * width, Scheme::Zero, init) })
    }

    /// The operator in a slot.
    pub fn operator(&self, slot: Slot) -> &Operator {
        match slot {
            Slot::Attention => &self.attn,
            Slot::Mlp => &self.mlp,
        }
    }

    /// The operator in a slot, for replacing it.
    pub fn operator_mut(&mut self, slot: Slot) -> &mut Operator {
        match slot {
            Slot::Attention => &mut self.attn,
            Slot::Mlp => &mut self.mlp,
        }
    }

    /// Tokens `x` [N, T, D] under conditioning `c` = SiLU(t + y) [N, D] → [N, T, D].
    pub fn forward(&self, index: usize, x: Tensor<3>, c: &Tensor<2>, tap: &mut Tap) -> Tensor<3> {
        let modulation = self.ada_ln.forward(c.clone()); // [N, 6·D]
        let mut x = x;
        for (slot, shift) in [(Slot::Attention, 0), (Slot::Mlp, 3)] {
            let input = modulated_norm(x.clone(), modulation.clone(), shift, shift + 1, EPS);
            let output = self.operator(slot).forward(input.clone());
            tap(Seen::Operator { block: index, slot, input: &input, output: &output });
            x = gated_residual(x, output, modulation.clone(), shift + 2);
        }
        x
    }
}
