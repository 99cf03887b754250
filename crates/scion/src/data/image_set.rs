//! A labelled set of 8-bit images, in memory or decoded from files on demand.

use std::path::PathBuf;

use rayon::prelude::*;

use super::folder::Decoder;
use crate::error::{Error, Result};

/// The size of one image; pixels are laid out [C, H, W].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

impl ImageShape {
    /// Bytes in one image: C·H·W.
    pub fn len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Whether an image has no pixels.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Display for ImageShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}, {}, {}]", self.channels, self.height, self.width)
    }
}

/// The class name of images without labels.
pub const UNLABELLED: &str = "unlabelled";

/// Where each image of a set came from.
#[derive(Clone, Debug)]
pub enum Origins {
    /// Rows of one array or archive: `rows[i]` is image i's place in `source`.
    Rows { source: String, rows: Vec<usize> },
    /// One file an image.
    Files(Vec<PathBuf>),
}

#[derive(Clone, Debug)]
enum Pixels {
    /// All images, [N, C, H, W].
    Memory(Vec<u8>),
    /// Decoded and cropped from `Origins::Files` each time they are read.
    Files(Decoder),
}

/// Labelled images: u8 [N, C, H, W], a class index each, class names, and origins.
#[derive(Clone, Debug)]
pub struct ImageSet {
    shape: ImageShape,
    pixels: Pixels,
    labels: Vec<usize>,
    class_names: Vec<String>,
    origins: Origins,
}

impl ImageSet {
    /// The labels, where the images have any.
    pub fn known_labels(&self) -> Option<&[usize]> {
        (self.class_names != [UNLABELLED]).then_some(&self.labels[..])
    }

    /// A set held in memory. `pixels` is [N, C, H, W], `labels` [N], each below `class_names.len()`.
    ///
    /// # Errors
    /// `Usage` if the lengths disagree, a label has no name, or the channel count is neither 1 nor 3.
    pub fn from_memory(
        shape: ImageShape,
        pixels: Vec<u8>,
        labels: Vec<usize>,
        class_names: Vec<String>,
        origins: Origins,
    ) -> Result<Self> {
        check(shape, &labels, &class_names, &origins)?;
        if pixels.len() != labels.len() * shape.len() {
            return Err(Error::Usage(format!(
                "image set: {} pixel bytes for {} images of shape {shape}, expected {}",
                pixels.len(),
                labels.len(),
                labels.len() * shape.len()
            )));
        }
        Ok(Self { shape, pixels: Pixels::Memory(pixels), labels, class_names, origins })
    }

    /// A set whose images stay in their files until they are read.
    pub(super) fn from_files(
        decoder: Decoder,
        paths: Vec<PathBuf>,
        labels: Vec<usize>,
        class_names: Vec<String>,
    ) -> Result<Self> {
        let shape = decoder.shape();
        let origins = Origins::Files(paths);
        check(shape, &labels, &class_names, &origins)?;
        Ok(Self { shape, pixels: Pixels::Files(decoder), labels, class_names, origins })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether the set has no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The shape of every image.
    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    /// Class index of each image, [N].
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// Class names; a label is an index into them.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// All pixels, [N, C, H, W], if the set is held in memory.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match &self.pixels {
            Pixels::Memory(bytes) => Some(bytes),
            Pixels::Files(_) => None,
        }
    }

    /// Where image `index` came from, for messages: a path, or "SOURCE, image ROW".
    ///
    /// # Panics
    /// If `index` is not below `len()`.
    pub fn origin(&self, index: usize) -> String {
        match &self.origins {
            Origins::Rows { source, rows } => format!("{source}, image {}", rows[index]),
            Origins::Files(paths) => paths[index].display().to_string(),
        }
    }

    /// The chosen images, u8 [indices.len(), C, H, W], decoded in parallel where they are files.
    ///
    /// # Errors
    /// `Usage` for an index outside the set; `Io` or `Invalid`, naming the file, if one cannot be decoded.
    pub fn read(&self, indices: &[usize]) -> Result<Vec<u8>> {
        self.check_indices(indices)?;
        let mut out = vec![0u8; indices.len() * self.shape.len()];
        let slots = out.chunks_exact_mut(self.shape.len());
        match (&self.pixels, &self.origins) {
            (Pixels::Files(decoder), Origins::Files(paths)) => {
                let work: Vec<_> = slots.zip(indices).collect();
                work.into_par_iter().try_for_each(|(slot, &i)| {
                    slot.copy_from_slice(&decoder.decode(&paths[i])?);
                    Ok::<(), Error>(())
                })?;
            }
            (Pixels::Memory(bytes), _) => {
                for (slot, &i) in slots.zip(indices) {
                    slot.copy_from_slice(&bytes[i * self.shape.len()..][..self.shape.len()]);
                }
            }
            (Pixels::Files(_), Origins::Rows { .. }) => unreachable!("files are built with their paths"),
        }
        Ok(out)
    }

    /// The same images, held in memory: decodes every file once.
    ///
    /// # Errors
    /// As [`ImageSet::read`].
    pub fn into_memory(self) -> Result<Self> {
        if self.as_bytes().is_some() {
            return Ok(self);
        }
        let all: Vec<usize> = (0..self.len()).collect();
        let pixels = Pixels::Memory(self.read(&all)?);
        Ok(Self { pixels, ..self })
    }

    /// The chosen images as a set of their own; class names are kept even where no image is left.
    ///
    /// # Errors
    /// `Usage` for an index outside the set.
    pub fn subset(&self, indices: &[usize]) -> Result<Self> {
        self.check_indices(indices)?;
        let pixels = match &self.pixels {
            Pixels::Memory(_) => Pixels::Memory(self.read(indices)?),
            Pixels::Files(decoder) => Pixels::Files(*decoder),
        };
        let origins = match &self.origins {
            Origins::Rows { source, rows } => {
                Origins::Rows { source: source.clone(), rows: indices.iter().map(|&i| rows[i]).collect() }
            }
            Origins::Files(paths) => Origins::Files(indices.iter().map(|&i| paths[i].clone()).collect()),
        };
        let labels = indices.iter().map(|&i| self.labels[i]).collect();
        Ok(Self { shape: self.shape, pixels, labels, class_names: self.class_names.clone(), origins })
    }

    fn check_indices(&self, indices: &[usize]) -> Result<()> {
        match indices.iter().find(|&&i| i >= self.len()) {
            Some(i) => Err(Error::Usage(format!(
                "image set: image {i} asked for, but it holds {} images",
                self.len()
            ))),
            None => Ok(()),
        }
    }
}

