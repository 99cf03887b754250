//! Evaluation of sample sets: files and folders in, scores with error bars and warnings out.
//!
//! A [`FeatureSpace`] turns a set into [`Rows`]; a [`Reference`] is what they are compared with; [`evaluate`] gives
//! one [`Entry`] a set. `metrics` knows none of this, and `cli` only parses and prints.

mod audit;
mod entry;
mod memorisation;
mod metric;
mod reference;
mod scorer;
mod set;
mod space;
mod table;
mod warning;

use std::path::Path;

use crate::error::{Error, Result};
use crate::metrics::{NeighbourOptions, Splits};

pub use audit::{Audit, Pixels};
pub use entry::{ClassScore, Entry, PerClass, Scores};
pub use memorisation::{Closest, HeldOut, Memorisation, Near, memorisation};
pub use metric::Metric;
pub use reference::Reference;
use scorer::Scorer;
pub use set::{Contents, Images, Rows, contents};
pub use space::FeatureSpace;
pub use table::{listing, markdown, table};
pub use warning::{Warning, WarningKind};

/// How to evaluate.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What to measure; without it, everything that the files allow but per-class distances.
    pub metrics: Option<Vec<Metric>>,
    /// Splits of the Inception Score.
    pub splits: Splits,
    /// Neighbours of precision, recall, density and coverage.
    pub neighbours: NeighbourOptions,
    /// Chooses KID's subsets and the jackknife's blocks.
    pub seed: u64,
    /// Leave out images of a folder that cannot be read.
    pub skip_broken: bool,
}

/// Scores sets, one after the other, so that one set's features are held at a time.
///
/// # Errors
/// What is wrong with a set's files; `Usage` if a metric that `options` asks for cannot be had, or a set is too small.
pub fn evaluate(
    sets: &[&Path],
    reference: &Reference,
    space: &FeatureSpace,
    options: &Options,
) -> Result<Vec<Entry>> {
    let scorer = Scorer::new(reference, options);
    let mut entries = Vec::with_capacity(sets.len());
    let mut audits = Vec::with_capacity(sets.len());
    for path in sets {
        let rows = space.rows(path, options.skip_broken)?;
        entries.push(score(&path.display().to_string(), &rows, &scorer, reference, space)?);
        audits.push(rows.audit);
    }
    warning::compare_sets(&mut entries, &audits);
    Ok(entries)
}

/// Scores one set whose features are at hand.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_rows(
    name: &str,
    rows: &Rows,
    reference: &Reference,
    space: &FeatureSpace,
    options: &Options,
) -> Result<Entry> {
    score(name, rows, &Scorer::new(reference, options), reference, space)
}

fn score(
    name: &str,
    rows: &Rows,
    scorer: &Scorer<'_>,
    reference: &Reference,
    space: &FeatureSpace,
) -> Result<Entry> {
    let scores = scorer.score(rows).map_err(|e| match e {
        Error::Usage(detail) => Error::Usage(format!("{name}: {detail}")),
        other => other,
    })?;
    Ok(Entry {
        set: name.to_owned(),
        feature_space: space.name().to_owned(),
        distance: space.distance(),
        samples: rows.features.len(),
        dimensions: rows.features.dim(),
        reference: reference.name().to_owned(),
        reference_samples: reference.count(),
        warnings: warning::of_set(rows, reference, &scores, scorer.splits()),
        scores,
    })
}
