//! The loop of pretraining and stage 2.

use std::path::Path;

use burn::module::Module;
use scion_kernels::with_values;
use serde::Serialize;

use super::config::TrainConfig;
use super::gradient::{Step, descend};
use super::objective::{Guide, TeacherTerms};
use super::pass::{Pass, Slopes};
use super::state::TrainState;
use crate::capture::{NoisedBatch, add_noise};
use crate::data::Batch;
use crate::diffusion::{HybridLoss, Schedule, hybrid_loss};
use crate::error::{Error, Result};
use crate::model::{Dit, DitConfig, trained, update_selected};
use crate::plan::BlockPair;

/// What one step reports; terms that the objective has not are left out.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: u64,
    /// What is minimised: the weighted sum of the terms.
    pub loss: f64,
    /// Mean squared error of the predicted noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mse: Option<f64>,
    /// Variational bound of the learned variance, bits a dimension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vb: Option<f64>,
    /// Mean squared distance to the teacher's noise channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_noise: Option<f64>,
    /// Mean squared distance to the teacher's variance channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_variance: Option<f64>,
    /// Mean relative squared distance to the teacher's tokens after blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_blocks: Option<f64>,
    /// Learning rate.
    pub lr: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
}

/// A model under training, by the diffusion loss unless a teacher guides it.
#[derive(Debug)]
pub struct Trainer {
    model: Dit,
    sizes: DitConfig,
    config: TrainConfig,
    schedule: Schedule,
    seed: u64,
    state: TrainState,
    guide: Option<Guide>,
}

impl Trainer {
    /// A trainer of a model on an autodiff device, at the first step.
    pub fn new(model: Dit, sizes: DitConfig, config: TrainConfig, seed: u64) -> Self {
        let (schedule, state) = (Schedule::linear(), TrainState::default());
        Self { model, sizes, config, schedule, seed, state, guide: None }
    }

    /// Trains by the teacher's terms that the settings weigh, with the diffusion loss where they weigh it. `teacher` is
    /// without gradients; `pairs` say which of its blocks belongs to which of the model's.
    pub fn guided(mut self, teacher: Dit, pairs: Vec<BlockPair>) -> Self {
        self.guide = Some(Guide::new(teacher, &self.config, pairs));
        self
    }

    /// Goes on from a file that [`Trainer::save`] wrote.
    ///
    /// # Errors
    /// When the file is damaged or belongs to another run.
    pub fn resume(mut self, purpose: &str, path: &Path) -> Result<Self> {
        let names = trained(&self.model);
        (self.model, self.state) = TrainState::load(self.model, |name| names.contains(name), purpose, path)?;
        Ok(self)
    }

    /// Writes everything that [`Trainer::resume`] needs beside the model that training began with: the parameters that
    /// train, and their optimiser state.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, purpose: &str, path: &Path) -> Result<()> {
        let names = trained(&self.model);
        self.state.save(&self.model, |name| names.contains(name), purpose, path)
    }

    /// Steps done and optimiser state.
    pub fn state(&self) -> &TrainState {
        &self.state
    }

    /// The model as trained so far.
    pub fn model(&self) -> &Dit {
        &self.model
    }

    /// The model with the moving average of its weights, without gradients; adapters are added to the weights that they
    /// stand beside.
    ///
    /// # Errors
    /// None in practice: names come from the model itself.
    pub fn ema_model(&self) -> Result<Dit> {
        let moments = &self.state.moments;
        let averaged = update_selected(
            self.model.valid(),
            |name| moments.contains_key(name),
            |name, _, _, values| {
                values.copy_from_slice(&moments[name].ema);
                Ok(())
            },
        )?;
        Ok(averaged.materialize())
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
        let answer = self.guide.as_ref().map(|guide| guide.answer(sizes, &noised));
        let x = noised.tensor(sizes, &self.model.device());
        let given = (&noised.times()[..], &noised.labels[..]);
        let blocks = self.guide.as_ref().is_some_and(Guide::matches_blocks);
        let pass = Pass::forward(&self.model, x, given, config.activation_checkpointing, blocks);
        let mut slopes = Slopes { out: vec![0f32; pass.out().dims().iter().product()], ..Slopes::default() };
        let mut report = self.diffusion(&pass, batch, &noised, &mut slopes)?;
        if let (Some(guide), Some(answer)) = (&self.guide, answer) {
            let (loss, terms) = guide.compare(&pass, &answer, sizes, &mut slopes);
            let TeacherTerms { noise, variance, blocks } = terms;
            report.loss += loss;
            (report.teacher_noise, report.teacher_variance, report.teacher_blocks) =
                (noise, variance, blocks);
        }
        if !report.loss.is_finite() {
            return Err(diverged(report.step, &format!("a loss of {}", report.loss)));
        }
        let by_name = pass.backward(&self.model, slopes);
        let step = Step {
            lr: report.lr,
            beta2: config.beta2,
            weight_decay: config.weight_decay,
            clip: config.clip,
            ema: Some(config.ema),
            number: report.step,
        };
        (self.model, report.grad_norm) = descend(self.model, &by_name, &mut self.state.moments, step)?;
        if !report.grad_norm.is_finite() {
            return Err(diverged(report.step, &format!("a gradient norm of {}", report.grad_norm)));
        }
        self.state.step = report.step;
        Ok((self, report))
    }

    /// The step's report with the diffusion loss, where that plays a part; its gradient is put into `slopes`.
    fn diffusion(
        &self,
        pass: &Pass,
        batch: &Batch,
        noised: &NoisedBatch,
        slopes: &mut Slopes,
    ) -> Result<StepReport> {
        let config = &self.config;
        let mut report = StepReport {
            step: self.state.step + 1,
            loss: 0.0,
            mse: None,
            vb: None,
            teacher_noise: None,
            teacher_variance: None,
            teacher_blocks: None,
            lr: config.lr * config.schedule.factor(self.state.step, config.steps, config.warmup),
            grad_norm: 0.0,
        };
        let weight = self.guide.as_ref().map_or(1.0, |guide| guide.diffusion);
        if weight == 0.0 {
            return Ok(report);
        }
        let slope = &mut slopes.out;
        let HybridLoss { total, mse, vb, .. } = with_values(pass.out(), |out| {
            let NoisedBatch { x_t, noise, t, .. } = noised;
            hybrid_loss(&self.schedule, out, &batch.images, noise, x_t, t, Some(&mut slope[..]))
        })?;
        if weight != 1.0 {
            slope.iter_mut().for_each(|slope| *slope *= weight as f32);
        }
        (report.loss, report.mse, report.vb) = (weight * total, Some(mse), Some(vb));
        Ok(report)
    }
}

fn diverged(step: u64, what: &str) -> Error {
    Error::Diverged(format!(
        "step {step} has {what}; a lower lr or clip, more warm-up or precision = \"f32\" may help"
    ))
}
