//! Where a checkpoint's bytes come from: one file, several shards, a diffusers folder or pipeline.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::tensor::Stored;
use super::{legacy, pytorch, safetensors};
use crate::error::{Error, Result};

/// The kind of file a checkpoint was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A zip archive written by `torch.save`.
    Pytorch,
    /// What `torch.save` wrote before PyTorch 1.6, and still does when asked to.
    PytorchLegacy,
    /// Safetensors.
    Safetensors,
}

/// What a checkpoint was read from.
#[derive(Clone, Debug)]
pub struct Source {
    /// Kind of the files that hold the tensors.
    pub format: Format,
    /// Those files: one, or the shards in order of their names.
    pub files: Vec<PathBuf>,
    /// The pickle entry taken (`ema`, `model`, …); `None` for a flat file.
    pub entry: Option<String>,
    /// The `config.json` found beside the file, or in the folder.
    pub config: Option<PathBuf>,
    /// Plain values of a training file: those beside the tensors and those in its `args`.
    pub arguments: BTreeMap<String, serde_json::Value>,
}

/// Tensors and everything known about them, names as in the file.
pub(super) struct Opened {
    pub(super) source: Source,
    pub(super) tensors: BTreeMap<String, Stored>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// Weight files looked for in a folder, the preferred first.
const FOLDER_FILES: [&str; 8] = [
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// Opens a file, an index of shards, a diffusers folder or a pipeline folder.
pub(super) fn open(path: &Path, entry: Option<&str>) -> Result<Opened> {
    let file = if path.is_dir() { file_in_folder(path)? } else { path.to_path_buf() };
    let mut opened = match file.to_string_lossy().ends_with(".index.json") {
        true => open_shards(&file, entry)?,
        false => open_file(&file, entry)?,
    };
    opened.source.config = Some(file.with_file_name("config.json")).filter(|config| config.is_file());
    Ok(opened)
}

fn file_in_folder(folder: &Path) -> Result<PathBuf> {
    let inner = folder.join("transformer");
    let folder = if inner.is_dir() { inner.as_path() } else { folder };
    let found = FOLDER_FILES.iter().map(|name| folder.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| {
        Error::invalid(folder, format!("holds none of the weight files {}", FOLDER_FILES.join(", ")))
    })
}

fn open_file(path: &Path, entry: Option<&str>) -> Result<Opened> {
    let format = sniff(path)?;
    let (tensors, metadata, entry, arguments) = match format {
        Format::Pytorch | Format::PytorchLegacy => {
            let open = if format == Format::Pytorch { pytorch::open } else { pytorch::open_legacy };
            let file = open(path, entry)?;
            (file.tensors, BTreeMap::new(), file.entry, file.arguments)
        }
        Format::Safetensors if entry.is_some() => {
            return Err(Error::invalid(path, "is a safetensors file, which has no entries to choose from"));
        }
        Format::Safetensors => {
            let file = safetensors::open(path)?;
            (file.tensors, file.metadata, None, BTreeMap::new())
        }
    };
    let source = Source { format, files: vec![path.into()], entry, config: None, arguments };
    Ok(Opened { source, tensors, metadata })
}

/// Opens every shard that an index lists. Each name must be in the shard the index gives for it.
fn open_shards(index: &Path, entry: Option<&str>) -> Result<Opened> {
    let invalid = |detail: String| Error::invalid(index, detail);
    let json = read_json(index)?;
    let map = json.get("weight_map").cloned().ok_or_else(|| invalid("has no field weight_map".into()))?;
    let map: BTreeMap<String, String> = serde_json::from_value(map)
        .map_err(|e| invalid(format!("weight_map must map tensor names to file names: {e}")))?;
    let shards: BTreeSet<&String> = map.values().collect();
    let mut whole: Option<Opened> = None;
    for shard in shards {
        // An index comes from strangers: it names files beside it, nothing elsewhere.
        if Path::new(shard).file_name().is_none_or(|name| name != shard.as_str()) {
            return Err(invalid(format!(
                "weight_map names `{shard}`; expected the name of a file in the same folder"
            )));
        }
        let opened = open_file(&index.with_file_name(shard), entry)?;
        for name in map.iter().filter(|(_, file)| *file == shard).map(|(name, _)| name) {
            if !opened.tensors.contains_key(name) {
                return Err(invalid(format!(
                    "weight_map places `{name}` in {shard}, which does not hold it"
                )));
            }
        }
        let Some(whole) = &mut whole else {
            whole = Some(opened);
            continue;
        };
        for (name, tensor) in opened.tensors {
            if whole.tensors.insert(name.clone(), tensor).is_some() {
                return Err(invalid(format!("tensor `{name}` is in more than one shard")));
            }
        }
        whole.source.files.extend(opened.source.files);
        whole.metadata.extend(opened.metadata);
    }
    whole.ok_or_else(|| invalid("weight_map is empty".into()))
}

/// Tells the format from the first bytes: extensions lie, and `.bin` may be anything.
fn sniff(path: &Path) -> Result<Format> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    file.take(32).read_to_end(&mut start).map_err(|e| Error::io("read", path, e))?;
    let problem = match start.as_slice() {
        // First: these begin with the header's length, which may look like the start of anything.
        [_, _, _, _, 0, 0, 0, 0, b'{', ..] => return Ok(Format::Safetensors),
        [b'P', b'K', 3 | 5, ..] => return Ok(Format::Pytorch),
        [] => "is empty",
        _ if legacy::is_legacy(&start) => return Ok(Format::PytorchLegacy),
        [0x80, 1..=5, ..] => {
            "is a pickle that torch.save did not write; load it in Python and save a state dict with torch.save, or \
             convert it to safetensors"
        }
        _ if start.starts_with(b"version https://git-lfs") => {
            "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
        }
        _ if start.trim_ascii_start().starts_with(b"<") => {
            "is a web page, not a checkpoint; download it again"
        }
        _ if extension(path) == "safetensors" => return Ok(Format::Safetensors),
        _ if matches!(extension(path), "pt" | "pth" | "bin" | "ckpt") => {
            "is not a zip archive; expected a file written by torch.save, whole"
        }
        _ => "is neither a safetensors file nor a file written by torch.save",
    };
    Err(Error::invalid(path, problem))
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|e| e.to_str()).unwrap_or_default()
}

/// A file that holds a JSON object.
pub(crate) fn read_json(path: &Path) -> Result<serde_json::Map<String, serde_json::Value>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::invalid(path, format!("is not a JSON object: {e}")))
}
