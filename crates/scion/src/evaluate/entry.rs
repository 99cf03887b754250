use serde::Serialize;

use super::warning::Warning;
use crate::metrics::Estimate;

/// Everything found about one set; as JSON, one object whose scores stand at the top level.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// The path given.
    pub set: String,
    /// Where features come from, in a full phrase.
    pub feature_space: String,
    /// What the Fréchet distance is called in that space.
    #[serde(skip)]
    pub distance: &'static str,
    /// Number of images.
    pub samples: usize,
    /// Dimensions of a feature row.
    pub dimensions: usize,
    /// What the set is compared with.
    pub reference: String,
    /// Images behind the reference, where that is known.
    pub reference_samples: Option<usize>,
    #[serde(flatten)]
    pub scores: Scores,
    /// What makes the scores doubtful.
    pub warnings: Vec<Warning>,
}

/// Scores with their standard errors; what was not measured is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Scores {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frechet: Option<Estimate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spatial_frechet: Option<Estimate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid: Option<Estimate>,
    /// Standard deviation between KID's subsets, which other programs print.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid_subset_std: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inception_score: Option<Estimate>,
    /// Standard deviation between splits, which other programs print.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inception_score_split_std: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<Estimate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall: Option<Estimate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub density: Option<Estimate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Estimate>,
    /// Share put in the class asked for, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// 95% Wilson interval of the share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_interval: Option<[f64; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_class: Option<PerClass>,
}

/// Fréchet distances class by class ("intra-FID" in Inception's features).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PerClass {
    /// Mean over classes with a distance.
    pub mean: f64,
    pub classes: Vec<ClassScore>,
}

/// One class's distance.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassScore {
    pub class: usize,
    pub samples: usize,
    pub reference: usize,
    /// None where either side has fewer than two images.
    pub frechet: Option<f64>,
}
