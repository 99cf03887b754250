use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Texts, or a file with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a list of prompts, or the name of a text file")]
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

/// The prompts of a text file: its lines without the space around them, empty ones left out.
///
/// # Errors
/// When the file cannot be read, is not UTF-8, or holds no prompt.
pub fn read_lines(path: &Path) -> Result<Vec<String>> {
    let text = read_utf8(path)?;
    let lines: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string).collect();
    if lines.is_empty() {
        return Err(Error::invalid(path, "holds no prompt; expected one a line"));
    }
    Ok(lines)
}

/// A text file, without the mark that some editors put in front.
///
/// # Errors
/// When the file cannot be read, or a line is not UTF-8.
pub fn read_utf8(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::invalid(path, format!("line {line} is not UTF-8"))
    })?;
    Ok(text.strip_prefix('\u{feff}').map(String::from).unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_trimmed_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.txt");
        std::fs::write(&path, "\u{feff}red apple \r\n\n  a cat\n").unwrap();
        assert_eq!(read_lines(&path).unwrap(), ["red apple", "a cat"]);
        std::fs::write(&path, b"a\nb\n\xff\n").unwrap();
        assert!(read_lines(&path).unwrap_err().to_string().contains("line 3 is not UTF-8"));
        std::fs::write(&path, "\n \n").unwrap();
        assert!(read_lines(&path).unwrap_err().to_string().contains("holds no prompt"));
    }
}
