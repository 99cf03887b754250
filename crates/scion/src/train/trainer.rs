//! The loop of pretraining and stage 2.

use std::collections::BTreeMap;

use burn::Tensor;
use burn::module::Module;
use scion_kernels::{backward, with_values};
use serde::Serialize;

use super::config::TrainConfig;
use super::gradient::{Step, collect, descend};
use super::state::TrainState;
use crate::capture::add_noise;
use crate::data::Batch;
use crate::diffusion::{Schedule, hybrid_loss};
use crate::error::{Error, Result};
use crate::model::{Checkpointed, Dit, DitConfig, apply_weights};

/// What one step reports.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: u64,
    /// mse + vb.
    pub loss: f64,
    /// Mean squared error of the predicted noise.
    pub mse: f64,
    /// Variational bound of the learned variance, bits a dimension.
    pub vb: f64,
    /// Learning rate.
    pub lr: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
}

/// A model under training by the diffusion objective.
#[derive(Debug)]
pub struct Trainer {
    model: Dit,
    sizes: DitConfig,
    config: TrainConfig,
    schedule: Schedule,
    seed: u64,
    state: TrainState,
}

impl Trainer {
    /// A trainer at `state` of a model on an autodiff device.
    pub fn new(model: Dit, sizes: DitConfig, config: TrainConfig, seed: u64, state: TrainState) -> Self {
        Self { model, sizes, config, schedule: Schedule::linear(), seed, state }
    }

    /// Steps done and optimiser state.
    pub fn state(&self) -> &TrainState {
        &self.state
    }

    /// The model as trained so far.
    pub fn model(&self) -> &Dit {
        &self.model
    }

    /// The model with the moving average of its weights, without gradients.
    ///
    /// # Errors
    /// None in practice: names come from the model itself.
    pub fn ema_model(&self) -> Result<Dit> {
        apply_weights(self.model.valid(), |name| Ok(self.state.moments.get(name).map(|m| m.ema.clone())))
    }

    /// One optimiser step on a batch in [-1, 1].
    ///
    /// # Errors
    /// When loss or gradient are no longer finite.
    pub fn step(mut self, batch: &Batch) -> Result<(Self, StepReport)> {
        let (sizes, config) = (&self.sizes, &self.config);
        let first = self.state.step * batch.labels.len() as u64;
        let noised = add_noise(
            sizes,
            &self.schedule,
            &batch.images,
            &batch.labels,
            config.label_dropout,
            self.seed,
            first,
        )?;
        let x = noised.tensor(sizes, &self.model.device());
        let loss = |out: &Tensor<4>| {
            let mut slope = vec![0f32; out.dims().iter().product()];
            let loss = with_values(out, |out| {
                let (schedule, noised) = (&self.schedule, &noised);
                hybrid_loss(
                    schedule,
                    out,
                    &batch.images,
                    &noised.noise,
                    &noised.x_t,
                    &noised.t,
                    Some(&mut slope),
                )
            })?;
            if !loss.total.is_finite() {
                return Err(diverged(self.state.step + 1, &format!("a loss of {}", loss.total)));
            }
            Ok((loss, slope))
        };
        let (t, y) = (noised.times(), &noised.labels);
        let (loss, by_name) = if config.activation_checkpointing {
            let pass = Checkpointed::forward(&self.model, x, &t, y);
            let (loss, slope) = loss(pass.out())?;
            let mut by_name = BTreeMap::new();
            pass.backward(slope, |part| {
                for (name, gradient) in collect(&self.model, part) {
                    let other = by_name.insert(name, gradient);
                    assert!(other.is_none(), "a parameter belongs to one part of the model");
                }
            });
            (loss, by_name)
        } else {
            let out = self.model.forward(x, &t, y);
            let (loss, slope) = loss(&out)?;
            (loss, collect(&self.model, backward(out, slope)))
        };
        let lr = config.lr * config.schedule.factor(self.state.step, config.steps, config.warmup);
        let step = Step {
            lr,
            beta2: config.beta2,
            weight_decay: config.weight_decay,
            clip: config.clip,
            ema: Some(config.ema),
            number: self.state.step + 1,
        };
        let (model, grad_norm) = descend(self.model, &by_name, &mut self.state.moments, step)?;
        if !grad_norm.is_finite() {
            return Err(diverged(self.state.step + 1, &format!("a gradient norm of {grad_norm}")));
        }
        self.model = model;
        self.state.step += 1;
        let report =
            StepReport { step: self.state.step, loss: loss.total, mse: loss.mse, vb: loss.vb, lr, grad_norm };
        Ok((self, report))
    }
}

fn diverged(step: u64, what: &str) -> Error {
    Error::Diverged(format!(
        "step {step} has {what}; a lower lr or clip, more warm-up or precision = \"f32\" may help"
    ))
}
