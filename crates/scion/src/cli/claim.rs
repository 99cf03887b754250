use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::atomic;
use crate::error::{Error, Result};

/// Makes a folder the place of `what` of these settings, which are noted in `file`.
///
/// # Errors
/// `Exists` when it holds something else, or the same of other settings.
pub fn claim(folder: &Path, file: &str, settings: &Value, what: &str) -> Result<()> {
    let path = folder.join(file);
    let exists = |detail: String| {
        let detail = format!("{detail}; choose another --out, or delete the folder");
        Err(Error::Exists { path: folder.into(), detail })
    };
    if !path.exists() {
        if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return exists(format!("is not empty, and has no {file} that tells what it holds"));
        }
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
    if changes.is_empty() { Ok(()) } else { exists(format!("holds {what} of {}", changes.join(", "))) }
}
