//! Feature rows, one an image.

use std::path::Path;

use super::npy::{NpyArray, NpyData};
use super::npz::write_npz;
use crate::error::{Error, Result};

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
                "{} feature values are not rows of {d} dimensions",
                data.len()
            )));
        }
        if let Some(i) = data.iter().position(|v| !v.is_finite()) {
            let (row, column) = (i / d, i % d);
            return Err(Error::Usage(format!("feature row {row}, column {column} is {}", data[i])));
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

    /// The chosen rows, in the order given.
    ///
    /// # Panics
    /// If an index is not below `len()`.
    pub fn select(&self, rows: &[usize]) -> Self {
        let data = rows.iter().flat_map(|&i| self.row(i)).copied().collect();
        Self { n: rows.len(), d: self.d, data }
    }

    /// Reads `features` [N, D] of a feature file, as [`super::FeatureFile::read`].
    ///
    /// # Errors
    /// `Io` or `Invalid`, naming the file and what it holds instead.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(super::FeatureFile::read(path)?.features)
    }

    /// Writes an `.npz` file with `features`, f32 [N, D]. The file is whole or absent.
    ///
    /// # Errors
    /// `Io` if it cannot be written.
    pub fn write_npz(&self, path: &Path) -> Result<()> {
        let array = NpyArray { shape: vec![self.n, self.d], data: NpyData::F32(self.data.clone()) };
        write_npz(path, &[("features", &array)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ragged_rows_are_refused() {
        assert!(Features::new(2, vec![0.0; 3]).is_err());
        assert!(Features::new(0, vec![]).is_err());
        let nan = Features::new(2, vec![0.0, 0.0, 0.0, f32::NAN]).unwrap_err().to_string();
        assert!(nan.contains("row 1, column 1 is NaN"), "{nan}");
    }

    #[test]
    fn rows_are_selected_in_order() {
        let features = Features::new(2, vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert_eq!(features.select(&[2, 0]).as_slice(), [4.0, 5.0, 0.0, 1.0]);
    }
}
