use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::config::read_utf8;
use crate::error::Result;
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
    let text = read_utf8(&arguments.prompts)?;
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
