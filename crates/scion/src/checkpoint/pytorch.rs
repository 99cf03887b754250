//! Files written by `torch.save`: a pickle that names storages, whose bytes lie elsewhere in the file and are sliced
//! where they are. `zip_archive` and `legacy` are the two layouts of such a file.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use super::pickle::{Node, Pickle, Value};
use super::tensor::{DataFile, Dtype, Stored, TensorEntry};
use super::{legacy, zip_archive};
use crate::error::{Error, Result};

/// The largest pickle worth reading: XL's training checkpoint needs about 1 MB.
pub(super) const MAX_PICKLE: u64 = 1 << 28;

/// A file taken apart, whatever its layout.
pub(super) struct Container {
    pub(super) file: Arc<DataFile>,
    pub(super) pickle: Pickle,
    /// Storage key to (first byte, length in bytes).
    pub(super) storages: HashMap<String, (u64, u64)>,
}

/// What a PyTorch file holds.
pub(super) struct PytorchFile {
    pub(super) tensors: BTreeMap<String, Stored>,
    /// The pickle entry the tensors come from; `None` for a flat state dict.
    pub(super) entry: Option<String>,
    /// Plain values saved beside the tensors and in the training script's `args`.
    pub(super) arguments: BTreeMap<String, serde_json::Value>,
}

/// Opens a zip archive. `entry` names the pickle entry to take; without it `ema` is preferred to `model` and that to
/// `state_dict`, and a flat state dict is taken as it is.
pub(super) fn open(path: &Path, entry: Option<&str>) -> Result<PytorchFile> {
    read(path, &zip_archive::open(path)?, entry)
}

/// [`open`] for the layout of PyTorch before 1.6.
pub(super) fn open_legacy(path: &Path, entry: Option<&str>) -> Result<PytorchFile> {
    read(path, &legacy::open(path)?, entry)
}

fn read(path: &Path, container: &Container, entry: Option<&str>) -> Result<PytorchFile> {
    let pickle = &container.pickle;
    let reader = Reader { path, container, pickle };
    let root = pickle.items(pickle.root()).ok_or_else(|| {
        let found = pickle.describe(pickle.root());
        Error::invalid(
            path,
            format!("holds {found}; expected a state dict, or a dict with `ema`, `model` or `state_dict`"),
        )
    })?;
    let (entry, items) = reader.choose(root, entry)?;
    Ok(PytorchFile { tensors: reader.state_dict(items)?, entry, arguments: reader.arguments(root) })
}

type Items = [(Value, Value)];

struct Reader<'a> {
    path: &'a Path,
    container: &'a Container,
    pickle: &'a Pickle,
}

impl<'a> Reader<'a> {
    /// The state dict to read, and the name of its entry.
    fn choose(&self, root: &'a Items, wanted: Option<&str>) -> Result<(Option<String>, &'a Items)> {
        let find = |name: &str| {
            let (_, value) = root.iter().find(|(key, _)| matches!(key, Value::Str(k) if &**k == name))?;
            self.pickle.items(value)
        };
        let candidates = wanted.map_or(vec!["ema", "model", "state_dict"], |name| vec![name]);
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
        let wanted = wanted.map_or("`ema`, `model` or `state_dict`".into(), |name| format!("`{name}`"));
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
            file: self.container.file.clone(),
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
        let StorageId { class, key, length } = StorageId::new(self.pickle, id)?;
        let class = if class.ends_with(".UntypedStorage") { untyped.unwrap_or_default() } else { &class };
        let dtype =
            dtype(class).ok_or_else(|| format!("its storage type `{class}` is not one that can be read"))?;
        let &(start, bytes) =
            self.container.storages.get(key).ok_or_else(|| format!("the file has no storage {key}"))?;
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

/// What a pickle says of a storage: the class that tells its element type, the key of its bytes, its length in elements.
pub(super) struct StorageId<'a> {
    pub(super) class: String,
    pub(super) key: &'a str,
    length: &'a Value,
}

impl<'a> StorageId<'a> {
    /// Takes apart the tuple that stands for a storage; the error says in words what is wrong with it.
    pub(super) fn new(pickle: &'a Pickle, id: &'a Value) -> Result<Self, String> {
        match pickle.tuple(id) {
            Some([Value::Str(kind), class, Value::Str(key), _, length, rest @ ..])
                if &**kind == "storage" =>
            {
                // The older layout has a sixth value, of use to files of PyTorch before 0.4 alone.
                if rest.iter().any(|view| *view != Value::None) {
                    return Err(format!("its storage {key} is a part of another one; save the file again"));
                }
                Ok(Self { class: pickle.global(class).unwrap_or_default(), key, length })
            }
            _ => Err("its storage reference is not (\"storage\", type, key, location, length)".into()),
        }
    }

    /// Bytes of an element; those of untyped storages are counted singly.
    pub(super) fn element_size(&self) -> Option<usize> {
        if self.class.ends_with(".UntypedStorage") { Some(1) } else { dtype(&self.class).map(Dtype::size) }
    }
}

pub(super) fn text(value: &Value) -> Option<&str> {
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
