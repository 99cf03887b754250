use std::ops::Range;

use burn::Tensor;
use burn::module::{Module, Param};
use scion_kernels::norm::modulated_norm;
use scion_kernels::residual::gated_residual;

use super::architecture::Architecture;
use super::conditioning::Context;
use super::config::Conditions;
use super::cross_attention::CrossAttention;
use crate::error::Result;
use crate::operator::{Identity, Init, Linear, MlpConfig, Operator, OperatorConfig, Scheme, Slot};

/// LayerNorm's epsilon in DiT.
pub(super) const EPS: f32 = 1e-6;

/// What a tap sees while a model runs.
#[derive(Debug)]
pub enum Seen<'a> {
    /// An operator is about to run.
    Begin {
        /// Index of the block.
        block: usize,
        /// The operator's slot.
        slot: Slot,
    },
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
        /// What blocks get beside them.
        context: &'a Context,
    },
}

/// Looks on while a model runs.
pub type Tap<'a> = dyn FnMut(Seen<'_>) + 'a;

/// Where shifts, scales and gates come from.
// A model has a few dozen of them, and modules cannot stand in boxes.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum Modulation {
    /// adaLN-Zero: a layer [k·D, D] of its own, after a SiLU that all share.
    Linear(Linear),
    /// adaLN-single: a table [k, D] that is added to what one network says to all.
    Table(Param<Tensor<2>>),
}

impl Modulation {
    /// A table as the original draws it, N(0, 1/D).
    pub(super) fn table(rows: usize, width: usize, init: &mut Init) -> Self {
        Self::Table(init.normal([rows, width], (width as f64).powf(-0.5)))
    }

    /// The chunks [N, k·D] under a context's conditioning; a table's stand in these `columns` of it.
    pub(super) fn forward(&self, conditioning: &Tensor<2>, columns: Range<usize>) -> Tensor<2> {
        match self {
            Self::Linear(linear) => linear.forward(conditioning.clone()),
            Self::Table(table) => {
                let shared = conditioning.clone().slice([0..conditioning.dims()[0], columns.clone()]);
                shared + table.val().reshape([1, columns.len()])
            }
        }
    }
}

/// A transformer block with two replaceable operators, and between them attention to the prompt where there is one.
#[derive(Module, Debug)]
pub struct Block {
    /// The token mixer.
    pub attn: Operator,
    /// Attention to the prompt.
    pub cross_attn: Option<CrossAttention>,
    /// The channel mixer.
    pub mlp: Operator,
    /// Chunks shift, scale and gate of attention, then of the MLP.
    pub ada_ln: Modulation,
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
        let (cross_attn, ada_ln) = match architecture.dit.conditions {
            Conditions::Classes { .. } => {
                (None, Modulation::Linear(Linear::new(width, 6 * width, Scheme::Zero, init)))
            }
            Conditions::Text(_) => {
                let cross_attn = CrossAttention::new(width, architecture.dit.heads, init);
                (Some(cross_attn), Modulation::table(6, width, init))
            }
        };
        Ok(Self { attn, cross_attn, mlp, ada_ln })
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

    /// Takes a slot's operator out: its tokens pass unchanged under any conditioning.
    pub fn remove(&mut self, slot: Slot) {
        let replacement = match &self.ada_ln {
            Modulation::Linear(layer) => {
                let layer = without_gate(layer.clone(), slot);
                self.ada_ln = Modulation::Linear(layer);
                // Whatever it gives is multiplied by the gate: this costs least.
                Operator::Identity(Identity {})
            }
            // The gate is not the block's alone. An MLP of one hidden unit that gives zero takes the operator's place.
            Modulation::Table(table) => {
                let (width, device) = (table.dims()[1], table.val().device());
                let nothing = MlpConfig { ratio: 1.0 / width as f64 }.init(width, &mut Init::empty(&device));
                Operator::Mlp(nothing.expect("one hidden unit is a whole number of them"))
            }
        };
        *self.operator_mut(slot) = replacement;
    }

