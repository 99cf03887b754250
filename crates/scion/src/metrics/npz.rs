//! NumPy archives (`.npz`): a zip file of `.npy` arrays, stored or deflated.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

pub use super::npy::{Kind, NpyArray, NpyData, NpyStream};
use crate::atomic::AtomicFile;
use crate::error::{Error, Result};
use crate::zip_output::ZipOutput;

/// An open `.npz` file; arrays are read one at a time, on demand.
pub struct Npz {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
    names: Vec<String>,
}

impl Npz {
    /// Opens an archive and lists its arrays.
    ///
    /// # Errors
    /// `Io` if it cannot be opened; `Invalid` if it is not a zip file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        let not_zip = |e: ZipError| Error::invalid(&path, format!("not an .npz (zip) file: {e}"));
        let archive = ZipArchive::new(BufReader::new(file)).map_err(not_zip)?;
        let names = archive
            .file_names()
            .map(|name| name.map(|name| name.strip_suffix(".npy").unwrap_or(&name).to_owned()))
            .collect::<Result<_, _>>()
            .map_err(not_zip)?;
        Ok(Self { path, archive, names })
    }

    /// Names of the arrays, without `.npy`, in file order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Reads one array.
    ///
    /// # Errors
    /// `Invalid`, naming the file and the array, if it is missing (says what there is), damaged, of an
    /// unsupported type, or in Fortran order.
    pub fn array(&mut self, name: &str) -> Result<NpyArray> {
        self.check(name)?;
        let path = &self.path;
        let damaged =
            |e: &dyn std::fmt::Display| Error::invalid(path, format!("array {name} is damaged: {e}"));
        let mut entry = self.archive.by_name(&format!("{name}.npy")).map_err(|e| damaged(&e))?;
        // The stated size may lie, so memory grows only as data arrive; the checksum is verified at the end.
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(|e| damaged(&e))?;
        NpyArray::parse(bytes).map_err(|reason| Error::invalid(path, format!("array {name} is {reason}")))
    }

    /// Whether the archive holds an array of this name.
    pub fn holds(&self, name: &str) -> bool {
        self.names.iter().any(|held| held == name)
    }

    /// Lets `read` take one array in pieces, so that it is never held twice. What `read` calls wrong is put
    /// behind "array NAME is …".
    ///
    /// # Errors
    /// As [`Npz::array`], and those of `read`.
    pub fn stream<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut NpyStream<&mut dyn Read>) -> Result<T, String>,
    ) -> Result<T> {
        self.check(name)?;
        let path = &self.path;
        let wrong = |reason: String| Error::invalid(path, format!("array {name} is {reason}"));
        let mut entry =
            self.archive.by_name(&format!("{name}.npy")).map_err(|e| wrong(format!("damaged: {e}")))?;
        let reader: &mut dyn Read = &mut entry;
        NpyStream::new(reader).and_then(|mut stream| read(&mut stream)).map_err(wrong)
    }
}

impl Npz {
    fn check(&self, name: &str) -> Result<()> {
        if self.holds(name) {
            return Ok(());
        }
        let held = self.names.join(", ");
        Err(Error::invalid(&self.path, format!("no array {name}; it holds {held}")))
    }
}

/// How an archive's arrays are kept; NumPy reads both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As `numpy.savez_compressed`.
    Deflated,
    /// As `numpy.savez`: for values that do not compress.
    Stored,
}

/// Writes arrays as a deflated `.npz` file: under a temporary name, synced, then renamed.
///
/// # Errors
/// `Usage` if an array's shape does not fit its values; `Io` if the file cannot be written.
pub fn write_npz(path: &Path, arrays: &[(&str, &NpyArray)]) -> Result<()> {
    write_npz_as(path, arrays, Packing::Deflated)
}

/// As [`write_npz`], packed as told.
///
/// # Errors
/// As [`write_npz`].
pub fn write_npz_as(path: &Path, arrays: &[(&str, &NpyArray)], packing: Packing) -> Result<()> {
    let method = match packing {
        Packing::Deflated => CompressionMethod::Deflated,
        Packing::Stored => CompressionMethod::Stored,
    };
    let write_error = |e: std::io::Error| Error::io("write", path, e);
    let mut archive = ZipWriter::new(ZipOutput::new(BufWriter::new(AtomicFile::create(path)?)));
    for (name, array) in arrays {
        let bytes = array.to_bytes().map_err(|e| Error::Usage(format!("cannot write array {name}: {e}")))?;
        let options = SimpleFileOptions::default()
            .compression_method(method)
            // Without this an entry above 4 GiB would fail after being written.
            .large_file(bytes.len() as u64 > u64::from(u32::MAX / 2));
        archive.start_file(format!("{name}.npy"), options).map_err(|e| write_error(e.into()))?;
        archive.write_all(&bytes).map_err(write_error)?;
    }
    let buffer = archive.finish().map_err(|e| write_error(e.into()))?;
    buffer.into_inner().into_inner().map_err(|e| write_error(e.into_error()))?.commit()
}

#[cfg(test)]
pub(super) mod tests {
    use half::f16;

    use super::super::Features;
    use super::*;

    pub const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/metrics");

