//! What single operators are worth: the loss, and the distance of drawn images, without each of them.

use std::collections::BTreeMap;

use burn::tensor::Device;
use scion_kernels::PackedWeights;

use super::{AnalyzeConfig, BATCH, HeldOut, Scions, Subject};
use crate::capture::{NoisedBatch, add_noise};
use crate::config::SampleConfig;
use crate::data::{from_unit, to_unit};
use crate::diffusion::{Schedule, hybrid_loss};
use crate::error::{Error, Result};
use crate::metrics::{Features, Gaussian, JackknifeOptions, Sampled, frechet_with_error};
use crate::model::{Dit, DitConfig, Site};
use crate::operator::Slot;
use crate::report::analysis::{Baseline, Change, Replaced};
use crate::report::results::Estimate;
use crate::run::{Judge, Progress, sample_images};

/// DDIM steps of an image that is drawn for the distance. They are drawn without guidance, which would hide damage.
const STEPS: usize = 10;

/// Place in the noise stream where the held-out images begin: no stage sees their noise.
const HELD_OUT: u64 = 1 << 53;

/// Parts of the drawn images that the jackknife leaves out in turn.
const PARTS: usize = 20;

/// What is found of the model as it is, and of every operator.
pub(super) struct Sensitivity {
    pub baseline: Baseline,
    pub removed: BTreeMap<Site, Change>,
    pub replaced: BTreeMap<Site, Replaced>,
}

/// Measures the model as it is, without each operator, and with each of a run's operators.
///
/// # Errors
/// When images cannot be read, or cannot be drawn.
pub(super) fn measure(
    subject: &Subject,
    settings: &AnalyzeConfig,
    held_out: &HeldOut,
    scions: Option<&Scions>,
    seed: u64,
    quiet: bool,
) -> Result<Sensitivity> {
    let sizes = &subject.architecture.dit;
    let probe = Probe::new(sizes, settings, held_out, seed)?;
    let sites: Vec<Site> =
        (0..sizes.depth).flat_map(|block| Slot::ALL.map(|slot| Site::Operator(block, slot))).collect();
    let new = scions.map_or(0, |scions| scions.operators.len());
    let total = (1 + sites.len() + new) * (held_out.set.len() + STEPS * probe.drawn());
    let mut work = Work { progress: Progress::new("sensitivity", total as u64, 0, quiet), done: 0 };
    let base = probe.look(subject.model, &mut work)?;
    let mut removed = BTreeMap::new();
    for site in sites {
        let Site::Operator(block, slot) = site else { continue };
        let mut model = subject.model.clone();
        model.blocks_mut()[block].remove(slot);
        removed.insert(site, probe.change(&base, &probe.look(&model, &mut work)?)?);
    }
    let mut replaced = BTreeMap::new();
    for (&site, (operator, part)) in scions.iter().flat_map(|scions| &scions.operators) {
        let mut model = subject.model.clone();
        model.place(site, part.clone());
        let change = probe.change(&base, &probe.look(&model, &mut work)?)?;
        replaced.insert(site, Replaced { operator: operator.clone(), change });
    }
    Ok(Sensitivity { baseline: probe.baseline(&base, held_out)?, removed, replaced })
}

/// Progress in passes of an image.
struct Work {
    progress: Progress,
    done: u64,
}

impl Work {
    fn add(&mut self, passes: usize) {
        self.done += passes as u64;
        self.progress.set(self.done, "");
    }
}

/// The same images, timesteps, noise and labels for every model.
struct Probe<'a> {
    sizes: &'a DitConfig,
    /// Images in [-1, 1], and the same with noise.
    batches: Vec<(Vec<f32>, NoisedBatch)>,
    /// The judge, and labels of the images to be drawn.
    judge: Option<(Judge, Vec<usize>)>,
    seed: u64,
}

/// What one model gives.
struct Look {
    /// Diffusion loss of each image.
    losses: Vec<f64>,
    /// Features of the drawn images.
    features: Option<Features>,
}

impl<'a> Probe<'a> {
    fn new(sizes: &'a DitConfig, settings: &AnalyzeConfig, held_out: &HeldOut, seed: u64) -> Result<Self> {
        let (set, schedule) = (&held_out.set, Schedule::linear());
        let all: Vec<usize> = (0..set.len()).collect();
        let noised = |chosen: &[usize]| {
            let images = to_unit(&set.read(chosen)?);
            let labels: Vec<usize> = chosen.iter().map(|&i| set.labels()[i]).collect();
            let first = HELD_OUT + chosen[0] as u64;
            let noised = add_noise(sizes, &schedule, &images, &labels, 0.0, seed, first)?;
            Ok((images, noised))
        };
        let judged = held_out.judged && settings.frechet_images > 0;
        let judge = |()| {
            let classes = sizes.classes()?;
            let labels = (0..settings.frechet_images).map(|i| i % classes).collect();
            Ok::<_, Error>((Judge::new(&Device::flex(), seed)?, labels))
        };
        let judge = judged.then_some(()).map(judge).transpose()?;
        Ok(Self { sizes, batches: all.chunks(BATCH).map(noised).collect::<Result<_>>()?, judge, seed })
    }

    /// Images that are drawn of each model.
    fn drawn(&self) -> usize {
        self.judge.as_ref().map_or(0, |(_, labels)| labels.len())
    }

