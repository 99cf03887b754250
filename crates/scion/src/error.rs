//! The library's error type. Every message names the file, field or tensor, what was expected and
//! what was found, in one paragraph.

use std::path::{Path, PathBuf};

/// Everything that can go wrong in the library.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    /// A file exists but does not hold what it should.
    #[error("{}: {detail}", path.display())]
    Invalid { path: PathBuf, detail: String },

    /// A checkpoint's tensors do not fit the model.
    #[error("{}: {detail}", path.display())]
    Tensors { path: PathBuf, detail: String },

    /// A recipe has an unknown field, a bad value or an impossible combination.
    #[error("{}: {detail}", path.display())]
    Recipe { path: PathBuf, detail: String },

    /// A plan cannot be carried out on this model.
    #[error("plan: {0}")]
    Plan(String),

    /// Arguments that contradict each other or the file they name.
    #[error("{0}")]
    Usage(String),

    /// Training that ran into numbers that are not finite.
    #[error("training diverged: {0}")]
    Diverged(String),

    /// Finished work that would be overwritten.
    #[error("{}: {detail}", path.display())]
    Exists { path: PathBuf, detail: String },
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wraps an I/O error; `action` completes "cannot … PATH" ("read", "create", "write").
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { action, path: path.as_ref().into(), source }
    }

    /// A file that does not hold what it should.
    pub fn invalid(path: impl AsRef<Path>, detail: impl Into<String>) -> Self {
        Self::Invalid { path: path.as_ref().into(), detail: detail.into() }
    }
}
