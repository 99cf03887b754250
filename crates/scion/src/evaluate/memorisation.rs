//! Whether a model repeats its training images: how near a set's images are to them, beside how near real images are that
//! nobody trained on.

use serde::Serialize;

use super::set::{Images, Rows};
use super::space::FeatureSpace;
use crate::data::image_io::{GridOptions, grid};
use crate::data::raster::Raster;
use crate::error::{Error, Result};
use crate::metrics::{Neighbour, median, nearest};

/// Share of the held-out images that lie below the distance from which on nothing is suspicious.
const SUSPICIOUS: f64 = 0.01;

/// Held-out images that it takes to tell that share.
const HELD_OUT: usize = 100;

/// How near a set's images are to training images, in a feature space.
#[derive(Clone, Debug, Serialize)]
pub struct Memorisation {
    /// Where features come from, in a full phrase.
    pub feature_space: String,
    /// Number of images in the set.
    pub samples: usize,
    /// Number of training images.
    pub training: usize,
    /// Images of the set that equal a training image: in every pixel, or in every feature where there are no pixels.
    pub copies: usize,
    /// Median distance to the nearest training image.
    pub median: f64,
    /// The same of real images that were not trained on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out: Option<HeldOut>,
    /// Those nearest to training images, the nearest first.
    pub closest: Vec<Closest>,
}

/// What real images that were not trained on say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HeldOut {
    /// Number of images.
    pub images: usize,
    /// Median distance to the nearest training image.
    pub median: f64,
    /// One in a hundred of them is as near as this.
    pub threshold: f64,
    /// Share of the set that is as near; 0.01 would be expected of real images.
    pub share_below: f64,
}

/// One image and the training images nearest to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Closest {
    /// Place in the set.
    pub sample: usize,
    /// Nearest first.
    pub neighbours: Vec<Near>,
}

/// A training image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Near {
    /// Place among the training images.
    pub index: usize,
    /// Distance in the feature space.
    pub distance: f64,
}

/// Looks for the `k` nearest training images of every image, and keeps the `count` images that are nearest to any.
///
/// # Errors
/// `Usage` if the sets have other dimensions, or there are fewer than `k` training images.
pub fn memorisation(
    space: &FeatureSpace,
    samples: &Rows,
    training: &Rows,
    held_out: Option<&Rows>,
    k: usize,
    count: usize,
) -> Result<Memorisation> {
    if samples.features.is_empty() {
        return Err(Error::Usage("nearest training images of no samples".into()));
    }
    let found = nearest(&samples.features, &training.features, k)?;
    let distances = sorted(&found);
    let held_out = held_out.map(|rows| {
        if rows.features.len() < HELD_OUT {
            let detail = format!("{} held-out images; expected at least {HELD_OUT}", rows.features.len());
            return Err(Error::Usage(detail));
        }
        let own = sorted(&nearest(&rows.features, &training.features, 1)?);
        let threshold = own[(SUSPICIOUS * own.len() as f64) as usize];
        let below = distances.partition_point(|&distance| distance <= threshold);
        let share_below = below as f64 / distances.len() as f64;
        Ok(HeldOut { images: own.len(), median: middle(&own), threshold, share_below })
    });
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_by(|&a, &b| found[a][0].distance.total_cmp(&found[b][0].distance).then(a.cmp(&b)));
    let near = |&Neighbour { index, distance }: &Neighbour| Near { index, distance };
    let closest = order.into_iter().take(count);
    Ok(Memorisation {
        feature_space: space.name().into(),
        samples: samples.features.len(),
        training: training.features.len(),
        copies: match (samples.audit.pixels(), training.audit.pixels()) {
            (Some(_), Some(_)) => samples.audit.shared(&training.audit),
            _ => distances.partition_point(|&distance| distance == 0.0),
        },
        median: middle(&distances),
        held_out: held_out.transpose()?,
        closest: closest
            .map(|sample| Closest { sample, neighbours: found[sample].iter().map(near).collect() })
            .collect(),
    })
}

fn middle(distances: &[f64]) -> f64 {
    median(distances.iter().copied()).expect("neither set is empty")
}

/// Distances to the nearest, in order.
fn sorted(found: &[Vec<Neighbour>]) -> Vec<f64> {
    let mut distances: Vec<f64> = found.iter().map(|nearest| nearest[0].distance).collect();
    distances.sort_by(f64::total_cmp);
    distances
}

impl Memorisation {
    /// A row for each of the closest images: the image, then its training images.
    ///
    /// # Errors
    /// `Usage` if the two sets have images of other shapes; what is wrong with their files.
    pub fn sheet(&self, samples: &Images, training: &Images) -> Result<Raster> {
        let shape = samples.shape();
        if shape != training.shape() {
            return Err(Error::Usage(format!(
                "images of {shape} and training images of {} do not fit on one sheet; leave out --out",
                training.shape()
            )));
        }
        let chosen: Vec<usize> = self.closest.iter().map(|closest| closest.sample).collect();
        let near: Vec<usize> = self
            .closest
            .iter()
            .flat_map(|closest| closest.neighbours.iter().map(|near| near.index))
            .collect();
        let k = near.len() / chosen.len();
        let (own, theirs) = (samples.pick(&chosen)?, training.pick(&near)?);
        let rows = own.chunks_exact(shape.len()).zip(theirs.chunks_exact(k * shape.len()));
        let pixels: Vec<u8> = rows.flat_map(|(own, theirs)| own.iter().chain(theirs)).copied().collect();
        grid(&pixels, shape, &GridOptions { scale: 2, ..GridOptions::new(k + 1) })
    }
}
