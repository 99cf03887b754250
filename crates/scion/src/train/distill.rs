//! Stage 1: every new operator learns its predecessor's outputs from its predecessor's inputs.

use std::collections::BTreeMap;
use std::path::Path;

use burn::Tensor;
use burn::module::Module;
use burn::tensor::TensorData;
use scion_kernels::{backward, with_values};
use serde::Serialize;

use super::config::DistillConfig;
use super::gradient::{Step, collect, descend};
use super::regression::regression_loss;
use super::state::TrainState;
use crate::capture::{Activations, Site};
use crate::error::{Error, Result};
use crate::operator::Operator;

/// All operators of a plan, each trained on its own, in one run.
#[derive(Debug)]
pub struct Distiller {
    sites: Vec<Site>,
    tokens: usize,
    width: usize,
    config: DistillConfig,
    operators: Operators,
    state: TrainState,
    validation: BTreeMap<Site, Activations>,
}

/// Current and best weights; one module, so that one file holds both.
#[derive(Module, Debug)]
struct Operators {
    current: Vec<Operator>,
    best: Vec<Operator>,
    /// Best validation loss so far of each operator.
    best_loss: Vec<burn::module::Param<Tensor<1>>>,
}

/// What a step reports of one operator.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct OperatorReport {
    /// Where the operator stands.
    pub block: usize,
    /// Its slot.
    pub slot: crate::operator::Slot,
    /// Steps done.
    pub step: u64,
    /// Loss on this step's batch.
    pub loss: f64,
    /// Loss on the held-out samples, in steps that validate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
}

impl Distiller {
    /// A run over fresh operators (on an autodiff device), with the teacher's activations on held-out samples.
    pub fn new(
        sites: Vec<Site>,
        fresh: Vec<Operator>,
        tokens: usize,
        width: usize,
        config: DistillConfig,
        validation: BTreeMap<Site, Activations>,
    ) -> Self {
        let device = fresh[0].devices().into_iter().next().expect("operators have parameters");
        let unmeasured = |_| {
            burn::module::Param::from_tensor(Tensor::full([1], f32::MAX, &device)).set_require_grad(false)
        };
        let best_loss = sites.iter().map(unmeasured).collect();
        let best = fresh.clone();
        let operators = Operators { current: fresh, best, best_loss };
        Self { sites, tokens, width, config, operators, state: TrainState::default(), validation }
    }

    /// Goes on from a file that [`Distiller::save`] wrote.
    ///
    /// # Errors
    /// When the file is damaged or belongs to another run.
    pub fn resume(mut self, purpose: &str, path: &Path) -> Result<Self> {
        (self.operators, self.state) = TrainState::load(self.operators, |_| true, purpose, path)?;
        Ok(self)
    }

    /// Writes everything that [`Distiller::resume`] needs.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, purpose: &str, path: &Path) -> Result<()> {
        self.state.save(&self.operators, |_| true, purpose, path)
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.state.step
    }

    /// Each operator's best weights and their loss on the held-out samples.
    pub fn best(&self) -> Vec<(Site, Operator, f64)> {
        let losses = self.operators.best_loss.iter().map(|l| f64::from(scalar(&l.val())));
        let best = self.operators.best.iter().cloned();
        self.sites
            .iter()
            .copied()
            .zip(best)
            .zip(losses)
            .map(|((site, operator), loss)| (site, operator, loss))
            .collect()
    }

    /// Loss of the untrained or current weights on the held-out samples.
    pub fn validate(&self) -> Vec<f64> {
        let losses = self.sites.iter().zip(&self.operators.current).map(|(site, operator)| {
            let held_out = &self.validation[site];
            let out = operator.valid().forward(self.tensor(&held_out.input, &operator.valid()));
            with_values(&out, |found| regression_loss(self.config.loss, found, &held_out.output, None))
        });
        losses.collect()
    }

    /// One step of every operator on its activations; validates where it is due.
    ///
    /// # Errors
    /// When an operator's loss is no longer finite.
    pub fn step(mut self, batch: &BTreeMap<Site, Activations>) -> Result<(Self, Vec<OperatorReport>)> {
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
        for (index, operator) in std::mem::take(&mut self.operators.current).into_iter().enumerate() {
            let activations = &batch[&self.sites[index]];
            let out = operator.forward(self.tensor(&activations.input, &operator));
            let mut slope = vec![0f32; activations.output.len()];
            let loss = with_values(&out, |found| {
                regression_loss(self.config.loss, found, &activations.output, Some(&mut slope))
            });
            if !loss.is_finite() {
                let ((block, slot), step) = (self.sites[index], self.state.step + 1);
                return Err(Error::Diverged(format!(
                    "step {step} of stage 1 has a loss of {loss} for {} of block {block}; a lower distill.lr may help",
                    slot.name()
                )));
            }
            losses.push(loss);
            let gradients = collect(&operator, backward(out, slope));
            // Moments are kept by the name that the parameter has among all operators.
            let prefix = format!("current.{index}.");
            let mut moments: BTreeMap<_, _> = gradients
                .keys()
                .filter_map(|n| Some((n.clone(), self.state.moments.remove(&(prefix.clone() + n))?)))
                .collect();
            let (operator, _) = descend(operator, &gradients, &mut moments, step)?;
            self.state.moments.extend(moments.into_iter().map(|(name, m)| (prefix.clone() + &name, m)));
            current.push(operator);
        }
        self.operators.current = current;
        self.state.step += 1;
        let due = self.state.step.is_multiple_of(self.config.validate_every)
            || self.state.step == self.config.steps;
        let validated = if due { Some(self.keep_best()) } else { None };
        let report = |(index, (&(block, slot), &loss)): (usize, (&Site, &f64))| OperatorReport {
            block,
            slot,
            step: self.state.step,
            loss,
            val_loss: validated.as_ref().map(|v| v[index]),
        };
        let reports = self.sites.iter().zip(&losses).enumerate().map(report).collect();
        Ok((self, reports))
    }

    /// Validates and keeps the weights of operators that improved.
    fn keep_best(&mut self) -> Vec<f64> {
        let losses = self.validate();
        let Operators { current, best, best_loss } = &mut self.operators;
        for (index, &loss) in losses.iter().enumerate() {
            if (loss as f32) < scalar(&best_loss[index].val()) {
                best[index] = current[index].clone();
                best_loss[index] =
                    best_loss[index].clone().map(|old| Tensor::full([1], loss as f32, &old.device()));
            }
        }
        losses
    }

    fn tensor(&self, activations: &[f32], operator: &Operator) -> Tensor<3> {
        let device = operator.devices().into_iter().next().expect("operators have parameters");
        let count = activations.len() / (self.tokens * self.width);
        Tensor::from_data(TensorData::new(activations.to_vec(), [count, self.tokens, self.width]), &device)
    }
}

fn scalar(tensor: &Tensor<1>) -> f32 {
    with_values(tensor, |values| values[0])
}
