use std::path::Path;
use std::sync::Arc;

use super::image_set::ImageShape;
use crate::checkpoint::{Checkpoint, Precision, Read, TensorSource, write_safetensors};
use crate::error::{Error, Result};

/// Latents that a model drew, as it made them: scaled, and one of each. They stay on disk until they are read.
#[derive(Clone, Debug)]
pub struct DrawnLatents {
    shape: ImageShape,
    /// Read when they are asked for.
    file: Arc<Checkpoint>,
    /// Places in the file.
    rows: Vec<usize>,
    labels: Vec<usize>,
    class_names: Vec<String>,
}

/// What reads some of the latents' bytes.
pub type Piece<'a> = Box<dyn Fn() -> Result<Vec<u8>> + 'a>;

/// The tensor, and the field of the metadata, of a file of drawn latents.
const LATENTS: &str = "latents";
const LABELS: &str = "labels";

impl DrawnLatents {
    /// Writes a file: `latents`, f32 [N, C, h, w], and their labels as a JSON list in the metadata. The pieces are the values'
    /// bytes, little-endian, read one at a time.
    ///
    /// # Errors
    /// Those of the pieces; `Tensors` if there are not as many values as the labels and the shape ask for; `Io` if the file
    /// cannot be written.
    pub fn write<'a>(
        path: &Path,
        pieces: impl IntoIterator<Item = Piece<'a>>,
        shape: ImageShape,
        labels: &[usize],
    ) -> Result<()> {
        let values = |piece: Piece<'a>| -> Read<'a> {
            Box::new(move || {
                Ok(piece()?.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect())
            })
        };
        let tensor = TensorSource::in_pieces(
            LATENTS.into(),
            vec![labels.len(), shape.channels, shape.height, shape.width],
            pieces.into_iter().map(values).collect(),
        );
        let metadata = [(LABELS.into(), serde_json::json!(labels).to_string())].into();
        write_safetensors(path, &[tensor], Precision::F32, &metadata)
    }

    /// Opens such a file; classes are named by their numbers.
    ///
    /// # Errors
    /// `Io`, `Invalid` or `Tensors`, naming the file, if it cannot be read or holds something else.
    pub fn open(path: &Path) -> Result<Self> {
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
            file: Arc::new(file),
            rows: (0..count).collect(),
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
        let rows = self.places(indices)?;
        let labels = indices.iter().map(|&i| self.labels[i]).collect();
        Ok(Self { rows, labels, ..self.clone() })
    }

    /// The chosen latents, [indices.len(), C, h, w].
    ///
    /// # Errors
    /// `Usage` for an index outside the set; `Io` if the file cannot be read.
    pub fn values(&self, indices: &[usize]) -> Result<Vec<f32>> {
        self.file.read_rows(LATENTS, &self.places(indices)?)
    }

    /// Places in the file.
    fn places(&self, indices: &[usize]) -> Result<Vec<usize>> {
        if let Some(i) = indices.iter().find(|&&i| i >= self.labels.len()) {
            let detail = format!("latents: latent {i} asked for, but there are {}", self.labels.len());
            return Err(Error::Usage(detail));
        }
        Ok(indices.iter().map(|&i| self.rows[i]).collect())
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
        let piece = |range: std::ops::Range<usize>| -> Piece {
            let bytes = bytes[range].to_vec();
            Box::new(move || Ok(bytes.clone()))
        };
        DrawnLatents::write(&path, [piece(0..32), piece(32..96)], shape, &[2, 0, 1]).unwrap();
        let set = DrawnLatents::open(&path).unwrap();
        assert_eq!((set.shape(), set.labels(), set.class_names().len()), (shape, &[2, 0, 1][..], 3));
        let few = set.subset(&[2, 0]).unwrap();
        assert_eq!((few.labels(), &few.values(&[1]).unwrap()[..2]), (&[1, 2][..], &[0.0, 1.0][..]));
        assert_eq!(set.values(&[2, 0]).unwrap()[..2], [16.0, 17.0]);
        assert!(few.values(&[2]).unwrap_err().to_string().contains("latent 2"));
        let short = DrawnLatents::write(&path, [piece(4..96)], shape, &[2, 0, 1]).unwrap_err().to_string();
        assert!(short.contains("`latents` of shape [3, 4, 1, 2] came with 23 elements"), "{short}");
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.safetensors");
        let written = |name: &str, shape: Vec<usize>, labels: &str| {
            let tensor = TensorSource::new(name.into(), shape, || Ok(vec![0.0; 4]));
            let metadata = [("labels".to_string(), labels.to_string())].into();
            write_safetensors(&path, &[tensor], Precision::F32, &metadata).unwrap();
            DrawnLatents::open(&path).unwrap_err().to_string()
        };
        assert!(written("x", vec![1, 4, 1, 1], "[0]").contains("holds latents []"));
        assert!(written("latents", vec![4], "[0]").contains("holds latents [4]"));
        assert!(written("latents", vec![1, 4, 1, 1], "[0, 1]").contains("2 labels for 1 latents"));
        assert!(written("latents", vec![1, 4, 1, 1], "").contains("labels in its header cannot be read"));
    }
}
