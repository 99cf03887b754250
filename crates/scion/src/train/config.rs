use serde::{Deserialize, Serialize};

use super::finetune::{LoraConfig, Method, Objective, TeacherConfig};

/// How the learning rate goes on after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LrSchedule {
    /// Stays (the paper's stage 2).
    #[default]
    Constant,
    /// Falls to zero along a half cosine.
    Cosine,
    /// Halves after each quarter of the run (the published stage 1: ×0.5 at epochs 50, 100, 150 of 200).
    Halving,
}

/// Settings of pretraining and of stage 2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrainConfig {
    /// Optimiser steps.
    pub steps: u64,
    /// Images a step.
    #[serde(default = "batch")]
    pub batch: usize,
    /// Learning rate after warm-up.
    #[serde(default = "lr")]
    pub lr: f64,
    /// Steps of linear warm-up.
    #[serde(default)]
    pub warmup: u64,
    /// The learning rate after warm-up.
    #[serde(default)]
    pub schedule: LrSchedule,
    /// Largest gradient norm; larger gradients are scaled down to it.
    #[serde(default = "clip")]
    pub clip: f64,
    /// Decoupled weight decay.
    #[serde(default)]
    pub weight_decay: f64,
    /// Second-moment decay of AdamW.
    #[serde(default = "beta2")]
    pub beta2: f64,
    /// Decay of the weights' moving average.
    #[serde(default = "ema")]
    pub ema: f64,
    /// Chance that an image's label is replaced by the null class.
    #[serde(default = "label_dropout")]
    pub label_dropout: f64,
    /// Whether images are mirrored at random.
    #[serde(default)]
    pub flip: bool,
    /// Whether the backward pass runs each block anew instead of keeping its activations: less memory, more time.
    #[serde(default)]
    pub activation_checkpointing: bool,
    /// Steps between checkpoints.
    #[serde(default = "checkpoint_every")]
    pub checkpoint_every: u64,
    /// Stage 2: what is minimised.
    #[serde(default)]
    pub objective: Objective,
    /// Stage 2: what of the model trains.
    #[serde(default)]
    pub method: Method,
    /// Stage 2: the terms of an objective that asks the teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherConfig>,
    /// Stage 2: the adapters of `method = "lora"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
}

fn batch() -> usize {
    64
}
fn lr() -> f64 {
    1e-4
}
fn clip() -> f64 {
    10.0
}
fn beta2() -> f64 {
    0.999
}
fn ema() -> f64 {
    0.9999
}
fn label_dropout() -> f64 {
    0.1
}
fn checkpoint_every() -> u64 {
    500
}

impl LrSchedule {
    /// Factor on the learning rate in step `step` (from 0) of `steps`, after `warmup` linear steps.
    pub fn factor(self, step: u64, steps: u64, warmup: u64) -> f64 {
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        let progress = (step - warmup) as f64 / (steps.saturating_sub(warmup)).max(1) as f64;
        match self {
            Self::Constant => 1.0,
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos()),
            Self::Halving => 0.5f64.powi((progress * 4.0).floor().min(3.0) as i32),
        }
    }
}

impl TrainConfig {
    /// Checks that the numbers are possible.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.steps == 0 || self.batch == 0 || self.checkpoint_every == 0 {
            return Err("steps, batch and checkpoint-every must be at least 1".into());
        }
        check_batch(self.batch)?;
        positive("lr", self.lr)?;
        positive("clip", self.clip)?;
        not_negative("weight-decay", self.weight_decay)?;
        for (name, value) in [("ema", self.ema), ("label-dropout", self.label_dropout), ("beta2", self.beta2)]
        {
            if !(0.0..1.0).contains(&value) {
                return Err(format!("{name} must lie in [0, 1), found {value}"));
            }
        }
        Ok(())
    }
}

/// Most images of a step; more is a slip of the keyboard.
const MAX_BATCH: usize = 1 << 20;

fn check_batch(batch: usize) -> Result<(), String> {
    if batch <= MAX_BATCH { Ok(()) } else { Err(format!("batch must be at most {MAX_BATCH}, found {batch}")) }
}

