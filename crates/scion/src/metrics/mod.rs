//! Measures of generated images, over plain arrays of features or predictions; nothing here knows of
//! models, images or recipes.
//!
//! [`Features`] rows come from any extractor, [`FeatureFile`] holds them. [`frechet`] is the Fréchet distance of
//! two Gaussians (FID and sFID in Inception's features), [`kid`] the kernel distance, [`neighbours`] precision,
//! recall, density and coverage, [`inception_score`] the Inception Score, [`accuracy`] the share a classifier
//! gets right; each comes with its standard error. [`StatsFile`] holds a reference's moments, [`npz`] reads and
//! writes NumPy archives.

pub mod accuracy;
pub mod feature_file;
pub mod features;
pub mod frechet;
mod frechet_delta;
pub mod gaussian;
pub mod inception_score;
pub mod kid;
pub mod nearest;
pub mod neighbours;
pub mod npy;
pub mod npz;
mod pairs;
pub mod stats_file;

pub use accuracy::Accuracy;
pub use feature_file::FeatureFile;
pub use features::Features;
pub use frechet::{Gaussian, JackknifeOptions, Sampled, frechet_distance, frechet_with_error};
pub use gaussian::{GaussianStats, Moments};
pub use inception_score::{InceptionScore, Splits, inception_score};
pub use kid::{Kid, KidOptions, kernel_distance};
pub use nearest::{Neighbour, nearest};
pub use neighbours::{NeighbourOptions, NeighbourScores, Neighbourhoods};
pub use stats_file::StatsFile;

use serde::{Deserialize, Serialize};

/// A value and its standard error, as `results.json` holds them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub value: f64,
    pub stderr: f64,
}
