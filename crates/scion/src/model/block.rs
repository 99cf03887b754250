use burn::Tensor;
use burn::module::Module;
use scion_kernels::norm::modulated_norm;
use scion_kernels::residual::gated_residual;

use super::config::Architecture;
use crate::error::Result;
use crate::operator::{Identity, Init, Linear, Operator, OperatorConfig, Scheme, Slot};

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

    /// Takes a slot's operator out: the slot's gate becomes 0 under any conditioning, and its tokens pass unchanged.
    pub fn remove(&mut self, slot: Slot) {
        let gate = match slot {
            Slot::Attention => 2,
            Slot::Mlp => 5,
        };
        let [rows, width] = self.ada_ln.weight.dims();
        let gate = gate * rows / 6..(gate + 1) * rows / 6;
        let Linear { weight, bias } = self.ada_ln.clone();
        let device = weight.device();
        let (weights, biases) =
            (Tensor::zeros([gate.len(), width], &device), Tensor::zeros([gate.len()], &device));
        self.ada_ln = Linear {
            weight: weight.map(|weight| weight.slice_assign([gate.clone(), 0..width], weights)),
            bias: bias.map(|bias| bias.slice_assign([gate], biases)),
        };
        // Whatever it gives is multiplied by the gate: this costs least.
        *self.operator_mut(slot) = Operator::Identity(Identity {});
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

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;
    use crate::model::{Dit, DitConfig};
    use crate::operator::Init;

    #[test]
    fn tokens_pass_a_block_without_operators_unchanged() {
        let dit = DitConfig {
            input_size: 4,
            patch: 2,
            in_channels: 1,
            hidden: 8,
            depth: 1,
            heads: 2,
            mlp_ratio: 2.0,
            num_classes: 3,
            null_class: true,
            learn_sigma: true,
        };
        let device = Device::flex();
        let mut model = Dit::new(&Architecture::native(dit), &mut Init::new(1, 0, &device)).unwrap();
        // A new model's gates are zero anyway.
        let random = Tensor::random([48, 8], Distribution::Default, &device);
        let block = &mut model.blocks_mut()[0];
        block.ada_ln.weight = block.ada_ln.weight.clone().map(|_| random);
        let run = |block: &Block| {
            let (x, c) = (Tensor::<3>::ones([1, 4, 8], &device), Tensor::<2>::ones([1, 8], &device));
            let tokens = block.forward(0, x, &c, &mut |_| {});
            tokens.into_data().try_into_vec::<f32>().unwrap()
        };
        let whole = run(block);
        block.remove(Slot::Attention);
        let half = run(block);
        block.remove(Slot::Mlp);
        assert!(whole != half && half != [1.0; 32], "{whole:?} {half:?}");
        assert_eq!(run(block), [1.0; 32]);
    }
}
