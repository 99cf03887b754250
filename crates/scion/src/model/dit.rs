use std::collections::BTreeMap;

use burn::Tensor;
use burn::module::{Module, Param};
use burn::tensor::activation::silu;
use burn::tensor::{Device, TensorData};
use scion_kernels::norm::modulated_norm;

use super::block::{Block, EPS, Seen, Tap};
use super::config::{Architecture, DitConfig};
use super::embed::{LabelEmbedder, PatchEmbed, TimestepEmbedder};
use super::pair::Layer;
use crate::error::Result;
use crate::operator::{Init, Linear, Scheme};
use crate::positions::sincos_positions;

/// A diffusion transformer, its operators and pairs as the architecture says.
#[derive(Module, Debug)]
pub struct Dit {
    x_embedder: PatchEmbed,
    t_embedder: TimestepEmbedder,
    y_embedder: LabelEmbedder,
    pos_embed: Param<Tensor<2>>,
    blocks: Vec<Block>,
    /// One a pair, in the pairs' order.
    merges: Vec<Linear>,
    final_layer: FinalLayer,
    /// First blocks of the pairs, ascending.
    pairs: Vec<usize>,
    input_size: usize,
    patch: usize,
    out_channels: usize,
}

/// The last norm and projection.
#[derive(Module, Debug)]
struct FinalLayer {
    ada_ln: Linear,
    linear: Linear,
}

impl Dit {
    /// A freshly initialised model.
    ///
    /// # Errors
    /// When the sizes or an operator's settings do not fit one another.
    pub fn new(architecture: &Architecture, init: &mut Init) -> Result<Self> {
        let config = &architecture.dit;
        config.check()?;
        let DitConfig { hidden, patch, in_channels, .. } = *config;
        let grid = config.input_size / patch;
        let pos_embed =
            init.parameter(sincos_positions(grid, hidden), [grid * grid, hidden]).set_require_grad(false);
        let x_embedder = PatchEmbed::new(in_channels, patch, hidden, init);
        let t_embedder = TimestepEmbedder::new(hidden, init);
        let y_embedder =
            LabelEmbedder::new(config.num_classes + usize::from(config.null_class), hidden, init);
        let blocks = (0..config.depth).map(|i| Block::new(architecture, i, init)).collect::<Result<_>>()?;
        let pairs: Vec<usize> = architecture.pairs.iter().map(|pair| pair[0]).collect();
        let merges = pairs.iter().map(|_| Linear::new(2 * hidden, hidden, Scheme::Torch, init)).collect();
        let out_channels = config.out_channels();
        let final_layer = FinalLayer {
            ada_ln: Linear::new(hidden, 2 * hidden, Scheme::Zero, init),
            linear: Linear::new(hidden, patch * patch * out_channels, Scheme::Zero, init),
        };
        let input_size = config.input_size;
        Ok(Self {
            x_embedder,
            t_embedder,
            y_embedder,
            pos_embed,
            blocks,
            merges,
            final_layer,
            pairs,
            input_size,
            patch,
            out_channels,
        })
    }

    /// The model with the blocks of these indices alone, numbered anew, side by side from the given ones on with their
    /// merges. Weights are shared with this model until either changes them.
    #[must_use]
    pub fn restructured(&self, blocks: &[usize], merges: BTreeMap<usize, Linear>) -> Self {
        let mut model = self.clone();
        model.blocks = blocks.iter().map(|&block| self.blocks[block].clone()).collect();
        (model.pairs, model.merges) = merges.into_iter().unzip();
        model
    }

    /// The device that the model computes on.
    pub fn device(&self) -> Device {
        self.pos_embed.val().device()
    }

    /// The blocks in order.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The blocks in order, for replacing operators.
    pub fn blocks_mut(&mut self) -> &mut [Block] {
        &mut self.blocks
    }

    /// The merge of the pair that begins with block `first`.
    pub fn merge(&self, first: usize) -> &Linear {
        &self.merges[self.place_of_pair(first)]
    }

    /// The merge of the pair that begins with block `first`, for replacing it.
    pub(super) fn merge_mut(&mut self, first: usize) -> &mut Linear {
        let place = self.place_of_pair(first);
        &mut self.merges[place]
    }

    fn place_of_pair(&self, first: usize) -> usize {
        self.pairs.binary_search(&first).expect("the architecture has this pair")
    }

