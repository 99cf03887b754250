use std::path::Path;

use super::image_set::ImageShape;
use crate::checkpoint::{Checkpoint, Precision, TensorSource, write_safetensors};
use crate::error::{Error, Result};

/// Latents that a model drew, as it made them: scaled, and one of each.
#[derive(Clone, Debug)]
pub struct DrawnLatents {
    shape: ImageShape,
    /// [N, C, h, w].
    values: Vec<f32>,
    labels: Vec<usize>,
    class_names: Vec<String>,
}

/// The tensor, and the field of the metadata, of a file of drawn latents.
const LATENTS: &str = "latents";
const LABELS: &str = "labels";

impl DrawnLatents {
    /// Writes a file: `latents`, f32 [N, C, h, w], and their labels as a JSON list in the metadata. `bytes` are the values,
    /// little-endian.
    ///
    /// # Errors
    /// `Usage` if there are not as many values as the labels and the shape ask for; `Io` if the file cannot be written.
    pub fn write(path: &Path, bytes: &[u8], shape: ImageShape, labels: &[usize]) -> Result<()> {
        if bytes.len() != labels.len() * shape.len() * size_of::<f32>() {
            let (found, count) = (bytes.len(), labels.len());
            return Err(Error::Usage(format!(
                "latents: {found} bytes are not {count} latents of shape {shape}"
            )));
        }
        let values = || Ok(bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect());
        let tensor = TensorSource::new(
            LATENTS.into(),
            vec![labels.len(), shape.channels, shape.height, shape.width],
            values,
        );
        let metadata = [(LABELS.into(), serde_json::json!(labels).to_string())].into();
        write_safetensors(path, &[tensor], Precision::F32, &metadata)
    }

    /// Reads such a file; classes are named by their numbers.
    ///
    /// # Errors
    /// `Io`, `Invalid` or `Tensors`, naming the file, if it cannot be read or holds something else.
    pub fn read(path: &Path) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let shape = file.entry(LATENTS).map(|entry| entry.shape.clone()).unwrap_or_default();
        let &[count, channels, height, width] = &shape[..] else {
            return Err(Error::invalid(path, format!("holds {LATENTS} {shape:?}; expected [N, C, h, w]")));
        };
        let text = file.metadata().get(LABELS).map_or("", String::as_str);
        let labels: Vec<usize> = serde_json::from_str(text)
            .map_err(|e| Error::invalid(path, format!("{LABELS} in its header cannot be read: {e}")))?;
        if labels.len() != count {
            return Err(Error::invalid(path, format!("has {} labels for {count} latents", labels.len())));
        }
        let classes = labels.iter().max().map_or(0, |last| last + 1);
        Ok(Self {
            shape: ImageShape { channels, height, width },
            values: file.read_f32(LATENTS)?,
            labels,
            class_names: (0..classes).map(|class| class.to_string()).collect(),
        })
    }

    /// The shape of every latent.
    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    /// Class of each latent, [N].
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// Class names; a label is an index into them.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The chosen latents as a set of their own.
    ///
    /// # Errors
    /// `Usage` for an index outside the set.
    pub fn subset(&self, indices: &[usize]) -> Result<Self> {
        let values = self.values(indices)?;
        let labels = indices.iter().map(|&i| self.labels[i]).collect();
        Ok(Self { shape: self.shape, values, labels, class_names: self.class_names.clone() })
    }

    /// The chosen latents, [indices.len(), C, h, w].
    ///
    /// # Errors
    /// `Usage` for an index outside the set.
    pub fn values(&self, indices: &[usize]) -> Result<Vec<f32>> {
        if let Some(i) = indices.iter().find(|&&i| i >= self.labels.len()) {
            let detail = format!("latents: latent {i} asked for, but there are {}", self.labels.len());
            return Err(Error::Usage(detail));
        }
        let len = self.shape.len();
        Ok(indices.iter().flat_map(|&i| &self.values[i * len..(i + 1) * len]).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drawn.safetensors");
        let shape = ImageShape { channels: 4, height: 1, width: 2 };
        let bytes: Vec<u8> = (0..24).flat_map(|i| (i as f32).to_le_bytes()).collect();
        DrawnLatents::write(&path, &bytes, shape, &[2, 0, 1]).unwrap();
        let set = DrawnLatents::read(&path).unwrap();
        assert_eq!((set.shape(), set.labels(), set.class_names().len()), (shape, &[2, 0, 1][..], 3));
        let few = set.subset(&[2, 0]).unwrap();
        assert_eq!((few.labels(), &few.values(&[1]).unwrap()[..2]), (&[1, 2][..], &[0.0, 1.0][..]));
        assert!(few.values(&[2]).unwrap_err().to_string().contains("latent 2"));
        let short = DrawnLatents::write(&path, &bytes[4..], shape, &[2, 0, 1]).unwrap_err().to_string();
        assert!(short.contains("92 bytes are not 3 latents of shape [4, 1, 2]"), "{short}");
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.safetensors");
        let written = |name: &str, shape: Vec<usize>, labels: &str| {
            let tensor = TensorSource::new(name.into(), shape, || Ok(vec![0.0; 4]));
            let metadata = [("labels".to_string(), labels.to_string())].into();
            write_safetensors(&path, &[tensor], Precision::F32, &metadata).unwrap();
            DrawnLatents::read(&path).unwrap_err().to_string()
        };
        assert!(written("x", vec![1, 4, 1, 1], "[0]").contains("holds latents []"));
        assert!(written("latents", vec![4], "[0]").contains("holds latents [4]"));
        assert!(written("latents", vec![1, 4, 1, 1], "[0, 1]").contains("2 labels for 1 latents"));
        assert!(written("latents", vec![1, 4, 1, 1], "").contains("labels in its header cannot be read"));
    }
}
