//! `torch.save`'s layout before PyTorch 1.6 (`_legacy_save` in PyTorch's `serialization.py`): five pickles (a magic
//! number, a version, facts of the machine, the object, the storages' keys), then each storage as an element count and
//! its bytes.

use std::collections::HashMap;
use std::path::Path;

use super::pickle::{Node, Pickle, Value};
use super::pytorch::{Container, MAX_PICKLE, StorageId, text};
use super::tensor::DataFile;
use crate::error::{Error, Result};

/// The number 0x1950a86a20f9469cfc6c, as a pickle holds it.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// The only version there ever was.
const VERSION: i64 = 1001;
/// Bytes in which a pickle is first looked for: nobody says how long it is.
const FIRST_LOOK: u64 = 1 << 16;

/// Whether a file that begins so is of this layout.
pub(super) fn is_legacy(start: &[u8]) -> bool {
    start.first() == Some(&0x80) && start.windows(MAGIC.len()).any(|bytes| bytes == MAGIC)
}

/// Reads the pickles and finds the storages.
pub(super) fn open(path: &Path) -> Result<Container> {
    let file = DataFile::open(path)?;
    let mut stream = Stream { file: &file, at: 0 };
    stream.pickle("the magic number")?;
    let version = stream.pickle("the version")?;
    if *version.root() != Value::Int(VERSION) {
        let found = match version.root() {
            Value::Int(number) => number.to_string(),
            other => version.describe(other),
        };
        return Err(Error::invalid(path, format!("has version {found} of torch.save; expected {VERSION}")));
    }
    let machine = stream.pickle("the facts of the machine")?;
    let little = (Value::Str("little_endian".into()), Value::Bool(true));
    if machine.items(machine.root()).is_none_or(|facts| !facts.contains(&little)) {
        let detail = "was saved on a big-endian machine; only little-endian files are read";
        return Err(Error::invalid(path, detail));
    }
    let pickle = stream.pickle("the object")?;
    let keys = stream.pickle("the list of storages")?;
    let Some(Node::List(keys)) = keys.node(keys.root()) else {
        let found = keys.describe(keys.root());
        return Err(Error::invalid(path, format!("the list of storages is {found}; expected a list")));
    };
    let storages = stream.storages(&pickle, keys)?;
    Ok(Container { file, pickle, storages })
}

/// The file, read from front to back.
struct Stream<'a> {
    file: &'a DataFile,
    at: u64,
}

impl Stream<'_> {
    fn pickle(&mut self, what: &str) -> Result<Pickle> {
        let most = (self.file.len() - self.at).min(MAX_PICKLE);
        let mut look = FIRST_LOOK;
        loop {
            let mut bytes = vec![0; look.min(most) as usize];
            self.file.read_at(self.at, &mut bytes)?;
            match Pickle::parse_first(&bytes) {
                Ok((pickle, length)) => {
                    self.at += length as u64;
                    return Ok(pickle);
                }
                // It may only have been cut off.
                Err(_) if look < most => look *= 8,
                Err(why) => return Err(self.damaged(format!("{what}: {why}"))),
            }
        }
    }

    /// Storage key to (first byte, length in bytes), of storages that lie one after the other.
    fn storages(&mut self, pickle: &Pickle, keys: &[Value]) -> Result<HashMap<String, (u64, u64)>> {
        let mut sizes = HashMap::new();
        for id in pickle.persistent() {
            let id = StorageId::new(pickle, id)
                .map_err(|why| Error::invalid(self.file.path(), format!("a tensor: {why}")))?;
            sizes.insert(id.key, (id.element_size(), id.class));
        }
        let mut storages = HashMap::with_capacity(keys.len());
        for key in keys {
            let key = text(key).ok_or_else(|| self.damaged("a storage's key is not a string".into()))?;
            // Nothing else tells the bytes of an element, and so where the next storage begins.
            let size = match sizes.get(key) {
                Some((Some(size), _)) => *size as u64,
                Some((None, class)) => {
                    let detail = format!("storage {key} is of type `{class}`, which cannot be read");
                    return Err(Error::invalid(self.file.path(), detail));
                }
                None => return Err(self.damaged(format!("no tensor uses storage {key}"))),
            };
            let count = self.count(key)?;
            let bytes = count.checked_mul(size).filter(|&bytes| bytes <= self.file.len() - self.at);
            let bytes = bytes.ok_or_else(|| {
                let left = self.file.len() - self.at;
                self.damaged(format!(
                    "storage {key} has {count} elements of {size} bytes, {left} bytes are left"
                ))
            })?;
            storages.insert(key.to_owned(), (self.at, bytes));
            self.at += bytes;
        }
        Ok(storages)
    }

    /// The element count before a storage.
    fn count(&mut self, key: &str) -> Result<u64> {
        if self.file.len() - self.at < 8 {
            return Err(self.damaged(format!("storage {key} is missing")));
        }
        let mut bytes = [0; 8];
        self.file.read_at(self.at, &mut bytes)?;
        self.at += 8;
        Ok(u64::from_le_bytes(bytes))
    }

    fn damaged(&self, why: String) -> Error {
        let detail = format!("the file is truncated or damaged ({why}); download or copy the file again");
        Error::invalid(self.file.path(), detail)
    }
}
