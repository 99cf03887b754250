use std::cell::OnceCell;
use std::collections::BTreeMap;

use super::Options;
use super::entry::{ClassScore, PerClass, Scores};
use super::metric::Metric;
use super::reference::Reference;
use super::set::Rows;
use crate::error::{Error, Result};
use crate::metrics::{
    Accuracy, Estimate, Features, Gaussian, JackknifeOptions, KidOptions, Neighbourhoods, Sampled, Splits,
    frechet_with_error, inception_score, kernel_distance,
};

/// Measures sets against one reference, whose radii are found once.
pub(super) struct Scorer<'a> {
    reference: &'a Reference,
    options: &'a Options,
    neighbourhoods: OnceCell<Neighbourhoods<'a>>,
}

impl<'a> Scorer<'a> {
    pub(super) fn new(reference: &'a Reference, options: &'a Options) -> Self {
        Self { reference, options, neighbourhoods: OnceCell::new() }
    }

    /// Splits of the Inception Score.
    pub(super) fn splits(&self) -> Splits {
        self.options.splits
    }

    /// # Errors
    /// `Usage` if a metric that was asked for cannot be had, or the set is too small for one.
    pub(super) fn score(&self, rows: &Rows) -> Result<Scores> {
        let mut scores = Scores::default();
        for metric in self.metrics(rows)? {
            match metric {
                Metric::Frechet => {
                    scores.frechet = Some(self.frechet(&rows.features, self.reference.features())?);
                }
                Metric::SpatialFrechet => {
                    if let (Some(spatial), Some(reference)) = (&rows.spatial, self.reference.spatial()) {
                        scores.spatial_frechet = Some(self.frechet(spatial, reference)?);
                    }
                }
                Metric::Kid => self.kid(rows, &mut scores)?,
                Metric::InceptionScore => {
                    if let Some(probabilities) = &rows.probabilities {
                        let found = inception_score(probabilities, self.options.splits)?;
                        scores.inception_score = Some(Estimate { value: found.value, stderr: found.stderr });
                        scores.inception_score_split_std = Some(found.split_std);
                    }
                }
                Metric::PrecisionRecall | Metric::DensityCoverage => self.neighbours(rows, &mut scores)?,
                Metric::Accuracy => accuracy(rows, &mut scores)?,
                Metric::PerClass => scores.per_class = self.per_class(rows)?,
            }
        }
        // Both pairs are measured at once; what was not asked for is not shown.
        self.keep_asked(&mut scores);
        Ok(scores)
    }

    /// What to measure of a set.
    fn metrics(&self, rows: &Rows) -> Result<Vec<Metric>> {
        let lacking = |metric: &Metric| metric.lacking(rows, self.reference, self.options.neighbours);
        let Some(asked) = &self.options.metrics else {
            let possible = |metric: &Metric| *metric != Metric::PerClass && lacking(metric).is_none();
            return Ok(Metric::ALL.into_iter().filter(possible).collect());
        };
        match asked.iter().find_map(|metric| Some((metric, lacking(metric)?))) {
            Some((metric, reason)) => Err(Error::Usage(format!("{} {reason}", metric.name()))),
            None => Ok(asked.clone()),
        }
    }

    fn keep_asked(&self, scores: &mut Scores) {
        let asked = |metric| self.options.metrics.as_ref().is_none_or(|asked| asked.contains(&metric));
        if !asked(Metric::PrecisionRecall) {
            (scores.precision, scores.recall) = (None, None);
        }
        if !asked(Metric::DensityCoverage) {
            (scores.density, scores.coverage) = (None, None);
        }
    }

    fn frechet(&self, samples: &Features, reference: Sampled<'_>) -> Result<Estimate> {
        let gaussian = Gaussian::of(samples)?;
        let jackknife = JackknifeOptions { seed: self.options.seed, ..JackknifeOptions::default() };
        frechet_with_error(Sampled { gaussian: &gaussian, rows: Some(samples) }, reference, &jackknife)
    }

    fn kid(&self, rows: &Rows, scores: &mut Scores) -> Result<()> {
        if let Some(reference) = self.reference.rows() {
            let options = KidOptions { seed: self.options.seed, ..KidOptions::default() };
            let kid = kernel_distance(&rows.features, &reference.features, &options)?;
            scores.kid = Some(kid.estimate());
            scores.kid_subset_std = Some(kid.subset_std);
        }
        Ok(())
    }

    fn neighbours(&self, rows: &Rows, scores: &mut Scores) -> Result<()> {
        let (Some(reference), None) = (self.reference.rows(), scores.precision) else { return Ok(()) };
        let neighbourhoods = match self.neighbourhoods.get() {
            Some(found) => found,
            None => {
                let found = Neighbourhoods::new(&reference.features, self.options.neighbours)?;
                self.neighbourhoods.get_or_init(|| found)
            }
        };
        let found = neighbourhoods.compare(&rows.features)?;
        (scores.precision, scores.recall) = (Some(found.precision), Some(found.recall));
        (scores.density, scores.coverage) = (Some(found.density), Some(found.coverage));
        Ok(())
    }

    /// The distance of each class that both sets hold.
    fn per_class(&self, rows: &Rows) -> Result<Option<PerClass>> {
        let Some(reference) = self.reference.rows() else { return Ok(None) };
        let (Some(ours), Some(theirs)) = (&rows.labels, &reference.labels) else { return Ok(None) };
        let (ours, theirs) = (members(ours), members(theirs));
        let mut classes = Vec::new();
        for (&class, samples) in &ours {
            let real = theirs.get(&class).map_or(&[][..], Vec::as_slice);
            // One image has no covariance.
            let frechet = match samples.len().min(real.len()) {
                0 | 1 => None,
                _ => {
                    let gaussian = Gaussian::of(&rows.features.select(samples))?;
                    Some(gaussian.distance(&Gaussian::of(&reference.features.select(real))?)?)
                }
            };
            classes.push(ClassScore { class, samples: samples.len(), reference: real.len(), frechet });
        }
        let distances: Vec<f64> = classes.iter().filter_map(|class| class.frechet).collect();
        if distances.is_empty() {
            let detail = "per-class: no class has two images both here and in the reference";
            return Err(Error::Usage(detail.into()));
        }
        Ok(Some(PerClass { mean: distances.iter().sum::<f64>() / distances.len() as f64, classes }))
    }
}

fn members(labels: &[usize]) -> BTreeMap<usize, Vec<usize>> {
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    labels.iter().enumerate().for_each(|(i, &label)| members.entry(label).or_default().push(i));
    members
}

fn accuracy(rows: &Rows, scores: &mut Scores) -> Result<()> {
    if let (Some(predicted), Some(labels)) = (&rows.predicted, &rows.labels) {
        let found = Accuracy::of(predicted, labels)?;
        scores.accuracy = Some(found.fraction());
        scores.accuracy_interval = Some(found.wilson(1.96).into());
    }
    Ok(())
}
