//! The text of a caption with markup, as Beautiful Soup takes it from Python's own HTML parser. Text without `<` and `&`
//! stays as it is. Of markup, whole tags and comments are understood, and these references.

/// References by name, without the others of HTML's two thousand.
const NAMED: [(&str, char); 13] = [
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("apos", '\''),
    ("nbsp", '\u{a0}'),
    ("copy", '©'),
    ("reg", '®'),
    ("trade", '™'),
    ("hellip", '…'),
    ("ndash", '–'),
    ("mdash", '—'),
    ("eacute", 'é'),
];

/// The text between tags.
pub(super) fn text(caption: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(caption.len()), caption);
    while let Some(at) = rest.find(['<', '&']) {
        let (before, found) = rest.split_at(at);
        out.push_str(before);
        let taken = if found.starts_with('<') { tag(found) } else { reference(found, &mut out) };
        rest = match taken {
            Some(length) => &found[length..],
            None => {
                out.push_str(&found[..1]);
                &found[1..]
            }
        };
    }
    out.push_str(rest);
    out
}

/// Length of the tag or comment that a text begins with.
fn tag(text: &str) -> Option<usize> {
    if let Some(comment) = text.strip_prefix("<!--") {
        return comment.find("-->").map(|end| "<!---->".len() + end);
    }
    let name = text[1..].strip_prefix('/').unwrap_or(&text[1..]);
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic());
    text.find('>').filter(|_| begins).map(|end| end + 1)
}

/// Length of the reference that a text begins with, what it stands for being added to `out`. Names that are not listed
/// lose their semicolon, and a single letter at the very end its `&`, as in the original.
fn reference(text: &str, out: &mut String) -> Option<usize> {
    let body = &text[1..];
    if body.len() == 1 && body.starts_with(|c: char| c.is_ascii_alphabetic() || c == '#') {
        return Some(1);
    }
    let (sign, radix) = match body.as_bytes() {
        [b'#', b'x' | b'X', ..] => (2, 16),
        [b'#', ..] => (1, 10),
        [first, ..] if first.is_ascii_alphabetic() => (0, 0),
        _ => return None,
    };
    let body = &body[sign..];
    let part =
        |c: char| if radix == 0 { c.is_ascii_alphanumeric() || "-.".contains(c) } else { c.is_digit(radix) };
    // A reference ends where another character stands.
    let (word, after) = body.split_at(body.find(|c| !part(c))?);
    match radix {
        0 => match NAMED.iter().find(|(name, _)| *name == word) {
            Some((_, character)) => out.push(*character),
            None => out.extend(["&", word]),
        },
        _ => out.push(u32::from_str_radix(word, radix).ok().and_then(char::from_u32)?),
    }
    let ended = usize::from(after.starts_with(';'));
    Some(text.len() - after.len() + ended)
}
