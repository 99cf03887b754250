//! Captured activations on disk: one file a site, f16, memory-mapped, checksummed.

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
const MAGIC: &[u8; 8] = b"SCIONAC2";
/// Magic, samples, both widths, SHA-256 of what follows.
const HEADER: usize = SUM + 32;
/// Where the SHA-256 begins.
const SUM: usize = 8 + 8 + 8 + 8;

/// Values of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widths {
    /// Of the input, and of the output: T·D.
    pub tokens: usize,
    /// Of the conditioning, or 0 where there is none.
    pub conditioning: usize,
}

impl Widths {
    /// Bytes of a sample on disk, unless they are more than can be counted.
    fn bytes(self) -> Option<usize> {
        self.tokens.checked_mul(2)?.checked_add(self.conditioning)?.checked_mul(2)
    }
}

/// Writes one site's activations, sample after sample; the file appears under its name when finished.
#[derive(Debug)]
pub struct CacheWriter {
    path: PathBuf,
    file: BufWriter<AtomicFile>,
    hash: Sha256,
    samples: u64,
    widths: Widths,
}

/// A site's cached activations.
#[derive(Debug)]
pub struct Cache {
    map: Mmap,
    samples: usize,
    widths: Widths,
}

impl CacheWriter {
    /// Starts a file for samples of these widths.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn create(path: &Path, widths: Widths) -> Result<Self> {
        let mut file = BufWriter::with_capacity(1 << 20, AtomicFile::create(path)?);
        file.write_all(&[0; HEADER]).map_err(|e| Error::io("write", path, e))?;
        Ok(Self { path: path.into(), file, hash: Sha256::new(), samples: 0, widths })
    }

    /// Appends a batch.
    ///
    /// # Errors
    /// When a value does not fit f16, or the disk refuses the batch.
    pub fn append(&mut self, batch: &Activations) -> Result<()> {
        let Widths { tokens, conditioning } = self.widths;
        for sample in 0..batch.input.len() / tokens {
            self.append_values(&batch.input[sample * tokens..][..tokens])?;
            self.append_values(&batch.output[sample * tokens..][..tokens])?;
            self.append_values(&batch.conditioning[sample * conditioning..][..conditioning])?;
            self.samples += 1;
        }
        Ok(())
    }

    fn append_values(&mut self, values: &[f32]) -> Result<()> {
        if let Some(value) = values.iter().find(|value| value.is_nan() || value.abs() > f32::from(f16::MAX)) {
            let detail =
                format!("an activation of {value} is beyond the f16 of a cache; use capture = \"online\"");
            return Err(Error::invalid(&self.path, detail));
        }
        let mut halves = vec![f16::ZERO; values.len()];
        halves.convert_from_f32_slice(values);
        let bytes: &[u8] = bytemuck::cast_slice(&halves);
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(|e| Error::io("write", &self.path, e))
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
        for width in [self.widths.tokens, self.widths.conditioning] {
            file.write_all(&(width as u64).to_le_bytes()).map_err(io)?;
        }
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
        let (samples, widths) = (number(8), Widths { tokens: number(16), conditioning: number(24) });
        let expected =
            widths.bytes().and_then(|n| n.checked_mul(samples)).and_then(|n| n.checked_add(HEADER));
        if expected != Some(map.len()) {
            return Err(bad("its length does not match its header"));
        }
        if Sha256::digest(&map[HEADER..])[..] != map[SUM..HEADER] {
            return Err(bad("its checksum does not match"));
        }
        Ok(Self { map, samples, widths })
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// The given samples as one batch.
    pub fn read(&self, indices: &[usize]) -> Activations {
        let Widths { tokens, conditioning } = self.widths;
        let sample = 2 * tokens + conditioning;
        let halves: &[f16] = bytemuck::cast_slice(&self.map[HEADER..]);
        let mut batch = Activations::default();
        for &index in indices {
            let (input, rest) = halves[index * sample..][..sample].split_at(tokens);
            let (output, conditioning) = rest.split_at(tokens);
            batch.input.extend(input.to_f32_vec());
            batch.output.extend(output.to_f32_vec());
            batch.conditioning.extend(conditioning.to_f32_vec());
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(folder: &Path) -> (PathBuf, Activations) {
        let path = folder.join("block1.pair.act");
        let (input, output) = (vec![0.5, -1.0, 2.0, 3.25], vec![4.0, -5.0, 6.5, 7.0]);
        let batch = Activations { input, output, conditioning: vec![0.25, -8.0] };
        let mut writer = CacheWriter::create(&path, Widths { tokens: 2, conditioning: 1 }).unwrap();
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
        assert_eq!(cache.read(&[1]).conditioning, [-8.0]);
    }

    #[test]
    fn operators_have_no_conditioning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("block1.attention.act");
        let batch = Activations { input: vec![0.5, 1.0], output: vec![1.5, 2.0], conditioning: Vec::new() };
        let mut writer = CacheWriter::create(&path, Widths { tokens: 2, conditioning: 0 }).unwrap();
        writer.append(&batch).unwrap();
        writer.finish().unwrap();
        assert_eq!(Cache::open(&path).unwrap().read(&[0]), batch);
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
