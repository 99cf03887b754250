use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::atomic;
use crate::checkpoint::ensure_absent;
use crate::config::PrecisionConfig;
use crate::error::{Error, Result};

/// Most images of one call; more is a slip of the keyboard.
pub const MAX_COUNT: usize = 100_000_000;

/// Checks that a file is not there, and its folder is.
///
/// # Errors
/// When it is, or its folder is not.
pub fn ensure_writable(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(Error::invalid(path, "cannot be written: its folder does not exist"));
    }
    ensure_absent(path)
}

/// What an error about a folder ends with.
const ADVICE: &str = "choose another --out, or delete the folder";

/// Checks that a folder holds nothing, or what `file` tells of: what [`claim`] would refuse before it has the settings.
///
/// # Errors
/// `Exists` when it holds something else.
pub fn ensure_ours(folder: &Path, file: &str) -> Result<()> {
    let occupied = || fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if folder.join(file).exists() || !occupied() {
        return Ok(());
    }
    let detail = format!("is not empty, and has no {file} that tells what it holds; {ADVICE}");
    Err(Error::Exists { path: folder.into(), detail })
}

/// The precision to compute in. What an earlier call noted in `file` of one of these folders decides what `auto` means.
pub fn settled_precision(asked: PrecisionConfig, folders: &[&Path], file: &str) -> PrecisionConfig {
    if asked != PrecisionConfig::Auto {
        return asked;
    }
    let begun = folders.iter().find_map(|folder| {
        let settings: Value = serde_json::from_str(&fs::read_to_string(folder.join(file)).ok()?).ok()?;
        serde_json::from_value(settings.get("precision")?.clone()).ok()
    });
    begun.unwrap_or(asked).resolved()
}

/// Makes a folder the place of `what` of these settings, which are noted in `file`.
///
/// # Errors
/// `Exists` when it holds something else, or the same of other settings.
pub fn claim(folder: &Path, file: &str, settings: &Value, what: &str) -> Result<()> {
    let path = folder.join(file);
    ensure_ours(folder, file)?;
    if !path.exists() {
        fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        return atomic::write(&path, format!("{settings:#}\n").as_bytes());
    }
    let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    let found: Value =
        serde_json::from_str(&text).map_err(|e| Error::invalid(&path, format!("is damaged: {e}")))?;
    let fields = settings.as_object().expect("settings are an object");
    // The same weights may lie under another name by now.
    let changed = fields.iter().filter(|(name, value)| *name != "model" && found.get(name) != Some(value));
    let changes: Vec<String> = changed
        .map(|(name, value)| format!("{name} {} instead of {value}", found.get(name).unwrap_or(&Value::Null)))
        .collect();
    if changes.is_empty() {
        return Ok(());
    }
    let detail = format!("holds {what} of {}; {ADVICE}", changes.join(", "));
    Err(Error::Exists { path: folder.into(), detail })
}
