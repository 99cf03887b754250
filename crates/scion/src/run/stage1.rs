use std::collections::BTreeMap;

use burn::module::Module;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use scion_kernels::{PackedWeights, keep_awake};

use super::source::stage_images;
use super::{Progress, RunFolder};
use crate::capture::{Activations, Cache, CacheWriter, Widths, add_noise, capture};
use crate::config::Recipe;
use crate::data::loader::{shuffle, spread};
use crate::data::{Batches, TrainingSet};
use crate::diffusion::Schedule;
use crate::error::{Error, Result};
use crate::model::{Context, Dit, DitConfig, Part, Site};
use crate::plan::{Plan, needs_activations};
use crate::train::{CaptureMode, DistillConfig, Distiller};

/// Chance that a captured image's label is the null class: guidance asks the model both ways.
const LABEL_DROPOUT: f64 = 0.1;
/// Places in the noise stream where stage 1's images and its held-out ones begin, so that no stage sees
/// another's noise.
const CAPTURED: u64 = 1 << 40;
const HELD_OUT: u64 = 1 << 48;
/// Place of the images by whose activations operators inherit, and how many there are.
const INHERITANCE: u64 = 1 << 52;
const INHERITANCE_IMAGES: usize = 64;

/// What stage 1 found for one part.
#[derive(Clone, Debug)]
pub struct Regrown {
    /// Where it stands, in the teacher's numbers.
    pub site: Site,
    /// Its best weights.
    pub part: Part,
    /// Samples of an epoch: training images, or the captured samples of a cache.
    pub samples: usize,
    /// Loss on held-out samples before training.
    pub val_first: f64,
    /// Loss on held-out samples of the best weights.
    pub val_best: f64,
}

/// The teacher's activations, step by step.
enum Source<'a> {
    Online { teacher: &'a Dit, weights: PackedWeights, sizes: &'a DitConfig, batches: Batches, seed: u64 },
    Cached { caches: BTreeMap<Site, Cache>, seed: u64 },
}

/// Regresses fresh parts on the teacher's, at sites in the teacher's numbers, going on where an interrupted run stopped.
///
/// # Errors
/// When data or run folder cannot be read or written.
pub(super) fn stage1(
    recipe: &Recipe,
    config: &DistillConfig,
    teacher: &Dit,
    sizes: &DitConfig,
    fresh: Vec<(Site, Part)>,
    folder: &mut RunFolder,
    quiet: bool,
) -> Result<(Vec<Regrown>, f64)> {
    let clock = folder.start_stage("stage1")?;
    let (sites, parts): (Vec<Site>, Vec<Part>) = fresh.into_iter().unzip();
    let (training, held_out) =
        split(stage_images(recipe, sizes, teacher, folder, quiet)?, config.validation, recipe.seed)?;
    let samples = match config.capture {
        CaptureMode::Online => training.len(),
        CaptureMode::Cache => config.samples,
    };
    let validation = captured(teacher, sizes, &held_out, &sites, recipe.seed, HELD_OUT)?;
    let mut distiller =
        Distiller::new(sites.clone(), parts, sizes.tokens(), sizes.hidden, config.clone(), validation);
    let first_losses = distiller.validate();
    let state_file = folder.path("stage1.state.safetensors");
    let purpose = format!("stage1\n{}", recipe.to_toml());
    if state_file.exists() {
        distiller = distiller.resume(&purpose, &state_file)?;
    }
    folder.begin_log("stage1", distiller.steps())?;
    let source = Source::open(recipe, config, teacher, sizes, &sites, training, folder, quiet)?;
    let mut progress = Progress::new("stage1", config.steps, distiller.steps(), quiet);
    while distiller.steps() < config.steps {
        let (next, reports) = keep_awake(|| {
            let batch = source.batch(distiller.steps(), config.batch, &sites)?;
            distiller.step(&batch)
        })?;
        distiller = next;
        let step = distiller.steps();
        if step.is_multiple_of(10) || step == 1 || reports[0].val_loss.is_some() {
            reports.iter().try_for_each(|report| folder.log("stage1", report))?;
        }
        let mean = reports.iter().map(|r| r.loss).sum::<f64>() / reports.len() as f64;
        progress.set(step, &format!("loss {mean:.4}"));
        if step.is_multiple_of(config.checkpoint_every) && step != config.steps {
            distiller.save(&purpose, &state_file)?;
            folder.note_stage(&clock)?;
        }
    }
    let regrown =
        distiller.best().into_iter().zip(first_losses).map(|((site, part, val_best), val_first)| Regrown {
            site,
            part: part.valid(),
            samples,
            val_first,
            val_best,
        });
    folder.note_stage(&clock)?;
    Ok((regrown.collect(), clock.seconds()))
}

