//! `torch.save`'s zip archives (PyTorch 1.6 and later): `data.pkl`, and one uncompressed member per storage.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use zip::read::ZipFile;
use zip::{CompressionMethod, ZipArchive};

use super::pickle::Pickle;
use super::pytorch::{Container, MAX_PICKLE};
use super::tensor::DataFile;
use crate::error::{Error, Result};

/// Reads the pickle and finds the storages.
pub(super) fn open(path: &Path) -> Result<Container> {
    let file = DataFile::open(path)?;
    let handle = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut zip = ZipArchive::new(BufReader::new(handle)).map_err(|e| damaged(path, e))?;
    let names: Vec<String> = zip
        .file_names()
        .map(|name| name.map(Into::into))
        .collect::<Result<_, _>>()
        .map_err(|e| damaged(path, e))?;
    let prefix =
        names.iter().filter_map(|name| name.strip_suffix("data.pkl")).find(|p| p.matches('/').count() <= 1);
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
    let pickle = Pickle::parse(&pickle).map_err(|why| Error::invalid(path, format!("data.pkl: {why}")))?;
    Ok(Container { file, pickle, storages })
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