    fn look(&self, model: &Dit, work: &mut Work) -> Result<Look> {
        let (schedule, weights) = (Schedule::linear(), PackedWeights::default());
        let mut losses = Vec::new();
        for (images, noised) in &self.batches {
            let NoisedBatch { x_t, noise, t, labels } = noised;
            let out = weights.scope(|| model.predict(x_t, &noised.times(), labels));
            let found = hybrid_loss(&schedule, &out, images, noise, x_t, t, None)?;
            losses.extend(found.mse_per_sample.iter().zip(&found.vb_per_sample).map(|(mse, vb)| mse + vb));
            work.add(t.len());
        }
        let features = self.judge.as_ref().map(|(judge, labels)| {
            let sampling = SampleConfig { steps: STEPS, cfg: 1.0, batch: BATCH, ..SampleConfig::default() };
            let drawn = sample_images(model, self.sizes, &sampling, self.seed, labels, 0, |images| {
                work.add(STEPS * images);
            })?;
            judge.features(&from_unit(&drawn))
        });
        Ok(Look { losses, features: features.transpose()? })
    }

    fn change(&self, base: &Look, changed: &Look) -> Result<Change> {
        let differences: Vec<f64> =
            changed.losses.iter().zip(&base.losses).map(|(changed, base)| changed - base).collect();
        let frechet = match (&self.judge, &base.features, &changed.features) {
            (Some((judge, _)), Some(base), Some(changed)) => {
                Some(difference(changed, base, judge.reference().gaussian)?)
            }
            _ => None,
        };
        Ok(Change { loss: mean(&differences), frechet })
    }

    fn baseline(&self, base: &Look, held_out: &HeldOut) -> Result<Baseline> {
        let frechet = match (&self.judge, &base.features) {
            (Some((judge, ..)), Some(features)) => {
                let options = JackknifeOptions { seed: self.seed, ..JackknifeOptions::default() };
                let drawn = Sampled { gaussian: &Gaussian::of(features)?, rows: Some(features) };
                let found = frechet_with_error(drawn, judge.reference(), &options)?;
                Some(Estimate::new(found.value, found.stderr))
            }
            _ => None,
        };
        Ok(Baseline {
            data: held_out.description.clone(),
            images: base.losses.len(),
            loss: mean(&base.losses),
            frechet,
            drawn: self.drawn(),
            steps: STEPS,
        })
    }
}

/// Mean and its standard error.
fn mean(values: &[f64]) -> Estimate {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    Estimate::new(mean, (variance / n).sqrt())
}

/// The difference of two models' Fréchet distances. Its error is that of a jackknife over images drawn from the same noise:
/// what both have in common drops out.
fn difference(changed: &Features, base: &Features, real: &Gaussian) -> Result<Estimate> {
    let without = |features: &Features, part: std::ops::Range<usize>| {
        let (rows, dim) = (features.as_slice(), features.dim());
        let rest = [&rows[..part.start * dim], &rows[part.end * dim..]].concat();
        Gaussian::of(&Features::new(dim, rest)?)?.distance(real)
    };
    let delta = |part: std::ops::Range<usize>| Ok(without(changed, part.clone())? - without(base, part)?);
    // Classes come in turn, so that neighbours are of all classes.
    let (n, parts) = (base.len(), PARTS.min(base.len()));
    let jackknife: Vec<f64> =
        (0..parts).map(|part| delta(part * n / parts..(part + 1) * n / parts)).collect::<Result<_>>()?;
    let mean = jackknife.iter().sum::<f64>() / parts as f64;
    let squares: f64 = jackknife.iter().map(|value| (value - mean).powi(2)).sum();
    let variance = squares * (parts - 1) as f64 / parts as f64;
    Ok(Estimate::new(delta(0..0)?, variance.sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_has_the_error_of_independent_values() {
        // Variance 5/3, of four values.
        assert_eq!(mean(&[1.0, 2.0, 3.0, 4.0]), Estimate::new(2.5, (5.0 / 12.0_f64).sqrt()));
    }

    #[test]
    fn the_error_of_a_difference_is_that_of_what_the_models_do_not_share() {
        let (images, shift) = (60, 0.5);
        let rows = |shift: f32| {
            let value = |i: usize| [(i as f32).sin() + shift, (i as f32 * 0.7).cos()];
            Features::new(2, (0..images).flat_map(value).collect()).unwrap()
        };
        let base = rows(0.0);
        let real = Gaussian::of(&Features::new(2, vec![1.0, 0.0, -1.0, 2.0, 0.5, -2.0]).unwrap()).unwrap();
        let real_mean = 0.5 / 3.0;
        // Covariances are the same, so that of a shifted first feature |μ + s − r|² − |μ − r|² is left.
        let values: Vec<f64> = (0..images).map(|i| f64::from(base.as_slice()[2 * i])).collect();
        let of = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let expected = 2.0 * shift * (of(&values) - real_mean) + shift * shift;
        let parts: Vec<f64> = values.chunks(images / PARTS).map(of).collect();
        let spread = parts.iter().map(|part| (part - of(&parts)).powi(2)).sum::<f64>() / (PARTS - 1) as f64;
        let stderr = 2.0 * shift * (spread / PARTS as f64).sqrt();
        let found = difference(&rows(0.5), &base, &real).unwrap();
        assert!((found.value - expected).abs() < 1e-6, "{found:?} for {expected}");
        assert!((found.stderr.unwrap() - stderr).abs() < 1e-6, "{found:?} for ± {stderr}");
        let none = difference(&base, &base, &real).unwrap();
        assert_eq!((none.value, none.stderr), (0.0, Some(0.0)));
    }
}
