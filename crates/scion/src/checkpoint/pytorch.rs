//! PyTorch's zip checkpoints (`torch.save`, format of PyTorch 1.6 and later): a pickle that names storages, and one
//! uncompressed archive member per storage, sliced where it lies.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use zip::read::ZipFile;
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{Node, Pickle, Value};
use super::tensor::{DataFile, Dtype, Stored, TensorEntry};
use crate::error::{Error, Result};

/// The largest pickle worth reading: XL's training checkpoint needs about 1 MB.
const MAX_PICKLE: u64 = 1 << 28;

/// What a PyTorch file holds.
pub(super) struct PytorchFile {
    pub(super) tensors: BTreeMap<String, Stored>,
    /// The pickle entry the tensors come from; `None` for a flat state dict.
    pub(super) entry: Option<String>,
    /// Plain values saved beside the tensors and in the training script's `args`.
    pub(super) arguments: BTreeMap<String, serde_json::Value>,
}

/// Opens a zip checkpoint. `entry` names the pickle entry to take; without it `ema` is preferred to `model`, and a
/// flat state dict is taken as it is.
pub(super) fn open(path: &Path, entry: Option<&str>) -> Result<PytorchFile> {
    let archive = Archive::open(path)?;
    let pickle =
        Pickle::parse(&archive.pickle).map_err(|why| Error::invalid(path, format!("data.pkl: {why}")))?;
    let reader = Reader { path, archive: &archive, pickle: &pickle };
    let root = pickle.items(pickle.root()).ok_or_else(|| {
        let found = pickle.describe(pickle.root());
        Error::invalid(path, format!("holds {found}; expected a state dict, or a dict with `ema` or `model`"))
    })?;
    let (entry, items) = reader.choose(root, entry)?;
    Ok(PytorchFile { tensors: reader.state_dict(items)?, entry, arguments: reader.arguments(root) })
}

/// The zip archive's members.
struct Archive {
    file: Arc<DataFile>,
    pickle: Vec<u8>,
    /// Storage key to (first byte, length).
    storages: HashMap<String, (u64, u64)>,
}

impl Archive {
    fn open(path: &Path) -> Result<Self> {
        let file = DataFile::open(path)?;
        let handle = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let mut zip = ZipArchive::new(BufReader::new(handle)).map_err(|e| damaged(path, e))?;
        let names: Vec<String> = zip
            .file_names()
            .map(|name| name.map(Into::into))
            .collect::<Result<_, _>>()
            .map_err(|e| damaged(path, e))?;
        let prefix = names
            .iter()
            .filter_map(|name| name.strip_suffix("data.pkl"))
            .find(|p| p.matches('/').count() <= 1);
        let prefix = prefix.ok_or_else(|| {
            Error::invalid(path, "is a zip archive without data.pkl; expected a file written by torch.save")
        })?;
        let (mut pickle, mut storages) = (Vec::new(), HashMap::new());
        for (index, full) in names.iter().enumerate() {
            let Some(name) = full.strip_prefix(prefix) else { continue };
            let mut member = zip.by_index(index).map_err(|e| damaged(path, e))?;
            if name == "data.pkl" {
                pickle = read_small(path, member)?;
            } else if name == "byteorder" && read_small(path, &mut member)?.trim_ascii() != b"little" {
                return Err(Error::invalid(
                    path,
                    "was saved on a big-endian machine; only little-endian files are read",
                ));
            } else if name.starts_with("code/") {
                return Err(Error::invalid(
                    path,
                    "is a TorchScript program; expected a state dict saved by torch.save",
                ));
            } else if let Some(key) = name.strip_prefix("data/") {
                storages.insert(key.to_owned(), locate(path, file.len(), full, &member)?);
            }
        }
        Ok(Self { file, pickle, storages })
    }
}

fn damaged(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::invalid(
        path,
        format!("the zip archive is truncated or damaged ({why}); download or copy the file again"),
    )
}

fn read_small(path: &Path, member: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    member.take(MAX_PICKLE).read_to_end(&mut bytes).map_err(|e| damaged(path, e))?;
    Ok(bytes)
}

