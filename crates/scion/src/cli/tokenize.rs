use std::fs;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::error::{Error, Result};
use crate::text::{MAX_TOKENS, Tokenizer};

#[derive(Args)]
pub struct TokenizeArguments {
    /// A pipeline's folder, or its tokenizer's
    folder: PathBuf,
    /// A text file, one prompt a line
    #[arg(long)]
    prompts: PathBuf,
    /// Tokens of a prompt, the last of which ends it; longer prompts lose their end
    #[arg(long, default_value_t = MAX_TOKENS)]
    max_tokens: usize,
}

pub fn tokenize(arguments: &TokenizeArguments) -> Result<()> {
    let tokenizer = Tokenizer::open(&arguments.folder)?;
    let path = &arguments.prompts;
    let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let line =
            e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::invalid(path, format!("line {line} is not UTF-8"))
    })?;
    // The last line's end does not begin another prompt.
    let lines = text.strip_suffix('\n').unwrap_or(&text);
    for prompt in lines.split('\n').filter(|_| !text.is_empty()) {
        let tokens = tokenizer.encode(prompt, arguments.max_tokens)?;
        tokens.warn_if_cut(prompt);
        let ids: Vec<String> = tokens.ids.iter().map(u32::to_string).collect();
        say!("{}", ids.join(" "));
    }
    Ok(())
}
