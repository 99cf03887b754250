use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Texts, or a file with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Texts {
    /// These.
    List(Vec<String>),
    /// The lines of a text file.
    File(PathBuf),
}

impl Texts {
    /// The texts.
    ///
    /// # Errors
    /// When a file cannot be read, or there is no text at all.
    pub fn read(&self) -> Result<Vec<String>> {
        match self {
            Self::List(texts) if texts.is_empty() => {
                Err(Error::Usage("a list of prompts is empty; expected at least one".into()))
            }
            Self::List(texts) => Ok(texts.clone()),
            Self::File(path) => read_lines(path),
        }
    }
}

/// The prompts of a text file: its lines, empty ones left out.
///
/// # Errors
/// When the file cannot be read, or holds no prompt.
pub fn read_lines(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let lines: Vec<String> =
        text.lines().filter(|line| !line.trim().is_empty()).map(str::to_string).collect();
    if lines.is_empty() {
        return Err(Error::invalid(path, "holds no prompt; expected one a line"));
    }
    Ok(lines)
}
