use std::path::{Path, PathBuf};

use scion_kernels::Precision;
use sha2::{Digest, Sha256};

use super::architecture::{Block, Tensor, square};
use super::layer::{Attention, Layer, Residual};
use super::names::Spelling;
use super::norm::GroupNorm;
use crate::checkpoint::Checkpoint;
use crate::convolution::{Convolution, Geometry};
use crate::error::{Error, Result};

/// Where an autoencoder's weights and its `config.json` lie: in a folder, in the `vae` folder of a pipeline, or side by side.
///
/// # Errors
/// `Invalid` if there is no `config.json`.
pub(super) fn locate(path: &Path) -> Result<(PathBuf, PathBuf)> {
    let inner = path.join("vae");
    let path = if inner.is_dir() { inner } else { path.into() };
    let config = if path.is_dir() { path.join("config.json") } else { path.with_file_name("config.json") };
    if config.is_file() {
        return Ok((path, config));
    }
    let detail = if path.exists() {
        "has no config.json beside its weights; it tells an autoencoder's sizes and its scaling factor"
    } else {
        "no such file or folder; expected an autoencoder's folder of weights and config.json"
    };
    Err(Error::invalid(path, detail))
}

/// Weights in a file.
pub(super) struct Weights<'a> {
    file: &'a Checkpoint,
    spelling: Spelling,
    levels: usize,
    groups: usize,
    precision: Precision,
}

impl<'a> Weights<'a> {
    pub(super) fn new(file: &'a Checkpoint, levels: usize, groups: usize, precision: Precision) -> Self {
        Self { file, spelling: Spelling::of(file), levels, groups, precision }
    }

    /// Checks that the file holds the tensors of these layers and no others.
    ///
    /// # Errors
    /// `Tensors`, listing names as the file spells them.
    pub(super) fn check(&self, blocks: &[Block]) -> Result<()> {
        let expected: Vec<Tensor> =
            blocks.iter().flat_map(Block::tensors).map(|tensor| self.stored(tensor)).collect();
        self.file.check(&expected)
    }

    /// SHA-256 of the values under diffusers' names: which weights these are, in whatever file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn fingerprint(&self, blocks: &[Block]) -> Result<String> {
        let mut hash = Sha256::new();
        for (name, _) in blocks.iter().flat_map(Block::tensors) {
            hash.update(&name);
            hash.update(bytemuck::cast_slice::<f32, u8>(&self.read(&name)?));
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// A tensor as the file has it. Attention's weights may be 1×1 convolutions there.
    fn stored(&self, (name, shape): Tensor) -> Tensor {
        let spelled = self.spelling.name(&name, self.levels);
        let convolution = [shape.as_slice(), &[1, 1]].concat();
        let is = |shape: &[usize]| self.file.entry(&spelled).is_some_and(|entry| entry.shape == shape);
        let shape = if name.contains(".attentions.") && shape.len() == 2 && is(&convolution) {
            convolution
        } else {
            shape
        };
        (spelled, shape)
    }

    fn read(&self, name: &str) -> Result<Vec<f32>> {
        self.file.read_f32(&self.spelling.name(name, self.levels))
    }

    pub(super) fn layers(&self, blocks: &[Block]) -> Result<Vec<Layer>> {
        blocks.iter().map(|block| self.layer(block)).collect()
    }

    fn layer(&self, block: &Block) -> Result<Layer> {
        Ok(match block {
            Block::Convolution { name, geometry } => Layer::Convolution(self.convolution(name, *geometry)?),
            Block::Residual { name, inputs, outputs } => Layer::Residual(Box::new(Residual {
                norm1: self.norm(&format!("{name}.norm1"))?,
                conv1: self.convolution(&format!("{name}.conv1"), square(*inputs, *outputs))?,
                norm2: self.norm(&format!("{name}.norm2"))?,
                conv2: self.convolution(&format!("{name}.conv2"), square(*outputs, *outputs))?,
                shortcut: (inputs != outputs)
                    .then(|| {
                        let geometry = Geometry::new(*inputs, *outputs, [1, 1]);
                        self.convolution(&format!("{name}.conv_shortcut"), geometry)
                    })
                    .transpose()?,
            })),
            Block::Attention { name, width } => Layer::Attention(self.attention(name, *width)?),
            Block::Output { part, geometry } => Layer::Output(
                self.norm(&format!("{part}.conv_norm_out"))?,
                self.convolution(&format!("{part}.conv_out"), *geometry)?,
            ),
        })
    }

    fn attention(&self, name: &str, width: usize) -> Result<Attention> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for part in ["to_q", "to_k", "to_v"] {
            weight.extend(self.read(&format!("{name}.{part}.weight"))?);
            bias.extend(self.read(&format!("{name}.{part}.bias"))?);
        }
        let qkv = Geometry::new(width, 3 * width, [1, 1]);
        Ok(Attention {
            norm: self.norm(&format!("{name}.group_norm"))?,
            qkv: Convolution::new(self.precision, qkv, &weight, bias),
            out: self.convolution(&format!("{name}.to_out.0"), Geometry::new(width, width, [1, 1]))?,
            precision: self.precision,
        })
    }

    fn convolution(&self, name: &str, geometry: Geometry) -> Result<Convolution> {
        let [weight, bias] = ["weight", "bias"].map(|kind| self.read(&format!("{name}.{kind}")));
        Ok(Convolution::new(self.precision, geometry, &weight?, bias?))
    }

    fn norm(&self, name: &str) -> Result<GroupNorm> {
        let [weight, bias] = ["weight", "bias"].map(|kind| self.read(&format!("{name}.{kind}")));
        Ok(GroupNorm { groups: self.groups, weight: weight?, bias: bias? })
    }
}
