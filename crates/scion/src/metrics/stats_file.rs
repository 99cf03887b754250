//! Reference files: the mean and covariance of a data set's features, so that they need not be computed again.
//!
//! Three programs' files are one layout. ADM's reference batches (openai/guided-diffusion `evaluations/`) hold
//! `mu`, `sigma` of the pooled features and `mu_s`, `sigma_s` of the spatial ones, beside images in `arr_0`;
//! pytorch-fid's hold `mu` and `sigma`. Ours hold these names too, and the number of rows in `count`, in `.npz`
//! or `.safetensors`.

use std::fs;
use std::path::Path;

use half::f16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::feature_file::is_safetensors;
use super::gaussian::Moments;
use super::npz::{NpyArray, NpyData, Npz, Packing, write_npz_as};
use crate::atomic;
use crate::error::{Error, Result};

/// The moments of a reference file.
#[derive(Clone, Debug)]
pub struct StatsFile {
    /// Of the features, from `mu` [D] and `sigma` [D, D].
    pub features: Moments,
    /// Of the spatial features, from `mu_s` [D2] and `sigma_s` [D2, D2].
    pub spatial: Option<Moments>,
}

/// Shape and values of one array.
type Array = (Vec<usize>, Vec<f64>);

impl StatsFile {
    /// Reads an `.npz` file or, by extension, a `.safetensors` file. Other arrays are ignored.
    ///
    /// # Errors
    /// `Io` or `Invalid`, naming the file and the array: missing, a wrong type or shape, a value that is not
    /// finite, a matrix that is no covariance.
    pub fn read(path: &Path) -> Result<Self> {
        if is_safetensors(path) {
            let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
            let file = SafeTensors::deserialize(&bytes)
                .map_err(|e| Error::invalid(path, format!("not a safetensors file: {e}")))?;
            return Self::assemble(
                path,
                |name| file.names().contains(&name),
                |name| tensor(path, &file, name),
            );
        }
        let names = Npz::open(path)?.names().to_vec();
        let holds = |name: &str| names.iter().any(|held| held == name);
        Self::assemble(path, holds, |name| array(path, name))
    }

    fn assemble(
        path: &Path,
        holds: impl Fn(&str) -> bool,
        read: impl Fn(&str) -> Result<Array>,
    ) -> Result<Self> {
        let count = match holds("count") {
            true => read("count")?.1.first().map(|&count| count as usize),
            false => None,
        };
        let moments = |mean: &str, covariance: &str| {
            let ((mean_shape, mu), (shape, sigma)) = (read(mean)?, read(covariance)?);
            let d = mu.len();
            if mean_shape != [d] || shape != [d, d] {
                let detail = format!(
                    "{mean} has shape {mean_shape:?} and {covariance} {shape:?}, expected [D] and [D, D]"
                );
                return Err(Error::invalid(path, detail));
            }
            Moments::new(count, mu, &sigma).map_err(|e| Error::invalid(path, format!("{covariance}: {e}")))
        };
        let spatial = if holds("mu_s") { Some(moments("mu_s", "sigma_s")?) } else { None };
        Ok(Self { features: moments("mu", "sigma")?, spatial })
    }

    /// Writes f64 arrays as `.npz` or, by extension, `.safetensors`. The file is whole or absent.
    ///
    /// # Errors
    /// `Io` if it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut arrays = vec![];
        let sides = [("mu", "sigma", Some(&self.features)), ("mu_s", "sigma_s", self.spatial.as_ref())];
        for (mean, covariance, moments) in sides {
            let Some(moments) = moments else { continue };
            let d = moments.dim();
            let rows = moments.covariance();
            let sigma = (0..d * d).map(|i| rows[(i / d, i % d)]).collect();
            arrays.push((mean, vec![d], NpyData::F64(moments.mean().to_vec())));
            arrays.push((covariance, vec![d, d], NpyData::F64(sigma)));
        }
        if let Some(count) = self.features.count() {
            arrays.push(("count", vec![], NpyData::I64(vec![count as i64])));
        }
        match is_safetensors(path) {
            true => write_safetensors(path, &arrays),
            false => {
                let arrays: Vec<_> =
                    arrays.into_iter().map(|(name, shape, data)| (name, NpyArray { shape, data })).collect();
                let arrays: Vec<_> = arrays.iter().map(|(name, array)| (*name, array)).collect();
                // Covariances do not compress.
                write_npz_as(path, &arrays, Packing::Stored)
            }
        }
    }
}

fn write_safetensors(path: &Path, arrays: &[(&str, Vec<usize>, NpyData)]) -> Result<()> {
    let bytes: Vec<Vec<u8>> = arrays.iter().map(|(_, _, data)| data.to_bytes()).collect();
    let views = arrays.iter().zip(&bytes).map(|((name, shape, data), bytes)| {
        let dtype = if matches!(data, NpyData::I64(_)) { Dtype::I64 } else { Dtype::F64 };
        let view = TensorView::new(dtype, shape.clone(), bytes).expect("as many bytes as the shape says");
        (*name, view)
    });
    let file = safetensors::serialize(views, None).expect("names and shapes are plain");
    atomic::write(path, &file)
}

