//! The autoencoder of latent diffusion (Rombach et al. 2022), diffusers' `AutoencoderKL`: images to latents and back, from
//! the files that its users have. Knows tensors and sizes, no diffusion models.
//!
//! Runs on the CPU. What becomes of an image depends on nothing but the image: not on the number of threads.

mod architecture;
mod config;
mod layer;
mod names;
mod norm;
mod tiles;
mod weights;

use std::path::{Path, PathBuf};

use scion_kernels::Precision;

use crate::checkpoint::Checkpoint;
use crate::convolution::Map;
use crate::diffusion::{NoiseStream, Purpose};
use crate::error::{Error, Result};
use architecture::{decoder, encoder};
pub use config::AutoencoderConfig;
use layer::{Layer, run};
use tiles::Tiles;
use weights::{Weights, locate};

/// When images are worked on in tiles, which bounds the memory and changes the result a little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Images of more pixels a side than this are.
    pub above: usize,
    /// A tile's side in pixels.
    pub sample: usize,
}

impl Tiling {
    /// Tiles of the size that an autoencoder's file tells, for images of more than 1024 pixels a side.
    pub fn of(config: &AutoencoderConfig) -> Self {
        let sample = config.sample_size.max(LEAST_TILE * config.factor());
        Self { above: sample.max(UNTILED), sample }
    }
}

/// Side of the largest image that is worked on as a whole unless the caller says otherwise.
const UNTILED: usize = 1024;
/// Side of the smallest tile's latent.
const LEAST_TILE: usize = 4;

/// An autoencoder with its weights.
pub struct Autoencoder {
    path: PathBuf,
    config: AutoencoderConfig,
    encoder: Vec<Layer>,
    decoder: Vec<Layer>,
    tiling: Tiling,
}

/// What the encoder tells of an image's latent: a normal distribution for each value.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentDistribution {
    /// Channels, rows and columns.
    pub shape: [usize; 3],
    /// [C, h, w].
    pub mean: Vec<f32>,
    /// Natural logarithm of the variance, from -30 to 20, [C, h, w].
    pub logvar: Vec<f32>,
}

impl LatentDistribution {
    /// The mean (0) or the log-variance (1).
    pub(crate) fn part(&self, part: usize) -> &[f32] {
        if part == 0 { &self.mean } else { &self.logvar }
    }

    /// A latent, [C, h, w], drawn with the noise that belongs to (`seed`, `index`).
    pub fn sample(&self, seed: u64, index: u64) -> Vec<f32> {
        let mut latent = vec![0.0; self.mean.len()];
        NoiseStream::with_purpose(seed, index, Purpose::Latent).fill_normal(&mut latent);
        for ((z, mean), logvar) in latent.iter_mut().zip(&self.mean).zip(&self.logvar) {
            *z = mean + (0.5 * logvar).exp() * *z;
        }
        latent
    }
}

impl Autoencoder {
    /// Loads a folder of `config.json` and `diffusion_pytorch_model.safetensors` or `.bin`, a pipeline's folder that holds
    /// such a folder `vae`, or a weight file with a `config.json` beside it; products have operands of `precision`.
    ///
    /// Tensors may have diffusers' names, their older spelling of attention, or those of CompVis.
    ///
    /// # Errors
    /// Those of [`AutoencoderConfig::read`] and [`Checkpoint::open`]; `Tensors`, listing names, if a tensor is missing, left
    /// over or misshapen.
    pub fn open(path: &Path, precision: Precision) -> Result<Self> {
        with_weights(path, precision, |path, config, weights| {
            let (encoder, decoder) = (encoder(&config), decoder(&config));
            weights.check(&[encoder.as_slice(), decoder.as_slice()].concat())?;
            let [encoder, decoder] = [weights.layers(&encoder)?, weights.layers(&decoder)?];
            Ok(Self { path, tiling: Tiling::of(&config), config, encoder, decoder })
        })
    }

    /// The same with another rule for tiles.
    ///
    /// # Errors
    /// `Usage` if a tile is too small to be cut.
    pub fn with_tiling(self, tiling: Tiling) -> Result<Self> {
        let least = LEAST_TILE * self.config.factor();
        if tiling.sample < least {
            return Err(Error::Usage(format!(
                "tiles of {} pixels a side; expected at least {least}",
                tiling.sample
            )));
        }
        Ok(Self { tiling, ..self })
    }

    /// The file's settings.
    pub fn config(&self) -> &AutoencoderConfig {
        &self.config
    }

    /// The distribution of the latent of an image, [in_channels, H, W], around [-1, 1]; rows and columns of the latent are
    /// the whole part of the image's over [`AutoencoderConfig::factor`].
    ///
    /// # Errors
    /// `Usage` if the image has another number of values, or so few rows or columns that nothing is left.
    pub fn encode(&self, image: &[f32], [height, width]: [usize; 2]) -> Result<LatentDistribution> {
        let (channels, factor) = (self.config.in_channels, self.config.factor());
        let tiles = Tiles::of_image(&self.config, self.tiling.sample);
        let tiled = height.max(width) > self.tiling.above;
        self.check("an image", image.len(), [channels, height, width], factor)?;
        if let Some(side) = [height, width].into_iter().find(|&side| tiled && tiles.last(side) < factor) {
            let detail = format!(
                "the last tile of {side} pixels has only {}, which leave nothing of a latent; expected a multiple of {factor}",
                tiles.last(side)
            );
            return Err(self.usage(&detail));
        }
        let input = from_planes(image, [channels, height, width]);
        let moments = match tiled {
            true => tiles.run(&input, |tile| run(&self.encoder, tile)),
            false => run(&self.encoder, input),
        };
        let [rows, columns, both] = moments.shape;
        let mut mean = to_planes(&moments);
        let logvar = mean.split_off(mean.len() / 2);
        let logvar = logvar.into_iter().map(|value| value.clamp(-30.0, 20.0)).collect();
        Ok(LatentDistribution { shape: [both / 2, rows, columns], mean, logvar })
    }

