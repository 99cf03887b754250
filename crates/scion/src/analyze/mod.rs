//! What is worth knowing of a model before it is grafted: the activations that new operators will have to copy, where
//! attention looks, what single operators are worth, and what follows from it.

mod advice;
mod export;
mod moments;
mod scions;
mod sensitivity;
mod watching;
mod write;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

pub use moments::{ChannelMoments, Moments, OUTLIER};
pub use scions::Scions;
pub use write::{PAGE, write};

use crate::config::{DataConfig, DataSource};
use crate::data::ImageSet;
use crate::data::loader::spread;
use crate::error::{Error, Result};
use crate::model::{Architecture, Dit, DitConfig, Site, fingerprint};
use crate::operator::Slot;
use crate::report::analysis::{AnalysisResults, BlockLocality, Drawing, OperatorResult};
use crate::run::{cpu_name, held_out_images};
use export::Exports;

/// Images that go through the model at once; it never changes an image.
const BATCH: usize = 32;

/// More images are a slip of the keyboard.
const MAX_IMAGES: usize = 1 << 20;

/// A model to be analysed.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// What it is called.
    pub name: &'a str,
    /// The model.
    pub model: &'a Dit,
    /// Its sizes and grafts.
    pub architecture: &'a Architecture,
}

/// How much is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AnalyzeConfig {
    /// Images drawn to watch activations and attention, spread over the classes.
    pub samples: usize,
    /// DDIM steps of each.
    pub steps: usize,
    /// Scale of guidance where there is any; 1 is none.
    pub cfg: f64,
    /// Held-out images for the loss.
    pub images: usize,
    /// Images drawn of each model for the Fréchet distance; 0 leaves it out.
    pub frechet_images: usize,
}

impl AnalyzeConfig {
    /// Checks that the numbers are possible.
    ///
    /// # Errors
    /// A usage error that names the option.
    pub fn check(&self) -> Result<()> {
        let fail = |detail: String| Err(Error::Usage(detail));
        for (option, count, least) in [
            ("--samples", self.samples, 1),
            ("--images", self.images, 2),
            ("--frechet", self.frechet_images, 0),
        ] {
            if !(least..=MAX_IMAGES).contains(&count) {
                return fail(format!("{option} {count}: expected {least} to {MAX_IMAGES} images"));
            }
        }
        if (1..10).contains(&self.frechet_images) {
            return fail(format!(
                "--frechet {}: expected 0, or at least 10 images for a distance with an error",
                self.frechet_images
            ));
        }
        if !self.cfg.is_finite() {
            return fail(format!("--cfg {}: expected a finite scale", self.cfg));
        }
        watching::drawing(self, self.cfg).schedule().map(drop)
    }
}

/// Images that the model is judged on.
#[derive(Debug)]
pub struct HeldOut {
    description: String,
    set: ImageSet,
    /// Whether the embedded classifier knows such images.
    judged: bool,
}

impl HeldOut {
    /// Some of the images that a data set sets apart for tests, spread over the classes.
    ///
    /// # Errors
    /// When they cannot be found or read, or do not fit the model.
    pub fn open(data: &DataConfig, sizes: &DitConfig, count: usize, seed: u64) -> Result<Self> {
        if ![1, 3].contains(&sizes.in_channels) {
            return Err(Error::Usage(format!(
                "the model takes latents of {} channels; images have 1 or 3, so that no loss can be taken on them",
                sizes.in_channels
            )));
        }
        let all = held_out_images(data, sizes)?;
        let fashion = matches!(data.source, DataSource::Embedded | DataSource::FashionMnist);
        let set = all.subset(&spread(all.labels(), count.min(all.len()), seed))?;
        if set.len() < 2 {
            return Err(Error::Usage(format!("the data hold {} images; expected at least 2", set.len())));
        }
        let description = match (&data.path, data.source) {
            (Some(path), DataSource::ImageFolder) => format!("images of {}", path.display()),
            (_, DataSource::FashionMnist) => "test images of Fashion-MNIST".into(),
            (_, DataSource::Emoji) => "embedded emoji, which the model may have learned from".into(),
            _ => "embedded test images of Fashion-MNIST".into(),
        };
        let judged =
            fashion && (sizes.in_channels, sizes.input_size, sizes.classes().ok()) == (1, 28, Some(10));
        Ok(Self { description, set, judged })
    }
}

