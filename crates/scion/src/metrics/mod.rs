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

/// The median, of an even number of values the mean of the middle two.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    Some(if values.len() % 2 == 1 { upper } else { (values[values.len() / 2 - 1] + upper) / 2.0 })
}

/// A value and its standard error, as `results.json` holds them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub value: f64,
    pub stderr: f64,
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians_of_even_and_odd_numbers() {
        assert_eq!(median([3.0, 7.0, 3.0, 7.0]), Some(5.0));
        assert_eq!(median([9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([]), None);
    }
}
