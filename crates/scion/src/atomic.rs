//! Files that appear under their name whole or not at all.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A file that is written under a temporary name in the same folder until [`AtomicFile::commit`]. Dropped before
/// that, it is removed.
#[derive(Debug)]
pub(crate) struct AtomicFile {
    file: tempfile::NamedTempFile,
    path: PathBuf,
}

impl AtomicFile {
    /// Starts a file that shall become `path`.
    ///
    /// # Errors
    /// `Io` when the folder is missing or cannot be written, `Invalid` when `path` ends in no name.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let name = path
            .file_name()
            .ok_or_else(|| Error::invalid(path, "is not a file name; expected where to write"))?;
        let mut builder = tempfile::Builder::new();
        let prefix = format!(".{}.", name.to_string_lossy());
        builder.prefix(&prefix).suffix(".tmp");
        // Temporary files are private by default; these become ordinary ones, as the process's mask has it.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder_of(path)).map_err(|e| Error::io("create", path, e))?;
        Ok(Self { file, path: path.into() })
    }

    /// Whether a file name is one that a killed process may have left behind.
    pub(crate) fn is_leftover(name: &str) -> bool {
        name.starts_with('.') && name.ends_with(".tmp")
    }

    /// Makes the contents durable and gives the file its name: a kill at any instant leaves the old file or the
    /// new one.
    ///
    /// # Errors
    /// `Io` when the disk refuses it.
    pub(crate) fn commit(self) -> Result<()> {
        let Self { file, path } = self;
        file.as_file().sync_all().map_err(|e| Error::io("sync", &path, e))?;
        file.persist(&path).map_err(|e| Error::io("rename the finished file to", &path, e.error))?;
        sync_folder(&path)
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.as_file_mut().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.as_file_mut().flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.file.as_file_mut().seek(to)
    }
}

/// Writes a file with what `fill` puts into it.
///
/// # Errors
/// Those of `fill`, and `Io` when the disk refuses the file.
pub(crate) fn write_with(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<AtomicFile>) -> Result<()>,
) -> Result<()> {
    let mut writer = BufWriter::with_capacity(1 << 20, AtomicFile::create(path)?);
    fill(&mut writer)?;
    writer.into_inner().map_err(|e| Error::io("write", path, e.into_error()))?.commit()
}

/// Writes a file of the given contents.
///
/// # Errors
/// `Io` when the disk refuses it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes).map_err(|e| Error::io("write", path, e)))
}

/// Makes a rename itself durable; only Unix lets a folder be synced.
fn sync_folder(path: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder_of(path))
            .and_then(|folder| folder.sync_all())
            .map_err(|e| Error::io("sync the folder of", path, e))?;
    }
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_appear_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let names = || -> Vec<_> {
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect()
        };
        let failed = write_with(&path, |file| {
            file.write_all(b"half").unwrap();
            Err(Error::Usage("interrupted".into()))
        });
        assert!(failed.is_err() && names().is_empty());

        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(names(), ["a.json"]);
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_what_the_mask_lets_them() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let [ordinary, ours] = ["ordinary", "ours"].map(|name| folder.path().join(name));
        std::fs::write(&ordinary, b"x").unwrap();
        write(&ours, b"x").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&ordinary));
    }

    #[test]
    fn temporary_names_are_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let _file = AtomicFile::create(&folder.path().join("stage1.safetensors")).unwrap();
        let entry = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap();
        assert!(AtomicFile::is_leftover(&entry.file_name().to_string_lossy()));
        assert!(!AtomicFile::is_leftover("stage1.safetensors"));
    }
}
