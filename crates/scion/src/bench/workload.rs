use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;

use burn::Tensor;
use burn::module::Module;
use burn::tensor::{Device, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use scion_kernels::optimizer::Moments;
use scion_kernels::{PackedWeights, backward, with_values};

use super::distilled::{Distilled, TOKENS, WIDTH};
use super::stages::Setting;
use crate::config::Recipe;
use crate::data::Batches;
use crate::error::{Error, Result};
use crate::model::{Architecture, Dit, DitConfig, parameters, update_parameters};
use crate::operator::{Init, Operator, OperatorConfig, square_grid};
use crate::run::{QUICKSTART, embedded_teacher, sample_images, training_images};
use crate::train::{LoraConfig, RegressionLoss, Step, adapt, collect, descend, regression_loss};

/// Images of a step of those on DiT-S/2 and of the distilled operators.
const BATCH: usize = 8;
/// Images of a step of those on the embedded model.
pub(super) const EMBEDDED_BATCH: usize = 64;

/// A piece of work to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// One forward pass of DiT-S/2 at 256 tokens, batch 8, as sampling runs it: weights packed before.
    DitForward,
    /// One finetuning step of that model: forward, MSE, backward, AdamW.
    DitTrain,
    /// One stage-1 step of an operator at DiT-XL's width, 256 tokens, batch 8: forward, L1, backward, AdamW.
    Distil(Distilled),
    /// Drawing 64 images as the quickstart does.
    Sample,
    /// One step of stage 1, the teacher's pass included.
    Stage1(Setting),
    /// One step of stage 2.
    Stage2(Setting),
    /// Reading one batch of the embedded images.
    Data,
    /// The finetuning step of DiT-S/2 with adapters of rank 16 beside frozen weights.
    DitTrainLora,
}

/// All workloads by name.
pub const WORKLOADS: [(&str, Workload); 20] = [
    ("dit-forward", Workload::DitForward),
    ("dit-train", Workload::DitTrain),
    ("distil-hyena-x", Workload::Distil(Distilled::HyenaX)),
    ("distil-swa", Workload::Distil(Distilled::Swa)),
    ("distil-mlp-r3", Workload::Distil(Distilled::MlpR3)),
    ("distil-attention", Workload::Distil(Distilled::Attention)),
    ("distil-neighborhood", Workload::Distil(Distilled::Neighborhood)),
    ("distil-linear-attention", Workload::Distil(Distilled::LinearAttention)),
    ("distil-hyena-se", Workload::Distil(Distilled::HyenaSe)),
    ("distil-hyena-y", Workload::Distil(Distilled::HyenaY)),
    ("distil-mamba2", Workload::Distil(Distilled::Mamba2)),
    ("distil-mlp-r6", Workload::Distil(Distilled::MlpR6)),
    ("distil-mlp-hyena-x", Workload::Distil(Distilled::MlpHyenaX)),
    ("sample", Workload::Sample),
    ("stage1", Workload::Stage1(Setting::Quickstart)),
    ("stage2", Workload::Stage2(Setting::Quickstart)),
    ("data", Workload::Data),
    ("dit-train-lora", Workload::DitTrainLora),
    ("xl2-stage1", Workload::Stage1(Setting::Xl2)),
    ("xl2-stage2", Workload::Stage2(Setting::Xl2)),
];

/// A workload ready to run.
pub(super) struct Job {
    /// Does the work once.
    pub step: Box<dyn FnMut() -> Result<()>>,
    /// Arithmetic of one step in GFLOP.
    pub gflop: Option<f64>,
    /// Images of one step.
    pub images: Option<usize>,
}