/// First byte and length of a storage, which must lie in the file as it is.
fn locate<R: Read + ?Sized>(
    path: &Path,
    file_len: u64,
    name: &str,
    member: &ZipFile<'_, R>,
) -> Result<(u64, u64)> {
    if member.compression() != CompressionMethod::Stored || member.encrypted() {
        let detail = format!(
            "the archive member {name} is compressed or encrypted; save the file again with torch.save"
        );
        return Err(Error::invalid(path, detail));
    }
    let start = member.data_start().ok_or_else(|| damaged(path, format!("{name} has no data")))?;
    if start.checked_add(member.size()).is_none_or(|end| end > file_len) {
        return Err(damaged(path, format!("{name} reaches beyond the end")));
    }
    Ok((start, member.size()))
}

type Items = [(Value, Value)];

struct Reader<'a> {
    path: &'a Path,
    archive: &'a Archive,
    pickle: &'a Pickle,
}

impl<'a> Reader<'a> {
    /// The state dict to read, and the name of its entry.
    fn choose(&self, root: &'a Items, wanted: Option<&str>) -> Result<(Option<String>, &'a Items)> {
        let find = |name: &str| {
            let (_, value) = root.iter().find(|(key, _)| matches!(key, Value::Str(k) if &**k == name))?;
            self.pickle.items(value)
        };
        let candidates = wanted.map_or(vec!["ema", "model"], |name| vec![name]);
        for name in candidates {
            if let Some(items) = find(name) {
                return Ok((Some(name.to_owned()), items));
            }
        }
        let holds_tensor = root.iter().any(|(_, value)| matches!(self.tensor(value), Ok(Some(_)) | Err(_)));
        if wanted.is_none() && (holds_tensor || root.is_empty()) {
            return Ok((None, root));
        }
        let dicts = root.iter().filter(|(_, value)| self.pickle.items(value).is_some());
        let names: Vec<_> = dicts.filter_map(|(key, _)| text(key)).map(|name| format!("`{name}`")).collect();
        let held = if names.is_empty() { "none".into() } else { names.join(", ") };
        let wanted = wanted.map_or("`ema` or `model`".into(), |name| format!("`{name}`"));
        Err(Error::invalid(
            self.path,
            format!("has no entry {wanted} that is a state dict; the entries that are dicts: {held}"),
        ))
    }

    fn state_dict(&self, items: &Items) -> Result<BTreeMap<String, Stored>> {
        let mut tensors = BTreeMap::new();
        for (key, value) in items {
            let Some(name) = text(key) else {
                let found = self.pickle.describe(key);
                return Err(Error::invalid(
                    self.path,
                    format!("the state dict has {found} for a key; expected strings"),
                ));
            };
            let tensor = self
                .tensor(value)
                .map_err(|why| Error::invalid(self.path, format!("tensor `{name}`: {why}")))?;
            let tensor = tensor.ok_or_else(|| {
                let found = self.pickle.describe(value);
                Error::invalid(self.path, format!("entry `{name}` is {found}; expected a tensor"))
            })?;
            tensors.insert(name.to_owned(), tensor);
        }
        Ok(tensors)
    }

    /// The tensor a call of one of PyTorch's rebuild functions describes; `None` for anything else.
    fn tensor(&self, value: &Value) -> Result<Option<Stored>, String> {
        let Some((mut function, mut arguments)) = self.pickle.call(value) else { return Ok(None) };
        for _ in 0..4 {
            (function, arguments) = match (function.as_str(), arguments) {
                (
                    "torch._utils._rebuild_tensor"
                    | "torch._utils._rebuild_tensor_v2"
                    | "torch._utils._rebuild_tensor_v3",
                    _,
                ) => {
                    return self.rebuild(arguments).map(Some);
                }
                (
                    "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state",
                    [data, ..],
                ) => {
                    let Some(inner) = self.pickle.call(data) else { return Ok(None) };
                    inner
                }
                ("torch._tensor._rebuild_from_type_v2", [inner, _, inner_arguments, ..]) => {
                    let call = (self.pickle.global(inner), self.pickle.tuple(inner_arguments));
                    let (Some(inner), Some(inner_arguments)) = call else { return Ok(None) };
                    (inner, inner_arguments)
                }
                _ => return Ok(None),
            };
        }
        Ok(None)
    }

