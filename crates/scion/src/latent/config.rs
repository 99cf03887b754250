use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// What an autoencoder's `config.json` tells, under the names that it has there (diffusers `AutoencoderKL`).
#[derive(Clone, Debug, PartialEq)]
pub struct AutoencoderConfig {
    /// Channels of an image given to the encoder.
    pub in_channels: usize,
    /// Channels of an image that the decoder makes.
    pub out_channels: usize,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Channels of each level, that of the image's size first. Every level but the first halves rows and columns.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Groups of every norm.
    pub norm_num_groups: usize,
    /// Whether attention stands between the middle's two residual blocks.
    pub mid_block_add_attention: bool,
    /// Whether a 1×1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1×1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Side of a tile, in pixels.
    pub sample_size: usize,
    /// What a diffusion model sees is (latent − shift_factor)·scaling_factor.
    pub scaling_factor: f64,
    /// See there; 0 where the file has none.
    pub shift_factor: f64,
}

impl AutoencoderConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// `Io` if there is none; `Invalid`, naming the field, if one is damaged, unknown, or asks for what is not built here.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read the autoencoder's", path, e))?;
        let fields = serde_json::from_slice(&bytes)
            .map_err(|e| Error::invalid(path, format!("is not a JSON object: {e}")))?;
        Fields { path: path.into(), fields }.config()
    }

    /// Pixels of an image's side over those of its latent's.
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

/// The fields of the file that have not been read yet.
struct Fields {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl Fields {
    fn config(mut self) -> Result<AutoencoderConfig> {
        self.only("_class_name", &["AutoencoderKL"])?;
        self.only("act_fn", &["silu", "swish"])?;
        for (field, block) in
            [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")]
        {
            self.blocks(field, block)?;
        }
        let config = AutoencoderConfig {
            in_channels: self.count("in_channels", 3)?,
            out_channels: self.count("out_channels", 3)?,
            latent_channels: self.count("latent_channels", 4)?,
            block_out_channels: self.take("block_out_channels", vec![64])?,
            layers_per_block: self.count("layers_per_block", 1)?,
            norm_num_groups: self.count("norm_num_groups", 32)?,
            mid_block_add_attention: self.take("mid_block_add_attention", true)?,
            use_quant_conv: self.take("use_quant_conv", true)?,
            use_post_quant_conv: self.take("use_post_quant_conv", true)?,
            sample_size: self.sample_size()?,
            scaling_factor: self.take("scaling_factor", 0.18215)?,
            shift_factor: self.take("shift_factor", 0.0)?,
        };
        self.take("force_upcast", true)?; // everything is f32 here
        self.check(&config)?;
        let left = self.fields.iter().find(|(name, value)| !name.starts_with('_') && !value.is_null());
        match left {
            Some((name, value)) => {
                Err(self.bad(name, &format!("is {value}, which this autoencoder does not know")))
            }
            None => Ok(config),
        }
    }

    fn bad(&self, field: &str, what: &str) -> Error {
        Error::invalid(&self.path, format!("{field} {what}"))
    }

    /// A field, or its default where it is missing or null.
    fn take<T: DeserializeOwned>(&mut self, field: &str, default: T) -> Result<T> {
        match self.fields.remove(field) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => serde_json::from_value(value.clone())
                .map_err(|e| self.bad(field, &format!("is {value}, which cannot be read: {e}"))),
        }
    }

    /// A positive number.
    fn count(&mut self, field: &str, default: usize) -> Result<usize> {
        match self.take(field, default)? {
            0 => Err(self.bad(field, "is 0; expected at least 1")),
            count => Ok(count),
        }
    }

    /// A name that is one of those built here.
    fn only(&mut self, field: &str, known: &[&str]) -> Result<()> {
        let found = self.take(field, known[0].to_string())?;
        if known.contains(&found.as_str()) {
            return Ok(());
        }
        Err(self.bad(field, &format!("is {found:?}; supported is {known:?}")))
    }

    /// A list of block types, as many as there are levels, all of one kind.
    fn blocks(&mut self, field: &str, known: &str) -> Result<()> {
        let levels = self.fields.get("block_out_channels").and_then(Value::as_array).map_or(1, Vec::len);
        let found: Vec<String> = self.take(field, vec![known.into(); levels])?;
        if let Some(other) = found.iter().find(|block| *block != known) {
            return Err(self.bad(field, &format!("names {other:?}; supported is {known:?}")));
        }
        if found.len() != levels {
            return Err(self.bad(field, &format!("has {} entries, block_out_channels {levels}", found.len())));
        }
        Ok(())
    }