impl Workload {
    /// Its name on the command line and in results.
    pub fn name(self) -> &'static str {
        WORKLOADS.iter().find(|(_, workload)| *workload == self).expect("every workload is listed").0
    }

    /// Whether it needs gigabytes and minutes, and is to be asked for by name.
    pub fn is_large(self) -> bool {
        matches!(self, Self::Stage1(Setting::Xl2) | Self::Stage2(Setting::Xl2))
    }

    pub(super) fn build(self) -> Result<Job> {
        match self {
            Self::DitForward => dit_forward(),
            Self::DitTrain => dit_train(),
            Self::Distil(operator) => distil(&operator.config(), BATCH, TOKENS),
            Self::Sample => sample(),
            Self::Stage1(setting) => setting.stage1(),
            Self::Stage2(setting) => setting.stage2(),
            Self::Data => data(),
            Self::DitTrainLora => dit_train_lora(),
        }
    }
}

fn dit_sizes() -> DitConfig {
    DitConfig::preset("dit-s-2-256").expect("the preset exists")
}

/// Inputs of the DiT workloads: x [8, 4, 32, 32], timesteps, labels.
fn dit_inputs(sizes: &DitConfig) -> (Vec<f32>, Vec<f32>, Vec<usize>) {
    let t = (0..BATCH).map(|i| (i * 120) as f32).collect();
    let y = (0..BATCH).map(|i| i * 100).collect();
    (normal(BATCH * sizes.image_len(), 1), t, y)
}

/// A model with random weights everywhere: adaLN-Zero's initial zeros would make every block the identity.
pub(super) fn random_dit(sizes: &DitConfig, device: &Device) -> Result<Dit> {
    let model = Dit::new(&Architecture::native(sizes.clone()), &mut Init::new(0, 0, device))?;
    update_parameters(model, |_, _, _, values| {
        if values.iter().all(|&v| v == 0.0) {
            let random = normal(values.len(), 2);
            values.iter_mut().zip(random).for_each(|(value, r)| *value = 0.02 * r);
        }
        Ok(())
    })
}

fn dit_forward() -> Result<Job> {
    let sizes = dit_sizes();
    let model = random_dit(&sizes, &Device::flex())?;
    let (x, t, y) = dit_inputs(&sizes);
    let gflop = (BATCH * Architecture::native(sizes).flops()) as f64 / 1e9;
    let weights = PackedWeights::default();
    let step = move || {
        black_box(weights.scope(|| model.predict(&x, &t, &y)));
        Ok(())
    };
    Ok(Job { step: Box::new(step), gflop: Some(gflop), images: Some(BATCH) })
}

fn dit_train() -> Result<Job> {
    let sizes = dit_sizes();
    // Backward takes two products for each of the forward pass.
    let gflop = 3.0 * (BATCH * Architecture::native(sizes.clone()).flops()) as f64 / 1e9;
    let job = dit_step(random_dit(&sizes, &Device::flex().autodiff())?, &sizes);
    Ok(Job { gflop: Some(gflop), ..job })
}

fn dit_train_lora() -> Result<Job> {
    let sizes = dit_sizes();
    let model = random_dit(&sizes, &Device::flex().autodiff())?;
    Ok(dit_step(adapt(model, &LoraConfig::default(), &[], 0)?, &sizes))
}

/// A finetuning step of a model of these sizes.
fn dit_step(model: Dit, sizes: &DitConfig) -> Job {
    let (x, t, y) = dit_inputs(sizes);
    let shape = [BATCH, sizes.in_channels, sizes.input_size, sizes.input_size];
    let noise = normal(BATCH * sizes.out_channels() * sizes.input_size * sizes.input_size, 3);
    let input = Tensor::from_data(TensorData::new(x, shape), &model.device());
    let mut learner = Learner::new(model);
    let step =
        move || learner.step(RegressionLoss::L2, &noise, |model: &Dit| model.forward(input.clone(), &t, &y));
    Job { step: Box::new(step), gflop: None, images: Some(BATCH) }
}

/// A step of stage 1 of a token mixer on one image.
pub(super) fn one_image(config: &OperatorConfig, tokens: usize) -> Result<Job> {
    distil(config, 1, tokens)
}

