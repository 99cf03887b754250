use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::Args;

use super::Common;
use super::sample::labels_of_folder;
use crate::data::samples::read_samples;
use crate::data::{FolderLayout, FolderOptions, ImageSet, open_folder};
use crate::error::{Error, Result};
use crate::metrics::npz::Npz;
use crate::metrics::{
    Features, JackknifeOptions, KidOptions, Reference, frechet_with_error, kernel_distance,
};
use crate::run::{FEATURE_SPACE, Judge};

#[derive(Args)]
pub struct EvaluateArguments {
    /// A sample file (.npz with arr_0), a folder of images, or a feature file (.npz or .safetensors with features [N,D])
    samples: PathBuf,
    /// Features to compare with; for images, the embedded real test images by default
    #[arg(long)]
    reference: Option<PathBuf>,
    /// Leave out images of a folder that cannot be read
    #[arg(long)]
    skip_broken: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn evaluate(arguments: &EvaluateArguments, common: &Common) -> Result<()> {
    let seed = common.seed.unwrap_or(0);
    if let Some(reference) = &arguments.reference {
        return features(arguments, &Features::read(reference)?, seed);
    }
    if holds_features(&arguments.samples)? {
        return Err(Error::Usage(format!(
            "{} holds features; give --reference",
            arguments.samples.display()
        )));
    }
    let set = images(&arguments.samples, arguments.skip_broken)?;
    let shape = set.shape();
    if (shape.channels, shape.height, shape.width) != (1, 28, 28) {
        return Err(Error::Usage(format!(
            "{} holds images of {shape}; the embedded classifier judges 1×28×28 ones, for others give feature files",
            arguments.samples.display()
        )));
    }
    // Where images are left out, their numbers no longer tell their labels.
    let labels = if arguments.skip_broken { None } else { labels_of_folder(&arguments.samples, set.len()) };
    let scores = Judge::new(&Device::flex(), seed)?
        .score(set.as_bytes().unwrap_or_default(), labels.as_deref().or(set.known_labels()))?;
    if arguments.json {
        say!("{}", serde_json::to_string(&scores).expect("scores are plain data"));
        return Ok(());
    }
    say!("feature space: {FEATURE_SPACE}");
    say!("images:        {}", scores.samples);
    print_estimate("Fréchet", scores.frechet.value, scores.frechet.stderr.unwrap_or(f64::NAN))?;
    print_estimate("KID", scores.kid.value, scores.kid.stderr.unwrap_or(f64::NAN))?;
    match (scores.accuracy, scores.accuracy_interval) {
        (Some(accuracy), Some([low, high])) => {
            say!("accuracy:      {accuracy:.4} (95%: {low:.4} to {high:.4})");
        }
        _ => say!("accuracy:      unknown, the images come without labels"),
    }
    Ok(())
}

/// The images of a sample file, or of a folder.
fn images(path: &Path, skip_broken: bool) -> Result<ImageSet> {
    if path.is_file() {
        return read_samples(path);
    }
    let options = FolderOptions {
        channels: 1,
        skip_broken,
        layout: FolderLayout::Flat,
        memory_limit: usize::MAX,
        ..FolderOptions::exact(28)
    };
    Ok(open_folder(path, &options)?.0)
}

fn holds_features(path: &Path) -> Result<bool> {
    if path.is_dir() || path.extension().is_some_and(|e| e == "safetensors") {
        return Ok(!path.is_dir());
    }
    Ok(Npz::open(path)?.names().iter().any(|name| name == "features"))
}

fn features(arguments: &EvaluateArguments, reference: &Features, seed: u64) -> Result<()> {
    let samples = Features::read(&arguments.samples)?;
    let jackknife = JackknifeOptions { seed, ..JackknifeOptions::default() };
    let frechet = frechet_with_error(&samples, Reference::Features(reference), &jackknife)?;
    let kid = kernel_distance(&samples, reference, &KidOptions { seed, ..KidOptions::default() })?;
    if arguments.json {
        say!("{}", serde_json::json!({"samples": samples.len(), "frechet": frechet, "kid": kid.estimate()}));
        return Ok(());
    }
    say!("features:      {} of {} dimensions", samples.len(), samples.dim());
    print_estimate("Fréchet", frechet.value, frechet.stderr)?;
    print_estimate("KID", kid.value, kid.stderr)?;
    Ok(())
}

fn print_estimate(name: &str, value: f64, stderr: f64) -> Result<()> {
    say!("{:<14} {value:.5} ± {stderr:.5}", format!("{name}:"));
    Ok(())
}
