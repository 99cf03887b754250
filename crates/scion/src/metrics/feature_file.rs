//! Feature files: what an extractor made of a set of images, in `.npz` or `.safetensors`.

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use super::features::Features;
use super::inception_score::softmax;
use super::npz::{Kind, NpyData, Npz};
use crate::error::{Error, Result};

/// The arrays of a feature file.
#[derive(Clone, Debug)]
pub struct FeatureFile {
    /// `features`, [N, D].
    pub features: Features,
    /// `spatial`, [N, D2]: features that keep places apart, for sFID.
    pub spatial: Option<Features>,
    /// `probabilities`, or the softmax of `logits`, [N, C]: of each class, for the Inception Score.
    pub probabilities: Option<Features>,
    /// `labels`, [N]: the class each image was asked to be of.
    pub labels: Option<Vec<usize>>,
}

impl FeatureFile {
    /// Reads an `.npz` file or, by extension, a `.safetensors` file. Values are f16, f32 or f64 (bf16 too in
    /// safetensors) and kept as f32; labels are i64.
    ///
    /// # Errors
    /// `Io` or `Invalid`, naming the file and the array: no `features`, a wrong shape or type, a value that is
    /// not finite, rows that do not match.
    pub fn read(path: &Path) -> Result<Self> {
        match is_safetensors(path) {
            true => {
                let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
                let file = SafeTensors::deserialize(&bytes)
                    .map_err(|e| Error::invalid(path, format!("not a safetensors file: {e}")))?;
                let names = file.names().into_iter().map(|name| name.to_string()).collect();
                Self::assemble(
                    path,
                    names,
                    |name| tensor_rows(path, &file, name),
                    |name| tensor_labels(path, &file, name),
                )
            }
            false => {
                let names = Npz::open(path)?.names().to_vec();
                Self::assemble(path, names, |name| array_rows(path, name), |name| array_labels(path, name))
            }
        }
    }

    fn assemble(
        path: &Path,
        names: Vec<String>,
        rows: impl Fn(&str) -> Result<Features>,
        labels: impl Fn(&str) -> Result<Vec<usize>>,
    ) -> Result<Self> {
        let holds = |name: &str| names.iter().any(|held| held == name);
        if !holds("features") {
            let held = names.join(", ");
            return Err(Error::invalid(path, format!("no array features; it holds {held}")));
        }
        let features = rows("features")?;
        let same_count = |name: &str, count: usize| match count == features.len() {
            true => Ok(()),
            false => {
                let expected = features.len();
                Err(Error::invalid(path, format!("{name} has {count} rows, expected {expected} as features")))
            }
        };
        let optional = |name: &str| -> Result<Option<Features>> {
            let found = if holds(name) { Some(rows(name)?) } else { None };
            found.iter().try_for_each(|found| same_count(name, found.len()))?;
            Ok(found)
        };
        let spatial = optional("spatial")?;
        let probabilities = match optional("probabilities")? {
            Some(given) => Some(given),
            None => optional("logits")?.map(|logits| softmax(&logits)),
        };
        let labels = if holds("labels") { Some(labels("labels")?) } else { None };
        labels.iter().try_for_each(|labels| same_count("labels", labels.len()))?;
        Ok(Self { features, spatial, probabilities, labels })
    }
}

/// Whether a file is one of safetensors, by its name.
pub(crate) fn is_safetensors(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"))
}

fn features(path: &Path, name: &str, shape: &[usize], data: Vec<f32>) -> Result<Features> {
    let [_, d] = shape[..] else {
        return Err(Error::invalid(path, format!("{name} has shape {shape:?}, expected [N, D]")));
    };
    Features::new(d, data).map_err(|e| Error::invalid(path, format!("{name}: {e}")))
}

fn classes(path: &Path, name: &str, values: Vec<i64>) -> Result<Vec<usize>> {
    let negative = |value| Error::invalid(path, format!("{name} holds {value}, expected classes from 0"));
    values.into_iter().map(|value| usize::try_from(value).map_err(|_| negative(value))).collect()
}

/// One array of an `.npz` file, read in pieces: a large one is held once, as f32.
fn array_rows(path: &Path, name: &str) -> Result<Features> {
    let (shape, kind, data) = Npz::open(path)?.stream(name, |values| {
        let floats = matches!(values.kind(), Kind::F16 | Kind::F32 | Kind::F64);
        let data = if floats { values.next_f32(usize::MAX)? } else { Vec::new() };
        Ok((values.shape().to_vec(), values.kind(), data))
    })?;
    if matches!(kind, Kind::U8 | Kind::I64) {
        return Err(Error::invalid(path, format!("{name} is {kind}, expected f16, f32 or f64")));
    }
    features(path, name, &shape, data)
}

fn array_labels(path: &Path, name: &str) -> Result<Vec<usize>> {
    match Npz::open(path)?.array(name)?.data {
        NpyData::I64(values) => classes(path, name, values),
        other => Err(Error::invalid(path, format!("{name} is {}, expected i64", other.kind()))),
    }
}

