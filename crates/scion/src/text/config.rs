//! The sizes of a T5 encoder, from the `config.json` that transformers writes beside its weights.

use std::path::Path;

use serde_json::{Map, Value};

use crate::checkpoint::read_json;
use crate::error::{Error, Result};

/// More than any model has of anything; keeps products of sizes within 64 bits.
const LARGEST: u64 = 1 << 20;

/// The two layers behind attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForward {
    /// `wo(relu(wi x))`, the first T5.
    Relu,
    /// `wo(gelu(wi_0 x) ⊙ wi_1 x)` with the tanh form of GELU: T5 v1.1 and all that came of it.
    GatedGelu,
}

/// Sizes of a T5 encoder; the comments give the names in `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct T5Config {
    /// `vocab_size`: rows of the embedding table.
    pub vocabulary: usize,
    /// `d_model`: features of a token.
    pub width: usize,
    /// `d_ff`: features between the feed-forward layers.
    pub hidden: usize,
    /// `num_layers`.
    pub layers: usize,
    /// `num_heads`.
    pub heads: usize,
    /// `d_kv`: features of a head; heads times these need not be the width.
    pub head_dim: usize,
    /// `relative_attention_num_buckets`: kinds of distance between two tokens, half of them for each direction.
    pub buckets: usize,
    /// `relative_attention_max_distance`: tokens further apart share a bucket.
    pub max_distance: usize,
    /// `layer_norm_epsilon`.
    pub eps: f32,
    /// `feed_forward_proj`, or `dense_act_fn` and `is_gated_act`.
    pub feed_forward: FeedForward,
}

impl T5Config {
    /// Reads `config.json` in the folder of an encoder. Fields that older versions of transformers did not write have its
    /// defaults.
    ///
    /// # Errors
    /// When the file is missing or no JSON object, belongs to another kind of model, or a field is missing, impossible or
    /// not supported; names it.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let file = Fields { fields: read_json(&path)?, path: &path };
        if let Some(kind) = file.text("model_type")?.filter(|kind| *kind != "t5") {
            return Err(file.wrong("model_type", &format!("\"{kind}\""), "\"t5\""));
        }
        if file.flag("is_decoder")? == Some(true) {
            return Err(file.wrong("is_decoder", "true", "an encoder"));
        }
        let config = Self {
            vocabulary: file.size("vocab_size", None)?,
            width: file.size("d_model", None)?,
            hidden: file.size("d_ff", None)?,
            layers: file.size("num_layers", None)?,
            heads: file.size("num_heads", None)?,
            head_dim: file.size("d_kv", None)?,
            buckets: file.size("relative_attention_num_buckets", Some(32))?,
            max_distance: file.size("relative_attention_max_distance", Some(128))?,
            eps: file.eps()?,
            feed_forward: file.feed_forward()?,
        };
        if config.buckets < 4 {
            let found = config.buckets.to_string();
            return Err(file.wrong("relative_attention_num_buckets", &found, "4 or more"));
        }
        if config.max_distance <= config.buckets / 4 {
            let expected = format!("more than a quarter of the {} buckets", config.buckets);
            let found = config.max_distance.to_string();
            return Err(file.wrong("relative_attention_max_distance", &found, &expected));
        }
        Ok(config)
    }

    /// Features of all heads together.
    pub fn inner(&self) -> usize {
        self.heads * self.head_dim
    }
}

/// The fields of a configuration file, read with errors that name them.
struct Fields<'a> {
    fields: Map<String, Value>,
    path: &'a Path,
}