    /// A tensor from (storage, offset, shape, strides, …), checked to lie within its storage.
    fn rebuild(&self, arguments: &[Value]) -> Result<Stored, String> {
        let [storage, offset, shape, strides, ..] = arguments else {
            return Err(format!("is rebuilt from {} values; expected at least 4", arguments.len()));
        };
        let untyped = arguments.get(6).and_then(|value| self.pickle.global(value));
        let (dtype, start, held) = self.storage(storage, untyped.as_deref())?;
        let offset = count(offset).ok_or("its storage offset is not a count")?;
        let shape = self.counts(shape).ok_or("its shape is not a tuple of counts")?;
        let strides = self.counts(strides).ok_or("its strides are not a tuple of counts")?;
        if shape.len() != strides.len() {
            return Err(format!("has shape {shape:?} but strides {strides:?}"));
        }
        let reach = reach(&shape, &strides, offset).ok_or("its shape and strides overflow")?;
        if reach.max(numel(&shape).ok_or("its shape overflows")?) > held {
            let size = format!("shape {shape:?} with strides {strides:?} from element {offset}");
            return Err(format!("{size} does not fit in its storage of {held} elements"));
        }
        let contiguous = is_contiguous(&shape, &strides);
        Ok(Stored {
            file: self.archive.file.clone(),
            offset: start + (offset * dtype.size()) as u64,
            entry: TensorEntry { dtype, shape },
            strides: (!contiguous).then_some(strides),
        })
    }

    /// Element type, first byte in the file and number of elements of a storage.
    fn storage(&self, value: &Value, untyped: Option<&str>) -> Result<(Dtype, u64, usize), String> {
        let Some(Node::Persistent(id)) = self.pickle.node(value) else {
            return Err(format!("its storage is {}", self.pickle.describe(value)));
        };
        let Some([Value::Str(kind), class, Value::Str(key), _, length]) = self.pickle.tuple(id) else {
            return Err("its storage reference is not (\"storage\", type, key, location, length)".into());
        };
        let class = self.pickle.global(class).unwrap_or_default();
        let class = if class.ends_with(".UntypedStorage") { untyped.unwrap_or_default() } else { &class };
        let dtype = dtype(class).filter(|_| &**kind == "storage");
        let dtype = dtype.ok_or_else(|| format!("its storage type `{class}` is not one that can be read"))?;
        let &(start, bytes) =
            self.archive.storages.get(&**key).ok_or_else(|| format!("the archive has no storage {key}"))?;
        let held =
            usize::try_from(bytes).map_err(|_| "its storage exceeds the address space")? / dtype.size();
        let claimed = count(length).ok_or("its storage length is not a count")?;
        if untyped.is_none() && claimed > held {
            return Err(format!("storage {key} should hold {claimed} elements but has {held}"));
        }
        Ok((dtype, start, held))
    }

    fn counts(&self, value: &Value) -> Option<Vec<usize>> {
        // torch.Size pickles as a call whose argument is the tuple.
        let inner = match self.pickle.call(value) {
            Some((name, [inner])) if name == "torch.Size" => inner,
            _ => value,
        };
        self.pickle.tuple(inner)?.iter().map(count).collect()
    }

    fn arguments(&self, root: &Items) -> BTreeMap<String, serde_json::Value> {
        let args = root
            .iter()
            .find(|(key, _)| text(key) == Some("args"))
            .and_then(|(_, value)| self.pickle.items(value));
        let all = root.iter().chain(args.unwrap_or_default());
        all.filter_map(|(key, value)| Some((text(key)?.to_owned(), self.plain(value)?))).collect()
    }

