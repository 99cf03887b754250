//! Inputs and outputs of the teacher's operators and blocks, at noised images with their own timesteps and labels.
//!
//! The published extractor feeds clean latents and swaps timesteps with labels; here the teacher sees
//! exactly what it sees in training.

mod cache;

use std::collections::BTreeMap;

use burn::Tensor;
use burn::tensor::{Device, TensorData};
use rayon::prelude::*;

pub use cache::{Cache, CacheWriter, Widths};

use crate::diffusion::{NoiseStream, Purpose, Schedule, q_sample};
use crate::error::Result;
use crate::model::{Dit, DitConfig, Seen, Site};

/// What the teacher did at one site for a batch, row-major.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Activations {
    /// [N, T, D]: of an operator, after modulation; of a pair, the tokens before its first block.
    pub input: Vec<f32>,
    /// [N, T, D]: of an operator, before the gate; of a pair, the tokens after its second block.
    pub output: Vec<f32>,
    /// [N, K]: what a pair's blocks get beside the tokens ([`Context::packed`](crate::model::Context::packed)); empty for
    /// an operator.
    pub conditioning: Vec<f32>,
}

/// Images with noise at random timesteps, as the model sees them.
#[derive(Clone, Debug, PartialEq)]
pub struct NoisedBatch {
    /// [N, C, H, W]
    pub x_t: Vec<f32>,
    /// The noise in it, [N, C, H, W].
    pub noise: Vec<f32>,
    /// Timesteps, from 0.
    pub t: Vec<usize>,
    /// Labels, some replaced by the null class or prompt.
    pub labels: Vec<usize>,
}

/// Adds noise to images in [-1, 1].
///
/// What image `i` gets depends on `seed` and `first + i` alone. With a chance of `label_dropout`, a label
/// becomes the null label.
///
/// # Errors
/// When the numbers of images, labels and pixels do not fit one another.
pub fn add_noise(
    sizes: &DitConfig,
    schedule: &Schedule,
    images: &[f32],
    labels: &[usize],
    label_dropout: f64,
    seed: u64,
    first: u64,
) -> Result<NoisedBatch> {
    let (mut noise, null) = (vec![0f32; images.len()], sizes.null_label());
    let drawn: Vec<(usize, usize)> = noise
        .par_chunks_mut(sizes.image_len())
        .zip(labels)
        .enumerate()
        .map(|(i, (noise, &label))| {
            let mut stream = NoiseStream::with_purpose(seed, first + i as u64, Purpose::Training);
            let t = stream.uniform_below(schedule.len());
            let dropped = stream.uniform() < label_dropout;
            stream.fill_normal(noise);
            (t, null.filter(|_| dropped).unwrap_or(label))
        })
        .collect();
    let (t, labels): (Vec<usize>, Vec<usize>) = drawn.into_iter().unzip();
    let x_t = q_sample(schedule, images, &noise, &t)?;
    Ok(NoisedBatch { x_t, noise, t, labels })
}

impl NoisedBatch {
    /// The noised images as a tensor [N, C, H, W].
    pub fn tensor(&self, sizes: &DitConfig, device: &Device) -> Tensor<4> {
        let shape = [self.t.len(), sizes.in_channels, sizes.input_size, sizes.input_size];
        Tensor::from_data(TensorData::new(self.x_t.clone(), shape), device)
    }

    /// The timesteps as the model takes them.
    pub fn times(&self) -> Vec<f32> {
        self.t.iter().map(|&t| t as f32).collect()
    }
}

/// Runs the teacher once and returns the activations at the given sites; at a pair, its blocks still follow one another.
pub fn capture(
    teacher: &Dit,
    sizes: &DitConfig,
    batch: &NoisedBatch,
    sites: &[Site],
) -> BTreeMap<Site, Activations> {
    let mut found = BTreeMap::new();
    let x = batch.tensor(sizes, &teacher.device());
    teacher.forward_tapped(x, &batch.times(), &batch.labels, &mut |seen| match seen {
        Seen::Begin { .. } => {}
        Seen::Operator { block, slot, input, output } => {
            let site = Site::Operator(block, slot);
            if sites.contains(&site) {
                let (input, output) = (values(input), values(output));
                found.insert(site, Activations { input, output, ..Activations::default() });
            }
        }
        Seen::Tokens { before, tokens, context } => {
            let (begins, ends) = (Site::Pair(before), before.checked_sub(2).map(Site::Pair));
            if sites.contains(&begins) {
                let (input, conditioning) = (values(tokens), context.packed(sizes));
                found.insert(begins, Activations { input, conditioning, ..Activations::default() });
            }
            if let Some(pair) = ends.and_then(|site| found.get_mut(&site)) {
                pair.output = values(tokens);
            }
        }
    });
    found
}

fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.clone().into_data().try_into_vec().expect("the model computes in f32")
}
