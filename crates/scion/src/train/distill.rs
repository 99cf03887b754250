//! Stage 1: every new part learns its predecessor's outputs from its predecessor's inputs.

use std::collections::BTreeMap;
use std::path::Path;

use burn::Tensor;
use burn::module::Module;
use burn::tensor::{Device, TensorData};
use scion_kernels::{backward, with_values};
use serde::Serialize;

use super::config::DistillConfig;
use super::gradient::{Step, collect, descend};
use super::regression::regression_loss;
use super::state::TrainState;
use crate::capture::Activations;
use crate::error::{Error, Result};
use crate::model::{Context, Part, Site};
use crate::operator::square_grid;

/// All parts of a plan, each trained on its own, in one run.
#[derive(Debug)]
pub struct Distiller {
    sites: Vec<Site>,
    tokens: usize,
    width: usize,
    config: DistillConfig,
    parts: Parts,
    state: TrainState,
    validation: BTreeMap<Site, Activations>,
}

/// Current and best weights; one module, so that one file holds both.
#[derive(Module, Debug)]
struct Parts {
    current: Vec<Part>,
    best: Vec<Part>,
    /// Best validation loss so far of each part.
    best_loss: Vec<burn::module::Param<Tensor<1>>>,
}

/// What a step reports of one part.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PartReport {
    /// Where the part stands.
    pub block: usize,
    /// The second block of a pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second: Option<usize>,
    /// An operator's slot, or `pair`.
    pub slot: &'static str,
    /// Steps done.
    pub step: u64,
    /// Loss on this step's batch.
    pub loss: f64,
    /// Loss on the held-out samples, in steps that validate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
}

impl Distiller {
    /// A run over fresh parts with parameters (on an autodiff device), at least one, with the teacher's activations on held-out samples.
    pub fn new(
        sites: Vec<Site>,
        fresh: Vec<Part>,
        tokens: usize,
        width: usize,
        config: DistillConfig,
        validation: BTreeMap<Site, Activations>,
    ) -> Self {
        let device = device(&fresh[0]);
        let unmeasured = |_| {
            burn::module::Param::from_tensor(Tensor::full([1], f32::MAX, &device)).set_require_grad(false)
        };
        let best_loss = sites.iter().map(unmeasured).collect();
        let best = fresh.clone();
        let parts = Parts { current: fresh, best, best_loss };
        Self { sites, tokens, width, config, parts, state: TrainState::default(), validation }
    }

    /// Goes on from a file that [`Distiller::save`] wrote.
    ///
    /// # Errors
    /// When the file is damaged or belongs to another run.
    pub fn resume(mut self, purpose: &str, path: &Path) -> Result<Self> {
        (self.parts, self.state) = TrainState::load(self.parts, |_| true, purpose, path)?;
        Ok(self)
    }

