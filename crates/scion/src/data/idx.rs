//! IDX, the format of MNIST and Fashion-MNIST (<http://yann.lecun.com/exdb/mnist/>): two zero bytes, a
//! type byte (0x08: u8), the number of dimensions, each dimension as a big-endian u32, then the data.

use std::fs;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Result};

const UNSIGNED_BYTE: u8 = 0x08;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// An array of bytes with its dimensions, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdxArray {
    pub dims: Vec<usize>,
    pub data: Vec<u8>,
}

/// Reads an IDX file of bytes, plain or gzip, that must have `rank` dimensions (3 for images, 1 for labels).
///
/// # Errors
/// `Io` if it cannot be read; `Invalid` as in [`parse`].
pub fn read(path: &Path, rank: usize) -> Result<IdxArray> {
    let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
    parse(&decompress(bytes, path)?, rank, path)
}

/// Undoes gzip if the bytes begin like it. `path` only names the source in errors.
///
/// # Errors
/// `Invalid` for a damaged or cut-off gzip stream.
pub fn decompress(bytes: Vec<u8>, path: &Path) -> Result<Vec<u8>> {
    if !bytes.starts_with(&GZIP_MAGIC) {
        return Ok(bytes);
    }
    let mut out = Vec::new();
    match MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut out) {
        Ok(_) => Ok(out),
        Err(e) => Err(Error::invalid(path, format!("damaged or cut-off gzip data: {e}"))),
    }
}

/// Parses the uncompressed bytes of an IDX file. `path` only names the source in errors.
///
/// # Errors
/// `Invalid` if the magic number, the number of dimensions or the length is not as expected.
pub fn parse(bytes: &[u8], rank: usize, path: &Path) -> Result<IdxArray> {
    let invalid = |detail: String| Error::invalid(path, detail);
    let magic = [0, 0, UNSIGNED_BYTE, rank as u8];
    let Some(found) = bytes.first_chunk::<4>() else {
        return Err(invalid(format!("{} bytes, too short for an IDX header", bytes.len())));
    };
    if *found != magic {
        return Err(invalid(format!(
            "not IDX bytes with {rank} dimension(s): magic number is {:#010x}, expected {:#010x}",
            u32::from_be_bytes(*found),
            u32::from_be_bytes(magic)
        )));
    }
    let (header, data) = bytes[4..]
        .split_at_checked(4 * rank)
        .ok_or_else(|| invalid(format!("{} bytes, cut off inside the IDX header", bytes.len())))?;
    let dims: Vec<usize> =
        header.as_chunks::<4>().0.iter().map(|dim| u32::from_be_bytes(*dim) as usize).collect();
    let expected = dims
        .iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim))
        .ok_or_else(|| invalid(format!("dimensions {dims:?} are too large")))?;
    if data.len() != expected {
        let what = if data.len() < expected { "cut off" } else { "too long" };
        return Err(invalid(format!(
            "{what}: {} data bytes, expected {expected} for dimensions {dims:?}",
            data.len()
        )));
    }
    Ok(IdxArray { dims, data: data.to_vec() })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const GOOD: [u8; 14] = [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 1, 7, 9];

    fn message(bytes: &[u8], rank: usize) -> String {
        parse(bytes, rank, Path::new("file.idx")).unwrap_err().to_string()
    }

    #[test]
    fn plain_and_gzip_files_read_alike() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        fs::write(&plain, GOOD).unwrap();
        let packed = dir.path().join("packed.gz");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&GOOD).unwrap();
        let gzip = encoder.finish().unwrap();
        fs::write(&packed, &gzip).unwrap();

        let expected = IdxArray { dims: vec![2, 1], data: vec![7, 9] };
        assert_eq!(read(&plain, 2).unwrap(), expected);
        assert_eq!(read(&packed, 2).unwrap(), expected);

        fs::write(&packed, &gzip[..gzip.len() - 6]).unwrap();
        assert!(read(&packed, 2).unwrap_err().to_string().contains("cut-off gzip"));
    }

    #[test]
    fn errors_say_what_was_found() {
        assert_eq!(
            message(&GOOD, 3),
            "file.idx: not IDX bytes with 3 dimension(s): magic number is 0x00000802, expected 0x00000803"
        );
        assert_eq!(
            message(&GOOD[..13], 2),
            "file.idx: cut off: 1 data bytes, expected 2 for dimensions [2, 1]"
        );
        assert!(message(&GOOD[..7], 2).contains("cut off inside the IDX header"));
        assert!(message(&[], 2).contains("too short"));
        let long = [GOOD.as_slice(), &[1]].concat();
        assert!(message(&long, 2).contains("too long: 3 data bytes"));
        let huge = [[0, 0, 8, 3].as_slice(), &[255; 12]].concat();
        assert!(message(&huge, 3).contains("too large"));
    }
}