fn tensor_rows(path: &Path, file: &SafeTensors<'_>, name: &str) -> Result<Features> {
    let tensor = file.tensor(name).map_err(|e| Error::invalid(path, format!("tensor {name}: {e}")))?;
    let raw = tensor.data();
    let data = match tensor.dtype() {
        Dtype::F32 => raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F64 => raw.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        Dtype::F16 => raw.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => raw.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        other => {
            return Err(Error::invalid(path, format!("{name} is {other:?}, expected F16, BF16, F32 or F64")));
        }
    };
    features(path, name, tensor.shape(), data)
}

fn tensor_labels(path: &Path, file: &SafeTensors<'_>, name: &str) -> Result<Vec<usize>> {
    let tensor = file.tensor(name).map_err(|e| Error::invalid(path, format!("tensor {name}: {e}")))?;
    match tensor.dtype() {
        Dtype::I64 => {
            classes(path, name, tensor.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect())
        }
        other => Err(Error::invalid(path, format!("{name} is {other:?}, expected I64"))),
    }
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::super::npz::{NpyArray, write_npz};
    use super::*;

    fn npz(path: &Path, arrays: &[(&str, &[usize], NpyData)]) -> Result<FeatureFile> {
        let arrays: Vec<_> = arrays
            .iter()
            .map(|(name, shape, data)| (*name, NpyArray { shape: shape.to_vec(), data: data.clone() }))
            .collect();
        write_npz(path, &arrays.iter().map(|(name, array)| (*name, array)).collect::<Vec<_>>()).unwrap();
        FeatureFile::read(path)
    }

    #[test]
    fn files_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let features = Features::new(2, vec![0.5, -1.0, 2.0, 3.25]).unwrap();
        let path = dir.path().join("f.npz");
        features.write_npz(&path).unwrap();
        assert_eq!(Features::read(&path).unwrap(), features);

        let bytes: Vec<u8> =
            features.as_slice().iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        let labels: Vec<u8> = [3i64, 0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let path = dir.path().join("f.safetensors");
        let tensors = [
            ("features", TensorView::new(Dtype::F16, vec![2, 2], &bytes).unwrap()),
            ("labels", TensorView::new(Dtype::I64, vec![2], &labels).unwrap()),
        ];
        fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
        let file = FeatureFile::read(&path).unwrap();
        assert_eq!((file.features, file.labels), (features, Some(vec![3, 0])));
    }

    #[test]
    fn optional_arrays_are_read_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.npz");
        let rows = ("features", &[2, 1][..], NpyData::F64(vec![1.0, 2.0]));
        let logits = ("logits", &[2, 2][..], NpyData::F32(vec![0.0, 0.0, 3f32.ln(), 0.0]));
        let spatial = ("spatial", &[2, 3][..], NpyData::F32(vec![1.0; 6]));
        let file = npz(&path, &[rows.clone(), logits, spatial]).unwrap();
        assert_eq!(file.probabilities.unwrap().as_slice(), [0.5, 0.5, 0.75, 0.25]);
        assert_eq!(file.spatial.unwrap().dim(), 3);

        let message = |extra| npz(&path, &[rows.clone(), extra]).unwrap_err().to_string();
        let short = message(("spatial", &[1, 1], NpyData::F32(vec![1.0])));
        assert!(short.contains("spatial has 1 rows, expected 2"), "{short}");
        let negative = message(("labels", &[2], NpyData::I64(vec![0, -1])));
        assert!(negative.contains("labels holds -1"), "{negative}");
        let floats = message(("labels", &[2], NpyData::F32(vec![0.0, 1.0])));
        assert!(floats.contains("labels is f32, expected i64"), "{floats}");
    }

    #[test]
    fn bad_files_say_what_they_hold() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.npz");
        let message =
            |name: &str, shape: &[usize], data| npz(&path, &[(name, shape, data)]).unwrap_err().to_string();
        assert!(message("mu", &[1], NpyData::F32(vec![0.0])).contains("no array features; it holds mu"));
        assert!(message("features", &[1], NpyData::F32(vec![0.0])).contains("shape [1], expected [N, D]"));
        assert!(message("features", &[1, 1], NpyData::U8(vec![0])).contains("is u8, expected f16"));
        let nan = message("features", &[1, 2], NpyData::F32(vec![0.0, f32::NAN]));
        assert!(nan.contains("f.npz") && nan.contains("row 0, column 1 is NaN"), "{nan}");
        // An f64 beyond f32's range would turn into infinity.
        assert!(message("features", &[1, 1], NpyData::F64(vec![1e300])).contains("is inf"));
        let bad = dir.path().join("f.safetensors");
        fs::write(&bad, "short").unwrap();
        assert!(FeatureFile::read(&bad).unwrap_err().to_string().contains("not a safetensors file"));
    }
}
