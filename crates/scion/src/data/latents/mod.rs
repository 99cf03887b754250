//! Latents of images on disk, as distributions: `scion encode` writes them, training draws from them.
//!
//! A folder holds `latents.json` and shards of [`SHARD`] images. A shard is a safetensors file with `mean` and `logvar`,
//! [n, C, h, w] in f16 or f32, the same of the mirrored images as `flipped.mean` and `flipped.logvar` where the folder has
//! them, and in its metadata the images' `files` and their `labels` or `captions`, as JSON lists.

mod set;
mod shard;

use serde::{Deserialize, Serialize};

pub use set::LatentSet;
pub use shard::{EncodedImage, SHARD, shard_name, write_shard};

/// Beside the shards: what decided them.
pub const SETTINGS: &str = "latents.json";
/// The version of the layout that this code writes and reads.
pub const FORMAT: u32 = 1;

/// Element type of stored latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LatentDtype {
    F16,
    F32,
}

/// What decided the latents of a folder: the content of `latents.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LatentSettings {
    /// [`FORMAT`].
    pub format: u32,
    /// The autoencoder as the user named it.
    pub model: String,
    /// Its weights.
    pub vae_sha256: String,
    /// What a diffusion model sees is (latent − shift-factor)·scaling-factor; stored latents are not scaled.
    pub scaling_factor: f64,
    pub shift_factor: f64,
    /// Side of the square images in pixels.
    pub size: usize,
    /// Channels, rows and columns of a latent.
    pub shape: [usize; 3],
    pub dtype: LatentDtype,
    /// Operand precision of the autoencoder's products.
    pub precision: String,
    /// Whether mirrored images were encoded as well.
    pub flip: bool,
    /// Number of images.
    pub count: usize,
    /// SHA-256 of the images' names and labels or captions, in order.
    pub images_sha256: String,
    /// Names of the classes; nothing where images have captions.
    pub classes: Option<Vec<String>>,
}
