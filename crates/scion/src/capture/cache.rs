//! Captured activations on disk: one file an operator, f16, memory-mapped, checksummed.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::Activations;
use crate::atomic::AtomicFile;
use crate::error::{Error, Result};

/// First bytes of a cache file.
const MAGIC: &[u8; 8] = b"SCIONACT";
/// Magic, samples, elements a sample and side, SHA-256 of what follows.
const HEADER: usize = 8 + 8 + 8 + 32;

/// Writes one operator's activations, sample after sample; the file appears under its name when finished.
#[derive(Debug)]
pub struct CacheWriter {
    path: PathBuf,
    file: BufWriter<AtomicFile>,
    hash: Sha256,
    samples: u64,
    width: usize,
}

/// An operator's cached activations.
#[derive(Debug)]
pub struct Cache {
    map: Mmap,
    samples: usize,
    width: usize,
}

impl CacheWriter {
    /// Starts a file for samples of `width` input and as many output values.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn create(path: &Path, width: usize) -> Result<Self> {
        let mut file = BufWriter::with_capacity(1 << 20, AtomicFile::create(path)?);
        file.write_all(&[0; HEADER]).map_err(|e| Error::io("write", path, e))?;
        Ok(Self { path: path.into(), file, hash: Sha256::new(), samples: 0, width })
    }

    /// Appends a batch.
    ///
    /// # Errors
    /// When a value does not fit f16, or the disk refuses the batch.
    pub fn append(&mut self, batch: &Activations) -> Result<()> {
        let mut halves = vec![f16::ZERO; self.width];
        for (input, output) in batch.input.chunks_exact(self.width).zip(batch.output.chunks_exact(self.width))
        {
            for side in [input, output] {
                if let Some(value) =
                    side.iter().find(|value| value.is_nan() || value.abs() > f32::from(f16::MAX))
                {
                    let detail = format!(
                        "an activation of {value} is beyond the f16 of a cache; use capture = \"online\""
                    );
                    return Err(Error::invalid(&self.path, detail));
                }
                halves.convert_from_f32_slice(side);
                let bytes: &[u8] = bytemuck::cast_slice(&halves);
                self.hash.update(bytes);
                self.file.write_all(bytes).map_err(|e| Error::io("write", &self.path, e))?;
            }
            self.samples += 1;
        }
        Ok(())
    }

    /// Completes the file and gives it its name.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn finish(self) -> Result<()> {
        let io = |e| Error::io("write", &self.path, e);
        let mut file = self.file.into_inner().map_err(|e| io(e.into_error()))?;
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        file.write_all(MAGIC).map_err(io)?;
        file.write_all(&self.samples.to_le_bytes()).map_err(io)?;
        file.write_all(&(self.width as u64).to_le_bytes()).map_err(io)?;
        file.write_all(&self.hash.finalize()).map_err(io)?;
        file.commit()
    }
}

impl Cache {
    /// Opens a finished file after checking its sums.
    ///
    /// # Errors
    /// When the file is missing, truncated or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        // SAFETY: scion never writes to a finished cache file; it replaces it as a whole.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        let bad = |detail: &str| {
            Error::invalid(path, format!("is no whole activation cache: {detail}; delete it to capture anew"))
        };
        if map.len() < HEADER || &map[..8] != MAGIC {
            return Err(bad("its header is missing"));
        }
        let number =
            |at: usize| u64::from_le_bytes(map[at..at + 8].try_into().expect("eight bytes")) as usize;
        let (samples, width) = (number(8), number(16));
        let expected =
            samples.checked_mul(width).and_then(|n| n.checked_mul(4)).and_then(|n| n.checked_add(HEADER));
        if expected != Some(map.len()) {
            return Err(bad("its length does not match its header"));
        }
        if Sha256::digest(&map[HEADER..])[..] != map[24..HEADER] {
            return Err(bad("its checksum does not match"));
        }
        Ok(Self { map, samples, width })
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// The given samples as one batch.
    pub fn read(&self, indices: &[usize]) -> Activations {
        let mut batch = Activations { input: Vec::new(), output: Vec::new() };
        for &index in indices {
            let start = HEADER + index * self.width * 4;
            for (side, at) in [(&mut batch.input, start), (&mut batch.output, start + self.width * 2)] {
                let halves: &[f16] = bytemuck::cast_slice(&self.map[at..at + self.width * 2]);
                side.extend(halves.to_f32_vec());
            }
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(folder: &Path) -> (PathBuf, Activations) {
        let path = folder.join("block1.attention.act");
        let batch = Activations { input: vec![0.5, -1.0, 2.0, 3.25], output: vec![4.0, -5.0, 6.5, 7.0] };
        let mut writer = CacheWriter::create(&path, 2).unwrap();
        writer.append(&batch).unwrap();
        writer.finish().unwrap();
        (path, batch)
    }

    #[test]
    fn batches_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let (path, batch) = written(folder.path());
        let cache = Cache::open(&path).unwrap();
        assert_eq!(cache.samples(), 2);
        assert_eq!(cache.read(&[0, 1]), batch);
        assert_eq!(cache.read(&[1]).output, [6.5, 7.0]);
    }

    #[test]
    fn damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = written(folder.path());
        let whole = std::fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        std::fs::write(&path, flipped).unwrap();
        assert!(Cache::open(&path).unwrap_err().to_string().contains("checksum"));
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(Cache::open(&path).unwrap_err().to_string().contains("length"));
        std::fs::write(&path, b"short").unwrap();
        assert!(Cache::open(&path).unwrap_err().to_string().contains("header"));
    }
}
