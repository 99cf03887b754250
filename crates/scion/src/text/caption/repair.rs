//! What ftfy repairs in a caption, but for text that was decoded with a wrong encoding (`Ã©` for `é`, control characters from
//! U+0080 on): to tell that from strange text is its art, and stays with it.

use tokenizers::NormalizedString;

/// Repairs a text that is in lower case and has straight quotes.
pub(super) fn repair(text: &str) -> String {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let text = text.replace("\r\n", "\n");
    for character in text.chars() {
        match character {
            // Ends of lines are one.
            '\r' | '\u{2028}' | '\u{2029}' => out.push('\n'),
            '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' => {}
            '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}' => {}
            'ﬅ' => out.push_str("ſt"),
            'ŉ' => out.push_str("'n"),
            // Ligatures, and characters as wide as a Chinese one or half as wide.
            'ĳ' | 'ǳ' | 'ǆ' | 'ǉ' | 'ǌ' | 'ﬀ'..='ﬆ' | '\u{ff01}'..='\u{ffef}' | '\u{3000}' => {
                out.push_str(normalised(&character.to_string(), NormalizedString::nfkc).get());
            }
            '\u{2bc}' | '\u{201a}' | '\u{201b}' => out.push('\''),
            '\u{201e}' | '\u{201f}' => out.push('"'),
            _ => out.push(character),
        }
    }
    normalised(&out, NormalizedString::nfc).get().to_owned()
}

fn normalised(text: &str, form: fn(&mut NormalizedString) -> &mut NormalizedString) -> NormalizedString {
    let mut text = NormalizedString::from(text);
    form(&mut text);
    text
}