fn array(path: &Path, name: &str) -> Result<Array> {
    let NpyArray { shape, data } = Npz::open(path)?.array(name)?;
    let values = match data {
        NpyData::F64(values) => values,
        NpyData::F32(values) => values.into_iter().map(f64::from).collect(),
        NpyData::F16(values) => values.into_iter().map(f64::from).collect(),
        NpyData::I64(values) if name == "count" => values.into_iter().map(|v| v as f64).collect(),
        other => {
            return Err(Error::invalid(
                path,
                format!("{name} is {}, expected f16, f32 or f64", other.kind()),
            ));
        }
    };
    Ok((shape, values))
}

fn tensor(path: &Path, file: &SafeTensors<'_>, name: &str) -> Result<Array> {
    let tensor = file.tensor(name).map_err(|_| {
        let held = file.names().into_iter().map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
        Error::invalid(path, format!("no tensor {name}; it holds {held}"))
    })?;
    let raw = tensor.data();
    let values = match tensor.dtype() {
        Dtype::F64 => raw.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        Dtype::F32 => raw.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        Dtype::F16 => raw.as_chunks().0.iter().map(|b| f64::from(f16::from_le_bytes(*b))).collect(),
        Dtype::I64 if name == "count" => {
            raw.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect()
        }
        other => return Err(Error::invalid(path, format!("{name} is {other:?}, expected F16, F32 or F64"))),
    };
    Ok((tensor.shape().to_vec(), values))
}

#[cfg(test)]
mod tests {
    use super::super::frechet::frechet_distance;
    use super::super::npz::tests::{FIXTURES, expected, fixture_features};
    use super::*;

    /// `stats-*.npz` hold what `numpy.cov` says of the "relu" fixture's second set (`scripts/fixtures/metrics.py`).
    #[test]
    fn files_of_numpy_are_read() {
        let [x, _] = fixture_features("relu");
        let samples = Moments::of(&x).unwrap();
        for (name, tolerance) in
            [("stats-adm.npz", 1e-9), ("stats-pytorch-fid.npz", 1e-9), ("stats-f32.npz", 1e-5)]
        {
            let file = StatsFile::read(&Path::new(FIXTURES).join(name)).unwrap();
            assert_eq!(file.features.count(), None);
            assert_eq!(file.spatial.is_some(), name == "stats-adm.npz");
            let found = frechet_distance(&samples, &file.features).unwrap();
            let exact = expected("relu", "frechet");
            assert!((found / exact - 1.0).abs() < tolerance, "{name}: {found}, exactly {exact}");
        }
    }

    #[test]
    fn our_files_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let [x, y] = fixture_features("random");
        let file = StatsFile { features: Moments::of(&x).unwrap(), spatial: Some(Moments::of(&y).unwrap()) };
        for name in ["stats.npz", "stats.safetensors"] {
            let path = dir.path().join(name);
            file.write(&path).unwrap();
            let back = StatsFile::read(&path).unwrap();
            let sides = [
                (&file.features, &back.features),
                (file.spatial.as_ref().unwrap(), back.spatial.as_ref().unwrap()),
            ];
            for (ours, theirs) in sides {
                assert_eq!(ours.mean(), theirs.mean());
                assert_eq!(ours.covariance(), theirs.covariance());
                assert_eq!(theirs.count(), Some(x.len()));
            }
        }
    }

    #[test]
    fn bad_files_are_explained() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats.npz");
        let message = |mean: &[f64], shape: &[usize], sigma: NpyData| {
            let mu = NpyArray { shape: vec![mean.len()], data: NpyData::F64(mean.to_vec()) };
            let sigma = NpyArray { shape: shape.to_vec(), data: sigma };
            write_npz_as(&path, &[("mu", &mu), ("sigma", &sigma)], Packing::Deflated).unwrap();
            StatsFile::read(&path).unwrap_err().to_string()
        };
        let flat = message(&[0.0; 2], &[4], NpyData::F64(vec![0.0; 4]));
        assert!(flat.contains("stats.npz: mu has shape [2] and sigma [4]"), "{flat}");
        let bytes = message(&[0.0], &[1, 1], NpyData::U8(vec![1]));
        assert!(bytes.contains("sigma is u8"), "{bytes}");
        let nan = message(&[0.0], &[1, 1], NpyData::F32(vec![f32::NAN]));
        assert!(nan.contains("not finite"), "{nan}");
        write_npz_as(&path, &[], Packing::Stored).unwrap();
        assert!(StatsFile::read(&path).unwrap_err().to_string().contains("no array mu"));
    }
}
