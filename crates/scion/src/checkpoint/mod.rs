//! Foreign checkpoints as a table of tensors that are read one at a time, and their writers. Knows file formats and
//! the names of the published layouts of DiT and PixArt; nothing of models, devices or training.

mod diffusers;
mod hub;
mod infer;
mod legacy;
mod names;
mod pickle;
mod pixart;
mod pytorch;
mod safetensors;
mod source;
mod tensor;
mod unpickle;
mod write;
mod write_diffusers;
mod write_pytorch;
mod zip_archive;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use hub::resolve;
pub use infer::DitShape;
pub use names::check_names;
pub use pixart::{PixartShape, write_diffusers_pixart};
pub(crate) use source::read_json;
pub use source::{Format, Source};
use tensor::Stored;
pub use tensor::{Dtype, TensorEntry};
pub use write::{Precision, Read, TensorSource, ensure_absent, write_dit, write_safetensors, write_scion};
pub use write_diffusers::write_diffusers;
pub use write_pytorch::write_pytorch;

use crate::error::{Error, Result};
use diffusers::Part;

/// Header field that marks a Scion checkpoint and gives its version.
pub const FORMAT_KEY: &str = "scion.format";
/// The version this code writes and reads.
pub const FORMAT_VERSION: &str = "1";
/// Header field holding the architecture of a Scion checkpoint, as JSON.
pub const MODEL_KEY: &str = "scion.model";

/// How a file names its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The original DiT code's names.
    Dit,
    /// The original PixArt code's names.
    PixArt,
    /// A DiT or PixArt saved by diffusers; presented under the original names.
    Diffusers,
    /// Scion's one-file format, with the architecture in the header.
    Scion,
    /// Anything else; names as in the file.
    Other,
}

/// An open checkpoint. Only names, shapes and offsets are held in memory; each tensor is read when asked for.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    layout: Layout,
    source: Source,
    metadata: BTreeMap<String, String>,
    config: Option<serde_json::Map<String, serde_json::Value>>,
    parts: BTreeMap<String, Part>,
}

