//! Steps of both stages, as a run does them.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::Device;
use scion_kernels::PackedWeights;

use super::workload::{EMBEDDED_BATCH, Job, normal, quickstart, random_dit};
use crate::capture::{Activations, add_noise, capture};
use crate::config::GraftConfig;
use crate::data::samples::labels_in_groups;
use crate::data::{Batch, Batches};
use crate::diffusion::Schedule;
use crate::error::Result;
use crate::model::{Architecture, Dit, DitConfig};
use crate::operator::{HyenaXConfig, OperatorConfig, Slot};
use crate::plan::{BlockSelection, Plan, Rule};
use crate::run::{embedded_teacher, training_images, with_fresh_parts};
use crate::train::{DistillConfig, Distiller, TrainConfig, Trainer};

/// Whose stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// The quickstart's.
    Quickstart,
    /// DiT-XL/2 at 256 pixels with random weights and latents. Stage 1 trains one Hyena-X at the paper's batch of 64;
    /// stage 2 a model with Hyena-X in every second block at batch 2, with activation checkpointing.
    Xl2,
}

/// What a stage starts from.
struct Start {
    teacher: Dit,
    plan: Plan,
    distill: DistillConfig,
    finetune: TrainConfig,
    /// The images of a step.
    images: Box<dyn Fn(u64) -> Result<Batch>>,
}

/// Images of a step of DiT-XL/2's stages, and held-out ones.
const XL2_STAGE1: usize = 64;
const XL2_STAGE2: usize = 2;
const XL2_HELD_OUT: usize = 8;

/// Hyena-X in place of the attention of some blocks, as the paper has it.
pub(super) fn hyena_x(blocks: BlockSelection) -> GraftConfig {
    let operator = OperatorConfig::HyenaX(HyenaXConfig::default());
    GraftConfig { target: Slot::Attention, blocks, operator, init: Default::default() }
}

impl Setting {
    /// The images are those of a step of `batch`.
    fn start(self, blocks: BlockSelection, batch: usize) -> Result<Start> {
        let recipe = quickstart()?;
        let (mut distill, mut finetune) = (
            recipe.distill.clone().expect("it has a stage 1"),
            recipe.finetune.clone().expect("it has a stage 2"),
        );
        if self == Self::Quickstart {
            let teacher = embedded_teacher(&Device::flex())?;
            let plan = Plan::new(&teacher.architecture, &recipe.grafts, &recipe.restructures)?;
            let images = training_images(&recipe.data, &plan.before.dit, recipe.seed)?;
            let batches = Batches::new(images, recipe.seed, false)?;
            let images = Box::new(move |step| batches.batch(step, batch));
            return Ok(Start { teacher: teacher.model, plan, distill, finetune, images });
        }
        (distill.batch, finetune.batch, finetune.activation_checkpointing) = (XL2_STAGE1, XL2_STAGE2, true);
        let sizes = DitConfig::preset("dit-xl-2-256")?;
        let teacher = random_dit(&sizes, &Device::flex())?;
        let plan = Plan::new(&Architecture::native(sizes.clone()), &[hyena_x(blocks)], &[])?;
        let images = Box::new(move |step| {
            let labels = labels_in_groups(batch, sizes.classes()?);
            let shape = [batch, sizes.in_channels, sizes.input_size, sizes.input_size];
            let images = normal(batch * sizes.image_len(), step);
            Ok(Batch { images, shape, labels, indices: (0..batch).collect(), flipped: vec![false; batch] })
        });
        Ok(Start { teacher, plan, distill, finetune, images })
    }

    pub(super) fn stage1(self) -> Result<Job> {
        let batch = if self == Self::Xl2 { XL2_STAGE1 } else { EMBEDDED_BATCH };
        let Start { teacher, plan, distill, images, .. } =
            self.start(BlockSelection::List(vec![1]), batch)?;
        let (sizes, sites, schedule) = (plan.before.dit.clone(), plan.sites.clone(), Schedule::linear());
        let untrained = with_fresh_parts(&teacher, &plan, 0, &BTreeMap::new())?;
        let fresh = sites.iter().map(|&site| untrained.part(site).train()).collect();
        drop(untrained);
        let activations = {
            let (sites, sizes, weights) = (sites.clone(), sizes.clone(), PackedWeights::default());
            move |step: u64, batch: Batch| -> Result<BTreeMap<_, Activations>> {
                let noised = add_noise(&sizes, &schedule, &batch.images, &batch.labels, 0.1, 0, step << 20)?;
                Ok(weights.scope(|| capture(&teacher, &sizes, &noised, &sites)))
            }
        };
        let mut held_out = images(u64::from(u32::MAX))?;
        if self == Self::Xl2 {
            held_out.labels.truncate(XL2_HELD_OUT);
            held_out.images.truncate(XL2_HELD_OUT * sizes.image_len());
        }
        let held_out = activations(u64::from(u32::MAX), held_out)?;
        let mut distiller =
            Some(Distiller::new(sites, fresh, sizes.tokens(), sizes.hidden, distill, held_out));
        let step = move || {
            let current = distiller.take().expect("a step that fails ends the measurement");
            let batch = activations(current.steps(), images(current.steps())?)?;
            distiller = Some(current.step(&batch)?.0);
            Ok(())
        };
        Ok(Job { step: Box::new(step), gflop: None, images: Some(batch) })
    }

    pub(super) fn stage2(self) -> Result<Job> {
        let batch = if self == Self::Xl2 { XL2_STAGE2 } else { EMBEDDED_BATCH };
        let Start { teacher, plan, finetune, images, .. } =
            self.start(BlockSelection::Rule(Rule::Interleaved(0.5)), batch)?;
        let grafted = with_fresh_parts(&teacher, &plan, 0, &BTreeMap::new())?.train();
        let mut trainer = Some(Trainer::new(grafted, plan.after.dit.clone(), finetune, 0));
        let step = move || {
            // A run keeps the teacher too.
            let _ = &teacher;
            let current = trainer.take().expect("a step that fails ends the measurement");
            let batch = images(current.state().step)?;
            trainer = Some(current.step(&batch)?.0);
            Ok(())
        };
        Ok(Job { step: Box::new(step), gflop: None, images: Some(batch) })
    }
}