    /// Tokens `x` [N, T, D] in a context → [N, T, D].
    pub fn forward(&self, index: usize, x: Tensor<3>, context: &Context, tap: &mut Tap) -> Tensor<3> {
        let modulation = self.ada_ln.forward(&context.conditioning, 0..6 * x.dims()[2]); // [N, 6·D]
        let mut x = x;
        for (slot, shift) in [(Slot::Attention, 0), (Slot::Mlp, 3)] {
            let input = modulated_norm(x.clone(), modulation.clone(), shift, shift + 1, EPS);
            tap(Seen::Begin { block: index, slot });
            let output = self.operator(slot).forward(input.clone(), context.grid);
            tap(Seen::Operator { block: index, slot, input: &input, output: &output });
            x = gated_residual(x, output, modulation.clone(), shift + 2);
            if let (Slot::Attention, Some(cross_attn), Some(text)) = (slot, &self.cross_attn, &context.text) {
                x = x.clone() + cross_attn.forward(x, text);
            }
        }
        x
    }
}

/// A modulation layer whose gate of a slot is 0 under any conditioning.
fn without_gate(Linear { weight, bias }: Linear, slot: Slot) -> Linear {
    let gate = match slot {
        Slot::Attention => 2,
        Slot::Mlp => 5,
    };
    let [rows, width] = weight.dims();
    let gate = gate * rows / 6..(gate + 1) * rows / 6;
    let device = weight.device();
    let (weights, biases) =
        (Tensor::zeros([gate.len(), width], &device), Tensor::zeros([gate.len()], &device));
    Linear {
        weight: weight.map(|weight| weight.slice_assign([gate.clone(), 0..width], weights)),
        bias: bias.map(|bias| bias.slice_assign([gate], biases)),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, TensorData};

    use super::*;
    use crate::model::{Dit, DitConfig, Prompts, TextConfig, update_parameters};
    use crate::operator::Init;

    /// A model of one block whose every weight is random: a new model's gates are zero.
    fn model(conditions: Conditions) -> Dit {
        let dit = DitConfig {
            input_size: 4,
            patch: 2,
            in_channels: 1,
            hidden: 8,
            depth: 1,
            heads: 2,
            mlp_ratio: 2.0,
            learn_sigma: true,
            conditions,
        };
        let device = Device::flex();
        let model = Dit::new(&Architecture::native(dit), &mut Init::new(1, 0, &device)).unwrap();
        update_parameters(model, |_, dims, _, values| {
            let random =
                Tensor::<1>::random([dims.iter().product::<usize>()], Distribution::Default, &device);
            values.copy_from_slice(&random.into_data().try_into_vec::<f32>().unwrap());
            Ok(())
        })
        .unwrap()
    }

    #[test]
    fn tokens_pass_a_block_without_operators_unchanged() {
        for conditions in [
            Conditions::Classes { count: 3, null: true },
            Conditions::Text(TextConfig { width: 4, tokens: 5, interpolation: 1.0, size_conditions: false }),
        ] {
            let mut model = model(conditions);
            let device = model.device();
            let prompts = Prompts::new(4, vec![], vec![0.5; 8]).unwrap();
            let text = model.is_text_to_image().then(|| prompts.text(&[super::super::NULL_PROMPT], &device));
            let x = Tensor::from_data(TensorData::new(vec![0.5f32; 16], [1, 1, 4, 4]), &device);
            let (_, context) = match text {
                Some(text) => model.embed(x, &[7.0], text),
                None => model.embed(x, &[7.0], &[1]),
            };
            let block = &mut model.blocks_mut()[0];
            let run = |block: &Block| {
                let x = Tensor::<3>::ones([1, 4, 8], &device);
                let tokens = block.forward(0, x, &context, &mut |_| {});
                tokens.into_data().try_into_vec::<f32>().unwrap()
            };
            let whole = run(block);
            block.remove(Slot::Attention);
            let half = run(block);
            block.remove(Slot::Mlp);
            assert!(whole != half && half != [1.0; 32], "{whole:?} {half:?}");
            block.cross_attn = None;
            assert_eq!(run(block), [1.0; 32]);
        }
    }
}
