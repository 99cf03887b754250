use std::collections::BTreeMap;
use std::sync::Arc;

use burn::Tensor;
use burn::module::{Module, Param};
use burn::tensor::activation::silu;
use burn::tensor::{Device, TensorData};
use scion_kernels::norm::modulated_norm;

use super::architecture::Architecture;
use super::block::{Block, EPS, Modulation, Seen, Tap};
use super::conditioning::{Context, Given, Text};
use super::config::{Conditions, DitConfig};
use super::embed::{ConditionEmbedder, PatchEmbed, TimestepEmbedder};
use super::pair::Layer;
use super::prompts::Prompts;
use crate::error::Result;
use crate::operator::{Init, Linear, Scheme};
use crate::positions::{sincos_grid, sincos_positions};

/// Pixels of an image that a latent's value stands for, along each side.
const PIXELS: usize = 8;

/// A diffusion transformer, its operators and pairs as the architecture says.
#[derive(Module, Debug)]
pub struct Dit {
    x_embedder: PatchEmbed,
    t_embedder: TimestepEmbedder,
    y_embedder: ConditionEmbedder,
    /// The network that serves all blocks, where they have none of their own.
    t_block: Option<Linear>,
    /// Of the image's height and width, where they are conditions.
    csize_embedder: Option<TimestepEmbedder>,
    /// Of its aspect ratio.
    ar_embedder: Option<TimestepEmbedder>,
    /// DiT's table; PixArt's positions depend on the image's size.
    pos_embed: Option<Param<Tensor<2>>>,
    blocks: Vec<Block>,
    /// One a pair, in the pairs' order.
    merges: Vec<Linear>,
    final_layer: FinalLayer,
    /// First blocks of the pairs, ascending.
    pairs: Vec<usize>,
    /// What labels of a text-to-image model stand for.
    #[module(skip)]
    prompts: Option<Arc<Prompts>>,
    input_size: usize,
    /// What PixArt's positions are divided by.
    interpolation: f64,
    patch: usize,
    out_channels: usize,
}