/// 8-bit pixels to [-1, 1]: x / 127.5 - 1, element by element.
pub fn to_unit(pixels: &[u8]) -> Vec<f32> {
    pixels.iter().map(|&p| f32::from(p) / 127.5 - 1.0).collect()
}

/// [-1, 1] to 8-bit pixels: floor(127.5·x + 128), clamped (DiT `sample_ddp.py`); NaN becomes 0.
///
/// Inverts [`to_unit`] exactly.
pub fn from_unit(values: &[f32]) -> Vec<u8> {
    values.iter().map(|&v| (127.5 * v + 128.0).clamp(0.0, 255.0) as u8).collect()
}

fn check(shape: ImageShape, labels: &[usize], class_names: &[String], origins: &Origins) -> Result<()> {
    let origin_count = match origins {
        Origins::Rows { rows, .. } => rows.len(),
        Origins::Files(paths) => paths.len(),
    };
    let usage = |detail: String| Err(Error::Usage(format!("image set: {detail}")));
    if shape.is_empty() || !matches!(shape.channels, 1 | 3) {
        return usage(format!("shape {shape}, expected 1 or 3 channels and at least one pixel"));
    }
    if origin_count != labels.len() {
        return usage(format!("{} labels for {origin_count} images", labels.len()));
    }
    match labels.iter().position(|&label| label >= class_names.len()) {
        Some(i) => usage(format!("image {i} has label {}, expected below {}", labels[i], class_names.len())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> ImageSet {
        let shape = ImageShape { channels: 1, height: 1, width: 2 };
        let origins = Origins::Rows { source: "test".into(), rows: vec![0, 1, 2] };
        ImageSet::from_memory(
            shape,
            vec![0, 1, 2, 3, 4, 5],
            vec![0, 1, 0],
            vec!["a".into(), "b".into()],
            origins,
        )
        .unwrap()
    }

    #[test]
    fn unit_range_round_trips_every_level() {
        let levels: Vec<u8> = (0..=255).collect();
        let unit = to_unit(&levels);
        assert_eq!((unit[0], unit[255]), (-1.0, 1.0));
        assert_eq!(from_unit(&unit), levels);
        assert_eq!(from_unit(&[-3.0, 3.0, f32::NAN]), [0, 255, 0]);
    }

    #[test]
    fn subsets_keep_pixels_labels_and_origins_together() {
        let set = tiny().subset(&[2, 1]).unwrap();
        assert_eq!(set.as_bytes().unwrap(), [4, 5, 2, 3]);
        assert_eq!(set.labels(), [0, 1]);
        assert_eq!(set.origin(0), "test, image 2");
        assert_eq!(set.read(&[1]).unwrap(), [2, 3]);
        assert!(set.read(&[2]).unwrap_err().to_string().contains("holds 2 images"));
    }

    #[test]
    fn inconsistent_parts_are_refused() {
        let shape = ImageShape { channels: 1, height: 1, width: 2 };
        let build = |bytes: usize, label: usize, channels: usize| {
            let origins = Origins::Rows { source: "test".into(), rows: vec![0] };
            let shape = ImageShape { channels, ..shape };
            ImageSet::from_memory(shape, vec![0; bytes], vec![label], vec!["a".into()], origins)
        };
        assert!(build(2, 0, 1).is_ok());
        assert!(build(3, 0, 1).unwrap_err().to_string().contains("3 pixel bytes"));
        assert!(build(2, 1, 1).unwrap_err().to_string().contains("label 1"));
        assert!(build(4, 0, 2).unwrap_err().to_string().contains("1 or 3 channels"));
    }
}