/// Analyses a model. Attention matrices of a few passes are written to `export`.
///
/// # Errors
/// When the model cannot be sampled as asked, images cannot be read, or the export cannot be written.
pub fn analyze(
    subject: &Subject,
    settings: &AnalyzeConfig,
    held_out: Option<&HeldOut>,
    scions: Option<&Scions>,
    seed: u64,
    export: Option<&Path>,
    quiet: bool,
) -> Result<AnalysisResults> {
    let started = Instant::now();
    let sizes = &subject.architecture.dit;
    let mut exports = export.map(|_| Exports::new(subject, settings)).transpose()?;
    let (activations, plain) = watching::plain(subject, settings, seed, exports.as_mut(), quiet)?;
    if let (Some(exports), Some(path)) = (&exports, export) {
        exports.write(subject, path)?;
    }
    let is_guided = sizes.null_label().is_some() && settings.cfg != 1.0;
    let guided = if is_guided { watching::guided(subject, settings, seed, quiet)? } else { BTreeMap::new() };
    let found = held_out
        .map(|held_out| sensitivity::measure(subject, settings, held_out, scions, seed, quiet))
        .transpose()?;
    let reach = reach(sizes.tokens());
    let block = |(&block, looks): (&usize, &watching::Looks)| BlockLocality {
        block,
        plain: looks.result(reach),
        guided: guided.get(&block).map(|looks| looks.result(reach)),
    };
    let mut results = AnalysisResults {
        model: subject.name.into(),
        weights_sha256: fingerprint(subject.model),
        tokens: sizes.tokens(),
        reach,
        outlier_factor: OUTLIER,
        drawing: Drawing { samples: settings.samples, steps: settings.steps, cfg: settings.cfg },
        operators: operators(subject, &activations, found.as_ref()),
        locality: plain.iter().map(block).collect(),
        left_out: left_out(subject, settings, held_out, scions),
        baseline: found.map(|found| found.baseline),
        run: scions.map(|scions| scions.run.clone()),
        headline: String::new(),
        advice: Vec::new(),
        recipe: String::new(),
        precision: String::new(),
        seed,
        threads: rayon::current_num_threads(),
        cpu: cpu_name(),
        versions: [("scion".to_string(), env!("CARGO_PKG_VERSION").to_string())].into(),
        command: String::new(),
        elapsed_s: 0.0,
    };
    results.headline = advice::headline(&results);
    (results.advice, results.recipe) = advice::of(&results);
    results.elapsed_s = started.elapsed().as_secs_f64();
    Ok(results)
}

/// What was seen of every operator, and what it was found to be worth.
fn operators(
    subject: &Subject,
    activations: &BTreeMap<Site, watching::Activations>,
    found: Option<&sensitivity::Sensitivity>,
) -> Vec<OperatorResult> {
    let operator = |(&site, seen): (&Site, &watching::Activations)| {
        let Site::Operator(block, slot) = site else { unreachable!("operators are watched") };
        OperatorResult {
            block,
            slot,
            operator: subject.architecture.operator(block, slot).name(),
            input: watching::activity(&seen.input),
            output: watching::activity(&seen.output),
            removed: found.and_then(|found| found.removed.get(&site).cloned()),
            replaced: found.and_then(|found| found.replaced.get(&site).cloned()),
        }
    };
    activations.iter().map(operator).collect()
}

/// The reach by which blocks are compared: an eighth of the tokens, as the paper's 32 of 256.
fn reach(tokens: usize) -> usize {
    (tokens / 8).max(1).min(tokens - 1)
}

/// What is not measured, and why.
fn left_out(
    subject: &Subject,
    settings: &AnalyzeConfig,
    held_out: Option<&HeldOut>,
    scions: Option<&Scions>,
) -> Vec<String> {
    let sizes = &subject.architecture.dit;
    let mut missing = Vec::new();
    if held_out.is_none() {
        missing.push("What operators are worth: no images were given (--data) to take the loss on.".into());
        if scions.is_some() {
            missing.push("The run’s new operators: they are judged by the loss as well.".into());
        }
    } else if !held_out.is_some_and(|held_out| held_out.judged) {
        missing.push("The Fréchet distance: only Fashion-MNIST has an embedded judge.".into());
    } else if settings.frechet_images == 0 {
        missing.push("The Fréchet distance, as asked.".into());
    }
    if settings.cfg != 1.0 && sizes.null_label().is_none() {
        missing.push("Attention with guidance: the model has no null class.".into());
    }
    let other: Vec<String> = (0..sizes.depth)
        .filter(|&block| subject.architecture.operator(block, Slot::Attention).name() != "attention")
        .map(|block| block.to_string())
        .collect();
    if !other.is_empty() {
        missing.push(format!(
            "Locality in block {}: no softmax attention over all tokens is there.",
            other.join(", ")
        ));
    }
    missing
}
