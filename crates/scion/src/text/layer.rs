//! One layer of the encoder: attention and feed-forward, each behind a norm and beside a residual connection.

use rayon::prelude::*;
use scion_kernels::gemm::{self, Epilogue, MatRef, matmul};

use super::attention::Projected;
use super::config::{FeedForward, T5Config};
use super::position::PositionBias;
use crate::checkpoint::Checkpoint;
use crate::error::Result;

/// A weight [outputs, inputs], without a bias.
struct Matrix {
    values: Vec<f32>,
    outputs: usize,
    inputs: usize,
}

impl Matrix {
    fn read(file: &Checkpoint, name: &str, [outputs, inputs]: [usize; 2]) -> Result<Self> {
        Ok(Self { values: file.read_f32(name)?, outputs, inputs })
    }

    /// x · Wᵀ for `x` of [tokens, inputs], in the precision of products, through an activation.
    fn times(&self, x: &[f32], activation: gemm::Activation) -> Vec<f32> {
        let mut out = vec![0.0; x.len() / self.inputs * self.outputs];
        self.multiply(x, &mut out, false, activation);
        out
    }

    /// Adds x · Wᵀ to `out`.
    fn add_to(&self, x: &[f32], out: &mut [f32]) {
        self.multiply(x, out, true, gemm::Activation::None);
    }

    fn multiply(&self, x: &[f32], out: &mut [f32], accumulate: bool, activation: gemm::Activation) {
        let x = MatRef::new(x, x.len() / self.inputs, self.inputs);
        let weight = MatRef::new(&self.values, self.outputs, self.inputs).t();
        let epilogue = Epilogue { bias: None, activation };
        matmul(scion_kernels::precision(), x, weight, out, self.outputs, accumulate, epilogue);
    }
}

/// The first of the feed-forward layers.
enum Inner {
    Relu(Matrix),
    GatedGelu { gate: Matrix, linear: Matrix },
}

/// A layer with its weights.
pub(super) struct Layer {
    attention_norm: Vec<f32>,
    query: Matrix,
    key: Matrix,
    value: Matrix,
    output: Matrix,
    feed_forward_norm: Vec<f32>,
    inner: Inner,
    outer: Matrix,
}

/// The name of a layer's tensor.
fn name(layer: usize, rest: &str) -> String {
    format!("encoder.block.{layer}.layer.{rest}.weight")
}

impl Layer {
    /// Names and shapes of a layer's tensors.
    pub(super) fn tensors(config: &T5Config, layer: usize) -> Vec<(String, Vec<usize>)> {
        let (width, inner, hidden) = (config.width, config.inner(), config.hidden);
        let first: &[&str] = match config.feed_forward {
            FeedForward::Relu => &["wi"],
            FeedForward::GatedGelu => &["wi_0", "wi_1"],
        };
        let attention = ["q", "k", "v"].map(|part| (format!("0.SelfAttention.{part}"), vec![inner, width]));
        let first = first.iter().map(|part| (format!("1.DenseReluDense.{part}"), vec![hidden, width]));
        let rest = [
            ("0.SelfAttention.o", vec![width, inner]),
            ("0.layer_norm", vec![width]),
            ("1.DenseReluDense.wo", vec![width, hidden]),
            ("1.layer_norm", vec![width]),
        ]
        .map(|(part, shape)| (part.to_owned(), shape));
        attention
            .into_iter()
            .chain(first)
            .chain(rest)
            .map(|(part, shape)| (name(layer, &part), shape))
            .collect()
    }

    /// Reads a layer, one tensor after the other, as f32.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn read(file: &Checkpoint, config: &T5Config, layer: usize) -> Result<Self> {
        let (width, inner, hidden) = (config.width, config.inner(), config.hidden);
        let norm = |part: &str| file.read_f32(&name(layer, part));
        let matrix = |part: &str, shape| Matrix::read(file, &name(layer, part), shape);
        Ok(Self {
            attention_norm: norm("0.layer_norm")?,
            query: matrix("0.SelfAttention.q", [inner, width])?,
            key: matrix("0.SelfAttention.k", [inner, width])?,
            value: matrix("0.SelfAttention.v", [inner, width])?,
            output: matrix("0.SelfAttention.o", [width, inner])?,
            feed_forward_norm: norm("1.layer_norm")?,
            inner: match config.feed_forward {
                FeedForward::Relu => Inner::Relu(matrix("1.DenseReluDense.wi", [hidden, width])?),
                FeedForward::GatedGelu => Inner::GatedGelu {
                    gate: matrix("1.DenseReluDense.wi_0", [hidden, width])?,
                    linear: matrix("1.DenseReluDense.wi_1", [hidden, width])?,
                },
            },
            outer: matrix("1.DenseReluDense.wo", [width, hidden])?,
        })
    }

    /// Passes texts through the layer in place: `hidden` is [tokens, width], one text behind the other as `masks` has them.
    pub(super) fn apply(
        &self,
        config: &T5Config,
        hidden: &mut [f32],
        masks: &[&[bool]],
        bias: &PositionBias,
    ) {
        let normed = rms_norm(hidden, &self.attention_norm, config.eps);
        let [queries, keys, values] = [&self.query, &self.key, &self.value]
            .map(|projection| projection.times(&normed, gemm::Activation::None));
        let context = Projected { queries, keys, values }.attend(config, masks, bias);
        self.output.add_to(&context, hidden);
        let normed = rms_norm(hidden, &self.feed_forward_norm, config.eps);
        let inner = match &self.inner {
            Inner::Relu(first) => first.times(&normed, gemm::Activation::Relu),
            Inner::GatedGelu { gate, linear } => {
                let mut gate = gate.times(&normed, gemm::Activation::Gelu { derivative: None });
                let linear = linear.times(&normed, gemm::Activation::None);
                gate.iter_mut().zip(&linear).for_each(|(gate, linear)| *gate *= linear);
                gate
            }
        };
        self.outer.add_to(&inner, hidden);
    }
}

/// Every token over its root mean square, times the weight; neither centred nor shifted.
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(weight.len()).zip(x.par_chunks(weight.len())).for_each(|(out, x)| {
        let squares: f64 = x.iter().map(|v| f64::from(v * v)).sum();
        let scale = 1.0 / ((squares / x.len() as f64) as f32 + eps).sqrt();
        out.iter_mut().zip(x).zip(weight).for_each(|((out, x), weight)| *out = weight * (x * scale));
    });
    out
}
