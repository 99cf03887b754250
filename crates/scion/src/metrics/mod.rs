//! Measures of generated images, over plain arrays of features or predictions; nothing here knows of
//! models, images or recipes.
//!
//! [`Features`] rows come from any extractor. [`frechet`] is the Fréchet distance of two Gaussians,
//! [`kid`] the kernel distance, [`accuracy`] the share a classifier gets right; each comes with its standard
//! error. [`npz`] reads and writes NumPy archives.

pub mod accuracy;
pub mod features;
pub mod frechet;
pub mod gaussian;
pub mod kid;
pub mod npy;
pub mod npz;

pub use accuracy::Accuracy;
pub use features::Features;
pub use frechet::{JackknifeOptions, Reference, frechet_distance, frechet_with_error};
pub use gaussian::GaussianStats;
pub use kid::{Kid, KidOptions, kernel_distance};

use serde::{Deserialize, Serialize};

/// A value and its standard error, as `results.json` holds them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub value: f64,
    pub stderr: f64,
}
