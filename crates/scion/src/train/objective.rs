//! The terms of stage 2's loss that ask the teacher, with their gradients.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::Tensor;
use rayon::prelude::*;
use scion_kernels::optimizer::sum_of_squares;
use scion_kernels::{PackedWeights, with_values};

use super::config::{RegressionLoss, TrainConfig};
use super::finetune::{Objective, TeacherConfig};
use super::pass::{Pass, Slopes};
use super::regression::regression_loss;
use crate::capture::NoisedBatch;
use crate::model::{Dit, DitConfig};
use crate::plan::BlockPair;

/// A frozen teacher whose answers a model is trained to give.
#[derive(Debug)]
pub(super) struct Guide {
    teacher: Dit,
    weights: PackedWeights,
    config: TeacherConfig,
    /// Weight of the diffusion loss beside the teacher's terms; 0 where it plays no part.
    pub diffusion: f64,
    /// Blocks whose tokens are matched; none where their weight is 0.
    pairs: Vec<BlockPair>,
}

/// What the teacher says to a batch.
pub(super) struct Answer {
    out: Tensor<4>,
    blocks: BTreeMap<usize, Tensor<3>>,
}

/// The terms before their weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct TeacherTerms {
    pub noise: Option<f64>,
    pub variance: Option<f64>,
    pub blocks: Option<f64>,
}

impl Guide {
    /// A teacher without gradients; `pairs` say which of its blocks is matched by which of the model's.
    pub fn new(teacher: Dit, config: &TrainConfig, pairs: Vec<BlockPair>) -> Self {
        let terms = config.teacher.clone().unwrap_or_default();
        let diffusion = match config.objective {
            Objective::Diffusion => 1.0,
            Objective::Teacher => 0.0,
            Objective::Both => terms.diffusion.unwrap_or(1.0),
        };
        let pairs = if terms.blocks > 0.0 { pairs } else { Vec::new() };
        Self { teacher, weights: PackedWeights::default(), config: terms, diffusion, pairs }
    }

    /// Whether tokens after blocks are matched.
    pub fn matches_blocks(&self) -> bool {
        !self.pairs.is_empty()
    }

    /// Runs the teacher on what the model sees.
    pub fn answer(&self, sizes: &DitConfig, batch: &NoisedBatch) -> Answer {
        let x = batch.tensor(sizes, &self.teacher.device());
        let (t, y) = (batch.times(), &batch.labels);
        self.weights.scope(|| {
            if self.matches_blocks() {
                let (out, blocks) = self.teacher.forward_with_blocks(x, &t, y);
                Answer { out, blocks }
            } else {
                Answer { out: self.teacher.forward(x, &t, y), blocks: BTreeMap::new() }
            }
        })
    }

    /// The terms between a model's pass and the teacher's answer; adds the gradient of their weighted sum to `slopes`,
    /// whose `out` has the output's size.
    pub fn compare(
        &self,
        pass: &Pass,
        answer: &Answer,
        sizes: &DitConfig,
        slopes: &mut Slopes,
    ) -> (f64, TeacherTerms) {
        let noise = sizes.image_len();
        let sample = noise * sizes.out_channels() / sizes.in_channels;
        let slope = &mut slopes.out;
        let mut part = |weight: f64, range: Range<usize>| {
            (weight > 0.0 && !range.is_empty()).then(|| {
                with_values(pass.out(), |found| {
                    with_values(&answer.out, |expected| {
                        squared_error(found, expected, sample, range, weight, slope)
                    })
                })
            })
        };
        let TeacherConfig { noise: w_noise, variance: w_variance, blocks: w_blocks, .. } = self.config;
        let mut terms = TeacherTerms {
            noise: part(w_noise, 0..noise),
            variance: part(w_variance, noise..sample),
            blocks: None,
        };
        if self.matches_blocks() {
            let share = w_blocks / self.pairs.len() as f64;
            let errors = self.pairs.iter().map(|pair| {
                let (error, slope) =
                    relative_error(pass.after_block(pair.student), &answer.blocks[&pair.teacher], share);
                slopes.blocks.insert(pair.student, slope);
                error
            });
            terms.blocks = Some(errors.sum::<f64>() / self.pairs.len() as f64);
        }
        let weighted = [(w_noise, terms.noise), (w_variance, terms.variance), (w_blocks, terms.blocks)];
        (weighted.into_iter().filter_map(|(weight, term)| Some(weight * term?)).sum(), terms)
    }
}

/// Mean of (found − expected)² over `part` of every run of `sample` values; adds `weight` times its gradient by `found`
/// to `slope`. Sums run in the samples' order, whatever the number of threads.
fn squared_error(
    found: &[f32],
    expected: &[f32],
    sample: usize,
    part: Range<usize>,
    weight: f64,
    slope: &mut [f32],
) -> f64 {
    let count = (found.len() / sample * part.len()) as f64;
    let factor = (2.0 * weight / count) as f32;
    let sums: Vec<f64> = found
        .par_chunks(sample)
        .zip(expected.par_chunks(sample))
        .zip(slope.par_chunks_mut(sample))
        .map(|((found, expected), slope)| {
            let (found, expected) = (&found[part.clone()], &expected[part.clone()]);
            let mut sum = 0.0;
            for ((slope, found), expected) in slope[part.clone()].iter_mut().zip(found).zip(expected) {
                let difference = found - expected;
                *slope += factor * difference;
                sum += f64::from(difference) * f64::from(difference);
            }
            sum
        })
        .collect();
    sums.iter().sum::<f64>() / count
}

/// Mean of (found − expected)² over the mean of expected², and `weight` times its gradient by `found`.
fn relative_error(found: &Tensor<3>, expected: &Tensor<3>, weight: f64) -> (f64, Vec<f32>) {
    with_values(found, |found| {
        with_values(expected, |expected| {
            let mut slope = vec![0f32; found.len()];
            let error = regression_loss(RegressionLoss::L2, found, expected, Some(&mut slope));
            // Tokens that are all zero, as no trained model has, would leave nothing to divide by.
            let power = (sum_of_squares(expected) / expected.len() as f64).max(f64::MIN_POSITIVE);
            let factor = (weight / power) as f32;
            slope.iter_mut().for_each(|slope| *slope *= factor);
            (error / power, slope)
        })
    })
}
