use burn::Tensor;
use burn::module::{Module, Param};
use burn::tensor::TensorData;
use burn::tensor::activation::silu;
use scion_kernels::linear::Activation;

use super::architecture::FREQUENCIES;
use super::config::{Conditions, DitConfig};
use crate::operator::{Init, Linear, Scheme};

/// Cuts an image into patches and embeds each as a token, row by row.
#[derive(Module, Debug)]
pub struct PatchEmbed {
    /// [D, C·p·p]; [D, C, p, p] in checkpoints.
    pub proj: Linear,
    patch: usize,
}

impl PatchEmbed {
    /// Xavier-uniform on the flattened view, as the original.
    pub fn new(channels: usize, patch: usize, hidden: usize, init: &mut Init) -> Self {
        Self { proj: Linear::new(channels * patch * patch, hidden, Scheme::Xavier, init), patch }
    }

    /// [N, C, H, W] → [N, T, D].
    pub fn forward(&self, x: Tensor<4>) -> Tensor<3> {
        let [n, c, h, w] = x.dims();
        let p = self.patch;
        let tokens = x
            .reshape([n, c, h / p, p, w / p, p])
            .permute([0, 2, 4, 1, 3, 5]) // [N, H/p, W/p, C, p, p]
            .reshape([n, (h / p) * (w / p), c * p * p]);
        self.proj.forward(tokens)
    }
}

/// Sinusoidal timestep features through a two-layer network.
#[derive(Module, Debug)]
pub struct TimestepEmbedder {
    /// `mlp.0` and `mlp.2` of the original.
    pub mlp: Vec<Linear>,
}

impl TimestepEmbedder {
    /// N(0, 0.02²), as the original.
    pub fn new(hidden: usize, init: &mut Init) -> Self {
        Self {
            mlp: vec![
                Linear::new(FREQUENCIES, hidden, Scheme::Embedder, init),
                Linear::new(hidden, hidden, Scheme::Embedder, init),
            ],
        }
    }

    /// N timesteps (original indices, fractions allowed), or other numbers → [N, D].
    pub fn forward(&self, t: &[f32]) -> Tensor<2> {
        let device = self.mlp[0].weight.val().device();
        let half = FREQUENCIES / 2;
        let features: Vec<f32> = t
            .iter()
            .flat_map(|&t| {
                let angle = move |k: usize| {
                    let frequency = (-(10_000f64.ln()) * k as f64 / half as f64).exp();
                    f64::from(t) * frequency
                };
                let cosines = (0..half).map(move |k| angle(k).cos() as f32);
                cosines.chain((0..half).map(move |k| angle(k).sin() as f32))
            })
            .collect();
        let features = Tensor::<2>::from_data(TensorData::new(features, [t.len(), FREQUENCIES]), &device);
        self.mlp[1].forward(silu(self.mlp[0].forward(features)))
    }
}

/// What embeds a model's conditions.
// A model has one, and modules cannot stand in boxes.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum ConditionEmbedder {
    /// Classes.
    Labels(LabelEmbedder),
    /// Prompts.
    Captions(CaptionEmbedder),
}

impl ConditionEmbedder {
    /// What the sizes ask for.
    pub fn new(sizes: &DitConfig, init: &mut Init) -> Self {
        match &sizes.conditions {
            Conditions::Classes { count, null } => {
                Self::Labels(LabelEmbedder::new(count + usize::from(*null), sizes.hidden, init))
            }
            Conditions::Text(text) => Self::Captions(CaptionEmbedder::new(text.width, sizes.hidden, init)),
        }
    }
}

/// Projects the text encoder's tokens to the model's width.
#[derive(Module, Debug)]
pub struct CaptionEmbedder {
    /// `fc2(gelu(fc1(·)))`
    pub y_proj: Projector,
}

/// Two linear layers with tanh-GELU between them, from one width to another.
#[derive(Module, Debug)]
pub struct Projector {
    /// [D, width]
    pub fc1: Linear,
    /// [D, D]
    pub fc2: Linear,
}

impl CaptionEmbedder {
    /// N(0, 0.02²), as the original.
    pub fn new(width: usize, hidden: usize, init: &mut Init) -> Self {
        let fc1 = Linear::new(width, hidden, Scheme::Embedder, init);
        Self { y_proj: Projector { fc1, fc2: Linear::new(hidden, hidden, Scheme::Embedder, init) } }
    }

    /// [N, L, width] → [N, L, D].
    pub fn forward(&self, text: Tensor<3>) -> Tensor<3> {
        self.y_proj.fc2.forward(self.y_proj.fc1.activated(text, Activation::GeluTanh))
    }
}

/// The table of class embeddings; its last row is the null class.
#[derive(Module, Debug)]
pub struct LabelEmbedder {
    /// [classes (+ 1), D]
    pub embedding_table: Embedding,
}

/// A table whose rows are looked up.
#[derive(Module, Debug)]
pub struct Embedding {
    /// [rows, D]
    pub weight: Param<Tensor<2>>,
}

impl LabelEmbedder {
    /// N(0, 0.02²), as the original.
    pub fn new(rows: usize, hidden: usize, init: &mut Init) -> Self {
        Self { embedding_table: Embedding { weight: init.normal([rows, hidden], 0.02) } }
    }

    /// Labels → [N, D].
    pub fn forward(&self, y: &[usize]) -> Tensor<2> {
        let table = self.embedding_table.weight.val();
        let rows: Vec<i64> = y.iter().map(|&y| y as i64).collect();
        let index = Tensor::from_data(TensorData::new(rows, [y.len()]), &table.device());
        table.select(0, index)
    }
}
