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
}

/// What the `config.json` of a folder says that it holds.
///
/// # Errors
/// When there is such a file that cannot be read.
pub fn kind_of(path: &Path) -> Result<Component> {
    let config = path.join("config.json");
    if !config.is_file() {
        return Ok(Component::Transformer);
    }
    let config = read_json(&config)?;
    let first = config.get("architectures").and_then(|names| names.get(0));
    let class = config.get("_class_name").or(first).or(config.get("model_type")).and_then(Value::as_str);
    Ok(match class.unwrap_or_default() {
        "T5EncoderModel" | "T5Model" | "T5ForConditionalGeneration" | "t5" => Component::TextEncoder,
        _ => Component::Transformer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(kind_of(folder.path()).unwrap(), Component::Transformer);
        for (config, expected) in [
            (r#"{"architectures": ["T5EncoderModel"], "model_type": "t5"}"#, Component::TextEncoder),
            (r#"{"model_type": "t5"}"#, Component::TextEncoder),
            (r#"{"_class_name": "DiTTransformer2DModel"}"#, Component::Transformer),
            ("{}", Component::Transformer),
        ] {
            std::fs::write(folder.path().join("config.json"), config).unwrap();
            assert_eq!(kind_of(folder.path()).unwrap(), expected, "{config}");
        }
        std::fs::write(folder.path().join("config.json"), "[").unwrap();
        assert!(kind_of(folder.path()).is_err());
    }
}