pub(super) fn not_negative(name: &str, value: f64) -> Result<(), String> {
    if value >= 0.0 && value.is_finite() {
        Ok(())
    } else {
        Err(format!("{name} must be at least 0, found {value}"))
    }
}

pub(super) fn positive(name: &str, value: f64) -> Result<(), String> {
    if value > 0.0 && value.is_finite() {
        Ok(())
    } else {
        Err(format!("{name} must be above 0, found {value}"))
    }
}

/// What stage 1 minimises between the new and the old part's output, as an element mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RegressionLoss {
    /// |d| (the paper's choice for attention).
    #[default]
    L1,
    /// d² (the paper's choice for MLPs).
    L2,
    /// Huber's with δ = 1.
    Huber,
}

/// Where stage 1's activations come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaptureMode {
    /// The teacher runs in every step, on fresh noise; one pass feeds all parts.
    #[default]
    Online,
    /// The teacher runs once over `samples` noised images; its activations are kept on disk in f16.
    Cache,
}

/// Settings of stage 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DistillConfig {
    /// Optimiser steps of every part: a new operator, or a new pair.
    pub steps: u64,
    /// Images a step.
    #[serde(default = "batch")]
    pub batch: usize,
    /// What is minimised.
    #[serde(default)]
    pub loss: RegressionLoss,
    /// Learning rate after warm-up.
    #[serde(default = "distill_lr")]
    pub lr: f64,
    /// Steps of linear warm-up.
    #[serde(default)]
    pub warmup: u64,
    /// The learning rate after warm-up.
    #[serde(default)]
    pub schedule: LrSchedule,
    /// Largest gradient norm of a part.
    #[serde(default = "clip")]
    pub clip: f64,
    /// Decoupled weight decay.
    #[serde(default)]
    pub weight_decay: f64,
    /// Where activations come from.
    #[serde(default)]
    pub capture: CaptureMode,
    /// Noised images captured for `capture = "cache"`.
    #[serde(default = "samples")]
    pub samples: usize,
    /// Held-out noised images that choose the best weights.
    #[serde(default = "validation")]
    pub validation: usize,
    /// Steps between validations.
    #[serde(default = "validate_every")]
    pub validate_every: u64,
    /// Steps between checkpoints.
    #[serde(default = "checkpoint_every")]
    pub checkpoint_every: u64,
}

fn distill_lr() -> f64 {
    1e-3
}
fn samples() -> usize {
    8000
}
fn validation() -> usize {
    128
}
fn validate_every() -> u64 {
    50
}

impl DistillConfig {
    /// Checks that the numbers are possible.
    pub(crate) fn check(&self) -> Result<(), String> {
        let counts = [self.steps, self.validate_every, self.checkpoint_every];
        if counts.contains(&0) || [self.batch, self.validation].contains(&0) {
            return Err(
                "steps, batch, validation, validate-every and checkpoint-every must be at least 1".into()
            );
        }
        check_batch(self.batch)?;
        if self.capture == CaptureMode::Cache && self.samples < self.batch {
            return Err(format!("samples ({}) must be at least one batch ({})", self.samples, self.batch));
        }
        positive("lr", self.lr)?;
        positive("clip", self.clip)?;
        not_negative("weight-decay", self.weight_decay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_warm_up_and_fall() {
        assert_eq!(LrSchedule::Constant.factor(0, 100, 10), 0.1);
        assert_eq!(LrSchedule::Constant.factor(9, 100, 10), 1.0);
        assert_eq!(LrSchedule::Constant.factor(99, 100, 10), 1.0);
        assert_eq!(LrSchedule::Cosine.factor(10, 110, 10), 1.0);
        assert!((LrSchedule::Cosine.factor(60, 110, 10) - 0.5).abs() < 1e-12);
        let halving: Vec<f64> =
            [0, 49, 50, 100, 150, 199].map(|s| LrSchedule::Halving.factor(s, 200, 0)).into();
        assert_eq!(halving, [1.0, 1.0, 0.5, 0.25, 0.125, 0.125]);
    }
}
