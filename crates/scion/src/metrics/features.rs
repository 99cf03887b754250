//! Feature rows, one an image, and the files that hold them.

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use super::npy::{NpyArray, NpyData};
use super::npz::{Npz, write_npz};
use crate::error::{Error, Result};

/// The array's name in a feature file.
const NAME: &str = "features";

/// Feature vectors of N images: [N, D], row-major, all finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    n: usize,
    d: usize,
    data: Vec<f32>,
}

impl Features {
    /// `data` is [N, D], row-major.
    ///
    /// # Errors
    /// `Usage` if `d` is 0, the length is not a multiple of `d`, or a value is not finite.
    pub fn new(d: usize, data: Vec<f32>) -> Result<Self> {
        if d == 0 || !data.len().is_multiple_of(d) {
            return Err(Error::Usage(format!(
                "features: {} values are not rows of {d} dimensions",
                data.len()
            )));
        }
        if let Some(i) = data.iter().position(|v| !v.is_finite()) {
            let (row, column) = (i / d, i % d);
            return Err(Error::Usage(format!("features: row {row}, column {column} is {}", data[i])));
        }
        Ok(Self { n: data.len() / d, d, data })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Dimensions of a row.
    pub fn dim(&self) -> usize {
        self.d
    }

    /// All values, [N, D].
    pub fn as_slice(&self) -> &[f32] {
        &self.data
    }

    /// Row `i`, [D].
    ///
    /// # Panics
    /// If `i` is not below `len()`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.d..][..self.d]
    }

    /// Reads `features` [N, D] (f16, f32 or f64; bf16 too in safetensors) from an `.npz` file or, by
    /// extension, a `.safetensors` file. Values are kept as f32.
    ///
    /// # Errors
    /// `Io` or `Invalid`, naming the file and what it holds instead.
    pub fn read(path: &Path) -> Result<Self> {
        let (shape, data) = match path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors")) {
            true => read_safetensors(path)?,
            false => read_npz(path)?,
        };
        let [_, d] = shape[..] else {
            return Err(Error::invalid(path, format!("{NAME} has shape {shape:?}, expected [N, D]")));
        };
        Self::new(d, data).map_err(|e| Error::invalid(path, e.to_string()))
    }

    /// Writes an `.npz` file with `features`, f32 [N, D]. The file is whole or absent.
    ///
    /// # Errors
    /// `Io` if it cannot be written.
    pub fn write_npz(&self, path: &Path) -> Result<()> {
        let array = NpyArray { shape: vec![self.n, self.d], data: NpyData::F32(self.data.clone()) };
        write_npz(path, &[(NAME, &array)])
    }
}

type ShapeAndData = (Vec<usize>, Vec<f32>);

fn read_npz(path: &Path) -> Result<ShapeAndData> {
    let NpyArray { shape, data } = Npz::open(path)?.array(NAME)?;
    let data = match data {
        NpyData::F32(values) => values,
        NpyData::F16(values) => values.into_iter().map(f16::to_f32).collect(),
        NpyData::F64(values) => values.into_iter().map(|v| v as f32).collect(),
        other => {
            return Err(Error::invalid(
                path,
                format!("{NAME} is {}, expected f16, f32 or f64", other.kind()),
            ));
        }
    };
    Ok((shape, data))
}

fn read_safetensors(path: &Path) -> Result<ShapeAndData> {
    let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| Error::invalid(path, format!("not a safetensors file: {e}")))?;
    let tensor = file.tensor(NAME).map_err(|_| {
        let held = file.names().into_iter().map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
        Error::invalid(path, format!("no tensor {NAME}; it holds {held}"))
    })?;
    let raw = tensor.data();
    let data = match tensor.dtype() {
        Dtype::F32 => raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F64 => raw.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        Dtype::F16 => raw.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => raw.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        other => {
            return Err(Error::invalid(path, format!("{NAME} is {other:?}, expected F16, BF16, F32 or F64")));
        }
    };
    Ok((tensor.shape().to_vec(), data))
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    #[test]
    fn files_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let features = Features::new(2, vec![0.5, -1.0, 2.0, 3.25]).unwrap();
        let npz = dir.path().join("f.npz");
        features.write_npz(&npz).unwrap();
        assert_eq!(Features::read(&npz).unwrap(), features);

        let bytes: Vec<u8> =
            features.as_slice().iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F16, vec![2, 2], &bytes).unwrap();
        let path = dir.path().join("f.safetensors");
        fs::write(&path, safetensors::serialize([(NAME, view)], None).unwrap()).unwrap();
        assert_eq!(Features::read(&path).unwrap(), features);
    }

    #[test]
    fn bad_files_say_what_they_hold() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.npz");
        let message = |name, shape: &[usize], data| {
            write_npz(&path, &[(name, &NpyArray { shape: shape.to_vec(), data })]).unwrap();
            Features::read(&path).unwrap_err().to_string()
        };
        assert!(message("mu", &[1], NpyData::F32(vec![0.0])).contains("no array features; it holds mu"));
        assert!(message(NAME, &[1], NpyData::F32(vec![0.0])).contains("shape [1], expected [N, D]"));
        assert!(message(NAME, &[1, 1], NpyData::U8(vec![0])).contains("is u8, expected f16"));
        assert!(message(NAME, &[1, 2], NpyData::F32(vec![0.0, f32::NAN])).contains("row 0, column 1 is NaN"));
        // An f64 beyond f32's range would turn into infinity.
        assert!(message(NAME, &[1, 1], NpyData::F64(vec![1e300])).contains("is inf"));
        let bad = dir.path().join("f.safetensors");
        fs::write(&bad, "short").unwrap();
        assert!(Features::read(&bad).unwrap_err().to_string().contains("not a safetensors file"));
    }

    #[test]
    fn ragged_rows_are_refused() {
        assert!(Features::new(2, vec![0.0; 3]).is_err());
        assert!(Features::new(0, vec![]).is_err());
    }
}