    /// The image, [out_channels, h·factor, w·factor], around [-1, 1], of a latent, [latent_channels, h, w], that is not
    /// scaled for a diffusion model.
    ///
    /// # Errors
    /// `Usage` if the latent has another number of values, or none.
    pub fn decode(&self, latent: &[f32], [height, width]: [usize; 2]) -> Result<Vec<f32>> {
        let channels = self.config.latent_channels;
        self.check("a latent", latent.len(), [channels, height, width], 1)?;
        let input = from_planes(latent, [channels, height, width]);
        let tiled = height.max(width) * self.config.factor() > self.tiling.above;
        let image = match tiled {
            true => Tiles::of_latent(&self.config, self.tiling.sample)
                .run(&input, |tile| run(&self.decoder, tile)),
            false => run(&self.decoder, input),
        };
        Ok(to_planes(&image))
    }

    /// [`Autoencoder::decode`] of a latent as a diffusion model makes it.
    ///
    /// # Errors
    /// As there.
    pub fn decode_scaled(&self, latent: &[f32], size: [usize; 2]) -> Result<Vec<f32>> {
        let (scale, shift) = (self.config.scaling_factor, self.config.shift_factor);
        let plain: Vec<f32> = latent.iter().map(|&z| (f64::from(z) / scale + shift) as f32).collect();
        self.decode(&plain, size)
    }

    fn check(&self, what: &str, values: usize, shape: [usize; 3], least: usize) -> Result<()> {
        let [channels, height, width] = shape;
        if values != shape.iter().product::<usize>() {
            return Err(self
                .usage(&format!("{values} values are not {what} of {channels} channels, {height}×{width}")));
        }
        if height.min(width) < least {
            return Err(self.usage(&format!("{what} of {height}×{width}; expected at least {least}×{least}")));
        }
        Ok(())
    }

    fn usage(&self, detail: &str) -> Error {
        Error::Usage(format!("{}: {detail}", self.path.display()))
    }
}

/// SHA-256 of an autoencoder's weights, the same in whatever file they lie.
///
/// # Errors
/// As [`Autoencoder::open`].
pub fn fingerprint(path: &Path) -> Result<String> {
    with_weights(path, Precision::F32, |_, config, weights| {
        let blocks = [encoder(&config), decoder(&config)].concat();
        weights.check(&blocks)?;
        weights.fingerprint(&blocks)
    })
}

fn with_weights<T>(
    path: &Path,
    precision: Precision,
    then: impl FnOnce(PathBuf, AutoencoderConfig, Weights) -> Result<T>,
) -> Result<T> {
    let (path, config) = locate(path)?;
    let config = AutoencoderConfig::read(&config)?;
    let file = Checkpoint::open(&path)?;
    let weights = Weights::new(&file, config.block_out_channels.len(), config.norm_num_groups, precision);
    then(path, config, weights)
}

/// [C, H, W] to [H, W, C].
fn from_planes(values: &[f32], [channels, rows, columns]: [usize; 3]) -> Map {
    let mut data = vec![0.0; values.len()];
    for (channel, plane) in values.chunks_exact(rows * columns).enumerate() {
        data[channel..].iter_mut().step_by(channels).zip(plane).for_each(|(to, &from)| *to = from);
    }
    Map { shape: [rows, columns, channels], data }
}

/// [H, W, C] to [C, H, W].
fn to_planes(map: &Map) -> Vec<f32> {
    let channels = map.shape[2];
    (0..channels).flat_map(|channel| map.data[channel..].iter().step_by(channels)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latents_depend_on_seed_and_index() {
        let one = LatentDistribution { shape: [1, 1, 2], mean: vec![3.0, -1.0], logvar: vec![-30.0, 2.0] };
        let drawn = one.sample(1, 5);
        assert!((drawn[0] - 3.0).abs() < 1e-5 && drawn[1] != -1.0, "{drawn:?}");
        assert_eq!(drawn, one.sample(1, 5));
        assert_ne!(drawn, one.sample(2, 5));
        assert_ne!(drawn, one.sample(1, 6));
        // The deviation is exp(logvar / 2).
        let mean =
            LatentDistribution { mean: vec![0.0, 0.0], logvar: vec![0.0, 0.0], ..one.clone() }.sample(1, 5);
        assert!((drawn[1] - (mean[1] * 1f32.exp() - 1.0)).abs() < 1e-5, "{drawn:?}, {mean:?}");
    }

    #[test]
    fn planes_are_interleaved_and_back() {
        let planes: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let map = from_planes(&planes, [2, 3, 4]);
        assert_eq!((map.shape, map.data[1], map.data[2]), ([3, 4, 2], 12.0, 1.0));
        assert_eq!(to_planes(&map), planes);
    }
}