impl Checkpoint {
    /// Opens a `torch.save` file of any age, a safetensors file, an index of shards, a diffusers model folder or a pipeline
    /// folder. Of a training file the entry `ema` is taken, else `model`, else
    /// `state_dict`.
    ///
    /// # Errors
    /// A file that is missing, truncated, damaged, of another kind, or holds something else than tensors.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_entry(path, None)
    }

    /// As [`Checkpoint::open`], with the pickle entry to take.
    ///
    /// # Errors
    /// Also when the file has no such entry, or is no pickle.
    pub fn open_entry(path: &Path, entry: Option<&str>) -> Result<Self> {
        let opened = source::open(path, entry)?;
        let layout = layout(path, &opened)?;
        let parts = match layout {
            Layout::Diffusers if pixart::is_diffusers(opened.tensors.keys()) => {
                diffusers::to_original(path, opened.tensors, pixart::reading_table)?
            }
            Layout::Diffusers => diffusers::to_original(path, opened.tensors, diffusers::table)?,
            _ => opened.tensors.into_iter().map(|(name, stored)| (name, Part::Whole(stored))).collect(),
        };
        let (source, metadata) = (opened.source, opened.metadata);
        // Beside a file of another layout it is some other model's.
        let config = match (&source.config, layout) {
            (Some(config), Layout::Diffusers) => Some(source::read_json(config)?),
            _ => None,
        };
        Ok(Self { path: path.into(), layout, source, metadata, config, parts })
    }

    /// The path given to `open`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the file names its tensors.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Files, format, pickle entry and the training script's arguments.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The safetensors header's `__metadata__`; empty for other formats.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The `config.json` beside the weights, as diffusers writes it.
    pub fn config(&self) -> Option<&serde_json::Map<String, serde_json::Value>> {
        self.config.as_ref()
    }

    /// The JSON architecture in a Scion checkpoint's header.
    pub fn model_json(&self) -> Option<&str> {
        self.metadata.get(MODEL_KEY).map(String::as_str).filter(|_| self.layout == Layout::Scion)
    }

    /// Tensor names in alphabetical order: the original layout's, whatever the file's.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.keys().map(String::as_str)
    }

    /// Type and shape of a tensor.
    pub fn entry(&self, name: &str) -> Option<&TensorEntry> {
        self.parts.get(name).map(Part::entry)
    }

    /// Tensors of the original layout that the file's layout does not store and the model must generate.
    pub fn absent(&self) -> &'static [&'static str] {
        match self.layout {
            Layout::Diffusers if !self.is_pixart() => &[diffusers::POS_EMBED],
            _ => &[],
        }
    }

    /// Tensors that the original code writes and a model has no use for.
    fn superfluous(&self) -> &'static [&'static str] {
        match self.layout {
            Layout::PixArt | Layout::Diffusers if self.is_pixart() => &pixart::SUPERFLUOUS,
            _ => &[],
        }
    }

    /// A tensor's elements in row-major order, converted to f32 from f64, f32, f16 or bf16.
    ///
    /// # Errors
    /// An unknown name, an integer tensor, a failed read, or a diffusers file whose blocks disagree on a shared tensor.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.part(name)?.read_f32(&self.path, name)
    }

    /// Some rows of a tensor, in the order asked for, converted as [`Checkpoint::read_f32`] does; nothing else is read.
    ///
    /// # Errors
    /// An unknown name, an integer tensor, a failed read, a row that the tensor has not, or a tensor that the file does not
    /// hold in one piece.
    pub fn read_rows(&self, name: &str, rows: &[usize]) -> Result<Vec<f32>> {
        match self.part(name)? {
            Part::Whole(stored) => stored.read_rows(name, rows),
            Part::Rows(..) | Part::Copies(_) => {
                let detail =
                    format!("tensor `{name}` is in several pieces, of which no single rows can be read");
                Err(Error::Tensors { path: self.path.clone(), detail })
            }
        }
    }

    /// An integer or boolean tensor's elements in row-major order.
    ///
    /// # Errors
    /// An unknown name, a floating point or u64 tensor, or a failed read.
    pub fn read_i64(&self, name: &str) -> Result<Vec<i64>> {
        match self.part(name)? {
            Part::Whole(stored) => stored.read_i64(name),
            // Only parameters are stored in pieces, and those are floating point.
            Part::Rows(..) | Part::Copies(_) => {
                let detail = format!("tensor `{name}` is a model's parameter; expected integers");
                Err(Error::Tensors { path: self.path.clone(), detail })
            }
        }
    }

    /// Type of a tensor that the file holds in one piece, and where in the file its first byte lies.
    ///
    /// # Errors
    /// An unknown name, or a tensor in pieces.
    pub(crate) fn stored(&self, name: &str) -> Result<(Dtype, u64)> {
        match self.part(name)? {
            Part::Whole(Stored { offset, entry, strides: None, .. }) => Ok((entry.dtype, *offset)),
            _ => {
                let detail = format!("tensor `{name}` does not lie in one piece");
                Err(Error::Tensors { path: self.path.clone(), detail })
            }
        }
    }

    /// Checks that the checkpoint holds exactly the tensors a model needs, those it must generate and PixArt's positions and
    /// null prompt apart.
    ///
    /// # Errors
    /// Lists the missing, the unused and the misshapen names.
    pub fn check(&self, expected: &[(String, Vec<usize>)]) -> Result<()> {
        let stored = |name: &str| self.parts.contains_key(name) || !self.absent().contains(&name);
        let expected: Vec<_> = expected.iter().filter(|(name, _)| stored(name)).cloned().collect();
        let parts = self.parts.iter().filter(|(name, _)| !self.superfluous().contains(&name.as_str()));
        let found = parts.map(|(name, part)| (name.as_str(), part.entry().shape.as_slice()));
        check_names(&self.path, &expected, found)
    }

    /// Every tensor as a source for the writers.
    pub fn tensors(&self) -> Vec<TensorSource<'_>> {
        let source = |(name, part): (&'_ String, &'_ Part)| {
            let owned = name.clone();
            TensorSource::new(name.clone(), part.entry().shape.clone(), move || self.read_f32(&owned))
        };
        self.parts.iter().map(source).collect()
    }

    fn part(&self, name: &str) -> Result<&Part> {
        self.parts.get(name).ok_or_else(|| {
            let detail = format!("has no tensor `{name}` among its {}", self.parts.len());
            Error::Tensors { path: self.path.clone(), detail }
        })
    }
}

fn layout(path: &Path, opened: &source::Opened) -> Result<Layout> {
    if let Some(version) = opened.metadata.get(FORMAT_KEY) {
        if version != FORMAT_VERSION {
            let detail =
                format!("is a Scion checkpoint of format {version}; this version reads {FORMAT_VERSION}");
            return Err(Error::invalid(path, detail));
        }
        return Ok(Layout::Scion);
    }
    if diffusers::is_diffusers(opened.tensors.keys()) || pixart::is_diffusers(opened.tensors.keys()) {
        return Ok(Layout::Diffusers);
    }
    let has = |names: &[&str]| names.iter().all(|name| opened.tensors.contains_key(*name));
    if has(&pixart::MARKS) {
        return Ok(Layout::PixArt);
    }
    let dit = ["x_embedder.proj.weight", "y_embedder.embedding_table.weight", "final_layer.linear.weight"];
    Ok(if has(&dit) { Layout::Dit } else { Layout::Other })
}

#[cfg(test)]
mod tests;