fn distil(config: &OperatorConfig, batch: usize, tokens: usize) -> Result<Job> {
    let device = Device::flex().autodiff();
    let operator = config.init(WIDTH, &mut Init::new(0, 0, &device))?;
    let (x, y) = (normal(batch * tokens * WIDTH, 1), normal(batch * tokens * WIDTH, 2));
    let forward = batch * config.flops(WIDTH, tokens).total();
    // Nobody needs the gradient of the input, which the first layer's weight [out, WIDTH] would give.
    let mut first = None;
    parameters(&operator, |_, data| first = first.or(Some(data.shape()[0])));
    let unneeded = batch * 2 * tokens * WIDTH * first.unwrap_or(0);
    let gflop = (3 * forward - unneeded) as f64 / 1e9;
    let mut learner = Learner::new(operator);
    let input = Tensor::from_data(TensorData::new(x, [batch, tokens, WIDTH]), &device);
    let grid = square_grid(tokens);
    let step = move || {
        learner.step(RegressionLoss::L1, &y, |operator: &Operator| operator.forward(input.clone(), grid))
    };
    Ok(Job { step: Box::new(step), gflop: Some(gflop), images: Some(batch) })
}

/// A module with the state of AdamW.
struct Learner<M> {
    module: Option<M>,
    moments: BTreeMap<String, Moments>,
    number: u64,
}

impl<M: Module> Learner<M> {
    fn new(module: M) -> Self {
        Self { module: Some(module), moments: BTreeMap::new(), number: 0 }
    }

    fn step<const D: usize>(
        &mut self,
        loss: RegressionLoss,
        expected: &[f32],
        forward: impl Fn(&M) -> Tensor<D>,
    ) -> Result<()> {
        let module = self.module.take().expect("a step that fails ends the measurement");
        let out = forward(&module);
        let mut slope = vec![0f32; expected.len()];
        black_box(with_values(&out, |found| regression_loss(loss, found, expected, Some(&mut slope))));
        let gradients = collect(&module, backward(out, slope));
        self.number += 1;
        let rule = Step {
            lr: 1e-4,
            beta2: 0.999,
            weight_decay: 0.0,
            clip: f64::MAX,
            ema: None,
            number: self.number,
        };
        self.module = Some(descend(module, &gradients, &mut self.moments, rule)?.0);
        Ok(())
    }
}

pub(super) fn quickstart() -> Result<Recipe> {
    Recipe::parse(QUICKSTART, Path::new("quickstart.toml"))
}

fn sample() -> Result<Job> {
    let (recipe, teacher) = (quickstart()?, embedded_teacher(&Device::flex())?);
    let sizes = teacher.architecture.dit;
    let classes = sizes.classes()?;
    let labels: Vec<usize> = (0..EMBEDDED_BATCH).map(|i| i % classes).collect();
    let step = move || {
        sample_images(&teacher.model, &sizes, &recipe.sample, 0, &labels, 0, |_| {})?;
        Ok(())
    };
    Ok(Job { step: Box::new(step), gflop: None, images: Some(EMBEDDED_BATCH) })
}

fn data() -> Result<Job> {
    let (recipe, teacher) = (quickstart()?, embedded_teacher(&Device::flex())?);
    let batches = Batches::new(
        training_images(&recipe.data, &teacher.architecture.dit, recipe.seed)?,
        recipe.seed,
        true,
    )?;
    let mut number = 0;
    let step = move || {
        black_box(batches.batch(number, EMBEDDED_BATCH)?);
        number += 1;
        Ok(())
    };
    Ok(Job { step: Box::new(step), gflop: None, images: Some(EMBEDDED_BATCH) })
}

pub(super) fn normal(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| StandardNormal.sample(&mut rng)).collect()
}

impl std::str::FromStr for Workload {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = WORKLOADS.iter().find(|(n, _)| *n == name);
        known.map(|(_, workload)| *workload).ok_or_else(|| {
            let names: Vec<&str> = WORKLOADS.iter().map(|(n, _)| *n).collect();
            Error::Usage(format!("no workload {name}; expected one of {}", names.join(", ")))
        })
    }
}
