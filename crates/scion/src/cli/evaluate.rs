use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Common;
use super::space::SpaceArguments;
use crate::atomic;
use crate::checkpoint::ensure_absent;
use crate::error::{Error, Result};
use crate::evaluate::{
    Entry, FeatureSpace, Metric, Options, Reference, evaluate as score, evaluate_rows, listing, markdown,
    table,
};
use crate::metrics::{Moments, NeighbourOptions, Splits, StatsFile};

#[derive(Args)]
pub struct EvaluateArguments {
    /// Sample files (.npz with arr_0), folders of images, or feature files (.npz or .safetensors with features [N,D])
    #[arg(required = true)]
    samples: Vec<PathBuf>,
    /// What to compare with: as samples, or statistics (mu and sigma); for images, the embedded test images by default
    #[arg(long)]
    reference: Option<PathBuf>,
    #[command(flatten)]
    space: SpaceArguments,
    /// What to measure, separated by commas; by default all that the files allow, but per-class
    #[arg(long, value_enum, value_delimiter = ',')]
    metrics: Option<Vec<Metric>>,
    /// Splits of the Inception Score; splits of 5,000 images by default
    #[arg(long)]
    splits: Option<usize>,
    /// Neighbour that bounds a neighbourhood of precision and recall
    #[arg(long, default_value_t = NeighbourOptions::default().precision_recall)]
    precision_k: usize,
    /// Neighbour that bounds a neighbourhood of density and coverage
    #[arg(long, default_value_t = NeighbourOptions::default().density_coverage)]
    density_k: usize,
    /// Also write the samples' mean and covariance, for use as --reference (.npz or .safetensors)
    #[arg(long)]
    save_stats: Option<PathBuf>,
    /// Leave out images of a folder that cannot be read
    #[arg(long)]
    skip_broken: bool,
    /// Print JSON, one object a set
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print a Markdown table
    #[arg(long)]
    markdown: bool,
    /// Write to a file instead
    #[arg(long)]
    out: Option<PathBuf>,
}

pub fn evaluate(arguments: &EvaluateArguments, common: &Common) -> Result<()> {
    let neighbours =
        NeighbourOptions { precision_recall: arguments.precision_k, density_coverage: arguments.density_k };
    let options = Options {
        metrics: arguments.metrics.clone(),
        splits: arguments.splits.map_or_else(Splits::default, Splits::Count),
        neighbours,
        seed: common.seed.unwrap_or(0),
        skip_broken: arguments.skip_broken,
    };
    let outputs = [&arguments.out, &arguments.save_stats];
    outputs.into_iter().flatten().try_for_each(|path| ensure_absent(path))?;
    if arguments.out.is_some() && arguments.out == arguments.save_stats {
        return Err(Error::Usage("--out and --save-stats name the same file".into()));
    }
    let space = arguments.space.space(&arguments.samples[0])?;
    let reference = match &arguments.reference {
        Some(path) => Some(space.reference(path, &options)?),
        None => space.own_reference()?,
    };
    let entries = match (&arguments.save_stats, &reference) {
        (Some(stats), _) => saving(arguments, stats, reference.as_ref(), &space, &options)?,
        (None, Some(reference)) => {
            let sets: Vec<&Path> = arguments.samples.iter().map(PathBuf::as_path).collect();
            score(&sets, reference, &space, &options)?
        }
        (None, None) => {
            let set = arguments.samples[0].display();
            return Err(Error::Usage(format!("{set}: nothing to compare with; give --reference")));
        }
    };
    for (entry, warning) in entries.iter().flat_map(|e| e.warnings.iter().map(move |w| (e, w))) {
        eprintln!("warning: {}: {}", entry.set, warning.message);
    }
    let text = rendered(arguments, &space, &entries);
    match &arguments.out {
        Some(path) => atomic::write(path, text.as_bytes()),
        None => super::written(write!(std::io::stdout(), "{text}")),
    }
}

/// Writes one set's statistics, and scores it where there is a reference.
fn saving(
    arguments: &EvaluateArguments,
    stats: &Path,
    reference: Option<&Reference>,
    space: &FeatureSpace,
    options: &Options,
) -> Result<Vec<Entry>> {
    let [set] = &arguments.samples[..] else {
        let count = arguments.samples.len();
        return Err(Error::Usage(format!("--save-stats takes one set, found {count}")));
    };
    let rows = space.rows(set, options.skip_broken)?;
    let file = StatsFile {
        features: Moments::of(&rows.features)?,
        spatial: rows.spatial.as_ref().map(Moments::of).transpose()?,
    };
    file.write(stats)?;
    let name = set.display().to_string();
    reference
        .map_or(Ok(vec![]), |reference| Ok(vec![evaluate_rows(&name, &rows, reference, space, options)?]))
}

fn rendered(arguments: &EvaluateArguments, space: &FeatureSpace, entries: &[Entry]) -> String {
    match entries {
        [] => String::new(),
        _ if arguments.json => entries
            .iter()
            .map(|entry| format!("{}\n", serde_json::to_string(entry).expect("scores are plain data")))
            .collect(),
        _ if arguments.markdown => markdown(entries),
        [entry] => {
            let (n, d) = (entry.samples, entry.dimensions);
            let mut text = match space {
                FeatureSpace::Files => format!("features:      {n} of {d} dimensions\n"),
                FeatureSpace::Classifier(_) | FeatureSpace::Inception(..) => {
                    format!("feature space: {}\nimages:        {n}\n", entry.feature_space)
                }
            };
            text.push_str(&listing(entry));
            let asked = arguments.metrics.as_ref().is_none_or(|asked| asked.contains(&Metric::Accuracy));
            if matches!(space, FeatureSpace::Classifier(_)) && asked && entry.scores.accuracy.is_none() {
                text.push_str("accuracy:      unknown, the images come without labels\n");
            }
            text
        }
        _ => table(entries),
    }
}
