use std::path::Path;

use crate::config::{DataSource, Recipe};
use crate::data::{ImageShape, LatentSet, from_unit};
use crate::error::{Error, Result};
use crate::latent::{Autoencoder, fingerprint};
use crate::model::DitConfig;

/// What becomes of the values that a model draws.
pub enum Canvas {
    /// They are pixels.
    Pixels(ImageShape),
    /// They are latents, and decoded.
    Decoded(Box<Autoencoder>, ImageShape),
    /// They are latents, and stay so.
    Latents(ImageShape),
}

impl Canvas {
    /// For a model of these sizes, whose latents the autoencoder `vae` decodes; pixels where there is none and the model has
    /// one or three channels.
    ///
    /// # Errors
    /// Those of [`Autoencoder::open`]; `Usage` if its latents have other channels than the model.
    pub fn of(sizes: &DitConfig, vae: Option<&Path>) -> Result<Self> {
        let (channels, side) = (sizes.in_channels, sizes.input_size);
        let shape = ImageShape { channels, height: side, width: side };
        let Some(path) = vae else {
            return Ok(if matches!(channels, 1 | 3) { Self::Pixels(shape) } else { Self::Latents(shape) });
        };
        let autoencoder = Autoencoder::open(path, scion_kernels::precision())?;
        let config = autoencoder.config();
        if config.latent_channels != channels {
            return Err(Error::Usage(format!(
                "{}: its latents have {} channels, the model's {channels}",
                path.display(),
                config.latent_channels
            )));
        }
        if !matches!(config.out_channels, 1 | 3) {
            let detail = format!("decodes to {} channels; pictures have 1 or 3", config.out_channels);
            return Err(Error::Usage(format!("{}: {detail}", path.display())));
        }
        let side = side * config.factor();
        let shape = ImageShape { channels: config.out_channels, height: side, width: side };
        Ok(Self::Decoded(Box::new(autoencoder), shape))
    }

    /// For a model that a run draws from, whose autoencoder must be the one that made the latents that the run reads.
    ///
    /// # Errors
    /// Those of [`Canvas::of`]; `Usage` if it is another one.
    pub(super) fn of_run(recipe: &Recipe, sizes: &DitConfig) -> Result<Self> {
        let vae = recipe.model.vae.as_deref();
        if let (DataSource::Latents, Some(vae), Some(data)) = (recipe.data.source, vae, &recipe.data.path) {
            let set = LatentSet::open(data)?;
            let (made_by, found) = (&set.settings().vae_sha256, fingerprint(vae)?);
            if *made_by != found {
                return Err(Error::Usage(format!(
                    "model.vae {} has weights {found}, but the latents of {} were made by {made_by}",
                    vae.display(),
                    data.display()
                )));
            }
        }
        Self::of(sizes, vae)
    }

    /// For what a run's teacher draws to train on: never decoded.
    pub(super) fn undecoded(recipe: &Recipe, sizes: &DitConfig) -> Self {
        let side = sizes.input_size;
        let shape = ImageShape { channels: sizes.in_channels, height: side, width: side };
        let pixels = recipe.model.vae.is_none() && matches!(shape.channels, 1 | 3);
        if pixels { Self::Pixels(shape) } else { Self::Latents(shape) }
    }

    /// The shape of a picture, or of a latent where there are no pictures.
    pub fn shape(&self) -> ImageShape {
        match self {
            Self::Pixels(shape) | Self::Decoded(_, shape) | Self::Latents(shape) => *shape,
        }
    }

    /// Bytes of one image as [`Canvas::bytes`] gives them.
    pub(super) fn image_bytes(&self) -> usize {
        match self {
            Self::Pixels(shape) | Self::Decoded(_, shape) => shape.len(),
            Self::Latents(shape) => shape.len() * size_of::<f32>(),
        }
    }

    /// What is kept of drawn values, image by image: pixels, u8 [N, C, H, W]; of latents their f32, little-endian.
    ///
    /// # Errors
    /// When the values are not whole latents.
    pub fn bytes(&self, drawn: &[f32]) -> Result<Vec<u8>> {
        match self {
            Self::Pixels(_) => Ok(from_unit(drawn)),
            Self::Latents(_) => Ok(drawn.iter().flat_map(|value| value.to_le_bytes()).collect()),
            Self::Decoded(autoencoder, shape) => {
                let factor = autoencoder.config().factor();
                let size = [shape.height / factor, shape.width / factor];
                let len = autoencoder.config().latent_channels * size[0] * size[1];
                let images = drawn.chunks(len).map(|latent| autoencoder.decode_scaled(latent, size));
                Ok(images.collect::<Result<Vec<_>>>()?.iter().flat_map(|image| from_unit(image)).collect())
            }
        }
    }
}
