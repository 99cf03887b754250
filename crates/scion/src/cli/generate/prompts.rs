use std::path::Path;

use super::GenerateArguments;
use crate::checkpoint::Precision;
use crate::config::read_lines;
use crate::error::Result;
use crate::generate::PipelineFolder;
use crate::geneval::{self, Prompt, official_prompts};
use crate::model::{DitConfig, Prompts};
use crate::run::{EMBEDDED_NAME, embedded_prompts, fetched_prompts};
use crate::text::{Caption, EmbeddingCache, PromptEncoder, Weights};

/// The prompts' texts, and what GenEval wants to see in their images where it is they.
///
/// # Errors
/// When a file of prompts cannot be read, or holds none or malformed ones.
pub fn read_prompts(arguments: &GenerateArguments) -> Result<(Vec<String>, Option<Vec<Prompt>>)> {
    if let Some(name) = &arguments.geneval {
        let prompts =
            if name == EMBEDDED_NAME { official_prompts() } else { geneval::read_prompts(Path::new(name))? };
        return Ok((prompts.iter().map(|prompt| prompt.prompt.clone()).collect(), Some(prompts)));
    }
    let Some(path) = &arguments.prompts else {
        return Ok((arguments.prompt.iter().cloned().collect(), None));
    };
    Ok((read_lines(path)?, None))
}

/// The prompts, and the negative one for guidance, as the text encoder makes them, and that encoder's fingerprint; without a
/// pipeline those whose embeddings are compiled into the program.
///
/// # Errors
/// Those of opening the pipeline's tokenizer and text encoder, and of its cache; a prompt that is not compiled in.
pub fn encoded(
    arguments: &GenerateArguments,
    folder: Option<&PipelineFolder>,
    prompts: &[String],
    sizes: &DitConfig,
    quiet: bool,
) -> Result<(Prompts, String)> {
    let Some(folder) = folder else { return Ok((embedded_prompts(prompts, sizes)?, String::new())) };
    let caption = if arguments.plain { Caption::Lower } else { Caption::Clean };
    let encoder = PromptEncoder::open(&arguments.model, Weights::Streamed, caption)?
        .with_max_tokens(folder.prompt_tokens());
    encoder.check_width(sizes.text().map_or(0, |text| text.width))?;
    let cache = EmbeddingCache::open(&encoder, None, Precision::F32)?;
    let found = fetched_prompts(&cache, prompts, &arguments.negative, quiet)?;
    Ok((found, encoder.fingerprint()?))
}
