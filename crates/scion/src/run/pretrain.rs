use std::path::Path;

use burn::tensor::Device;
use scion_kernels::keep_awake;

use super::prompts::with_prompts;
use super::source::stage_images;
use super::{Outcome, Progress, RunFolder, Teacher, training_images};
use crate::config::Recipe;
use crate::data::Batches;
use crate::error::{Error, Result};
use crate::model::{Architecture, Dit, DitConfig, Site, save_scion};
use crate::operator::Init;
use crate::plan::{Plan, matched_blocks};
use crate::train::{Method, Objective, TrainConfig, Trainer, adapt};

/// Steps between two log lines.
const LOG_EVERY: u64 = 10;

/// Trains a fresh model and writes `model.safetensors` (moving average) into the run folder.
///
/// # Errors
/// When the recipe lacks `[pretrain]` or sizes, or its data cannot be read or written.
pub fn pretrain(recipe: &Recipe, root: &Path, quiet: bool) -> Result<Outcome> {
    let config =
        recipe.pretrain.clone().ok_or_else(|| Error::Usage("the recipe has no [pretrain] section".into()))?;
    let sizes = fresh_sizes(recipe)?;
    let architecture = Architecture::native(sizes);
    let mut folder = RunFolder::open(root, recipe)?;
    let finished = folder.path("model.safetensors");
    if finished.exists() {
        folder.remove("pretrain.state.safetensors")?;
        return Ok(Outcome::Already(finished));
    }
    let device = Device::flex().autodiff();
    let model = Dit::new(&architecture, &mut Init::new(recipe.seed, 0, &device))?;
    let model = with_prompts(model, recipe, &architecture.dit, Some(&folder), quiet)?;
    let trained = train(recipe, &config, &Training::Pretraining, &architecture, model, &mut folder, quiet)?;
    save_scion(&trained, &architecture, &finished)?;
    folder.remove("pretrain.state.safetensors")?;
    Ok(Outcome::Made(finished))
}

/// What a model is trained for.
pub(super) enum Training<'a> {
    /// To be a model.
    Pretraining,
    /// To be again what it was before this edit: stage 2.
    Finetuning { teacher: &'a Teacher, plan: &'a Plan },
}

impl Training<'_> {
    /// The stage's name in a run's files.
    fn stage(&self) -> &'static str {
        match self {
            Self::Pretraining => "pretrain",
            Self::Finetuning { .. } => "stage2",
        }
    }

    /// The trainer of a model on an autodiff device, at its first step.
    fn trainer(
        &self,
        recipe: &Recipe,
        config: &TrainConfig,
        architecture: &Architecture,
        model: Dit,
    ) -> Result<Trainer> {
        let trainer = |model| Trainer::new(model, architecture.dit.clone(), config.clone(), recipe.seed);
        let Self::Finetuning { teacher, plan } = self else { return Ok(trainer(model)) };
        let trainer = trainer(match config.method {
            Method::Full => model,
            Method::Lora => {
                let grafted: Vec<Site> = plan.sites.iter().map(|&site| plan.place(site)).collect();
                adapt(model, &config.lora.clone().unwrap_or_default(), &grafted, recipe.seed)?
            }
        });
        Ok(match config.objective {
            Objective::Diffusion => trainer,
            Objective::Teacher | Objective::Both => {
                trainer.guided(teacher.model.clone(), matched_blocks(config, plan))
            }
        })
    }
}

/// Trains a model to the end of its steps, going on where an interrupted run stopped.
///
/// Returns the moving average of the weights.
///
/// # Errors
/// When data or run folder cannot be read or written.
pub(super) fn train(
    recipe: &Recipe,
    config: &TrainConfig,
    training: &Training,
    architecture: &Architecture,
    model: Dit,
    folder: &mut RunFolder,
    quiet: bool,
) -> Result<Dit> {
    let stage = training.stage();
    warn_of_slow_average(config, stage);
    let clock = folder.start_stage(stage)?;
    let sizes = &architecture.dit;
    let images = match training {
        Training::Pretraining => training_images(&recipe.data, sizes, recipe.seed)?,
        Training::Finetuning { teacher, .. } => stage_images(recipe, sizes, &teacher.model, folder, quiet)?,
    };
    let batches = Batches::new(images, recipe.seed, config.flip)?;
    let state_file = folder.path(&format!("{stage}.state.safetensors"));
    let purpose = format!("{stage}\n{}", recipe.to_toml());
    let mut trainer = training.trainer(recipe, config, architecture, model)?;
    if state_file.exists() {
        trainer = trainer.resume(&purpose, &state_file)?;
    }
    folder.begin_log(stage, trainer.state().step)?;
    let mut progress = Progress::new(stage, config.steps, trainer.state().step, quiet);
    while trainer.state().step < config.steps {
        let batch = batches.batch(trainer.state().step, config.batch)?;
        let (next, report) = keep_awake(|| trainer.step(&batch))?;
        trainer = next;
        if report.step.is_multiple_of(LOG_EVERY) || report.step == config.steps {
            folder.log(stage, &report)?;
        }
        progress.set(report.step, &format!("loss {:.4}", report.loss));
        if report.step.is_multiple_of(config.checkpoint_every) && report.step != config.steps {
            trainer.save(&purpose, &state_file)?;
            folder.note_stage(&clock)?;
        }
    }
    folder.note_stage(&clock)?;
    trainer.ema_model()
}

fn warn_of_slow_average(config: &TrainConfig, stage: &str) {
    let remembered = 1.0 / (1.0 - config.ema);
    if (config.steps as f64) < remembered {
        tracing::warn!(
            "{stage}: ema = {} averages the weights over about {remembered:.0} steps, but there are only {}, so that the \
             average stays near the initial weights; a lower ema keeps more of the training",
            config.ema,
            config.steps
        );
    }
}

/// The sizes of a model that starts from nothing.
fn fresh_sizes(recipe: &Recipe) -> Result<DitConfig> {
    match (&recipe.model.checkpoint, recipe.model.named_sizes()?) {
        (None, Some(sizes)) => Ok(sizes),
        _ => Err(Error::Usage("pretraining needs [model.sizes] or model.preset, and no checkpoint".into())),
    }
}
