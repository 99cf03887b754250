//! JSON as Python's `json.dumps` spells it by default: a space after colons and commas, ASCII alone, and Python's
//! floats. Result files hold such text inside strings, and other programs group by it.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// The text of a value.
pub(super) fn dumps(value: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, Python);
    value.serialize(&mut serializer).expect("plain data has a JSON form");
    String::from_utf8(bytes).expect("JSON is text")
}

struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(float(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        for character in text.chars() {
            if matches!(character, ' '..='~') {
                write!(writer, "{character}")?;
                continue;
            }
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

/// `repr` of a Python float: the shortest digits that give the number back, with an exponent below 1e-4 and from
/// 1e16 on.
fn float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(power) if value != 0.0 && !(-4..16).contains(&power) => {
            let sign = if power < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", power.abs())
        }
        _ => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Python 3.11 prints for the same values.
    #[test]
    fn text_is_pythons() {
        let floats = [
            (0.1, "0.1"),
            (10.0, "10.0"),
            (-0.0, "-0.0"),
            (1e-4, "0.0001"),
            (0.00001, "1e-05"),
            (-1.25e-7, "-1.25e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (f64::from(0.3f32), "0.30000001192092896"),
        ];
        for (value, text) in floats {
            assert_eq!(dumps(&value), text);
        }
        let value = serde_json::json!({"a": [1, 2.0, "é\u{1f600}\n\"\u{7f}/"], "b": {}, "c": null, "d": []});
        let text = r#"{"a": [1, 2.0, "\u00e9\ud83d\ude00\n\"\u007f/"], "b": {}, "c": null, "d": []}"#;
        assert_eq!(dumps(&value), text);
    }
}
