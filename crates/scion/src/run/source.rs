use super::evaluate::labels;
use super::folder::{TEACHER_IMAGE_PARTS, TEACHER_IMAGES, TEACHER_LATENTS};
use super::prompts::Labels;
use super::{Canvas, Progress, RunFolder, remove_parts, sample_in_parts};
use crate::config::{DataConfig, DataSource, Recipe};
use crate::data::emoji::emoji;
use crate::data::fashion_mnist::default_cache;
use crate::data::loader::stratified_fraction;
use crate::data::samples::{read_samples, write_samples};
use crate::data::{
    DrawnLatents, FashionMnist, FolderOptions, ImageSet, ImageShape, LatentSet, Split, TrainingSet, embedded,
    open_folder,
};
use crate::error::{Error, Result};
use crate::model::{Dit, DitConfig};

/// Place in the stream of sampling noise where images to train on begin: none of them starts from the noise of an image
/// that models are judged by.
const DRAWN: u64 = 1 << 40;

/// The training images or latents that `[data]` names, which must have the model's size, channels and classes; `seed` picks
/// those of a fraction.
///
/// # Errors
/// When they cannot be found or read, or do not fit the model.
pub fn training_images(data: &DataConfig, sizes: &DitConfig, seed: u64) -> Result<TrainingSet> {
    let set: TrainingSet = match (data.source, &data.path) {
        (DataSource::Latents, Some(path)) if sizes.text().is_some() => {
            LatentSet::open(path)?.by_caption().into()
        }
        (DataSource::Latents, Some(path)) => LatentSet::open(path)?.into(),
        _ => images(data, sizes, Split::Train)?.into(),
    };
    check_fit(set.shape(), set.class_names(), sizes)?;
    fraction(set, data, sizes, seed)
}

/// Images that the data set of `[data]` sets apart for tests, which must have the model's size, channels and classes. An
/// image folder sets none apart: all of its images.
///
/// # Errors
/// Those of [`training_images`].
pub fn held_out_images(data: &DataConfig, sizes: &DitConfig) -> Result<ImageSet> {
    let set = images(data, sizes, Split::Test)?;
    check_fit(set.shape(), set.class_names(), sizes)?;
    Ok(set)
}

fn images(data: &DataConfig, sizes: &DitConfig, split: Split) -> Result<ImageSet> {
    match (data.source, &data.path) {
        (DataSource::Embedded, _) => embedded::fashion_mnist(split),
        (DataSource::Emoji, _) => emoji(sizes.input_size),
        (DataSource::FashionMnist, Some(path)) => FashionMnist::open(path)?.read(split),
        (DataSource::FashionMnist, None) => {
            let cache = default_cache().ok_or_else(|| {
                Error::Usage("data.path is not set, and there is no home folder to keep a download in".into())
            })?;
            FashionMnist::find_or_download(&cache)?.read(split)
        }
        (DataSource::ImageFolder, Some(path)) => {
            let options = FolderOptions {
                channels: sizes.in_channels,
                skip_broken: data.skip_broken,
                ..FolderOptions::new(sizes.input_size)
            };
            let (set, report) = open_folder(path, &options)?;
            if !report.broken.is_empty() {
                tracing::warn!("{} broken images left out", report.broken.len());
            }
            Ok(set)
        }
        (DataSource::ImageFolder, None) => {
            Err(Error::Usage("data.source is image-folder, but data.path is not set".into()))
        }
        (DataSource::Latents, Some(_)) => {
            Err(Error::Usage("data.source is latents, which hold no images".into()))
        }
        (DataSource::Latents, None) => {
            Err(Error::Usage("data.source is latents, but data.path is not set".into()))
        }
        (DataSource::Teacher, _) => {
            Err(Error::Usage("data.source is teacher, but there is no teacher to draw images".into()))
        }
    }
}

/// The training images of a run's stages: those of [`training_images`], or those that the teacher draws, which are kept
/// in the run's folder and are drawn only once. Called again after an interruption, it goes on where it stopped.
///
/// # Errors
/// Those of [`training_images`], and when the folder cannot be read or written.
pub(super) fn stage_images(
    recipe: &Recipe,
    sizes: &DitConfig,
    teacher: &Dit,
    folder: &RunFolder,
    quiet: bool,
) -> Result<TrainingSet> {
    if recipe.data.source != DataSource::Teacher {
        return training_images(&recipe.data, sizes, recipe.seed);
    }
    let canvas = Canvas::undecoded(recipe, sizes);
    let latents = matches!(canvas, Canvas::Latents(_));
    let file = folder.path(if latents { TEACHER_LATENTS } else { TEACHER_IMAGES });
    let parts = folder.path(TEACHER_IMAGE_PARTS);
    if !file.exists() {
        let drawn = recipe.data.drawn(&recipe.sample);
        let labels = labels(drawn.count, Labels::of(recipe, sizes)?.learned);
        let mut progress = Progress::new("teacher's images", labels.len() as u64, 0, quiet);
        let mut done = 0;
        let on_images = |count: usize| {
            done += count as u64;
            progress.set(done, "");
        };
        let seed = recipe.seed;
        let drawn =
            sample_in_parts(teacher, sizes, &drawn, seed, &labels, DRAWN, &canvas, &parts, on_images)?;
        match canvas {
            Canvas::Latents(shape) => DrawnLatents::write(&file, drawn.pieces(), shape, &labels)?,
            _ => write_samples(&file, &drawn.read()?, canvas.shape(), Some(&labels))?,
        }
    }
    remove_parts(&parts)?;
    let set: TrainingSet =
        if latents { DrawnLatents::open(&file)?.into() } else { read_samples(&file)?.into() };
    check_fit(set.shape(), set.class_names(), sizes)?;
    fraction(set, &recipe.data, sizes, recipe.seed)
}

/// The share of every class that `[data]` asks for, or of all captioned images.
fn fraction(set: TrainingSet, data: &DataConfig, sizes: &DitConfig, seed: u64) -> Result<TrainingSet> {
    if data.fraction < 1.0 {
        // An image may be alone with its caption.
        let together = vec![0; set.len()];
        let groups = if sizes.text().is_some() { &together } else { set.labels() };
        return set.subset(&stratified_fraction(groups, data.fraction, seed)?);
    }
    Ok(set)
}

/// The first and last of some names.
fn ends(names: &[String]) -> String {
    match names {
        [first, .., last] => format!("{first} to {last}"),
        _ => names.concat(),
    }
}

fn check_fit(shape: ImageShape, class_names: &[String], sizes: &DitConfig) -> Result<()> {
    let side = sizes.input_size;
    if (shape.channels, shape.height, shape.width) != (sizes.in_channels, side, side) {
        return Err(Error::Usage(format!(
            "the images are {shape}, but the model takes {} channels of {side}×{side}",
            sizes.in_channels
        )));
    }
    // Captions are no table of the model's.
    if sizes.text().is_some() {
        return Ok(());
    }
    // Labels are places in the sorted list of class folders: one folder too few would shift all behind it.
    let classes = sizes.classes()?;
    if class_names.len() != classes {
        return Err(Error::Usage(format!(
            "the images have {} classes ({}), but the model {}; expected one folder for each of its classes",
            class_names.len(),
            ends(class_names),
            classes
        )));
    }
    Ok(())
}