/// The last norm and projection.
#[derive(Module, Debug)]
struct FinalLayer {
    ada_ln: Modulation,
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
        let text = config.text();
        let pos_embed = match text {
            None => Some(init.parameter(sincos_positions(grid, hidden), [grid * grid, hidden])),
            Some(_) => None,
        };
        let pos_embed = pos_embed.map(|table| table.set_require_grad(false));
        let x_embedder = PatchEmbed::new(in_channels, patch, hidden, init);
        let t_embedder = TimestepEmbedder::new(hidden, init);
        let y_embedder = ConditionEmbedder::new(config, init);
        let t_block = text.map(|_| Linear::new(hidden, 6 * hidden, Scheme::Embedder, init));
        let mut size_embedder =
            || text.filter(|text| text.size_conditions).map(|_| TimestepEmbedder::new(hidden / 3, init));
        let (csize_embedder, ar_embedder) = (size_embedder(), size_embedder());
        let blocks = (0..config.depth).map(|i| Block::new(architecture, i, init)).collect::<Result<_>>()?;
        let pairs: Vec<usize> = architecture.pairs.iter().map(|pair| pair[0]).collect();
        let merges = pairs.iter().map(|_| Linear::new(2 * hidden, hidden, Scheme::Torch, init)).collect();
        let out_channels = config.out_channels();
        let ada_ln = match &config.conditions {
            Conditions::Classes { .. } => {
                Modulation::Linear(Linear::new(hidden, 2 * hidden, Scheme::Zero, init))
            }
            Conditions::Text(_) => Modulation::table(2, hidden, init),
        };
        let linear = Linear::new(hidden, patch * patch * out_channels, Scheme::Zero, init);
        Ok(Self {
            x_embedder,
            t_embedder,
            y_embedder,
            t_block,
            csize_embedder,
            ar_embedder,
            pos_embed,
            blocks,
            merges,
            final_layer: FinalLayer { ada_ln, linear },
            pairs,
            prompts: None,
            input_size: config.input_size,
            interpolation: text.map_or(1.0, |text| text.interpolation),
            patch,
            out_channels,
        })
    }

    /// A text-to-image model that looks up these prompts by label, of a width and lengths that it takes
    /// ([`Prompts::check`]).
    #[must_use]
    pub fn with_prompts(mut self, prompts: Arc<Prompts>) -> Self {
        self.prompts = Some(prompts);
        self
    }

    /// The prompts that it was given.
    pub fn prompts(&self) -> Option<&Arc<Prompts>> {
        self.prompts.as_ref()
    }

    /// The number of labels that the model knows: its classes, or the prompts that it was given.
    ///
    /// # Errors
    /// When it is a text-to-image model without prompts.
    pub fn labels(&self, sizes: &DitConfig) -> Result<usize> {
        self.prompts.as_ref().map_or_else(|| sizes.classes(), |prompts| Ok(prompts.len()))
    }

    /// Whether the model is conditioned on prompts.
    pub fn is_text_to_image(&self) -> bool {
        matches!(self.y_embedder, ConditionEmbedder::Captions(_))
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
        self.x_embedder.proj.bias.val().device()
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
    /// Shapes: `x` [N, C, H, W], `t` N original timesteps, N conditions → [N, C_out, H, W]. A class-conditional model takes
    /// its own H and W; a text-to-image model any that divide into patches, as far as its operators do.
    ///
    /// # Panics
    /// When a class-conditional model is given text, or a text-to-image model labels without prompts.
    pub fn forward<'a>(&self, x: Tensor<4>, t: &[f32], given: impl Into<Given<'a>>) -> Tensor<4> {
        self.forward_tapped(x, t, given, &mut |_| {})
    }

    /// [`Dit::forward`], showing every operator's beginning, input and output, and the tokens between layers, to `tap`.
    pub fn forward_tapped<'a>(
        &self,
        x: Tensor<4>,
        t: &[f32],
        given: impl Into<Given<'a>>,
        tap: &mut Tap,
    ) -> Tensor<4> {
        let (mut tokens, context) = self.embed(x, t, given);
        for layer in self.layers() {
            tap(Seen::Tokens { before: layer.index(), tokens: &tokens, context: &context });
            tokens = layer.forward(tokens, &context, tap);
        }
        tap(Seen::Tokens { before: self.blocks.len(), tokens: &tokens, context: &context });
        self.head(tokens, &context)
    }

    /// [`Dit::forward`], and the tokens [N, T, D] after every block, of two side by side after the second.
    pub fn forward_with_blocks<'a>(
        &self,
        x: Tensor<4>,
        t: &[f32],
        given: impl Into<Given<'a>>,
    ) -> (Tensor<4>, BTreeMap<usize, Tensor<3>>) {
        let mut after = BTreeMap::new();
        let out = self.forward_tapped(x, t, given, &mut |seen| {
            if let Seen::Tokens { before: next @ 1.., tokens, .. } = seen {
                after.insert(next - 1, tokens.clone());
            }
        });
        (out, after)
    }

    /// Rows and columns of an image's tokens.
    fn grid(&self, x: &Tensor<4>) -> [usize; 2] {
        let [.., height, width] = x.dims();
        [height / self.patch, width / self.patch]
    }

    /// Tokens [N, T, D] before the first block, and what all blocks get beside them.
    pub(crate) fn embed<'a>(
        &self,
        x: Tensor<4>,
        t: &[f32],
        given: impl Into<Given<'a>>,
    ) -> (Tensor<3>, Context) {
        let ([.., height, width], grid) = (x.dims(), self.grid(&x));
        let tokens = self.x_embedder.forward(x) + self.positions(grid).unsqueeze();
        let time = self.t_embedder.forward(t);
        let context = match (&self.y_embedder, given.into(), &self.prompts) {
            (ConditionEmbedder::Labels(embedder), Given::Labels(labels), _) => {
                Context { conditioning: silu(time + embedder.forward(labels)), text: None, grid }
            }
            (ConditionEmbedder::Captions(embedder), given, prompts) => {
                let Text { tokens, mask } = match (given, prompts) {
                    (Given::Text(text), _) => text,
                    (Given::Labels(labels), Some(prompts)) => prompts.text(labels, &self.device()),
                    (Given::Labels(_), None) => panic!("labels of a text-to-image model need prompts"),
                };
                let text = Text { tokens: embedder.forward(tokens), mask };
                let conditioning = self.shared_modulation(time, [height, width]);
                Context { conditioning, text: Some(text), grid }
            }
            (ConditionEmbedder::Labels(_), Given::Text(_), _) => {
                panic!("a class-conditional model reads no text")
            }
        };
        (tokens, context)
    }

    /// adaLN-single: from the timestep's embedding [N, D] to [N, 8·D].
    fn shared_modulation(&self, time: Tensor<2>, [height, width]: [usize; 2]) -> Tensor<2> {
        let n = time.dims()[0];
        let embedding = match (&self.csize_embedder, &self.ar_embedder) {
            (Some(size), Some(ratio)) => {
                let side = |side: usize| (side * PIXELS) as f32;
                let sizes = size.forward(&[side(height), side(width)].repeat(n)); // [2·N, D/3]
                let sizes = sizes.reshape([n as i32, -1]);
                let ratios = ratio.forward(&vec![side(height) / side(width); n]);
                time + Tensor::cat(vec![sizes, ratios], 1)
            }
            _ => time,
        };
        let t_block = self.t_block.as_ref().expect("text-to-image models have one modulation network");
        let shared = t_block.forward(silu(embedding.clone()));
        Tensor::cat(vec![shared, embedding.clone(), embedding], 1)
    }

    /// Positions [T, D] of a grid of tokens.
    pub(super) fn positions(&self, grid: [usize; 2]) -> Tensor<2> {
        if let Some(table) = &self.pos_embed {
            return table.val();
        }
        let width = self.x_embedder.proj.bias.val().dims()[0];
        let base = self.input_size / self.patch;
        let positions = sincos_grid(grid, width, |place, side| {
            // In f32, as the original.
            place as f32 / (side as f64 / base as f64) as f32 / self.interpolation as f32
        });
        Tensor::from_data(TensorData::new(positions, [grid[0] * grid[1], width]), &self.device())
    }

    /// From the tokens after the last block to [N, C_out, H, W].
    pub(crate) fn head(&self, tokens: Tensor<3>, context: &Context) -> Tensor<4> {
        let width = tokens.dims()[2];
        let modulation = self.final_layer.ada_ln.forward(&context.conditioning, 6 * width..8 * width);
        let patches = self.final_layer.linear.forward(modulated_norm(tokens, modulation, 0, 1, EPS));
        self.unpatchify(patches, context.grid)
    }

    /// [N, T, p·p·C] → [N, C, H, W]; a token's values are ordered row, column, channel.
    fn unpatchify(&self, patches: Tensor<3>, [rows, columns]: [usize; 2]) -> Tensor<4> {
        let n = patches.dims()[0];
        let (p, c) = (self.patch, self.out_channels);
        patches
            .reshape([n, rows, columns, p, p, c])
            .permute([0, 5, 1, 3, 2, 4]) // [N, C, rows, p, columns, p]
            .reshape([n, c, rows * p, columns * p])
    }

    /// [`Dit::forward`] from and to plain values, row-major, at the model's own size.
    pub fn predict<'a>(&self, x: &[f32], t: &[f32], given: impl Into<Given<'a>>) -> Vec<f32> {
        self.predict_tapped(x, t, given, &mut |_| {})
    }

    /// [`Dit::predict`] for inputs of another height and width.
    pub fn predict_sized<'a>(
        &self,
        x: &[f32],
        size: [usize; 2],
        t: &[f32],
        given: impl Into<Given<'a>>,
    ) -> Vec<f32> {
        self.run(x, size, t, given.into(), &mut |_| {})
    }

    /// [`Dit::predict`], showing every operator's input and output to `tap`.
    pub fn predict_tapped<'a>(
        &self,
        x: &[f32],
        t: &[f32],
        given: impl Into<Given<'a>>,
        tap: &mut Tap,
    ) -> Vec<f32> {
        self.run(x, [self.input_size; 2], t, given.into(), tap)
    }

    fn run(
        &self,
        x: &[f32],
        [height, width]: [usize; 2],
        t: &[f32],
        given: Given,
        tap: &mut Tap,
    ) -> Vec<f32> {
        let channels = x.len() / (t.len() * height * width).max(1);
        let shape = [t.len(), channels, height, width];
        let x = Tensor::from_data(TensorData::new(x.to_vec(), shape), &self.device());
        let out = self.forward_tapped(x, t, given, tap);
        out.into_data().try_into_vec().expect("the model computes in f32")
    }
}
