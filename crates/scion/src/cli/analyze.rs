use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::Args;
use serde_json::Value;

use super::claim::{claim, settled_precision};
use super::precision::PrecisionChoice;
use super::reading::Reading;
use super::{Common, set_precision};
use crate::analyze::{self, AnalyzeConfig, HeldOut, Scions, Subject};
use crate::checkpoint::{Checkpoint, ensure_absent};
use crate::config::{DataConfig, DataSource};
use crate::error::{Error, Result};
use crate::model::{fingerprint, load};
use crate::run::{EMBEDDED_NAME, embedded_teacher, kebab, with_checkpoint, with_embedded_captions};

#[derive(Args)]
pub struct AnalyzeArguments {
    /// A file, a folder, hf://ORG/REPO/FILE, "embedded" or "embedded-emoji"; a text-to-image model must be one of emoji
    model: String,
    /// Images to take the loss on: "embedded", "fashion-mnist", "emoji", or a folder with one sub-folder a class; by default those of
    /// --run, and the embedded ones for the embedded model
    #[arg(long)]
    data: Option<String>,
    /// A run on this model whose stage 1 is finished: its new operators are tried as well
    #[arg(long)]
    run: Option<PathBuf>,
    /// The folder for page, plots and numbers
    #[arg(long, default_value = "scion-analysis")]
    out: PathBuf,
    /// Images drawn to watch activations and attention
    #[arg(long, default_value_t = 100)]
    samples: usize,
    /// DDIM steps of each
    #[arg(long, default_value_t = 25)]
    steps: usize,
    /// Scale of classifier-free guidance where attention is watched with it; 1 is none
    #[arg(long, default_value_t = 1.5)]
    cfg: f64,
    /// Images to take the loss on
    #[arg(long, default_value_t = 512)]
    images: usize,
    /// Images drawn of each model for the Fréchet distance; 0 leaves it out
    #[arg(long, value_name = "IMAGES", default_value_t = 200)]
    frechet: usize,
    /// Operand precision of products
    #[arg(long, value_enum, default_value_t = PrecisionChoice::Auto)]
    precision: PrecisionChoice,
    /// Write the attention of a few passes: block.I [N,H,T,T] for every block
    #[arg(long, value_name = "FILE.safetensors")]
    export_attention: Option<PathBuf>,
    #[command(flatten)]
    reading: Reading,
}

/// Beside the results: what decided them.
const SETTINGS: &str = "settings.json";

pub fn analyze(arguments: &AnalyzeArguments, common: &Common) -> Result<()> {
    let settings = AnalyzeConfig {
        samples: arguments.samples,
        steps: arguments.steps,
        cfg: arguments.cfg,
        images: arguments.images,
        frechet_images: arguments.frechet,
    };
    settings.check()?;
    arguments.export_attention.as_deref().map_or(Ok(()), ensure_absent)?;
    let precision = settled_precision(arguments.precision.config(), &[&arguments.out], SETTINGS);
    set_precision(precision);
    with_checkpoint(&arguments.model, |file| run(arguments, &settings, file, &kebab(&precision), common))
}

fn run(
    arguments: &AnalyzeArguments,
    settings: &AnalyzeConfig,
    file: &Checkpoint,
    precision: &str,
    common: &Common,
) -> Result<()> {
    let architecture = arguments.reading.architecture(file)?;
    let model = with_embedded_captions(load(file, &architecture, &Device::flex())?, &architecture.dit)?;
    let subject = Subject { name: &arguments.model, model: &model, architecture: &architecture };
    let (weights, seed) = (fingerprint(&model), common.seed.unwrap_or(0));
    let scions = arguments.run.as_ref().map(|run| Scions::read(run, &subject, &weights)).transpose()?;
    let data = data(arguments, &subject, &weights, scions.as_ref())?;
    let held_out = data
        .as_ref()
        .map(|data| HeldOut::open(data, &architecture.dit, settings.images, seed))
        .transpose()?;
    let decided =
        decided(arguments, settings, &subject, &weights, data.as_ref(), scions.as_ref(), precision, seed);
    claim(&arguments.out, SETTINGS, &decided, "an analysis")?;
    let page = arguments.out.join(analyze::PAGE);
    if page.exists() && arguments.export_attention.is_none() {
        say!("nothing to do: {} was finished before", page.display());
        return Ok(());
    }
    let export = arguments.export_attention.as_deref();
    let mut results =
        analyze::analyze(&subject, settings, held_out.as_ref(), scions.as_ref(), seed, export, common.quiet)?;
    results.precision = precision.into();
    results.command = command(arguments, settings, precision, seed);
    let page = analyze::write(&results, &arguments.out)?;
    for advice in &results.advice {
        say!("{}: {}\n", advice.topic, advice.text);
    }
    for what in &results.left_out {
        say!("left out: {what}");
    }
    say!("done: {}", page.display());
    Ok(())
}