    /// A plain value as JSON; `None` for objects, and for containers of anything but scalars.
    fn plain(&self, value: &Value) -> Option<serde_json::Value> {
        if let Some(scalar) = self.scalar(value) {
            return Some(scalar);
        }
        match self.pickle.node(value)? {
            Node::Tuple(items) | Node::List(items) => items.iter().map(|item| self.scalar(item)).collect(),
            Node::Call { .. } => match self.pickle.call(value)? {
                (name, [inner]) if name == "torch.Size" => {
                    self.pickle.tuple(inner)?.iter().map(|item| self.scalar(item)).collect()
                }
                (name, [kind, bytes]) if name.ends_with("core.multiarray.scalar") => {
                    self.numpy_scalar(kind, bytes)
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn scalar(&self, value: &Value) -> Option<serde_json::Value> {
        match value {
            Value::None => Some(serde_json::Value::Null),
            Value::Bool(flag) => Some((*flag).into()),
            Value::Int(number) => Some((*number).into()),
            Value::Float(number) => Some((*number).into()),
            Value::Str(text) => Some((**text).into()),
            Value::BigInt | Value::Bytes(_) | Value::Node(_) => None,
        }
    }

    fn numpy_scalar(&self, kind: &Value, bytes: &Value) -> Option<serde_json::Value> {
        let (class, kind) = self.pickle.call(kind)?;
        let (Some(Value::Str(kind)), "numpy.dtype") = (kind.first(), class.as_str()) else { return None };
        let bytes: Vec<u8> = match bytes {
            Value::Bytes(bytes) => bytes.to_vec(),
            // How protocol 2 spells bytes: text, to be encoded as Latin-1.
            _ => match self.pickle.call(bytes)? {
                (name, [Value::Str(text), ..]) if name == "_codecs.encode" => {
                    text.chars().map(|c| u8::try_from(c).ok()).collect::<Option<_>>()?
                }
                _ => return None,
            },
        };
        match &**kind {
            "f8" => Some(f64::from_le_bytes(bytes.try_into().ok()?).into()),
            "f4" => Some(f32::from_le_bytes(bytes.try_into().ok()?).into()),
            "i8" => Some(i64::from_le_bytes(bytes.try_into().ok()?).into()),
            "i4" => Some(i32::from_le_bytes(bytes.try_into().ok()?).into()),
            _ => None,
        }
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Str(text) => Some(text),
        _ => None,
    }
}

fn count(value: &Value) -> Option<usize> {
    match value {
        Value::Int(number) => usize::try_from(*number).ok(),
        _ => None,
    }
}

fn numel(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n))
}

/// Elements of the storage, from its start, that a view needs; `None` where that overflows.
fn reach(shape: &[usize], strides: &[usize], offset: usize) -> Option<usize> {
    if shape.contains(&0) {
        return Some(offset);
    }
    let steps = shape
        .iter()
        .zip(strides)
        .try_fold(0usize, |sum, (&n, &s)| sum.checked_add((n - 1).checked_mul(s)?))?;
    offset.checked_add(steps)?.checked_add(1)
}

fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1usize;
    shape.iter().zip(strides).rev().all(|(&n, &stride)| {
        let fits = n <= 1 || stride == expected;
        expected = n.max(1).saturating_mul(expected);
        fits
    })
}

fn dtype(name: &str) -> Option<Dtype> {
    let short = name.strip_prefix("torch.storage.").or_else(|| name.strip_prefix("torch."))?;
    Some(match short {
        "DoubleStorage" | "float64" | "double" => Dtype::F64,
        "FloatStorage" | "float32" | "float" => Dtype::F32,
        "HalfStorage" | "float16" | "half" => Dtype::F16,
        "BFloat16Storage" | "bfloat16" => Dtype::BF16,
        "LongStorage" | "int64" => Dtype::I64,
        "IntStorage" | "int32" => Dtype::I32,
        "ShortStorage" | "int16" => Dtype::I16,
        "CharStorage" | "int8" => Dtype::I8,
        "uint64" => Dtype::U64,
        "uint32" => Dtype::U32,
        "uint16" => Dtype::U16,
        "ByteStorage" | "uint8" => Dtype::U8,
        "BoolStorage" | "bool" => Dtype::Bool,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_measured() {
        assert!(
            is_contiguous(&[4, 6], &[6, 1]) && is_contiguous(&[1, 3], &[99, 1]) && is_contiguous(&[], &[])
        );
        assert!(!is_contiguous(&[6, 4], &[1, 6]));
        assert_eq!(reach(&[4, 3], &[6, 2], 5), Some(5 + 18 + 4 + 1));
        assert_eq!(reach(&[0, 3], &[3, 1], 7), Some(7));
        assert_eq!(reach(&[usize::MAX, 2], &[3, 1], 0), None);
    }
}
