use std::sync::Arc;

use crate::config::{DataConfig, DataSource};
use crate::data::emoji::emoji_texts;
use crate::error::{Error, Result};
use crate::model::{Dit, DitConfig, Prompts};

/// Gives a text-to-image model the captions of a run's data as its prompts; any other model is returned as it is.
///
/// # Errors
/// When the data have no captions, or not of the text encoder that the model was trained with.
pub(super) fn with_captions(model: Dit, data: &DataConfig, sizes: &DitConfig) -> Result<Dit> {
    if sizes.text().is_none() {
        return Ok(model);
    }
    if data.source != DataSource::Emoji {
        return Err(Error::Usage(
            "a text-to-image model learns from captioned images; expected data.source = \"emoji\"".into(),
        ));
    }
    let texts = emoji_texts()?;
    let prompts = Prompts::new(texts.width, texts.tokens, texts.empty)?;
    prompts.check(sizes)?;
    Ok(model.with_prompts(Arc::new(prompts)))
}
