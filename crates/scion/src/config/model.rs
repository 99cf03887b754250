use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::model::DitConfig;

/// Where the model comes from: a checkpoint, or sizes for a fresh one. Sizes beside a checkpoint are those that it must
/// have; plans are made with them while the checkpoint is not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ModelConfig {
    /// A path, `hf://org/repo/file`, or `embedded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// A named size, such as `dit-xl-2-256`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// Free sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sizes: Option<DitConfig>,
    /// Attention heads, where neither the file nor its width tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// The autoencoder whose latents the model makes: its folder. Without it, samples of such a model stay latents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vae: Option<PathBuf>,
    /// The folder that holds `tokenizer` and `text_encoder` of a text-to-image model. Without it, prompts are those whose
    /// embeddings are compiled into the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder: Option<PathBuf>,
}

impl ModelConfig {
    /// The sizes that the section names, by themselves or by a preset's name.
    ///
    /// # Errors
    /// When there is no such preset, or the sizes do not fit one another.
    pub fn named_sizes(&self) -> Result<Option<DitConfig>> {
        if let Some(sizes) = &self.sizes {
            sizes.check()?;
        }
        let preset = self.preset.as_deref().map(DitConfig::preset).transpose()?;
        Ok(self.sizes.clone().or(preset))
    }

    pub(super) fn check(&self) -> std::result::Result<(), String> {
        match (&self.checkpoint, &self.preset, &self.sizes) {
            (None, None, None) => {
                Err("[model] needs `checkpoint`, or `preset` or `sizes` for a fresh model".into())
            }
            (_, Some(_), Some(_)) => Err("[model] has both `preset` and `sizes`; leave one out".into()),
            _ => Ok(()),
        }
    }
}
