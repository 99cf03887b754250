use std::path::Path;

use super::size::Size;
use crate::checkpoint::{Checkpoint, Precision, TensorSource, write_safetensors};
use crate::data::image_io::{GridOptions, grid, save_png};
use crate::data::{ImageShape, Raster, from_unit};
use crate::error::{Error, Result};
use crate::generate::resize_and_crop;
use crate::latent::Autoencoder;

/// What is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One picture, or a sheet of them.
    Picture,
    /// A folder of pictures.
    Folder,
    /// Latents.
    Latents,
}

impl Form {
    /// The form that the name of `--out` asks for.
    ///
    /// # Errors
    /// When its ending names none.
    pub fn of(out: &Path) -> Result<Self> {
        match out.extension().and_then(|e| e.to_str()).map(str::to_lowercase).as_deref() {
            Some("png") => Ok(Self::Picture),
            Some("safetensors") => Ok(Self::Latents),
            None => Ok(Self::Folder),
            Some(other) => {
                Err(Error::Usage(format!("--out ends in .{other}; expected .png, .safetensors or a folder")))
            }
        }
    }
}

/// Makes pictures of latents.
pub struct Decoder {
    /// Nothing where what is drawn are pixels.
    pub vae: Option<Autoencoder>,
    /// Channels of what is drawn.
    pub channels: usize,
    pub size: Size,
}

impl Decoder {
    /// The shape of a picture.
    pub fn shape(&self) -> ImageShape {
        let [height, width] = self.size.wanted;
        let channels = self.vae.as_ref().map_or(self.channels, |vae| vae.config().out_channels);
        ImageShape { channels, height, width }
    }

    /// The picture of a latent [C, h, w], u8 [C, H, W].
    ///
    /// # Errors
    /// When the latent is not one of the autoencoder's.
    pub fn pixels(&self, latent: &[f32]) -> Result<Vec<u8>> {
        let image = match &self.vae {
            None => latent.to_vec(),
            Some(vae) => vae.decode_scaled(latent, self.size.latent)?,
        };
        Ok(from_unit(&resize_and_crop(&image, self.size.drawn, self.size.wanted)))
    }
}

/// Writes images [N, C, H, W] as one picture: one alone, or a sheet with `columns` in a row.
pub fn write_picture(out: &Path, pixels: &[u8], shape: ImageShape, columns: usize) -> Result<()> {
    match pixels.len() == shape.len() {
        true => save_png(out, &Raster::from_planes(pixels, shape)),
        false => save_png(out, &grid(pixels, shape, &GridOptions::to_look_at(columns, shape))?),
    }
}

/// The tensor in files of noise and of latents.
const LATENTS: &str = "latents";

/// The noise in a file, [N, C, H, W].
///
/// # Errors
/// When the file holds none of this shape.
pub fn read_noise(path: &Path, [channels, height, width]: [usize; 3]) -> Result<Vec<f32>> {
    let file = Checkpoint::open(path)?;
    let shape = file.entry(LATENTS).map(|entry| entry.shape.clone()).unwrap_or_default();
    match shape[..] {
        [_, c, h, w] if [c, h, w] == [channels, height, width] => file.read_f32(LATENTS),
        _ => Err(Error::invalid(
            path,
            format!("holds {LATENTS} {shape:?}; expected {LATENTS} [N, {channels}, {height}, {width}]"),
        )),
    }
}

/// Writes latents [N, C, H, W], each of `shape`.
pub fn write_latents(out: &Path, latents: Vec<f32>, shape: [usize; 3]) -> Result<()> {
    let count = latents.len() / shape.iter().product::<usize>();
    let shape = [vec![count], shape.to_vec()].concat();
    let source = TensorSource::new(LATENTS.into(), shape, || Ok(latents.clone()));
    write_safetensors(out, &[source], Precision::F32, &Default::default())
}
