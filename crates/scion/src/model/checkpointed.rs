//! Activation checkpointing: a forward pass that keeps the tokens before each layer (a block, or two side by side) and
//! nothing from inside, and a backward pass that runs each layer again. Memory is one layer's activations and the tokens
//! before each; time is one forward pass more.

use std::collections::BTreeMap;

use burn::Tensor;
use burn::module::Module;
use burn::tensor::Gradients;
use scion_kernels::{backward, with_values};

use super::conditioning::{Context, Given};
use super::dit::Dit;

/// A forward pass that can be gone through backwards once.
pub struct Checkpointed<'a> {
    model: &'a Dit,
    /// The first tokens and the context, with the way to the embedders' parameters.
    embedded: (Tensor<3>, Context),
    /// The tokens before each layer, without gradients.
    inputs: Vec<Tensor<3>>,
    /// The tokens after the last layer and the context, where the parts' gradients end.
    leaves: (Tensor<3>, Context),
    out: Tensor<4>,
}

impl<'a> Checkpointed<'a> {
    /// As [`Dit::forward`] of a model on an autodiff device.
    pub fn forward<'g>(model: &'a Dit, x: Tensor<4>, t: &[f32], given: impl Into<Given<'g>>) -> Self {
        let embedded = model.embed(x, t, given);
        let (mut tokens, context) = (embedded.0.clone().inner(), embedded.1.clone().inner());
        let mut inputs = Vec::with_capacity(model.blocks().len());
        for layer in model.valid().layers() {
            inputs.push(tokens.clone());
            tokens = layer.forward(tokens, &context, &mut |_| {});
        }
        let leaves = (leaf(tokens), context.leaf());
        let out = model.head(leaves.0.clone(), &leaves.1);
        Self { model, embedded, inputs, leaves, out }
    }

    /// The model's output.
    pub fn out(&self) -> &Tensor<4> {
        &self.out
    }

    /// The tokens [N, T, D] after a block, of two side by side after the second.
    pub fn after_block(&self, index: usize) -> &Tensor<3> {
        let layer = self.model.layers().iter().position(|layer| layer.last() == index);
        let layer = layer.expect("the block is the last of its layer");
        self.inputs.get(layer + 1).unwrap_or(&self.leaves.0)
    }

    /// Gradients of a loss whose gradient by the output is `slope`, and by the tokens after some blocks `block_slopes`:
    /// `see` gets those of the final layer, of every block (or pair) from the last to the first, and of the embedders.
    /// Every parameter is in one of them, but for those of embedders that do not train.
    pub fn backward(
        self,
        slope: Vec<f32>,
        mut block_slopes: BTreeMap<usize, Vec<f32>>,
        mut see: impl FnMut(Gradients),
    ) {
        let (mut tokens, context) = self.leaves;
        let mut gradients = backward(self.out, slope);
        let mut d_tokens = taken(&tokens, &mut gradients);
        let mut d_context = context.taken(&mut gradients);
        see(gradients);
        for (layer, input) in self.model.layers().into_iter().zip(self.inputs).rev() {
            tokens = leaf(input);
            let out = layer.forward(tokens.clone(), &context, &mut |_| {});
            let mut slope = with_values(&d_tokens, <[f32]>::to_vec);
            if let Some(more) = block_slopes.remove(&layer.last()) {
                slope.iter_mut().zip(more).for_each(|(slope, more)| *slope += more);
            }
            let mut gradients = backward(out, slope);
            d_tokens = taken(&tokens, &mut gradients);
            d_context = d_context.and(context.taken(&mut gradients));
            see(gradients);
        }
        let (tokens, context) = self.embedded;
        if !tokens.is_tracked() && !context.is_tracked() {
            return;
        }
        let loss = (tokens * Tensor::from_inner(d_tokens)).sum() + context.pull(d_context);
        see(loss.backward());
    }
}

/// A tensor that gradients are taken of.
fn leaf(values: Tensor<3>) -> Tensor<3> {
    Tensor::from_inner(values).require_grad()
}

/// The gradient of a leaf.
fn taken(leaf: &Tensor<3>, gradients: &mut Gradients) -> Tensor<3> {
    leaf.grad_remove(gradients).expect("every part depends on the tokens")
}
