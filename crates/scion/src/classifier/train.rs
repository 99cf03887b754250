use std::collections::BTreeMap;
use std::sync::Arc;

use burn::Tensor;
use burn::module::Module;
use burn::tensor::{Device, TensorData};
use scion_kernels::linear::linear;
use scion_kernels::optimizer::Moments;
use scion_kernels::{backward, with_values};

use super::Classifier;
use super::augment::shift;
use super::network::{CLASSES, Network, PIXELS, SIDE};
use crate::data::{Batch, Batches, ImageSet, ImageShape};
use crate::error::{Error, Result};
use crate::operator::Init;
use crate::train::{Step, collect, descend};

/// How a classifier is trained; the default made the embedded one.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Passes over the images.
    pub epochs: u64,
    /// Images a step.
    pub batch: usize,
    /// Highest learning rate, after a linear rise over the first tenth; a cosine falls to 0.
    pub lr: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Share of the target probability spread over all classes.
    pub smoothing: f64,
    /// Seed of weights, order, flips and shifts.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { epochs: 16, batch: 128, lr: 2e-3, weight_decay: 0.02, smoothing: 0.05, seed: 0 }
    }
}

/// Averages over one epoch.
#[derive(Clone, Copy, Debug)]
pub struct EpochReport {
    /// Number of the epoch, from 1.
    pub epoch: u64,
    /// Cross-entropy in nats, with smoothing.
    pub loss: f64,
    /// Share of the flipped and shifted training images put in the right class.
    pub accuracy: f64,
}

/// Trains a classifier from nothing on grey 28×28 images of ten classes, and calls `report` after each epoch.
///
/// Images are flipped left to right at random and shifted by up to two pixels.
///
/// # Errors
/// `Usage` for images of another shape, more classes, or no images.
pub fn train(
    images: Arc<ImageSet>,
    settings: Settings,
    device: &Device,
    mut report: impl FnMut(EpochReport),
) -> Result<Classifier> {
    let shape = ImageShape { channels: 1, height: SIDE, width: SIDE };
    if images.shape() != shape || images.class_names().len() != CLASSES {
        let (found, classes) = (images.shape(), images.class_names().len());
        let detail =
            format!("classifier: images are {found} of {classes} classes, expected {shape} of {CLASSES}");
        return Err(Error::Usage(detail));
    }
    let epoch_steps = (images.len() / settings.batch.max(1)).max(1) as u64;
    let batches = Batches::new(images, settings.seed, true)?;
    let mut learner = Learner::new(settings, settings.epochs * epoch_steps, &device.clone().autodiff());
    for epoch in 1..=settings.epochs {
        let (mut loss, mut correct) = (0.0, 0);
        for _ in 0..epoch_steps {
            let scores = learner.step(batches.batch(learner.done, settings.batch)?)?;
            loss += scores.loss / epoch_steps as f64;
            correct += scores.correct;
        }
        let accuracy = correct as f64 / (epoch_steps * settings.batch as u64) as f64;
        report(EpochReport { epoch, loss, accuracy });
    }
    Ok(Classifier { network: learner.network.valid(), device: device.clone() })
}

struct Learner {
    network: Network,
    moments: BTreeMap<String, Moments>,
    settings: Settings,
    steps: u64,
    done: u64,
    device: Device,
}

impl Learner {
    fn new(settings: Settings, steps: u64, device: &Device) -> Self {
        let network = Network::new(&mut Init::new(settings.seed, 0, device));
        Self { network, moments: BTreeMap::new(), settings, steps, done: 0, device: device.clone() }
    }

    fn step(&mut self, mut batch: Batch) -> Result<Scores> {
        let count = batch.labels.len();
        shift(&mut batch.images, self.settings.seed, self.done * count as u64);
        let images = Tensor::from_data(TensorData::new(batch.images, [count, PIXELS]), &self.device);
        let (_, logits) = self.network.forward(images, linear);
        let (scores, slope) =
            with_values(&logits, |logits| cross_entropy(logits, &batch.labels, self.settings.smoothing));
        let by_name = collect(&self.network, backward(logits, slope));
        let step = Step {
            lr: self.settings.lr * factor(self.done, self.steps),
            beta2: 0.99,
            weight_decay: self.settings.weight_decay,
            clip: 1.0,
            ema: None,
            number: self.done + 1,
        };
        self.network = descend(self.network.clone(), &by_name, &mut self.moments, step)?.0;
        self.done += 1;
        Ok(scores)
    }
}

/// The learning rate's factor at `step` (from 0) of `steps`.
fn factor(step: u64, steps: u64) -> f64 {
    let warmup = (steps / 10).max(1);
    if step < warmup {
        return (step + 1) as f64 / warmup as f64;
    }
    let progress = (step - warmup) as f64 / (steps - warmup) as f64;
    0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}

struct Scores {
    loss: f64,
    correct: u64,
}

/// Cross-entropy of logits [N, [`CLASSES`]] in the mean over N, and its gradient [N, [`CLASSES`]].
fn cross_entropy(logits: &[f32], labels: &[usize], smoothing: f64) -> (Scores, Vec<f32>) {
    let count = labels.len() as f64;
    let mut scores = Scores { loss: 0.0, correct: 0 };
    let mut gradient = Vec::with_capacity(logits.len());
    for (row, &label) in logits.chunks_exact(CLASSES).zip(labels) {
        let top = super::largest(row);
        scores.correct += u64::from(top == label);
        let shifted = |i: usize| f64::from(row[i]) - f64::from(row[top]);
        let log_sum = (0..CLASSES).map(|i| shifted(i).exp()).sum::<f64>().ln();
        for class in 0..CLASSES {
            let log_p = shifted(class) - log_sum;
            let target = smoothing / CLASSES as f64 + if class == label { 1.0 - smoothing } else { 0.0 };
            scores.loss -= target * log_p / count;
            gradient.push(((log_p.exp() - target) / count) as f32);
        }
    }
    (scores, gradient)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Split, embedded};

    #[test]
    fn cross_entropy_and_its_gradient_agree() {
        let logits: Vec<f32> = (0..2 * CLASSES).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let labels = [3, 8];
        let (_, gradient) = cross_entropy(&logits, &labels, 0.1);
        for (i, &expected) in gradient.iter().enumerate() {
            let at = |delta: f32| {
                let mut moved = logits.clone();
                moved[i] += delta;
                cross_entropy(&moved, &labels, 0.1).0.loss
            };
            let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!((slope - f64::from(expected)).abs() < 1e-4, "logit {i}: {slope} against {expected}");
        }
        let sure = [&[0.0; 9][..], &[50.0]].concat();
        assert!(cross_entropy(&sure, &[9], 0.0).0.loss < 1e-9);
    }

    #[test]
    fn learning_rate_rises_then_falls_to_zero() {
        assert_eq!(factor(0, 100), 0.1);
        assert_eq!(factor(10, 100), 1.0);
        assert!(factor(99, 100) < 1e-3);
        assert!(factor(0, 1).is_finite());
    }

    #[test]
    fn training_learns_and_repeats_itself() {
        let set = embedded::fashion_mnist(Split::Train).unwrap();
        let set = Arc::new(set.subset(&(0..256).collect::<Vec<_>>()).unwrap());
        let settings = Settings { epochs: 4, batch: 32, ..Settings::default() };
        let run = || {
            let mut losses = Vec::new();
            train(set.clone(), settings, &Device::flex(), |r| losses.push(r.loss)).unwrap();
            losses
        };
        let losses = run();
        assert!(losses[3] < 0.8 * losses[0], "{losses:?}");
        assert_eq!(losses, run());
    }
}
