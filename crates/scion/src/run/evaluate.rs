use std::fs;
use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::folder::{PROMPTS_RECORD, TEACHER};
use super::prompts::{Labels, Sheet};
use super::{Canvas, Progress, RunFolder, remove_parts, sample_in_parts};
use crate::atomic;
use crate::classifier::{Classifier, FEATURES};
use crate::config::Recipe;
use crate::data::image_io::{GridOptions, grid, save_png};
use crate::data::loader::spread;
use crate::data::samples::{read_samples, write_samples};
use crate::data::{DrawnLatents, ImageShape, Split, embedded, to_unit};
use crate::error::{Error, Result};
use crate::metrics::{
    Accuracy, Features, Gaussian, JackknifeOptions, KidOptions, Sampled, frechet_with_error, kernel_distance,
};
use crate::model::{Dit, DitConfig};
use crate::report::results::{Estimate, Floor, ModelName};

/// Where a run keeps the images of its models.
const SAMPLES: &str = "samples";

/// Scores of one set of images.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scores {
    /// Number of images.
    pub samples: u64,
    /// Fréchet distance to the real test images.
    pub frechet: Estimate,
    /// Kernel distance to the real test images.
    pub kid: Estimate,
    /// Share put in the class asked for, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// 95% Wilson interval of the share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy_interval: Option<[f64; 2]>,
}

/// The embedded judge: a classifier, and the real images it compares with.
pub struct Judge {
    classifier: Classifier,
    reference: Features,
    gaussian: Gaussian,
    seed: u64,
}

impl Judge {
    /// The judge of 28 × 28 Fashion-MNIST images.
    ///
    /// # Errors
    /// When the program's embedded files are damaged.
    pub fn new(device: &Device, seed: u64) -> Result<Self> {
        let classifier = Classifier::embedded(device)?;
        let test = embedded::fashion_mnist(Split::Test)?;
        let real = classifier.classify(&to_unit(test.as_bytes().unwrap_or_default()))?;
        let reference = Features::new(FEATURES, real.features)?;
        let gaussian = Gaussian::of(&reference)?;
        Ok(Self { classifier, reference, gaussian, seed })
    }

    /// Features of images in bytes, [N, 1, 28, 28].
    ///
    /// # Errors
    /// When there are no images.
    pub fn features(&self, pixels: &[u8]) -> Result<Features> {
        Features::new(FEATURES, self.classifier.classify(&to_unit(pixels))?.features)
    }

    /// The real test images as one side of a Fréchet distance.
    pub fn reference(&self) -> Sampled<'_> {
        Sampled { gaussian: &self.gaussian, rows: Some(&self.reference) }
    }

    /// Scores images in bytes, [N, 1, 28, 28], against the real test images, and their labels where there are any.
    ///
    /// # Errors
    /// When there are too few images for a covariance.
    pub fn score(&self, pixels: &[u8], labels: Option<&[usize]>) -> Result<Scores> {
        let found = self.classifier.classify(&to_unit(pixels))?;
        let samples = found.labels.len() as u64;
        let accuracy = labels.map(|labels| Accuracy::of(&found.labels, labels)).transpose()?;
        let features = Features::new(FEATURES, found.features)?;
        let jackknife = JackknifeOptions { seed: self.seed, ..JackknifeOptions::default() };
        let samples_side = Sampled { gaussian: &Gaussian::of(&features)?, rows: Some(&features) };
        let frechet = frechet_with_error(samples_side, self.reference(), &jackknife)?;
        let options = KidOptions { seed: self.seed, ..KidOptions::default() };
        let kid = kernel_distance(&features, &self.reference, &options)?;
        Ok(Scores {
            samples,
            frechet: Estimate::new(frechet.value, frechet.stderr),
            kid: Estimate::new(kid.value, kid.stderr),
            accuracy: accuracy.as_ref().map(Accuracy::fraction),
            accuracy_interval: accuracy.as_ref().map(|a| a.wilson(1.96).into()),
        })
    }

    /// How `count` real training images score, fewer where there are not so many: what a perfect model would reach.
    /// A distance's bias depends on the number of images, so it is that of the models that are compared with it.
    ///
    /// # Errors
    /// When the program's embedded files are damaged.
    pub fn floor(&self, count: usize) -> Result<Floor> {
        let train = embedded::fashion_mnist(Split::Train)?;
        let pixels = train.read(&spread(train.labels(), count, self.seed))?;
        let scores = self.score(&pixels, None)?;
        let test = embedded::fashion_mnist(Split::Test)?;
        let real = self.classifier.classify(&to_unit(test.as_bytes().unwrap_or_default()))?;
        Ok(Floor {
            samples: scores.samples,
            frechet: Some(scores.frechet),
            kid: Some(scores.kid),
            accuracy: Some(Accuracy::of(&real.labels, test.labels())?.fraction()),
        })
    }
}

/// Labels of an evaluation's images: all that there are in turn, or spread evenly where there are more than images.
pub(super) fn labels(count: usize, of: usize) -> Vec<usize> {
    (0..count).map(|i| if count < of { i * of / count } else { i % of }).collect()
}