    /// A number, or rows and columns, of which the rows count.
    fn sample_size(&mut self) -> Result<usize> {
        if let Some(Value::Array(sides)) = self.fields.get("sample_size") {
            let first = sides.first().cloned().unwrap_or_default();
            self.fields.insert("sample_size".into(), first);
        }
        self.count("sample_size", 32)
    }

    fn check(&self, config: &AutoencoderConfig) -> Result<()> {
        let channels = &config.block_out_channels;
        if channels.is_empty() || channels.len() > MAX_LEVELS {
            return Err(self.bad(
                "block_out_channels",
                &format!("has {} levels; expected 1 to {MAX_LEVELS}", channels.len()),
            ));
        }
        let groups = config.norm_num_groups;
        if let Some(odd) = channels.iter().find(|&&count| count == 0 || !count.is_multiple_of(groups)) {
            let what =
                format!("holds {odd}, which does not divide into the {groups} groups of norm_num_groups");
            return Err(self.bad("block_out_channels", &what));
        }
        if !(config.scaling_factor.is_finite() && config.scaling_factor > 0.0) {
            return Err(self.bad(
                "scaling_factor",
                &format!("is {}; expected a positive number", config.scaling_factor),
            ));
        }
        if !config.shift_factor.is_finite() {
            return Err(self.bad("shift_factor", "is not finite"));
        }
        Ok(())
    }
}

/// More would halve an image of 65,536 pixels a side to nothing.
const MAX_LEVELS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<AutoencoderConfig> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        AutoencoderConfig::read(&path)
    }

    /// The fields of Stable Diffusion's file.
    #[test]
    fn published_fields_are_read() {
        let config = read(
            r#"{"_class_name": "AutoencoderKL", "_diffusers_version": "0.4.2", "_name_or_path": "x", "act_fn": "silu",
            "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D",
            "DownEncoderBlock2D", "DownEncoderBlock2D"], "in_channels": 3, "latent_channels": 4, "layers_per_block": 2,
            "norm_num_groups": 32, "out_channels": 3, "sample_size": [512, 256], "latents_mean": null, "up_block_types":
            ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"], "force_upcast": true}"#,
        )
        .unwrap();
        assert_eq!((config.factor(), config.layers_per_block, config.sample_size), (8, 2, 512));
        assert_eq!((config.scaling_factor, config.shift_factor), (0.18215, 0.0));
        assert!(config.use_quant_conv && config.use_post_quant_conv && config.mid_block_add_attention);
    }

    #[test]
    fn unsupported_fields_are_named() {
        let cases = [
            (r#"{"_class_name": "AutoencoderTiny"}"#, "_class_name is \"AutoencoderTiny\""),
            (r#"{"act_fn": "mish"}"#, "act_fn is \"mish\""),
            (
                r#"{"up_block_types": ["AttnUpDecoderBlock2D"]}"#,
                "up_block_types names \"AttnUpDecoderBlock2D\"",
            ),
            (r#"{"down_block_types": []}"#, "down_block_types has 0 entries, block_out_channels 1"),
            (r#"{"block_out_channels": [64, 48]}"#, "block_out_channels holds 48"),
            (r#"{"block_out_channels": []}"#, "block_out_channels has 0 levels"),
            (r#"{"latent_channels": 0}"#, "latent_channels is 0"),
            (r#"{"latent_channels": "four"}"#, "latent_channels is \"four\", which cannot be read"),
            (r#"{"norm_num_groups": 0}"#, "norm_num_groups is 0"),
            (r#"{"scaling_factor": 0}"#, "scaling_factor is 0"),
            (r#"{"latents_mean": [1.0]}"#, "latents_mean is [1.0]"),
            (r#"{"sample_size": [0]}"#, "sample_size is 0"),
            ("[]", "not a JSON object"),
        ];
        for (text, expected) in cases {
            let message = read(text).unwrap_err().to_string();
            assert!(
                message.contains(expected) && message.contains("config.json"),
                "{message} lacks {expected}"
            );
        }
    }
}
