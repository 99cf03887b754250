//! Files fetched once: where they are kept, and how they come and are told apart.

use std::env;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};

/// `name` in Scion's cache: `$SCION_CACHE`, else `$XDG_CACHE_HOME/scion`, else `~/.cache/scion`. `None` if no home
/// folder is known.
pub(crate) fn cache_folder(name: &str) -> Option<PathBuf> {
    let root = variable("SCION_CACHE").or_else(|| Some(user_cache()?.join("scion")))?;
    Some(root.join(name))
}

/// The folder in which programs keep what they can get again: `$XDG_CACHE_HOME`, else `~/.cache`.
pub(crate) fn user_cache() -> Option<PathBuf> {
    let home = || variable("HOME").or_else(|| variable("USERPROFILE"));
    variable("XDG_CACHE_HOME").or_else(|| Some(home()?.join(".cache")))
}

/// A folder that an environment variable names.
pub(crate) fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The contents of a web address, `most` bytes at the most. The error says in words what went wrong.
pub(crate) fn fetch(url: &str, most: u64) -> Result<Vec<u8>, String> {
    let agent = ureq::AgentBuilder::new()
        .timeout_connect(Duration::from_secs(15))
        .timeout_read(Duration::from_secs(60))
        .build();
    let response = agent.get(url).call().map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    response.into_reader().take(most).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// The SHA-256 of some bytes, in hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
