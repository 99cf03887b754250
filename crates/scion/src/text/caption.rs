//! Captions as diffusers' PixArt pipelines prepare them before the tokenizer sees them. Source: diffusers
//! `pipelines/pixart_alpha/pipeline_pixart_sigma.py`, Python's `re`, `str` and `urllib`, the packages bs4 and ftfy.

mod clean;
mod html;
mod repair;

use crate::error::Result;

/// How a prompt is prepared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caption {
    /// Lower case, without white space at the ends: what diffusers does without the packages bs4 and ftfy, and wherever
    /// `clean_caption` is off.
    Lower,
    /// Addresses, markup, file names, article numbers and the like are removed first, twice over: `clean_caption`, on by
    /// default where both packages are installed.
    #[default]
    Clean,
}

/// A prompt as the tokenizer shall see it. The text does not depend on the locale.
///
/// # Errors
/// `Usage` if a caption is so long and strange that cleaning it would take forever.
pub fn prepare(prompt: &str, caption: Caption) -> Result<String> {
    match caption {
        Caption::Lower => Ok(strip(&prompt.to_lowercase()).to_owned()),
        Caption::Clean => clean::clean(&clean::clean(prompt)?),
    }
}

/// Without what Python takes for white space at either end: Unicode's, and four separators that ASCII has.
fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_case_is_pythons() {
        for (prompt, expected) in [
            ("  A Cat\u{1f}\t", "a cat"),
            ("ΟΔΟΣ ΣΑΣ", "οδος σας"),
            ("İ\u{a0}", "i\u{307}"),
            ("\u{200b}X\u{3000}", "\u{200b}x"),
            ("", ""),
        ] {
            assert_eq!(prepare(prompt, Caption::Lower).unwrap(), expected);
        }
    }
}
