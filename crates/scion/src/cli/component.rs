use std::path::Path;

use serde_json::Value;

use crate::checkpoint::read_json;
use crate::error::Result;

/// A part of a pipeline, as far as `scion forward` tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// A diffusion transformer, or whatever is not known to be something else.
    Transformer,
    /// A T5 encoder.
    TextEncoder,
    /// The autoencoder of latent diffusion.
    Autoencoder,
}

/// What a folder, or the folder of a file, holds by its `config.json`.
///
/// # Errors
/// When a folder has such a file that cannot be read. Beside a file it may be anything.
pub fn kind_of(path: &Path) -> Result<Component> {
    let config = match path.is_file() {
        true => read_json(&path.with_file_name("config.json")).unwrap_or_default(),
        false if path.join("config.json").is_file() => read_json(&path.join("config.json"))?,
        false => return Ok(Component::Transformer),
    };
    let first = config.get("architectures").and_then(|names| names.get(0));
    let class = config.get("_class_name").or(first).or(config.get("model_type")).and_then(Value::as_str);
    Ok(match class.unwrap_or_default() {
        "T5EncoderModel" | "T5Model" | "T5ForConditionalGeneration" | "t5" => Component::TextEncoder,
        "AutoencoderKL" => Component::Autoencoder,
        _ => Component::Transformer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("weights.safetensors");
        std::fs::write(&file, "").unwrap();
        assert_eq!(kind_of(folder.path()).unwrap(), Component::Transformer);
        assert_eq!(kind_of(&file).unwrap(), Component::Transformer);
        for (config, expected) in [
            (r#"{"architectures": ["T5EncoderModel"], "model_type": "t5"}"#, Component::TextEncoder),
            (r#"{"model_type": "t5"}"#, Component::TextEncoder),
            (r#"{"_class_name": "PixArtTransformer2DModel"}"#, Component::Transformer),
            (r#"{"_class_name": "AutoencoderKL"}"#, Component::Autoencoder),
            ("{}", Component::Transformer),
        ] {
            std::fs::write(folder.path().join("config.json"), config).unwrap();
            assert_eq!(kind_of(folder.path()).unwrap(), expected, "{config}");
            assert_eq!(kind_of(&file).unwrap(), expected, "{config}");
        }
        std::fs::write(folder.path().join("config.json"), "[").unwrap();
        assert!(kind_of(folder.path()).is_err());
        assert_eq!(kind_of(&file).unwrap(), Component::Transformer);
    }
}
