use std::path::Path;

use burn::tensor::Device;

use super::folder::{RunFolder, UNPACKED_TEACHER};
use crate::atomic;
use crate::checkpoint::{Checkpoint, resolve};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::{Architecture, Dit, architecture_of, load};
use crate::plan::model_architecture;

/// The name that stands for the embedded teacher, a DiT of Fashion-MNIST, wherever a checkpoint is named.
pub const EMBEDDED_NAME: &str = "embedded";

/// The name of the embedded text-to-image model, of captioned emoji.
pub const EMBEDDED_EMOJI: &str = "embedded-emoji";

/// The file of an embedded model.
fn embedded(name: &str) -> Option<&'static [u8]> {
    match name {
        EMBEDDED_NAME => {
            Some(include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/teacher.safetensors")))
        }
        EMBEDDED_EMOJI => Some(include_bytes!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../assets/emoji-teacher.safetensors"
        ))),
        _ => None,
    }
}

/// A pretrained model.
#[derive(Debug)]
pub struct Teacher {
    /// The model, without gradients.
    pub model: Dit,
    /// Its sizes and grafts.
    pub architecture: Architecture,
}

/// Opens a checkpoint by what a user calls it: a path, `hf://…`, `embedded` or `embedded-emoji`.
///
/// An embedded model is unpacked to `unpack_to` first.
///
/// # Errors
/// When it cannot be found or read.
fn open_checkpoint(name: &str, unpack_to: &Path) -> Result<Checkpoint> {
    if let Some(bytes) = embedded(name) {
        if std::fs::read(unpack_to).ok().as_deref() != Some(bytes) {
            atomic::write(unpack_to, bytes)?;
        }
        return Checkpoint::open(unpack_to);
    }
    Checkpoint::open(&resolve(name)?)
}

/// Whether a checkpoint is embedded or a file here, so that opening it never asks the hub.
pub fn is_at_hand(name: &str) -> bool {
    embedded(name).is_some() || Path::new(name).exists()
}

/// Opens a checkpoint for as long as `use_it` runs; the embedded one is unpacked to a temporary folder.
///
/// # Errors
/// When it cannot be found, unpacked or read, and those of `use_it`.
pub fn with_checkpoint<T>(name: &str, use_it: impl FnOnce(&Checkpoint) -> Result<T>) -> Result<T> {
    let folder = tempfile::tempdir().map_err(|e| Error::io("create a folder in", std::env::temp_dir(), e))?;
    use_it(&open_checkpoint(name, &folder.path().join("teacher.safetensors"))?)
}

/// The embedded teacher.
///
/// # Errors
/// When it cannot be unpacked.
pub fn embedded_teacher(device: &Device) -> Result<Teacher> {
    with_checkpoint(EMBEDDED_NAME, |file| {
        let architecture = architecture_of(file, None)?;
        Ok(Teacher { model: load(file, &architecture, device)?, architecture })
    })
}

/// Opens the model that `[model]` names and tells its sizes; its weights are not read yet.
///
/// # Errors
/// When it cannot be found or understood.
pub(super) fn open_teacher(model: &ModelConfig, folder: &RunFolder) -> Result<(Checkpoint, Architecture)> {
    let name = model.checkpoint.as_deref().ok_or_else(|| {
        Error::Usage("grafting starts from a pretrained model: set model.checkpoint".into())
    })?;
    let file = open_checkpoint(name, &folder.path(UNPACKED_TEACHER))?;
    let architecture = model_architecture(&file, model)?;
    Ok((file, architecture))
}
