//! The safetensors format: eight bytes of header length, a JSON header, the tensors' bytes back to back.

use std::collections::BTreeMap;
use std::path::Path;

use super::tensor::{DataFile, Dtype, Stored, TensorEntry};
use crate::error::{Error, Result};

/// The format's own limit on the header.
const MAX_HEADER: u64 = 100_000_000;

/// What a safetensors file holds.
pub(super) struct SafetensorsFile {
    pub(super) tensors: BTreeMap<String, Stored>,
    pub(super) metadata: BTreeMap<String, String>,
}

#[derive(serde::Deserialize)]
struct HeaderEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// Opens a file and checks that its tensors fill it exactly.
pub(super) fn open(path: &Path) -> Result<SafetensorsFile> {
    let file = DataFile::open(path)?;
    let (header, data_start) = read_header(&file)?;
    let invalid = |detail: String| Error::invalid(path, detail);
    let mut metadata = BTreeMap::new();
    let mut tensors = BTreeMap::new();
    let mut ranges = Vec::with_capacity(header.len());
    for (name, value) in header {
        if name == "__metadata__" {
            metadata = serde_json::from_value(value)
                .map_err(|e| invalid(format!("__metadata__ must map strings to strings: {e}")))?;
            continue;
        }
        let entry: HeaderEntry = serde_json::from_value(value)
            .map_err(|e| invalid(format!("tensor `{name}` has a bad header entry: {e}")))?;
        let dtype = dtype(&entry.dtype).ok_or_else(|| {
            invalid(format!("tensor `{name}` has the type {}, which cannot be read", entry.dtype))
        })?;
        let (start, end) = entry.data_offsets;
        let bytes =
            entry.shape.iter().try_fold(dtype.size() as u64, |product, &n| product.checked_mul(n as u64));
        if end.checked_sub(start).is_none_or(|held| Some(held) != bytes) {
            let size =
                format!("has bytes {start}..{end}, which do not fit {} {:?}", entry.dtype, entry.shape);
            return Err(invalid(format!("tensor `{name}` {size}")));
        }
        ranges.push((start, end, name.clone()));
        let entry = TensorEntry { dtype, shape: entry.shape };
        // A wrapped offset cannot be read: `check_filled` refuses ranges beyond the file.
        let offset = data_start.wrapping_add(start);
        tensors.insert(name, Stored { file: file.clone(), offset, entry, strides: None });
    }
    check_filled(&file, data_start, ranges)?;
    Ok(SafetensorsFile { tensors, metadata })
}

/// The header's JSON object, and where the tensors' bytes start.
fn read_header(file: &DataFile) -> Result<(serde_json::Map<String, serde_json::Value>, u64)> {
    let invalid = |detail: String| Error::invalid(file.path(), detail);
    if file.len() < 8 {
        return Err(invalid(format!("has {} bytes, too few for a safetensors file", file.len())));
    }
    let mut prefix = [0; 8];
    file.read_at(0, &mut prefix)?;
    let length = u64::from_le_bytes(prefix);
    if length > MAX_HEADER {
        return Err(invalid(format!(
            "claims a header of {length} bytes, where the safetensors format allows {MAX_HEADER}: the file is damaged or of another kind"
        )));
    }
    if length > file.len() - 8 {
        return Err(invalid(format!(
            "is truncated: the header needs {length} bytes, {} are left",
            file.len() - 8
        )));
    }
    let mut header = vec![0; length as usize];
    file.read_at(8, &mut header)?;
    let header = serde_json::from_slice(&header)
        .map_err(|e| invalid(format!("the safetensors header is not a JSON object: {e}")))?;
    Ok((header, 8 + length))
}

/// The tensors must cover the data exactly: a gap, an overlap or a short file means damage.
fn check_filled(file: &DataFile, data_start: u64, mut ranges: Vec<(u64, u64, String)>) -> Result<()> {
    ranges.sort();
    let data = file.len() - data_start;
    let mut filled = 0;
    for (start, end, name) in ranges {
        if start != filled {
            let detail = format!(
                "tensor `{name}` starts at byte {start} of the data; expected {filled}: the header is damaged"
            );
            return Err(Error::invalid(file.path(), detail));
        }
        if end > data {
            let detail =
                format!("is truncated: tensor `{name}` ends at byte {end} of the data, the file has {data}");
            return Err(Error::invalid(file.path(), detail));
        }
        filled = end;
    }
    if filled != data {
        let detail = format!("has {data} bytes of data; its tensors need {filled}");
        return Err(Error::invalid(file.path(), detail));
    }
    Ok(())
}

fn dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "F64" => Dtype::F64,
        "F32" => Dtype::F32,
        "F16" => Dtype::F16,
        "BF16" => Dtype::BF16,
        "I64" => Dtype::I64,
        "I32" => Dtype::I32,
        "I16" => Dtype::I16,
        "I8" => Dtype::I8,
        "U64" => Dtype::U64,
        "U32" => Dtype::U32,
        "U16" => Dtype::U16,
        "U8" => Dtype::U8,
        "BOOL" => Dtype::Bool,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        open(file.path()).err().map_or("opened".into(), |e| e.to_string())
    }

    fn with_header(header: &str, data: usize) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
    }

    #[test]
    fn damage_is_named() {
        let good = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"__metadata__":{"k":"v"}}"#;
        assert_eq!(message(&with_header(good, 8)), "opened");
        let cases = [
            (with_header(good, 7), "truncated"),
            (with_header(good, 9), "has 9 bytes of data; its tensors need 8"),
            (with_header(&good.replace("[2]", "[3]"), 8), "do not fit F32 [3]"),
            (with_header(&good.replace("[2]", "[4611686018427387904, 4]"), 8), "do not fit"),
            (with_header(&good.replace("[0,8]", "[8,0]"), 8), "do not fit"),
            (with_header(&good.replace("[0,8]", "[4,12]"), 12), "starts at byte 4"),
            (with_header(&good.replace("F32", "F8_E4M3"), 8), "F8_E4M3"),
            (with_header("[]", 0), "not a JSON object"),
            (u64::MAX.to_le_bytes().to_vec(), "the safetensors format allows"),
            (1000u64.to_le_bytes().to_vec(), "truncated: the header needs 1000 bytes"),
            (vec![1, 2, 3], "too few"),
        ];
        for (bytes, expected) in cases {
            assert!(message(&bytes).contains(expected), "{} lacks {expected}", message(&bytes));
        }
    }
}