/// The teacher's inputs at the sites whose operators inherit by them.
///
/// # Errors
/// When the data cannot be read.
pub(super) fn inheritance(
    recipe: &Recipe,
    teacher: &Dit,
    plan: &Plan,
    folder: &RunFolder,
    quiet: bool,
) -> Result<BTreeMap<Site, Vec<f32>>> {
    let asking = plan.inheriting().filter(|(_, new, old)| needs_activations(new, old));
    let sites: Vec<Site> = asking.map(|(site, ..)| site).collect();
    if sites.is_empty() {
        return Ok(BTreeMap::new());
    }
    let sizes = &plan.before.dit;
    let set = stage_images(recipe, sizes, teacher, folder, quiet)?;
    let few = set.subset(&spread(set.labels(), INHERITANCE_IMAGES.min(set.len()), recipe.seed))?;
    let found = captured(teacher, sizes, &few, &sites, recipe.seed, INHERITANCE)?;
    Ok(found.into_iter().map(|(site, activations)| (site, activations.input)).collect())
}

/// Sets `count` images apart for validation, spread over the classes.
fn split(set: TrainingSet, count: usize, seed: u64) -> Result<(TrainingSet, TrainingSet)> {
    if count >= set.len() {
        return Err(Error::Usage(format!(
            "distill.validation asks for {count} held-out images, but there are only {} in all",
            set.len()
        )));
    }
    let held_out = spread(set.labels(), count, seed);
    let apart: std::collections::HashSet<usize> = held_out.iter().copied().collect();
    let rest: Vec<usize> = (0..set.len()).filter(|i| !apart.contains(i)).collect();
    Ok((set.subset(&rest)?, set.subset(&held_out)?))
}

/// The teacher's activations on all images of a small set, with the noise of the places from `first` on.
fn captured(
    teacher: &Dit,
    sizes: &DitConfig,
    set: &TrainingSet,
    sites: &[Site],
    seed: u64,
    first: u64,
) -> Result<BTreeMap<Site, Activations>> {
    let all: Vec<usize> = (0..set.len()).collect();
    let images = set.values(&all, &vec![false; all.len()], seed, first)?;
    let schedule = Schedule::linear();
    let noised = add_noise(sizes, &schedule, &images, set.labels(), LABEL_DROPOUT, seed, first)?;
    Ok(capture(teacher, sizes, &noised, sites))
}

impl<'a> Source<'a> {
    #[allow(clippy::too_many_arguments)]
    fn open(
        recipe: &Recipe,
        config: &DistillConfig,
        teacher: &'a Dit,
        sizes: &'a DitConfig,
        sites: &[Site],
        training: TrainingSet,
        folder: &RunFolder,
        quiet: bool,
    ) -> Result<Self> {
        let seed = recipe.seed;
        let batches = Batches::new(training, seed, false)?;
        let online = Self::Online { teacher, weights: PackedWeights::default(), sizes, batches, seed };
        if config.capture == CaptureMode::Online {
            return Ok(online);
        }
        let path =
            |site: Site| folder.path(&format!("activations-block{}-{}.act", site.block(), site.kind()));
        if !sites.iter().all(|&site| path(site).exists()) {
            let widths = |site: Site| Widths {
                tokens: sizes.tokens() * sizes.hidden,
                conditioning: if matches!(site, Site::Pair(_)) { Context::packed_len(sizes) } else { 0 },
            };
            let mut writers = sites
                .iter()
                .map(|&s| Ok((s, CacheWriter::create(&path(s), widths(s))?)))
                .collect::<Result<BTreeMap<_, _>>>()?;
            let total = config.samples.div_ceil(config.batch) as u64;
            let mut progress = Progress::new("capture", total, 0, quiet);
            for step in 0..total {
                let activations = online.batch(step, config.batch, sites)?;
                writers.iter_mut().try_for_each(|(site, writer)| writer.append(&activations[site]))?;
                progress.set(step + 1, "");
            }
            writers.into_values().try_for_each(CacheWriter::finish)?;
        }
        let caches = sites.iter().map(|&s| Ok((s, Cache::open(&path(s))?))).collect::<Result<_>>()?;
        Ok(Self::Cached { caches, seed })
    }

    /// The activations of step `step`, a function of the step alone.
    fn batch(&self, step: u64, size: usize, sites: &[Site]) -> Result<BTreeMap<Site, Activations>> {
        match self {
            Self::Online { teacher, weights, sizes, batches, seed } => {
                let batch = batches.batch(step, size)?;
                let first = CAPTURED + step * size as u64;
                let schedule = Schedule::linear();
                let noised =
                    add_noise(sizes, &schedule, &batch.images, &batch.labels, LABEL_DROPOUT, *seed, first)?;
                Ok(weights.scope(|| capture(teacher, sizes, &noised, sites)))
            }
            Self::Cached { caches, seed } => {
                let samples = caches.values().next().map_or(0, Cache::samples);
                let per_epoch = (samples / size).max(1) as u64;
                let mut order: Vec<usize> = (0..samples).collect();
                let mut rng = ChaCha8Rng::seed_from_u64(*seed);
                rng.set_stream(step / per_epoch);
                shuffle(&mut order, &mut rng);
                let start = (step % per_epoch) as usize * size;
                Ok(caches
                    .iter()
                    .map(|(&site, cache)| (site, cache.read(&order[start..start + size])))
                    .collect())
            }
        }
    }
}