    /// What runs one after the other.
    pub(super) fn layers(&self) -> Vec<Layer<'_>> {
        let (mut layers, mut index) = (Vec::new(), 0);
        while index < self.blocks.len() {
            let layer = match self.pairs.binary_search(&index) {
                Ok(place) => {
                    let pair = [&self.blocks[index], &self.blocks[index + 1]];
                    Layer::Pair(index, pair, &self.merges[place])
                }
                Err(_) => Layer::Block(index, &self.blocks[index]),
            };
            index += if matches!(layer, Layer::Pair(..)) { 2 } else { 1 };
            layers.push(layer);
        }
        layers
    }

    /// Predicted noise and variance values.
    ///
    /// Shapes: `x` [N, C, H, W], `t` N original timesteps, `y` N labels → [N, C_out, H, W].
    pub fn forward(&self, x: Tensor<4>, t: &[f32], y: &[usize]) -> Tensor<4> {
        self.forward_tapped(x, t, y, &mut |_| {})
    }

    /// [`Dit::forward`], showing every operator's input and output, and the tokens between layers, to `tap`.
    pub fn forward_tapped(&self, x: Tensor<4>, t: &[f32], y: &[usize], tap: &mut Tap) -> Tensor<4> {
        let (mut tokens, c) = self.embed(x, t, y);
        for layer in self.layers() {
            tap(Seen::Tokens { before: layer.index(), tokens: &tokens, conditioning: &c });
            tokens = layer.forward(tokens, &c, tap);
        }
        tap(Seen::Tokens { before: self.blocks.len(), tokens: &tokens, conditioning: &c });
        self.head(tokens, c)
    }

    /// [`Dit::forward`], and the tokens [N, T, D] after every block, of two side by side after the second.
    pub fn forward_with_blocks(
        &self,
        x: Tensor<4>,
        t: &[f32],
        y: &[usize],
    ) -> (Tensor<4>, BTreeMap<usize, Tensor<3>>) {
        let mut after = BTreeMap::new();
        let out = self.forward_tapped(x, t, y, &mut |seen| {
            if let Seen::Tokens { before: next @ 1.., tokens, .. } = seen {
                after.insert(next - 1, tokens.clone());
            }
        });
        (out, after)
    }

    /// Tokens [N, T, D] and conditioning [N, D] before the first block.
    pub(crate) fn embed(&self, x: Tensor<4>, t: &[f32], y: &[usize]) -> (Tensor<3>, Tensor<2>) {
        let tokens = self.x_embedder.forward(x) + self.pos_embed.val().unsqueeze();
        (tokens, silu(self.t_embedder.forward(t) + self.y_embedder.forward(y)))
    }

    /// From the tokens after the last block and the conditioning to [N, C_out, H, W].
    pub(crate) fn head(&self, tokens: Tensor<3>, c: Tensor<2>) -> Tensor<4> {
        let modulation = self.final_layer.ada_ln.forward(c);
        let patches = self.final_layer.linear.forward(modulated_norm(tokens, modulation, 0, 1, EPS));
        self.unpatchify(patches)
    }

    /// [N, T, p·p·C] → [N, C, H, W]; a token's values are ordered row, column, channel.
    fn unpatchify(&self, patches: Tensor<3>) -> Tensor<4> {
        let n = patches.dims()[0];
        let (p, c, grid) = (self.patch, self.out_channels, self.input_size / self.patch);
        patches
            .reshape([n, grid, grid, p, p, c])
            .permute([0, 5, 1, 3, 2, 4]) // [N, C, rows, p, columns, p]
            .reshape([n, c, self.input_size, self.input_size])
    }

    /// [`Dit::forward`] from and to plain values, row-major.
    pub fn predict(&self, x: &[f32], t: &[f32], y: &[usize]) -> Vec<f32> {
        self.predict_tapped(x, t, y, &mut |_| {})
    }

    /// [`Dit::predict`], showing every operator's input and output to `tap`.
    pub fn predict_tapped(&self, x: &[f32], t: &[f32], y: &[usize], tap: &mut Tap) -> Vec<f32> {
        let channels = x.len() / (t.len() * self.input_size * self.input_size).max(1);
        let shape = [t.len(), channels, self.input_size, self.input_size];
        let device = self.device();
        let x = Tensor::from_data(TensorData::new(x.to_vec(), shape), &device);
        let out = self.forward_tapped(x, t, y, tap);
        out.into_data().try_into_vec().expect("the model computes in f32")
    }
}
