//! What sample sets are made of.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Take};
use std::path::Path;

use super::audit::Audit;
use crate::data::samples::{Clipping, SampleFile, labels_of_folder};
use crate::data::{FolderOptions, ImageSet, ImageShape, open_folder};
use crate::error::{Error, Result};
use crate::metrics::feature_file::is_safetensors;
use crate::metrics::npz::Npz;
use crate::metrics::{FeatureFile, Features};

/// What a file or folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// A folder, or a file with `arr_0`.
    Images,
    /// A file with `features`.
    Features,
    /// A file with `mu` and `sigma`, and no images.
    Statistics,
}

/// Tells by the arrays' names what a path holds.
///
/// # Errors
/// `Io` or `Invalid`, naming the file and what it holds instead.
pub fn contents(path: &Path) -> Result<Contents> {
    if path.is_dir() {
        return Ok(Contents::Images);
    }
    let names = array_names(path)?;
    let holds = |name: &str| names.iter().any(|held| held == name);
    if holds("features") {
        Ok(Contents::Features)
    } else if holds("arr_0") && !is_safetensors(path) {
        Ok(Contents::Images)
    } else if holds("mu") && holds("sigma") {
        Ok(Contents::Statistics)
    } else {
        let detail = format!(
            "holds {}; expected arr_0 (images), features, or mu and sigma (statistics)",
            names.join(", ")
        );
        Err(Error::invalid(path, detail))
    }
}

/// Whether a file holds `mu` and `sigma`, perhaps beside other arrays.
pub(super) fn holds_statistics(path: &Path) -> Result<bool> {
    if path.is_dir() {
        return Ok(false);
    }
    let names = array_names(path)?;
    Ok(["mu", "sigma"].iter().all(|name| names.iter().any(|held| held == name)))
}

fn array_names(path: &Path) -> Result<Vec<String>> {
    if !is_safetensors(path) {
        return Ok(Npz::open(path)?.names().to_vec());
    }
    // The header alone: the tensors may take gigabytes.
    let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut header = || -> std::io::Result<Vec<u8>> {
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let mut text = Vec::new();
        let mut rest: Take<&mut File> = file.by_ref().take(u64::from_le_bytes(length));
        rest.read_to_end(&mut text)?;
        Ok(text)
    };
    let bad = |e: &dyn std::fmt::Display| Error::invalid(path, format!("not a safetensors file: {e}"));
    let names: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&header().map_err(|e| bad(&e))?).map_err(|e| bad(&e))?;
    Ok(names.into_keys().filter(|name| name != "__metadata__").collect())
}

/// Images read at a time where a few are picked out.
const PICKED: usize = 1024;

/// A set in a feature space.
#[derive(Clone, Debug)]
pub struct Rows {
    /// [N, D].
    pub features: Features,
    /// [N, D2], where the space has them.
    pub spatial: Option<Features>,
    /// [N, C], of the space's own classes.
    pub probabilities: Option<Features>,
    /// Class each image was asked to be of, [N].
    pub labels: Option<Vec<usize>>,
    /// Class a classifier of the data's own classes sees, [N].
    pub predicted: Option<Vec<usize>>,
    /// What was noticed about the set's images.
    pub audit: Audit,
}

impl Rows {
    /// Of a feature file.
    ///
    /// # Errors
    /// As [`FeatureFile::read`].
    pub fn read(path: &Path) -> Result<Self> {
        let FeatureFile { features, spatial, probabilities, labels } = FeatureFile::read(path)?;
        let audit = Audit::of_features(&features);
        Ok(Self { features, spatial, probabilities, labels, predicted: None, audit })
    }
}

/// The images of a file or folder, passed in blocks.
pub struct Images {
    source: Source,
    labels: Option<Vec<usize>>,
}

enum Source {
    File(SampleFile),
    Folder(ImageSet),
}

impl Images {
    /// Opens a sample file, or a folder as `options` say.
    ///
    /// # Errors
    /// As [`SampleFile::open`] and [`open_folder`].
    pub(super) fn open(path: &Path, options: &FolderOptions) -> Result<Self> {
        if path.is_dir() {
            let (set, report) = open_folder(path, options)?;
            // Where images are left out, their numbers no longer tell their labels.
            let whole = report.broken.is_empty();
            let told = if whole { labels_of_folder(path, set.len()) } else { None };
            let labels = told.or_else(|| set.known_labels().map(<[usize]>::to_vec));
            return Ok(Self { source: Source::Folder(set), labels });
        }
        let file = SampleFile::open(path)?;
        let labels = file.labels().map(<[usize]>::to_vec);
        Ok(Self { source: Source::File(file), labels })
    }

    /// Of a set at hand.
    pub fn of(set: ImageSet) -> Self {
        let labels = set.known_labels().map(<[usize]>::to_vec);
        Self { source: Source::Folder(set), labels }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        match &self.source {
            Source::File(file) => file.count(),
            Source::Folder(set) => set.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The images' shape.
    pub fn shape(&self) -> ImageShape {
        match &self.source {
            Source::File(file) => file.shape(),
            Source::Folder(set) => set.shape(),
        }
    }

    pub(super) fn labels(&self) -> Option<&[usize]> {
        self.labels.as_deref()
    }

    /// Some images by their index, u8 [n, C, H, W].
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn pick(&self, wanted: &[usize]) -> Result<Vec<u8>> {
        let (size, mut first) = (self.shape().len(), 0);
        let mut picked = vec![0; wanted.len() * size];
        self.for_each_block(PICKED, |pixels| {
            let block = first..first + pixels.len() / size;
            for (to, &index) in picked.chunks_exact_mut(size).zip(wanted) {
                if block.contains(&index) {
                    to.copy_from_slice(&pixels[(index - first) * size..][..size]);
                }
            }
            first = block.end;
            Ok(())
        })?;
        Ok(picked)
    }

    /// Passes all images in order, u8 [n, C, H, W], and tells how many float values were clipped.
    ///
    /// # Errors
    /// Those of `f`, and what is wrong with the file.
    pub(super) fn for_each_block(
        &self,
        block: usize,
        mut f: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<Clipping> {
        match &self.source {
            Source::File(file) => file.for_each_block(block, f),
            Source::Folder(set) => {
                let all: Vec<usize> = (0..set.len()).collect();
                for indices in all.chunks(block) {
                    f(&set.read(indices)?)?;
                }
                Ok(Clipping::default())
            }
        }
    }
}
