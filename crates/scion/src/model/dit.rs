use burn::Tensor;
use burn::module::{Module, Param};
use burn::tensor::activation::silu;
use burn::tensor::{Device, TensorData};
use scion_kernels::norm::modulated_norm;

use super::block::{Block, EPS, Tap};
use super::config::{Architecture, DitConfig};
use super::embed::{LabelEmbedder, PatchEmbed, TimestepEmbedder};
use crate::error::Result;
use crate::operator::{Init, Linear, Scheme};
use crate::positions::sincos_positions;

/// A diffusion transformer, its operators as the architecture says.
#[derive(Module, Debug)]
pub struct Dit {
    x_embedder: PatchEmbed,
    t_embedder: TimestepEmbedder,
    y_embedder: LabelEmbedder,
    pos_embed: Param<Tensor<2>>,
    blocks: Vec<Block>,
    final_layer: FinalLayer,
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
            final_layer,
            input_size,
            patch,
            out_channels,
        })
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

    /// Predicted noise and variance values.
    ///
    /// Shapes: `x` [N, C, H, W], `t` N original timesteps, `y` N labels → [N, C_out, H, W].
    pub fn forward(&self, x: Tensor<4>, t: &[f32], y: &[usize]) -> Tensor<4> {
        self.forward_tapped(x, t, y, &mut |_, _, _, _| {})
    }

    /// [`Dit::forward`], showing every operator's input and output to `tap`.
    pub fn forward_tapped(&self, x: Tensor<4>, t: &[f32], y: &[usize], tap: &mut Tap) -> Tensor<4> {
        let (mut tokens, c) = self.embed(x, t, y);
        for (index, block) in self.blocks.iter().enumerate() {
            tokens = block.forward(index, tokens, &c, tap);
        }
        self.head(tokens, c)
    }

    /// [`Dit::forward`], and the tokens [N, T, D] after every block.
    pub fn forward_with_blocks(&self, x: Tensor<4>, t: &[f32], y: &[usize]) -> (Tensor<4>, Vec<Tensor<3>>) {
        let (mut tokens, c) = self.embed(x, t, y);
        let mut after = Vec::with_capacity(self.blocks.len());
        for (index, block) in self.blocks.iter().enumerate() {
            tokens = block.forward(index, tokens, &c, &mut |_, _, _, _| {});
            after.push(tokens.clone());
        }
        (self.head(tokens, c), after)
    }

    /// Tokens [N, T, D] and conditioning [N, D] before the first block.
    pub(super) fn embed(&self, x: Tensor<4>, t: &[f32], y: &[usize]) -> (Tensor<3>, Tensor<2>) {
        let tokens = self.x_embedder.forward(x) + self.pos_embed.val().unsqueeze();
        (tokens, silu(self.t_embedder.forward(t) + self.y_embedder.forward(y)))
    }

    /// From the tokens after the last block and the conditioning to [N, C_out, H, W].
    pub(super) fn head(&self, tokens: Tensor<3>, c: Tensor<2>) -> Tensor<4> {
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
        let channels = x.len() / (t.len() * self.input_size * self.input_size).max(1);
        let shape = [t.len(), channels, self.input_size, self.input_size];
        let device = self.device();
        let out = self.forward(Tensor::from_data(TensorData::new(x.to_vec(), shape), &device), t, y);
        out.into_data().try_into_vec().expect("the model computes in f32")
    }
}
