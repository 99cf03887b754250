use std::sync::Arc;

use super::drawn::DrawnLatents;
use super::image_set::{ImageSet, ImageShape, to_unit};
use super::latents::LatentSet;
use crate::error::{Error, Result};

/// What a model is trained on.
#[derive(Clone, Debug)]
pub enum TrainingSet {
    /// Pixels.
    Images(Arc<ImageSet>),
    /// Latents of an autoencoder, drawn anew each time.
    Latents(Arc<LatentSet>),
    /// Latents that a model drew.
    Drawn(Arc<DrawnLatents>),
}

impl From<Arc<ImageSet>> for TrainingSet {
    fn from(set: Arc<ImageSet>) -> Self {
        Self::Images(set)
    }
}

impl From<ImageSet> for TrainingSet {
    fn from(set: ImageSet) -> Self {
        Self::Images(Arc::new(set))
    }
}

impl From<LatentSet> for TrainingSet {
    fn from(set: LatentSet) -> Self {
        Self::Latents(Arc::new(set))
    }
}

impl From<DrawnLatents> for TrainingSet {
    fn from(set: DrawnLatents) -> Self {
        Self::Drawn(Arc::new(set))
    }
}

impl TrainingSet {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shape of every image or latent.
    pub fn shape(&self) -> ImageShape {
        match self {
            Self::Images(set) => set.shape(),
            Self::Latents(set) => set.shape(),
            Self::Drawn(set) => set.shape(),
        }
    }

    /// Class index of each image, [N].
    pub fn labels(&self) -> &[usize] {
        match self {
            Self::Images(set) => set.labels(),
            Self::Latents(set) => set.labels(),
            Self::Drawn(set) => set.labels(),
        }
    }

    /// Class names; a label is an index into them.
    pub fn class_names(&self) -> &[String] {
        match self {
            Self::Images(set) => set.class_names(),
            Self::Latents(set) => set.class_names(),
            Self::Drawn(set) => set.class_names(),
        }
    }

    /// Checks that images can be mirrored.
    ///
    /// # Errors
    /// `Usage` for latents without those of the mirrored images: mirroring a latent is not mirroring its image.
    pub(super) fn check_flip(&self) -> Result<()> {
        match self {
            Self::Latents(set) if !set.settings().flip => {
                let detail =
                    "flip = true needs latents of mirrored images: encode them with `scion encode --flip`";
                Err(Error::Usage(format!("training data: {detail}")))
            }
            Self::Drawn(_) => {
                let detail = "flip = true mirrors images, but latents that a teacher drew cannot be mirrored";
                Err(Error::Usage(format!("training data: {detail}")))
            }
            Self::Latents(_) | Self::Images(_) => Ok(()),
        }
    }

    /// The chosen images as a set of their own.
    ///
    /// # Errors
    /// `Usage` for an index outside the set.
    pub fn subset(&self, indices: &[usize]) -> Result<Self> {
        Ok(match self {
            Self::Images(set) => set.subset(indices)?.into(),
            Self::Latents(set) => set.subset(indices)?.into(),
            Self::Drawn(set) => set.subset(indices)?.into(),
        })
    }

    /// The chosen images as a model sees them, [indices.len(), C, H, W], each mirrored left to right where `mirrored` says
    /// so: pixels in [-1, 1], or latents, that of `indices[i]` drawn with the noise that belongs to (`seed`, `first + i`).
    ///
    /// # Errors
    /// `Usage` for an index outside the set; `Io` or `Invalid`, naming the file, if one cannot be read.
    pub fn values(&self, indices: &[usize], mirrored: &[bool], seed: u64, first: u64) -> Result<Vec<f32>> {
        let set = match self {
            Self::Images(set) => set,
            Self::Latents(set) => return set.read(indices, mirrored, seed, first),
            Self::Drawn(set) => return set.values(indices),
        };
        let mut pixels = set.read(indices)?;
        let images = pixels.chunks_exact_mut(set.shape().len()).zip(mirrored);
        for (image, _) in images.filter(|(_, mirrored)| **mirrored) {
            image.chunks_exact_mut(set.shape().width).for_each(<[u8]>::reverse);
        }
        Ok(to_unit(&pixels))
    }
}
