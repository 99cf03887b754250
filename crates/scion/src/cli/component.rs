use std::path::Path;

use serde_json::Value;

/// What a path given as a model holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// A class-conditional DiT, in any layout.
    Dit,
    /// The autoencoder of latent diffusion.
    Autoencoder,
}

/// What a folder, or the folder of a file, holds by its `config.json`; a DiT where there is none that says otherwise.
pub fn kind_of(path: &Path) -> Component {
    let config = if path.is_file() { path.with_file_name("config.json") } else { path.join("config.json") };
    let fields = std::fs::read(config).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    match fields.as_ref().and_then(|fields| fields["_class_name"].as_str()) {
        Some("AutoencoderKL") => Component::Autoencoder,
        _ => Component::Dit,
    }
}
