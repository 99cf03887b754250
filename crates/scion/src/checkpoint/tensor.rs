//! Where a tensor lies in a file, and its conversion to numbers.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use half::{bf16, f16};

use crate::error::{Error, Result};

/// Bytes read at a time while converting: large enough to stream, small beside any model.
const CHUNK: usize = 1 << 20;

/// The element types that foreign files hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether the type is floating point, so that `read_f32` accepts it.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    fn decode_f32(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::F64 => out.extend(elements(bytes).map(|b| f64::from_le_bytes(b) as f32)),
            Self::F32 => out.extend(elements(bytes).map(f32::from_le_bytes)),
            Self::F16 => out.extend(elements(bytes).map(|b| f16::from_le_bytes(b).to_f32())),
            Self::BF16 => out.extend(elements(bytes).map(|b| bf16::from_le_bytes(b).to_f32())),
            _ => unreachable!("checked by read_f32"),
        }
    }

    fn decode_i64(self, bytes: &[u8], out: &mut Vec<i64>) {
        match self {
            Self::I64 => out.extend(elements(bytes).map(i64::from_le_bytes)),
            Self::I32 => out.extend(elements(bytes).map(|b| i64::from(i32::from_le_bytes(b)))),
            Self::I16 => out.extend(elements(bytes).map(|b| i64::from(i16::from_le_bytes(b)))),
            Self::I8 => out.extend(bytes.iter().map(|&b| i64::from(b as i8))),
            Self::U32 => out.extend(elements(bytes).map(|b| i64::from(u32::from_le_bytes(b)))),
            Self::U16 => out.extend(elements(bytes).map(|b| i64::from(u16::from_le_bytes(b)))),
            Self::U8 | Self::Bool => out.extend(bytes.iter().map(|&b| i64::from(b))),
            _ => unreachable!("checked by read_i64"),
        }
    }
}

fn elements<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// Type and shape of one tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Element type in the file.
    pub dtype: Dtype,
    /// Row-major shape, as PyTorch gives it.
    pub shape: Vec<usize>,
}

impl TensorEntry {
    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }
}

/// An open file whose tensors are read on demand. Plain reads rather than a memory map: the pages of a map count
/// as the process's own memory, and a file that shrinks under a map kills the process.
#[derive(Debug)]
pub(super) struct DataFile {
    path: PathBuf,
    file: Mutex<File>,
    len: u64,
}

