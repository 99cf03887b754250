//! Writers: safetensors in the original layout and in Scion's own one-file format.
//!
//! Tensors are asked for one at a time, so writing needs memory for the largest one only. A file appears under its
//! name whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use half::{bf16, f16};

use super::{FORMAT_KEY, FORMAT_VERSION, MODEL_KEY, write_pytorch};
use crate::atomic;
use crate::error::{Error, Result};

/// The element type that a writer stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    F32,
    F16,
    BF16,
}

impl Precision {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// Replaces `out` by the values' little-endian bytes. The error is a finite value that f16 or bf16 would make
    /// infinite.
    fn encode(self, values: &[f32], out: &mut Vec<u8>) -> Result<(), f32> {
        let overflow = match self {
            Self::F32 => {
                fill(values, out, f32::to_le_bytes);
                None
            }
            Self::F16 => {
                fill(values, out, |value| f16::from_f32(value).to_le_bytes());
                values.iter().find(|value| value.is_finite() && !f16::from_f32(**value).is_finite())
            }
            Self::BF16 => {
                fill(values, out, |value| bf16::from_f32(value).to_le_bytes());
                values.iter().find(|value| value.is_finite() && !bf16::from_f32(**value).is_finite())
            }
        };
        overflow.map_or(Ok(()), |&value| Err(value))
    }
}

fn fill<const N: usize>(values: &[f32], out: &mut Vec<u8>, bytes: impl Fn(f32) -> [u8; N]) {
    out.resize(values.len() * N, 0);
    let (slots, _) = out.as_chunks_mut::<N>();
    slots.iter_mut().zip(values).for_each(|(slot, &value)| *slot = bytes(value));
}

/// What reads elements.
pub type Read<'a> = Box<dyn Fn() -> Result<Vec<f32>> + 'a>;

/// A named tensor that a writer asks for when it needs it, perhaps more than once.
pub struct TensorSource<'a> {
    /// Name in the original layout.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    pieces: Vec<Read<'a>>,
}

impl<'a> TensorSource<'a> {
    /// A tensor whose elements, in row-major order, `read` returns.
    pub fn new(name: String, shape: Vec<usize>, read: impl Fn() -> Result<Vec<f32>> + 'a) -> Self {
        Self::in_pieces(name, shape, vec![Box::new(read)])
    }

    /// A tensor whose elements the pieces return one after the other; writing it needs memory for the largest one only.
    pub fn in_pieces(name: String, shape: Vec<usize>, pieces: Vec<Read<'a>>) -> Self {
        Self { name, shape, pieces }
    }

    /// The same under another name.
    #[must_use]
    pub fn renamed(self, name: String) -> Self {
        Self { name, ..self }
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// The elements, as many as the shape says.
    pub(super) fn read(&self, path: &Path) -> Result<Vec<f32>> {
        let values = match &self.pieces[..] {
            [whole] => whole()?,
            pieces => pieces.iter().map(|piece| piece()).collect::<Result<Vec<_>>>()?.concat(),
        };
        self.check(path, values.len())?;
        Ok(values)
    }

    fn check(&self, path: &Path, elements: usize) -> Result<()> {
        if elements == self.numel() {
            return Ok(());
        }
        let detail =
            format!("tensor `{}` of shape {:?} came with {elements} elements", self.name, self.shape);
        Err(Error::Tensors { path: path.into(), detail })
    }

    /// Writes the elements as little-endian bytes, in pieces that need little memory beside the tensor.
    pub(super) fn write(&self, path: &Path, precision: Precision, out: &mut impl Write) -> Result<()> {
        let (mut bytes, mut written) = (Vec::new(), 0);
        for piece in &self.pieces {
            let piece = piece()?;
            written += piece.len();
            for values in piece.chunks(1 << 18) {
                precision.encode(values, &mut bytes).map_err(|value| {
                    let detail =
                        format!("tensor `{}` holds {value}, beyond the range of {precision:?}", self.name);
                    Error::Tensors { path: path.into(), detail }
                })?;
                out.write_all(&bytes).map_err(|e| Error::io("write", path, e))?;
            }
        }
        self.check(path, written)
    }
}

/// Refuses to overwrite: an error when something exists at `path`.
///
/// # Errors
/// [`Error::Exists`], naming the path.
pub fn ensure_absent(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(_) => Err(Error::Exists {
            path: path.into(),
            detail: "exists already; remove it or choose another name".into(),
        }),
        Err(_) => Ok(()),
    }
}

/// Writes the original layout: safetensors, or a `torch.save` file when the name ends in `.pt` or `.pth`.
///
/// # Errors
/// A failed read or write, two tensors of one name, or a value that the precision cannot hold.
pub fn write_dit(path: &Path, tensors: &[TensorSource], precision: Precision) -> Result<()> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("pt" | "pth") => write_pytorch(path, tensors, precision),
        _ => write_safetensors(path, tensors, precision, &BTreeMap::from([("format".into(), "pt".into())])),
    }
}

/// Writes Scion's one-file format; `model_json` describes the architecture and goes into the header unread.
///
/// # Errors
/// As [`write_dit`].
pub fn write_scion(
    path: &Path,
    tensors: &[TensorSource],
    model_json: &str,
    precision: Precision,
) -> Result<()> {
    let pairs = [(FORMAT_KEY.into(), FORMAT_VERSION.into()), (MODEL_KEY.into(), model_json.into())];
    write_safetensors(path, tensors, precision, &BTreeMap::from(pairs))
}

/// Writes a safetensors file, tensors in the order given, with string metadata in its header.
///
/// # Errors
/// As [`write_dit`].
pub fn write_safetensors(
    path: &Path,
    tensors: &[TensorSource],
    precision: Precision,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    ensure_distinct(path, tensors)?;
    let header = header(tensors, precision, metadata);
    atomic::write_with(path, |file| {
        let write_error = |e| Error::io("write", path, e);
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(write_error)?;
        file.write_all(&header).map_err(write_error)?;
        tensors.iter().try_for_each(|tensor| tensor.write(path, precision, file))
    })
}

fn header(tensors: &[TensorSource], precision: Precision, metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let dtype = match precision {
        Precision::F32 => "F32",
        Precision::F16 => "F16",
        Precision::BF16 => "BF16",
    };
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), serde_json::json!(metadata));
    }
    let mut start = 0;
    for tensor in tensors {
        let end = start + tensor.numel() * precision.size();
        let entry =
            serde_json::json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end] });
        header.insert(tensor.name.clone(), entry);
        start = end;
    }
    let mut bytes = serde_json::Value::Object(header).to_string().into_bytes();
    bytes.resize(bytes.len().next_multiple_of(8), b' '); // the data must start aligned
    bytes
}

/// Two tensors of one name would leave a file that cannot be read back.
pub(super) fn ensure_distinct(path: &Path, tensors: &[TensorSource]) -> Result<()> {
    let mut seen = BTreeSet::new();
    match tensors.iter().find(|tensor| tensor.name == "__metadata__" || !seen.insert(&tensor.name)) {
        Some(tensor) => {
            let detail = format!("tensor name `{}` is used twice or reserved", tensor.name);
            Err(Error::Tensors { path: path.into(), detail })
        }
        None => Ok(()),
    }
}
