use std::cell::Cell;

use super::sample::draw;
use crate::config::SampleConfig;
use crate::error::Result;
use crate::model::{Dit, DitConfig, Seen};

/// A look at a model while it draws images.
#[derive(Debug)]
pub(crate) struct Glimpse<'a> {
    /// The first image of the batch, from 0.
    pub first: usize,
    /// Images in the batch. They are the first rows of what is seen; where there is guidance, the same follow with the null
    /// class.
    pub images: usize,
    /// The timestep that the model is told.
    pub timestep: usize,
    /// What the model does.
    pub seen: Seen<'a>,
}

/// Draws one image a label and shows every operator on the way; `on_images` hears how many images each finished batch adds.
///
/// # Errors
/// Those of [`sample_images`](super::sample_images).
pub(crate) fn watch(
    model: &Dit,
    sizes: &DitConfig,
    sampling: &SampleConfig,
    seed: u64,
    labels: &[usize],
    mut see: impl FnMut(Glimpse),
    mut on_images: impl FnMut(usize),
) -> Result<Vec<f32>> {
    let first = Cell::new(0);
    let predict = |x: &[f32], t: &[f32], y: &[usize]| {
        let (first, timestep) = (first.get(), t[0] as usize);
        let images = sampling.batch.min(labels.len() - first);
        model.predict_tapped(x, t, y, &mut |seen| see(Glimpse { first, images, timestep, seen }))
    };
    let on_images = |images| {
        first.set(first.get() + images);
        on_images(images);
    };
    draw(predict, sizes.into(), sampling, seed, labels, 0, on_images, |_| Ok(()))
}