impl DataFile {
    /// Opens a file for reading.
    pub(super) fn open(path: &Path) -> Result<Arc<Self>> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let meta = file.metadata().map_err(|e| Error::io("read", path, e))?;
        if meta.is_dir() {
            return Err(Error::invalid(path, "is a folder; expected a file"));
        }
        Ok(Arc::new(Self { path: path.into(), len: meta.len(), file: Mutex::new(file) }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buffer` from byte `offset` of the file.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        // A panic elsewhere cannot leave the file in a bad state: every read seeks first.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.read_exact(buffer))
            .map_err(|e| Error::io("read", &self.path, e))
    }
}

/// A tensor inside a file. Whoever builds one has checked that every byte it names lies in the file.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) file: Arc<DataFile>,
    /// First byte of element zero.
    pub(super) offset: u64,
    pub(super) entry: TensorEntry,
    /// Strides in elements; `None` for a contiguous row-major tensor.
    pub(super) strides: Option<Vec<usize>>,
}

impl Stored {
    /// The elements in row-major order, converted from any floating type.
    pub(super) fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        if !self.entry.dtype.is_float() {
            return Err(self.wrong_type(name, "floating point numbers"));
        }
        self.decode(|dtype, bytes, out| dtype.decode_f32(bytes, out))
    }

    /// The elements of some rows, the places of the first axis, in the order asked for.
    pub(super) fn read_rows(&self, name: &str, rows: &[usize]) -> Result<Vec<f32>> {
        let Some((&count, row)) = self.entry.shape.split_first() else {
            return Err(self.wrong(name, "is a single number; expected rows"));
        };
        if let Some(row) = rows.iter().find(|row| **row >= count) {
            return Err(self.wrong(name, &format!("has {count} rows; none is numbered {row}")));
        }
        let elements: usize = row.iter().product();
        let mut out = Vec::with_capacity(rows.len() * elements);
        for place in rows {
            let step = self.strides.as_ref().map_or(elements, |strides| strides[0]);
            let row = Self {
                file: self.file.clone(),
                offset: self.offset + (place * step * self.entry.dtype.size()) as u64,
                entry: TensorEntry { dtype: self.entry.dtype, shape: row.to_vec() },
                strides: self.strides.as_ref().map(|strides| strides[1..].to_vec()),
            };
            out.extend(row.read_f32(name)?);
        }
        Ok(out)
    }

    /// The elements in row-major order, from any integer type but u64.
    pub(super) fn read_i64(&self, name: &str) -> Result<Vec<i64>> {
        if self.entry.dtype.is_float() || self.entry.dtype == Dtype::U64 {
            return Err(self.wrong_type(name, "integers"));
        }
        self.decode(|dtype, bytes, out| dtype.decode_i64(bytes, out))
    }

    /// Whether both hold the same bytes in the same type and shape.
    pub(super) fn same_bytes(&self, other: &Self) -> Result<bool> {
        if self.entry != other.entry {
            return Ok(false);
        }
        if self.strides.is_some() || other.strides.is_some() {
            let raw = |_: Dtype, bytes: &[u8], out: &mut Vec<u8>| out.extend_from_slice(bytes);
            return Ok(self.decode(raw)? == other.decode(raw)?);
        }
        let total = self.entry.numel() * self.entry.dtype.size();
        let (mut mine, mut theirs) = (vec![0; CHUNK.min(total)], vec![0; CHUNK.min(total)]);
        for start in (0..total).step_by(CHUNK) {
            let len = CHUNK.min(total - start);
            self.file.read_at(self.offset + start as u64, &mut mine[..len])?;
            other.file.read_at(other.offset + start as u64, &mut theirs[..len])?;
            if mine[..len] != theirs[..len] {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn decode<T>(&self, convert: impl Fn(Dtype, &[u8], &mut Vec<T>)) -> Result<Vec<T>> {
        let (numel, dtype) = (self.entry.numel(), self.entry.dtype);
        let mut out = Vec::with_capacity(numel);
        if let Some(strides) = &self.strides {
            let bytes = self.gather(strides)?;
            convert(dtype, &bytes, &mut out);
            return Ok(out);
        }
        let total = numel * dtype.size();
        let mut buffer = vec![0; CHUNK.min(total)]; // CHUNK is a multiple of every element size
        for start in (0..total).step_by(CHUNK) {
            let chunk = &mut buffer[..CHUNK.min(total - start)];
            self.file.read_at(self.offset + start as u64, chunk)?;
            convert(dtype, chunk, &mut out);
        }
        Ok(out)
    }

    /// The bytes of a strided view, put in row-major order.
    fn gather(&self, strides: &[usize]) -> Result<Vec<u8>> {
        let (shape, size) = (&self.entry.shape, self.entry.dtype.size());
        let numel = self.entry.numel();
        if numel == 0 {
            return Ok(Vec::new());
        }
        let last: usize = shape.iter().zip(strides).map(|(n, s)| (n - 1) * s).sum();
        let mut span = vec![0; (last + 1) * size];
        self.file.read_at(self.offset, &mut span)?;
        let mut out = Vec::with_capacity(numel * size);
        let mut index = vec![0; shape.len()];
        let mut at = 0;
        for _ in 0..numel {
            out.extend_from_slice(&span[at * size..(at + 1) * size]);
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                at += strides[axis];
                if index[axis] < shape[axis] {
                    break;
                }
                at -= strides[axis] * shape[axis];
                index[axis] = 0;
            }
        }
        Ok(out)
    }

    fn wrong_type(&self, name: &str, expected: &str) -> Error {
        self.wrong(name, &format!("holds {:?}; expected {expected}", self.entry.dtype))
    }

    fn wrong(&self, name: &str, problem: &str) -> Error {
        Error::Tensors { path: self.file.path.clone(), detail: format!("tensor `{name}` {problem}") }
    }
}