    /// The two feature sets of a case of `scripts/fixtures/metrics.py`.
    pub fn fixture_features(case: &str) -> [Features; 2] {
        let mut npz = Npz::open(Path::new(FIXTURES).join(format!("{case}.npz"))).unwrap();
        ["x", "y"].map(|name| match npz.array(name).unwrap() {
            NpyArray { shape, data: NpyData::F32(data) } => Features::new(shape[1], data).unwrap(),
            other => panic!("{case}: {}", other.data.kind()),
        })
    }

    /// What NumPy, SciPy or mpmath computed for it.
    pub fn expected(case: &str, quantity: &str) -> f64 {
        let text = std::fs::read_to_string(Path::new(FIXTURES).join("expected.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()[case][quantity].as_f64().unwrap()
    }

    fn kinds() -> Vec<(&'static str, NpyArray)> {
        let array = |shape: &[usize], data| NpyArray { shape: shape.to_vec(), data };
        vec![
            ("u8", array(&[1, 2, 3], NpyData::U8((0..6).collect()))),
            ("f16", array(&[3], NpyData::F16([0.5, -2.0, 65504.0].map(f16::from_f32).to_vec()))),
            ("f32", array(&[2, 1], NpyData::F32(vec![1.5, -3.25]))),
            ("f64", array(&[], NpyData::F64(vec![std::f64::consts::PI]))),
            ("i64", array(&[2], NpyData::I64(vec![i64::MIN, i64::MAX]))),
            ("empty", array(&[0, 4], NpyData::F32(vec![]))),
        ]
    }

    #[test]
    fn archives_by_numpy_and_by_us_read_alike() {
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().join("ours.npz");
        let kinds = kinds();
        let stored = dir.path().join("stored.npz");
        let arrays: Vec<_> = kinds.iter().map(|(name, array)| (*name, array)).collect();
        write_npz(&ours, &arrays).unwrap();
        write_npz_as(&stored, &arrays, Packing::Stored).unwrap();
        let fixture = |name| Path::new(FIXTURES).join(name);
        for path in [ours, stored, fixture("kinds-stored.npz"), fixture("kinds-deflated.npz")] {
            let mut npz = Npz::open(&path).unwrap();
            assert_eq!(npz.names().len(), kinds.len());
            for (name, array) in &kinds {
                assert_eq!(&npz.array(name).unwrap(), array, "{name} of {}", path.display());
            }
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file is left");
    }

    /// What NumPy itself would have written is what NumPy reads.
    #[test]
    fn our_arrays_are_numpys_byte_by_byte() {
        let dir = tempfile::tempdir().unwrap();
        let kinds = kinds();
        let arrays: Vec<_> = kinds.iter().map(|(name, array)| (*name, array)).collect();
        for (packing, theirs) in
            [(Packing::Stored, "kinds-stored.npz"), (Packing::Deflated, "kinds-deflated.npz")]
        {
            let ours = dir.path().join(theirs);
            write_npz_as(&ours, &arrays, packing).unwrap();
            let open = |path: &Path| ZipArchive::new(File::open(path).unwrap()).unwrap();
            let (mut ours, mut theirs) = (open(&ours), open(&Path::new(FIXTURES).join(theirs)));
            for (name, _) in &kinds {
                let entry = |archive: &mut ZipArchive<File>| {
                    let mut entry = archive.by_name(&format!("{name}.npy")).unwrap();
                    let mut bytes = Vec::new();
                    entry.read_to_end(&mut bytes).unwrap();
                    (entry.compression(), bytes)
                };
                assert_eq!(entry(&mut ours), entry(&mut theirs), "{name}");
            }
        }
    }

    #[test]
    fn bad_archives_are_explained() {
        let message =
            |path: &Path, name| Npz::open(path).and_then(|mut npz| npz.array(name)).unwrap_err().to_string();
        let stored = Path::new(FIXTURES).join("kinds-stored.npz");
        assert!(message(&stored, "mu").ends_with("no array mu; it holds u8, f16, f32, f64, i64, empty"));
        let fortran = Path::new(FIXTURES).join("fortran.npz");
        assert!(message(&fortran, "arr_0").contains("array arr_0 is in Fortran (column-major) order"));
        assert!(message(Path::new("absent.npz"), "x").starts_with("cannot open absent.npz"));

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bad.npz");
        std::fs::write(&path, "not a zip").unwrap();
        assert!(message(&path, "x").contains("not an .npz (zip) file"));
        let mut bytes = std::fs::read(&stored).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(message(&path, "x").contains("not an .npz (zip) file"));
        // One flipped bit in the first array's values: the checksum notices.
        let data = bytes.windows(6).position(|w| w == [0, 1, 2, 3, 4, 5]).unwrap();
        bytes[data] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(message(&path, "u8").contains("array u8 is damaged"), "{}", message(&path, "u8"));
        let streamed = |name| {
            let mut npz = Npz::open(&path).unwrap();
            npz.stream(name, |values| values.next_f32(100)).unwrap_err().to_string()
        };
        assert!(streamed("u8").contains("array u8 is damaged"), "{}", streamed("u8"));
        assert!(streamed("mu").ends_with("no array mu; it holds u8, f16, f32, f64, i64, empty"));
    }

    #[test]
    fn failed_writes_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let bad = NpyArray { shape: vec![2], data: NpyData::U8(vec![1]) };
        assert!(write_npz(&dir.path().join("x.npz"), &[("x", &bad)]).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(write_npz(&dir.path().join("absent/x.npz"), &[]).is_err());
    }
}