    /// Writes everything that [`Distiller::resume`] needs.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, purpose: &str, path: &Path) -> Result<()> {
        self.state.save(&self.parts, |_| true, purpose, path)
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.state.step
    }

    /// Each part's best weights and their loss on the held-out samples.
    pub fn best(&self) -> Vec<(Site, Part, f64)> {
        let losses = self.parts.best_loss.iter().map(|l| f64::from(scalar(&l.val())));
        let best = self.parts.best.iter().cloned();
        self.sites
            .iter()
            .copied()
            .zip(best)
            .zip(losses)
            .map(|((site, part), loss)| (site, part, loss))
            .collect()
    }

    /// Loss of the untrained or current weights on the held-out samples.
    pub fn validate(&self) -> Vec<f64> {
        let losses = self.sites.iter().zip(&self.parts.current).map(|(site, part)| {
            let held_out = &self.validation[site];
            let out = self.forward(&part.valid(), held_out);
            with_values(&out, |found| regression_loss(self.config.loss, found, &held_out.output, None))
        });
        losses.collect()
    }

    /// One step of every part on its activations; validates where it is due.
    ///
    /// # Errors
    /// When a part's loss is no longer finite.
    pub fn step(mut self, batch: &BTreeMap<Site, Activations>) -> Result<(Self, Vec<PartReport>)> {
        let config = &self.config;
        let step = Step {
            lr: config.lr * config.schedule.factor(self.state.step, config.steps, config.warmup),
            beta2: 0.999,
            weight_decay: config.weight_decay,
            clip: config.clip,
            ema: None,
            number: self.state.step + 1,
        };
        let mut losses = Vec::with_capacity(self.sites.len());
        let mut current = Vec::with_capacity(self.sites.len());
        for (index, part) in std::mem::take(&mut self.parts.current).into_iter().enumerate() {
            let (part, loss) = self.descend(index, part, &batch[&self.sites[index]], step)?;
            losses.push(loss);
            current.push(part);
        }
        self.parts.current = current;
        self.state.step += 1;
        let due = self.state.step.is_multiple_of(self.config.validate_every)
            || self.state.step == self.config.steps;
        let validated = if due { Some(self.keep_best()) } else { None };
        let report = |(index, (site, &loss)): (usize, (&Site, &f64))| PartReport {
            block: site.block(),
            second: site.second(),
            slot: site.kind(),
            step: self.state.step,
            loss,
            val_loss: validated.as_ref().map(|v| v[index]),
        };
        let reports = self.sites.iter().zip(&losses).enumerate().map(report).collect();
        Ok((self, reports))
    }

    /// One update of a part, and its loss before.
    fn descend(&mut self, index: usize, part: Part, batch: &Activations, step: Step) -> Result<(Part, f64)> {
        let out = self.forward(&part, batch);
        let mut slope = vec![0f32; batch.output.len()];
        let loss = with_values(&out, |found| {
            regression_loss(self.config.loss, found, &batch.output, Some(&mut slope))
        });
        if !loss.is_finite() {
            return Err(Error::Diverged(format!(
                "step {} of stage 1 has a loss of {loss} for {}; a lower distill.lr may help",
                step.number, self.sites[index]
            )));
        }
        let gradients = collect(&part, backward(out, slope));
        // Moments are kept by the name that the parameter has among all parts.
        let prefix = format!("current.{index}.");
        let mut moments: BTreeMap<_, _> = gradients
            .keys()
            .filter_map(|n| Some((n.clone(), self.state.moments.remove(&(prefix.clone() + n))?)))
            .collect();
        let (part, _) = descend(part, &gradients, &mut moments, step)?;
        self.state.moments.extend(moments.into_iter().map(|(name, m)| (prefix.clone() + &name, m)));
        Ok((part, loss))
    }

    /// Validates and keeps the weights of parts that improved.
    fn keep_best(&mut self) -> Vec<f64> {
        let losses = self.validate();
        let Parts { current, best, best_loss } = &mut self.parts;
        for (index, &loss) in losses.iter().enumerate() {
            if (loss as f32) < scalar(&best_loss[index].val()) {
                best[index] = current[index].clone();
                best_loss[index] =
                    best_loss[index].clone().map(|old| Tensor::full([1], loss as f32, &old.device()));
            }
        }
        losses
    }

    /// What a part makes of the inputs, [N, T, D].
    fn forward(&self, part: &Part, activations: &Activations) -> Tensor<3> {
        let Activations { input, conditioning, .. } = activations;
        let (device, count) = (device(part), input.len() / (self.tokens * self.width));
        let tokens = TensorData::new(input.clone(), [count, self.tokens, self.width]);
        let tokens = Tensor::from_data(tokens, &device);
        // Activations are captured at the model's own size.
        let grid = square_grid(self.tokens);
        match part {
            Part::Operator(operator) => operator.forward(tokens, grid),
            Part::Pair(pair) => {
                let context = Context::unpacked(conditioning, count, self.width, grid, &device);
                pair.forward(tokens, &context)
            }
        }
    }
}

fn device(part: &Part) -> Device {
    part.devices().into_iter().next().expect("parts that train have parameters")
}

fn scalar(tensor: &Tensor<1>) -> f32 {
    with_values(tensor, |values| values[0])
}
