//! What is seen while the model draws images: the activations of every operator, and where attention looks.
//!
//! The images that a model draws stand for data: nothing else is needed for this, and the operators see what they see in use.

use std::collections::BTreeMap;

use burn::Tensor;

use super::export::Exports;
use super::moments::ChannelMoments;
use super::{AnalyzeConfig, BATCH, Subject};
use crate::config::SampleConfig;
use crate::data::samples::labels_in_groups;
use crate::error::Result;
use crate::model::{Seen, Site};
use crate::operator::{Operator, Spread};
use crate::report::analysis::{Activity, Look, LookAt, Statistics};
use crate::run::{Glimpse, Progress, watch};

/// Activations of one operator by timestep.
#[derive(Default)]
pub(super) struct Activations {
    /// After modulation.
    pub input: BTreeMap<usize, ChannelMoments>,
    /// Before the gate.
    pub output: BTreeMap<usize, ChannelMoments>,
}

/// Sums over images and passes of where a block's attention looks.
#[derive(Default)]
struct Sums {
    /// Share of attention by distance, [T].
    by_distance: Vec<f64>,
    grid_distance: Option<f64>,
    passes: usize,
}

/// Where a block's attention looks, by timestep.
#[derive(Default)]
pub(super) struct Looks(BTreeMap<usize, Sums>);

/// How the images are drawn that the model is watched on.
pub(super) fn drawing(settings: &AnalyzeConfig, cfg: f64) -> SampleConfig {
    SampleConfig {
        steps: settings.steps,
        count: settings.samples,
        cfg,
        batch: BATCH,
        ..SampleConfig::default()
    }
}

/// Draws without guidance and returns the activations of every operator, and where attention looks in every block that has
/// full attention. Inputs of attention are left in `exports`.
///
/// # Errors
/// When the model cannot be sampled in so many steps.
pub(super) fn plain(
    subject: &Subject,
    settings: &AnalyzeConfig,
    seed: u64,
    exports: Option<&mut Exports>,
    quiet: bool,
) -> Result<(BTreeMap<Site, Activations>, BTreeMap<usize, Looks>)> {
    let (mut activations, mut looks) = (BTreeMap::new(), BTreeMap::new());
    let mut exports = exports;
    let see = |glimpse: &Glimpse| {
        if let Some(exports) = &mut exports {
            exports.keep(subject, glimpse);
        }
        let Seen::Operator { block, slot, input, output } = glimpse.seen else { return };
        let found: &mut Activations = activations.entry(Site::Operator(block, slot)).or_default();
        add(&mut found.input, glimpse.timestep, input);
        add(&mut found.output, glimpse.timestep, output);
        look(subject, &mut looks, glimpse);
    };
    draw(subject, &drawing(settings, 1.0), seed, "activations", quiet, see)?;
    Ok((activations, looks))
}

/// Draws with guidance and returns where attention looks.
///
/// # Errors
/// When the model cannot be sampled in so many steps or cannot be guided.
pub(super) fn guided(
    subject: &Subject,
    settings: &AnalyzeConfig,
    seed: u64,
    quiet: bool,
) -> Result<BTreeMap<usize, Looks>> {
    let mut looks = BTreeMap::new();
    let see = |glimpse: &Glimpse| look(subject, &mut looks, glimpse);
    draw(subject, &drawing(settings, settings.cfg), seed, "guided attention", quiet, see)?;
    Ok(looks)
}

fn draw(
    subject: &Subject,
    sampling: &SampleConfig,
    seed: u64,
    what: &str,
    quiet: bool,
    mut see: impl FnMut(&Glimpse),
) -> Result<()> {
    let (sizes, count) = (&subject.architecture.dit, sampling.count);
    let labels = labels_in_groups(count, subject.model.labels(sizes)?);
    let total = count.div_ceil(sampling.batch) * sampling.steps;
    let (mut progress, mut done) = (Progress::new(what, total as u64, 0, quiet), 0);
    let see = |glimpse: Glimpse| {
        see(&glimpse);
        if let Seen::Tokens { before, .. } = glimpse.seen
            && before == sizes.depth
        {
            done += 1;
            progress.set(done, "");
        }
    };
    watch(subject.model, sizes, sampling, seed, &labels, see, |_| {}).map(drop)
}

fn add(by_timestep: &mut BTreeMap<usize, ChannelMoments>, timestep: usize, tensor: &Tensor<3>) {
    let width = tensor.dims()[2];
    let moments = by_timestep.entry(timestep).or_insert_with(|| ChannelMoments::new(width));
    scion_kernels::with_values(tensor, |rows| moments.push(rows));
}

fn look(subject: &Subject, looks: &mut BTreeMap<usize, Looks>, glimpse: &Glimpse) {
    let Seen::Operator { block, slot, input, .. } = glimpse.seen else { return };
    let Operator::Attention(attention) = subject.model.blocks()[block].operator(slot) else { return };
    let sums = looks.entry(block).or_default().0.entry(glimpse.timestep).or_default();
    attention.spread(input.clone()).iter().for_each(|spread| sums.add(spread));
}

impl Sums {
    fn add(&mut self, spread: &Spread) {
        self.by_distance.resize(spread.by_distance.len(), 0.0);
        self.by_distance.iter_mut().zip(&spread.by_distance).for_each(|(sum, share)| *sum += share);
        self.grid_distance =
            spread.grid_distance.map(|distance| self.grid_distance.unwrap_or(0.0) + distance);
        self.passes += 1;
    }

    /// The sums over their number.
    fn mean(&self) -> Spread {
        let passes = self.passes as f64;
        Spread {
            by_distance: self.by_distance.iter().map(|sum| sum / passes).collect(),
            grid_distance: self.grid_distance.map(|sum| sum / passes),
        }
    }
}

impl Looks {
    /// Where the attention looks, over all timesteps and at each.
    pub fn result(&self, reach: usize) -> Look {
        let at = |(&timestep, sums): (&usize, &Sums)| {
            let mean = sums.mean();
            LookAt { timestep, local: mean.curve()[reach], grid_distance: mean.grid_distance }
        };
        let mut all = Sums::default();
        // Every timestep has as many passes.
        self.0.values().for_each(|sums| all.add(&sums.mean()));
        let all = all.mean();
        Look {
            curve: all.curve(),
            grid_distance: all.grid_distance,
            by_timestep: self.0.iter().map(at).collect(),
        }
    }
}

/// Statistics of activations, over all timesteps and at each.
pub(super) fn activity(by_timestep: &BTreeMap<usize, ChannelMoments>) -> Activity {
    let width = by_timestep.values().next().map_or(0, ChannelMoments::channels);
    let mut all = ChannelMoments::new(width);
    by_timestep.values().for_each(|moments| all.merge(moments));
    let at = |(&timestep, moments): (&usize, &ChannelMoments)| statistics(moments, Some(timestep));
    Activity {
        all: statistics(&all, None),
        outlier_channels: all.outliers(),
        by_timestep: by_timestep.iter().map(at).collect(),
    }
}

fn statistics(moments: &ChannelMoments, timestep: Option<usize>) -> Statistics {
    let all = moments.pooled();
    Statistics {
        timestep,
        count: all.count(),
        mean: all.mean(),
        std: all.std(),
        max_abs: all.max_abs(),
        kurtosis: all.kurtosis(),
        outliers: moments.outliers().len(),
    }
}