/// A model's evaluation images in bytes, drawn unless the run folder holds them already; also draws its grid. Latents that
/// nothing decodes are only kept.
#[allow(clippy::too_many_arguments)]
pub(super) fn evaluation_samples(
    recipe: &Recipe,
    name: ModelName,
    model: &Dit,
    sizes: &DitConfig,
    labels: &Labels,
    canvas: &Canvas,
    folder: &RunFolder,
    quiet: bool,
) -> Result<Vec<u8>> {
    let samples = folder.path(SAMPLES);
    fs::create_dir_all(&samples).map_err(|e| Error::io("create the folder", &samples, e))?;
    let latents = matches!(canvas, Canvas::Latents(_));
    let file = samples.join(format!("{}.{}", name.id(), if latents { "safetensors" } else { "npz" }));
    let parts = samples.join(format!("{}.parts", name.id()));
    if file.exists() {
        remove_parts(&parts)?;
        if latents {
            return Ok(Vec::new());
        }
        let set = read_samples(&file)?;
        return Ok(set.as_bytes().unwrap_or_default().to_vec());
    }
    let count = recipe.sample.count;
    let (sheet, labels) = (labels.sheet(count, recipe.evaluate.grid_columns), labels.evaluated(count));
    let mut progress = Progress::new(&format!("sample {}", name.id()), labels.len() as u64, 0, quiet);
    let mut done = 0;
    let on_images = |count: usize| {
        done += count as u64;
        progress.set(done, "");
    };
    let (sampling, seed) = (&recipe.sample, recipe.seed);
    let drawn = sample_in_parts(model, sizes, sampling, seed, &labels, 0, canvas, &parts, on_images)?;
    let shape = canvas.shape();
    if latents {
        DrawnLatents::write(&file, drawn.pieces(), shape, &labels)?;
        remove_parts(&parts)?;
        return Ok(Vec::new());
    }
    let pixels = drawn.read()?;
    save_sheet(&sheet, &pixels, shape, &samples.join(format!("{}.png", name.id())))?;
    write_samples(&file, &pixels, shape, Some(&labels))?;
    remove_parts(&parts)?;
    Ok(pixels)
}

/// Draws a model's sheet: the same noise in the same place for every model.
fn save_sheet(sheet: &Sheet, pixels: &[u8], shape: ImageShape, file: &Path) -> Result<()> {
    let image = |&i: &usize| pixels[i * shape.len()..(i + 1) * shape.len()].to_vec();
    let shown: Vec<u8> = sheet.images.iter().flat_map(image).collect();
    let raster = grid(&shown, shape, &GridOptions::for_a_page(sheet.columns, shape))?;
    save_png(file, &raster)
}

/// Whether two recipes have their teacher draw the same images, as far as they tell.
pub(crate) fn same_teacher_images(a: &Recipe, b: &Recipe) -> bool {
    let told = |r: &Recipe| (r.model.clone(), r.seed, r.precision, r.sample.clone(), r.evaluate.grid_columns);
    told(a) == told(b) && a.evaluate.prompts == b.evaluate.prompts
}

/// Takes the teacher's images from a finished run, unless the folder holds its own, or that run had another teacher or
/// drew them in another way.
///
/// # Errors
/// When they are there and cannot be read or written.
pub(super) fn adopt_teacher_samples(recipe: &Recipe, sibling: &Path, folder: &RunFolder) -> Result<()> {
    let same = |name: &str| fs::read(sibling.join(name)).ok() == fs::read(folder.path(name)).ok();
    let same_weights = same(TEACHER) && same(PROMPTS_RECORD);
    let same_way =
        Recipe::read(&sibling.join("recipe.toml")).is_ok_and(|theirs| same_teacher_images(&theirs, recipe));
    let (theirs, ours) = (sibling.join(SAMPLES), folder.path(SAMPLES));
    let [grid, images] = ["png", "npz"].map(|end| format!("{}.{end}", ModelName::Teacher.id()));
    if !(same_weights && same_way && theirs.join(&images).exists()) || ours.join(&images).exists() {
        return Ok(());
    }
    fs::create_dir_all(&ours).map_err(|e| Error::io("create the folder", &ours, e))?;
    // The images come last: where they are there, the grid is too.
    for name in [grid, images] {
        let bytes = fs::read(theirs.join(&name)).map_err(|e| Error::io("read", theirs.join(&name), e))?;
        atomic::write(&ours.join(&name), &bytes)?;
    }
    Ok(())
}

/// Forward times in milliseconds of several models in alternation: all runs of each.
pub(super) fn latencies(models: &[&Dit], sizes: &DitConfig, batch: usize, runs: usize) -> Vec<Vec<f64>> {
    let x = vec![0.5f32; batch * sizes.image_len()];
    let (t, y) = (vec![500f32; batch], vec![0usize; batch]);
    let mut times = vec![Vec::with_capacity(runs); models.len()];
    for run in 0..=runs {
        for (model, times) in models.iter().zip(&mut times) {
            let start = Instant::now();
            std::hint::black_box(model.predict(&x, &t, &y));
            // The first round warms caches and allocator.
            if run > 0 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    times
}