/// Everything that decides the results, but for the pictures in a folder of data.
#[allow(clippy::too_many_arguments)]
fn decided(
    arguments: &AnalyzeArguments,
    settings: &AnalyzeConfig,
    subject: &Subject,
    weights: &str,
    data: Option<&DataConfig>,
    scions: Option<&Scions>,
    precision: &str,
    seed: u64,
) -> Value {
    let mut decided = serde_json::json!({
        "model": arguments.model,
        "weights-sha256": weights,
        "heads": subject.architecture.dit.heads,
        "grafts": subject.architecture.grafts,
        "pairs": subject.architecture.pairs,
        "data": data,
        "run": arguments.run,
        "run-sha256": scions.map(|scions| &scions.sha256),
        "precision": precision,
        "seed": seed,
    });
    let numbers = serde_json::to_value(settings).expect("settings are plain data");
    let numbers = numbers.as_object().cloned().unwrap_or_default();
    decided.as_object_mut().expect("it is an object").extend(numbers);
    decided
}

/// The images to take the loss on, where any are named or known to suit the model.
fn data(
    arguments: &AnalyzeArguments,
    subject: &Subject,
    weights: &str,
    scions: Option<&Scions>,
) -> Result<Option<DataConfig>> {
    let of = |source, path| Ok(Some(DataConfig { source, path, ..DataConfig::default() }));
    match (arguments.data.as_deref(), scions) {
        (Some("embedded"), _) => of(DataSource::Embedded, None),
        (Some("fashion-mnist"), _) => of(DataSource::FashionMnist, None),
        (Some("emoji"), _) => of(DataSource::Emoji, None),
        (Some(folder), _) if Path::new(folder).is_dir() => of(DataSource::ImageFolder, Some(folder.into())),
        (Some(other), _) => Err(Error::Usage(format!(
            "--data {other}: expected \"embedded\", \"fashion-mnist\", \"emoji\", or a folder with one sub-folder of images a class"
        ))),
        (None, Some(scions)) if scions.data.source != DataSource::Teacher => Ok(Some(scions.data.clone())),
        (None, _) if subject.architecture.dit.text().is_some() => of(DataSource::Emoji, None),
        (None, _) if is_embedded(subject, weights)? => of(DataSource::Embedded, None),
        (None, _) => Ok(None),
    }
}

/// Whether a model has the embedded one's weights, under whatever name.
fn is_embedded(subject: &Subject, weights: &str) -> Result<bool> {
    if subject.name == EMBEDDED_NAME {
        return Ok(true);
    }
    let embedded = embedded_teacher(&Device::flex())?;
    Ok(embedded.architecture == *subject.architecture && fingerprint(&embedded.model) == weights)
}

/// The command line, without what has no bearing on the results.
fn command(arguments: &AnalyzeArguments, settings: &AnalyzeConfig, precision: &str, seed: u64) -> String {
    let mut command = format!("scion analyze {}", arguments.model);
    let mut add =
        |option: &str, value: &dyn std::fmt::Display| command.push_str(&format!(" {option} {value}"));
    arguments.data.iter().for_each(|data| add("--data", data));
    arguments.run.iter().for_each(|run| add("--run", &run.display()));
    arguments.reading.heads.iter().for_each(|heads| add("--heads", heads));
    arguments.reading.recipe.iter().for_each(|recipe| add("--recipe", &recipe.display()));
    let AnalyzeConfig { samples, steps, cfg, images, frechet_images } = settings;
    add("--samples", samples);
    add("--steps", steps);
    add("--cfg", cfg);
    add("--images", images);
    add("--frechet", frechet_images);
    add("--precision", &precision);
    add("--seed", &seed);
    command
}
