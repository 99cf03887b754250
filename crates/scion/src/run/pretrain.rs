use std::path::Path;

use burn::tensor::Device;

use super::{Outcome, Progress, RunFolder, training_images};
use crate::config::Recipe;
use crate::data::Batches;
use crate::error::{Error, Result};
use crate::model::{Architecture, Dit, DitConfig, save_scion};
use crate::operator::Init;
use crate::train::{TrainConfig, TrainState, Trainer};

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
    let trained = train(recipe, &config, &architecture, model, &mut folder, "pretrain", quiet)?;
    save_scion(&trained, &architecture, &finished)?;
    folder.remove("pretrain.state.safetensors")?;
    Ok(Outcome::Made(finished))
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
    architecture: &Architecture,
    model: Dit,
    folder: &mut RunFolder,
    stage: &'static str,
    quiet: bool,
) -> Result<Dit> {
    let remembered = 1.0 / (1.0 - config.ema);
    if (config.steps as f64) < remembered {
        tracing::warn!(
            "{stage}: ema = {} averages the weights over about {remembered:.0} steps, but there are only {}, so that the \
             average stays near the initial weights; a lower ema keeps more of the training",
            config.ema,
            config.steps
        );
    }
    let clock = folder.start_stage(stage)?;
    let sizes = &architecture.dit;
    let batches = Batches::new(training_images(&recipe.data, sizes, recipe.seed)?, recipe.seed, config.flip)?;
    let state_file = folder.path(&format!("{stage}.state.safetensors"));
    let purpose = format!("{stage}\n{}", recipe.to_toml());
    let (model, state) = if state_file.exists() {
        TrainState::load(model, &purpose, &state_file)?
    } else {
        (model, TrainState::default())
    };
    folder.rewind_log(stage, state.step)?;
    let mut trainer = Trainer::new(model, sizes.clone(), config.clone(), recipe.seed, state);
    let mut progress = Progress::new(stage, config.steps, trainer.state().step, quiet);
    while trainer.state().step < config.steps {
        let batch = batches.batch(trainer.state().step, config.batch)?;
        let (next, report) = trainer.step(&batch)?;
        trainer = next;
        if report.step.is_multiple_of(LOG_EVERY) || report.step == config.steps {
            folder.log(stage, &report)?;
        }
        progress.set(report.step, &format!("loss {:.4}", report.loss));
        if report.step.is_multiple_of(config.checkpoint_every) && report.step != config.steps {
            trainer.state().save(trainer.model(), &purpose, &state_file)?;
            folder.note_stage(&clock)?;
        }
    }
    folder.note_stage(&clock)?;
    trainer.ema_model()
}

/// The sizes of a model that starts from nothing.
fn fresh_sizes(recipe: &Recipe) -> Result<DitConfig> {
    match (&recipe.model.checkpoint, recipe.model.named_sizes()?) {
        (None, Some(sizes)) => Ok(sizes),
        _ => Err(Error::Usage("pretraining needs [model.sizes] or model.preset, and no checkpoint".into())),
    }
}
