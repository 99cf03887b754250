use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::f16;

use super::{LatentDtype, LatentSettings};
use crate::checkpoint::{Checkpoint, Dtype, Precision, TensorSource, write_safetensors};
use crate::error::{Error, Result};
use crate::latent::LatentDistribution;

/// Images of a shard: what an interrupted call may have to do again.
pub const SHARD: usize = 256;

/// The name of shard `number`.
pub fn shard_name(number: usize) -> String {
    format!("shard-{number:05}.safetensors")
}

/// One image's entry in a shard.
#[derive(Clone, Debug)]
pub struct EncodedImage {
    /// Its name, as a path inside the folder of images.
    pub file: String,
    /// Its class, or 0 where it has a caption.
    pub label: usize,
    pub caption: Option<String>,
    pub latent: LatentDistribution,
    /// That of the mirrored image.
    pub flipped: Option<LatentDistribution>,
}

/// Names of a shard's tensors: mean and logarithm of the variance, plain and mirrored.
const TENSORS: [[&str; 2]; 2] = [["mean", "logvar"], ["flipped.mean", "flipped.logvar"]];

/// Writes a shard of at most [`SHARD`] images; it appears whole or not at all.
///
/// # Errors
/// When the disk refuses it, or a value is beyond the range of f16.
pub fn write_shard<'a>(path: &Path, images: &'a [EncodedImage], settings: &LatentSettings) -> Result<()> {
    let shape = [&[images.len()], &settings.shape[..]].concat();
    let mut tensors = Vec::new();
    for (mirrored, names) in TENSORS.iter().enumerate().take(if settings.flip { 2 } else { 1 }) {
        for (part, name) in names.iter().enumerate() {
            let read = move || {
                let latent = |image: &'a EncodedImage| match (mirrored, &image.flipped) {
                    (1, Some(flipped)) => flipped.part(part),
                    _ => image.latent.part(part),
                };
                Ok(images.iter().flat_map(latent).copied().collect())
            };
            tensors.push(TensorSource::new((*name).into(), shape.clone(), read));
        }
    }
    let json = |values: Vec<serde_json::Value>| serde_json::Value::Array(values).to_string();
    let told = match &settings.classes {
        Some(_) => ("labels", json(images.iter().map(|image| image.label.into()).collect())),
        None => ("captions", json(images.iter().map(|image| image.caption.clone().into()).collect())),
    };
    let files = json(images.iter().map(|image| image.file.clone().into()).collect());
    let metadata = BTreeMap::from([("files".into(), files), (told.0.into(), told.1)]);
    let precision = match settings.dtype {
        LatentDtype::F16 => Precision::F16,
        LatentDtype::F32 => Precision::F32,
    };
    write_safetensors(path, &tensors, precision, &metadata)
}

/// A finished shard. Files are opened for each read: a large set has more of them than a process may hold open.
#[derive(Clone, Debug)]
pub(super) struct Shard {
    path: PathBuf,
    dtype: LatentDtype,
    /// Values of a latent.
    len: usize,
    /// First byte of mean and log-variance, plain and mirrored.
    starts: Vec<[u64; 2]>,
}

/// What a shard's metadata tells.
pub(super) struct Told {
    pub(super) labels: Vec<usize>,
    pub(super) captions: Vec<String>,
}

impl Shard {
    /// Opens a shard that must hold `count` images.
    ///
    /// # Errors
    /// When it is missing or damaged, or not of these settings.
    pub(super) fn open(path: &Path, count: usize, settings: &LatentSettings) -> Result<(Self, Told)> {
        let file = Checkpoint::open(path)?;
        let names = &TENSORS[..if settings.flip { 2 } else { 1 }];
        let shape = [&[count], &settings.shape[..]].concat();
        let expected: Vec<_> =
            names.as_flattened().iter().map(|name| (name.to_string(), shape.clone())).collect();
        file.check(&expected)?;
        let start = |name: &str| -> Result<u64> {
            let (dtype, start) = file.stored(name)?;
            let wanted = match settings.dtype {
                LatentDtype::F16 => Dtype::F16,
                LatentDtype::F32 => Dtype::F32,
            };
            if dtype == wanted {
                return Ok(start);
            }
            Err(Error::invalid(path, format!("tensor `{name}` holds {dtype:?}; expected {wanted:?}")))
        };
        let starts =
            names.iter().map(|[mean, logvar]| Ok([start(mean)?, start(logvar)?])).collect::<Result<_>>()?;
        let told = Told {
            labels: if settings.classes.is_some() { list(&file, "labels", count)? } else { vec![0; count] },
            captions: if settings.classes.is_some() { Vec::new() } else { list(&file, "captions", count)? },
        };
        let classes = settings.classes.as_ref().map_or(1, Vec::len);
        if let Some(label) = told.labels.iter().find(|&&label| label >= classes) {
            return Err(Error::invalid(
                path,
                format!("holds label {label}, but there are {classes} classes"),
            ));
        }
        let len = settings.shape.iter().product();
        Ok((Self { path: path.into(), dtype: settings.dtype, len, starts }, told))
    }

    /// Mean and log-variance of the latent of image `row`, or of its mirrored one.
    ///
    /// # Errors
    /// `Io` when the file cannot be read any more.
    pub(super) fn read(&self, row: usize, mirrored: bool) -> Result<[Vec<f32>; 2]> {
        let mut file = File::open(&self.path).map_err(|e| Error::io("open", &self.path, e))?;
        let [mean, logvar] = self.starts[usize::from(mirrored)];
        Ok([self.values(&mut file, mean, row)?, self.values(&mut file, logvar, row)?])
    }

    fn values(&self, file: &mut File, start: u64, row: usize) -> Result<Vec<f32>> {
        let size = match self.dtype {
            LatentDtype::F16 => 2,
            LatentDtype::F32 => 4,
        };
        let mut bytes = vec![0; self.len * size];
        file.seek(SeekFrom::Start(start + (row * bytes.len()) as u64))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|e| Error::io("read", &self.path, e))?;
        Ok(match self.dtype {
            LatentDtype::F16 => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
            LatentDtype::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        })
    }
}

/// A JSON list of the shard's metadata.
fn list<T: serde::de::DeserializeOwned>(file: &Checkpoint, name: &str, count: usize) -> Result<Vec<T>> {
    let text = file.metadata().get(name).map_or("", String::as_str);
    let found: Vec<T> = serde_json::from_str(text)
        .map_err(|e| Error::invalid(file.path(), format!("{name} in its header cannot be read: {e}")))?;
    if found.len() == count {
        return Ok(found);
    }
    Err(Error::invalid(file.path(), format!("has {} {name} for {count} images", found.len())))
}
