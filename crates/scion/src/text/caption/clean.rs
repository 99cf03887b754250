//! One pass of cleaning: a list of replacements, some of them between steps of other packages.

use std::borrow::Cow;
use std::sync::LazyLock;

use fancy_regex::{Regex, RegexBuilder};

use super::{html, repair, strip};
use crate::error::{Error, Result};

/// Steps back that a search may take before it is given up.
const BACKTRACKS: usize = 10_000_000;

/// A pattern, and what stands for each of its matches. Patterns are Python's but for `\w` and `\s`, which stand in
/// brackets; see [`compile`].
type Step = (&'static str, &'static str);

/// Before markup is removed: a label of old data sets, and two kinds of web addresses.
const ADDRESSES: [Step; 3] = [
    ("<person>", "person"),
    (
        r"\b(?:https?:(?:/{1,3}|[a-zA-Z0-9%])|[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@))",
        "",
    ),
    (
        r"\b(?:www:(?:/{1,3}|[a-zA-Z0-9%])|[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@))",
        "",
    ),
];

/// Behind it: names of users, Chinese characters, dashes and quotes of every kind, numbers, file names, punctuation.
const SIGNS: [Step; 18] = [
    (r"@[\w]+\b", ""),
    (r"[\x{31c0}-\x{9fff}]+", ""), // seven blocks that adjoin each other
    (
        r"[\x{2d}\x{58a}\x{5be}\x{1400}\x{1806}\x{2010}-\x{2015}\x{2e17}\x{2e1a}\x{2e3a}\x{2e3b}\x{2e40}\x{301c}\x{3030}\x{30a0}\x{fe31}\x{fe32}\x{fe58}\x{fe63}\x{ff0d}]+",
        "-",
    ),
    ("[`´«»“”¨]", "\""),
    ("[‘’]", "'"),
    ("&quot;?", ""),
    ("&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),
    (r"\d:\d\d[\s]+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (r"[^\s]+\.(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)", ""),
    ("[\"']{2,}", "\""),
    (r"[.]{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~)(\]\[}{|\\/*]+", " "),
    (r"[\s]+\.[\s]+", " "),
];

/// Hyphens and underscores, where there are more than three of them.
const JOINTS: Step = (r"[-_]", " ");

/// Behind the repair of encodings: article numbers, what shops and archives say, sizes, spaces, what is left at the ends.
const WORDS: [Step; 17] = [
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(?:worldwide[\s]+)?(?:free[\s]+)?shipping", ""),
    (r"(?:free[\s])?download(?:[\s]free)?", ""),
    (r"\bclick\b[\s](?:for|on)[\s][\w]+", ""),
    (r"\b(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)(?:[\s]images?)?", ""),
    (r"\bpage[\s]+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),
    (r"\b[\s]+:[\s]+", ": "),
    (r"(\D[,./])\b", "$1 "),
    (r"[\s]+", " "),
    (r#"^["']((?s:.)+)["']$"#, "$1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.[^\s]+$", ""),
];

/// Compiles a pattern so that it finds what Python's `re` finds: letters, digits and `_` are words' characters, but no
/// marks; four more control characters are white space; `$` also stands before a last line's end.
fn compile(pattern: &str) -> Regex {
    const WORD: &str = r"\p{L}\p{N}_";
    let edge = format!("(?:(?<=[{WORD}])(?![{WORD}])|(?<![{WORD}])(?=[{WORD}]))");
    let pattern = pattern
        .replace(r"\w", WORD)
        .replace(r"\s", r"\s\x1c-\x1f")
        .replace(r"\b", &edge)
        .replace('$', r"(?=\n?\z)");
    RegexBuilder::new(&pattern).backtrack_limit(BACKTRACKS).build().expect("the patterns are valid")
}

/// Compiled [`Step`]s.
struct Steps(Vec<(Regex, &'static str)>);

impl Steps {
    fn new(steps: &[Step]) -> Self {
        Self(steps.iter().map(|(pattern, with)| (compile(pattern), *with)).collect())
    }

    fn apply(&self, mut text: String) -> Result<String> {
        for (pattern, with) in &self.0 {
            let replaced = pattern.try_replacen(&text, 0, *with).map_err(|e| {
                let start: String = text.chars().take(40).collect();
                Error::Usage(format!("the caption \"{start}…\" cannot be cleaned ({e}); shorten it"))
            })?;
            if let Cow::Owned(replaced) = replaced {
                text = replaced;
            }
        }
        Ok(text)
    }
}

static STEPS: LazyLock<[Steps; 4]> =
    LazyLock::new(|| [Steps::new(&ADDRESSES), Steps::new(&SIGNS), Steps::new(&[JOINTS]), Steps::new(&WORDS)]);

/// A caption cleaned once.
///
/// # Errors
/// `Usage` if a search is given up.
pub(super) fn clean(caption: &str) -> Result<String> {
    let [addresses, signs, joints, words] = &*STEPS;
    let text = addresses.apply(strip(&unquote(caption)).to_lowercase())?;
    let mut text = signs.apply(html::text(&text))?;
    if text.matches(['-', '_']).count() > 3 {
        text = joints.apply(text)?;
    }
    Ok(strip(&words.apply(repair::repair(&text))?).to_owned())
}

/// Takes back the encoding of web addresses: `+` for a space, `%41` for a byte. Runs of other than ASCII stay, and split
/// the bytes of one character.
fn unquote(text: &str) -> String {
    let text = text.replace('+', " ");
    if !text.contains('%') {
        return text;
    }
    let (mut out, mut bytes) = (String::with_capacity(text.len()), Vec::new());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        rest = match (byte, tail) {
            (b'%', [high, low, after @ ..]) if digit(*high).is_some() && digit(*low).is_some() => {
                bytes.push((digit(*high).unwrap_or(0) * 16 + digit(*low).unwrap_or(0)) as u8);
                after
            }
            _ => {
                bytes.push(*byte);
                tail
            }
        };
        // Where a run ends.
        if rest.first().is_none_or(|next| next.is_ascii() != byte.is_ascii()) {
            out.push_str(&String::from_utf8_lossy(&bytes));
            bytes.clear();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_decoded() {
        for (text, expected) in [
            ("a+b%20c", "a b c"),
            ("100% of %zz %4", "100% of %zz %4"),
            ("%C3%A9t%c3%a9", "été"),
            ("%C3é%A9", "\u{fffd}é\u{fffd}"),
            ("é%41", "éA"),
        ] {
            assert_eq!(unquote(text), expected);
        }
    }

    #[test]
    fn a_search_without_end_is_given_up() {
        let caption = "a.".repeat(30_000);
        if let Err(error) = clean(&caption) {
            assert!(error.to_string().contains("shorten it"), "{error}");
        }
    }
}