impl Fields<'_> {
    fn wrong(&self, field: &str, found: &str, expected: &str) -> Error {
        Error::invalid(self.path, format!("field {field} is {found}; this T5 encoder takes {expected}"))
    }

    /// A field that is neither absent nor null.
    fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    fn size(&self, field: &str, default: Option<usize>) -> Result<usize> {
        let Some(value) = self.get(field) else {
            let missing = || Error::invalid(self.path, format!("has no field {field}"));
            return default.ok_or_else(missing);
        };
        let size = value.as_u64().filter(|size| (1..=LARGEST).contains(size));
        let size =
            size.ok_or_else(|| self.wrong(field, &value.to_string(), "a whole number from 1 to 1048576"))?;
        Ok(size as usize)
    }

    fn text(&self, field: &str) -> Result<Option<&str>> {
        let text = |value: &'_ Value| self.wrong(field, &value.to_string(), "a name");
        self.get(field).map(|value| value.as_str().ok_or_else(|| text(value))).transpose()
    }

    fn flag(&self, field: &str) -> Result<Option<bool>> {
        let flag = |value: &'_ Value| self.wrong(field, &value.to_string(), "true or false");
        self.get(field).map(|value| value.as_bool().ok_or_else(|| flag(value))).transpose()
    }

    fn eps(&self) -> Result<f32> {
        let Some(value) = self.get("layer_norm_epsilon") else { return Ok(1e-6) };
        let eps = value.as_f64().map(|eps| eps as f32).filter(|eps| *eps > 0.0 && eps.is_finite());
        eps.ok_or_else(|| self.wrong("layer_norm_epsilon", &value.to_string(), "a positive number"))
    }

    /// `feed_forward_proj` is what transformers goes by; it writes the other two fields for readers. They must not say
    /// something else.
    fn feed_forward(&self) -> Result<FeedForward> {
        let supported = "\"relu\" or \"gated-gelu\"";
        let (kind, activation) = match self.text("feed_forward_proj")?.unwrap_or("relu") {
            "relu" => (FeedForward::Relu, "relu"),
            "gated-gelu" => (FeedForward::GatedGelu, "gelu_new"),
            other => return Err(self.wrong("feed_forward_proj", &format!("\"{other}\""), supported)),
        };
        if let Some(other) = self.text("dense_act_fn")?.filter(|name| *name != activation) {
            return Err(self.wrong("dense_act_fn", &format!("\"{other}\""), &format!("\"{activation}\"")));
        }
        let gated = kind == FeedForward::GatedGelu;
        if let Some(other) = self.flag("is_gated_act")?.filter(|flag| *flag != gated) {
            let expected = format!("{gated} with this feed_forward_proj");
            return Err(self.wrong("is_gated_act", &other.to_string(), &expected));
        }
        Ok(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"model_type": "t5", "vocab_size": 50, "d_model": 24, "d_ff": 40, "num_layers": 3, "num_heads": 3,
        "d_kv": 5, "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "is_gated_act": true,
        "layer_norm_epsilon": 1e-05, "relative_attention_num_buckets": 8}"#;

    fn read(text: &str) -> Result<T5Config> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), text).unwrap();
        T5Config::read(folder.path())
    }

    #[test]
    fn sizes_are_read_and_older_files_completed() {
        let config = read(GOOD).unwrap();
        assert_eq!((config.inner(), config.buckets, config.max_distance), (15, 8, 128));
        assert_eq!((config.eps, config.feed_forward), (1e-5, FeedForward::GatedGelu));
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (field, from, to) in [
            ("model_type", "\"t5\"", "\"umt5\""),
            ("d_model", "\"d_model\": 24, ", ""),
            ("num_heads", "\"num_heads\": 3", "\"num_heads\": 0"),
            ("num_heads", "\"num_heads\": 3", "\"num_heads\": 2.5"),
            ("d_kv", "\"d_kv\": 5", "\"d_kv\": 9999999999999"),
            ("feed_forward_proj", "\"gated-gelu\"", "\"gated-silu\""),
            ("dense_act_fn", "\"gelu_new\"", "\"gelu\""),
            ("is_gated_act", "\"is_gated_act\": true", "\"is_gated_act\": false"),
            ("layer_norm_epsilon", "1e-05", "-1"),
            ("relative_attention_num_buckets", "_buckets\": 8", "_buckets\": 3"),
            ("relative_attention_max_distance", "_buckets\": 8", "_buckets\": 1024"),
            ("is_decoder", "{", "{\"is_decoder\": true, "),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD);
            let message = read(&text).unwrap_err().to_string();
            assert!(message.contains(field) && message.contains("config.json"), "{field}: {message}");
        }
        let missing = T5Config::read(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/config.json"), "{missing}");
    }
}
