//! Numbers, durations and sizes as readers see them, and HTML escaping.

use std::fmt::{self, Display, Write};

use super::results::Estimate;

/// A thin space that does not break, between groups of digits and before units.
const THIN: char = '\u{202f}';

/// Text that displays with HTML's special characters escaped, for content and quoted attributes.
pub(super) struct Text<'a>(pub &'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A whole number in groups of three digits.
pub(super) fn group(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        // Four-digit numbers stay together, as is usual.
        if i > 0 && digits.len() > 4 && (digits.len() - i).is_multiple_of(3) {
            out.push(THIN);
        }
        out.push(c);
    }
    out
}

/// `v` with a fixed number of decimals and a proper minus sign.
pub(super) fn fixed(v: f64, decimals: usize) -> String {
    if !v.is_finite() {
        return "not finite".into();
    }
    let text = format!("{:.decimals$}", v.abs());
    let zero = text.bytes().all(|b| b == b'0' || b == b'.');
    if v < 0.0 && !zero { format!("−{text}") } else { text }
}

/// `v` to `digits` significant digits; very large and very small numbers as powers of ten.
pub(crate) fn significant(v: f64, digits: usize) -> String {
    if v == 0.0 || !v.is_finite() {
        return fixed(v, 0);
    }
    let exponent = v.abs().log10().floor() as i32;
    if !(-4..6).contains(&exponent) {
        let mantissa = fixed(v / 10f64.powi(exponent), digits.saturating_sub(1));
        return format!("{mantissa}×10{}", superscript(exponent));
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    if decimals == 0 && v > 0.0 { group(v.round() as u64) } else { fixed(v, decimals) }
}

/// An axis label: as short as it can be without losing digits.
pub(super) fn tick(v: f64) -> String {
    if v == 0.0 {
        return "0".into();
    }
    let exponent = v.abs().log10().floor() as i32;
    if !(-3..6).contains(&exponent) {
        let mantissa = trimmed(v / 10f64.powi(exponent));
        let power = format!("10{}", superscript(exponent));
        return if mantissa == "1" { power } else { format!("{mantissa}×{power}") };
    }
    if v >= 1000.0 { group(v.round() as u64) } else { trimmed(v) }
}

fn trimmed(v: f64) -> String {
    let text = fixed(v, 6);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn superscript(n: i32) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let sign = if n < 0 { "⁻" } else { "" };
    let digits = n.unsigned_abs().to_string();
    sign.chars().chain(digits.bytes().map(|b| DIGITS[usize::from(b - b'0')])).collect()
}

/// Value and standard error, both to the second significant digit of the error.
pub(super) fn estimate(e: &Estimate) -> (String, Option<String>) {
    match e.stderr.filter(|s| s.is_finite() && *s > 0.0) {
        Some(stderr) if e.value.is_finite() => {
            let decimals = (1 - stderr.log10().floor() as i32).clamp(0, 8) as usize;
            (fixed(e.value, decimals), Some(fixed(stderr, decimals)))
        }
        _ => (significant(e.value, 4), None),
    }
}

/// An estimate in running text.
pub(crate) fn estimate_text(e: &Estimate) -> String {
    match estimate(e) {
        // The two numbers stay on one line.
        (value, Some(stderr)) => format!("{value}\u{a0}±\u{a0}{stderr}"),
        (value, None) => value,
    }
}

/// A share of one as a percentage.
pub(super) fn percent(share: f64, decimals: usize) -> String {
    format!("{}{THIN}%", fixed(100.0 * share, decimals))
}

/// A relative change with its sign, such as "−18.2 %".
pub(super) fn change(relative: f64) -> String {
    let text = percent(relative.abs(), 1);
    if text.starts_with("0.0") {
        "±0".to_string() + &THIN.to_string() + "%"
    } else {
        format!("{}{text}", if relative < 0.0 { "−" } else { "+" })
    }
}

/// The power of a thousand and its letter that suit counts up to `largest`.
pub(super) fn unit(largest: f64) -> (f64, &'static str) {
    match largest {
        v if v >= 1e12 => (1e12, "T"),
        v if v >= 1e9 => (1e9, "G"),
        v if v >= 1e6 => (1e6, "M"),
        v if v >= 1e3 => (1e3, "k"),
        _ => (1.0, ""),
    }
}

/// A count with a letter, such as "4.52 M".
pub(super) fn count(n: u64) -> String {
    let (scale, letter) = unit(n as f64);
    if letter.is_empty() {
        n.to_string()
    } else {
        format!("{}{THIN}{letter}", significant(n as f64 / scale, 3))
    }
}

/// A duration in the unit people would use.
pub(super) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "unknown".into();
    }
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{}{THIN}s", fixed(seconds, 1)),
        10..60 => format!("{whole}{THIN}s"),
        60..3600 => format!("{}{THIN}min {:02}{THIN}s", whole / 60, whole % 60),
        _ => format!("{}{THIN}h {:02}{THIN}min", whole / 3600, whole % 3600 / 60),
    }
}

/// A size in binary units.
pub(super) fn bytes(n: u64) -> String {
    let n = n as f64;
    if n >= 1_073_741_824.0 {
        format!("{}{THIN}GiB", fixed(n / 1_073_741_824.0, 2))
    } else {
        format!("{}{THIN}MiB", fixed(n / 1_048_576.0, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_follow_the_error() {
        assert_eq!(estimate_text(&Estimate::new(3.2149, 0.0831)), "3.215\u{a0}±\u{a0}0.083");
        assert_eq!(estimate_text(&Estimate::new(142.7, 2.4)), "142.7\u{a0}±\u{a0}2.4");
        assert_eq!(estimate_text(&Estimate { value: f64::NAN, stderr: Some(1.0) }), "not finite");
        assert_eq!(estimate_text(&Estimate { value: -0.00123, stderr: None }), "−0.001230");
    }

    #[test]
    fn counts_and_ticks_are_short() {
        assert_eq!(group(1234567), "1\u{202f}234\u{202f}567");
        assert_eq!(count(4_523_000), "4.52\u{202f}M");
        assert_eq!(tick(0.5), "0.5");
        assert_eq!(tick(2e-4), "2×10⁻⁴");
        assert_eq!(tick(1e-5), "10⁻⁵");
        assert_eq!(significant(1.5e-7, 3), "1.50×10⁻⁷");
        assert_eq!(change(-0.1823), "−18.2\u{202f}%");
        assert_eq!(change(0.0002), "±0\u{202f}%");
        assert_eq!(duration(3671.0), "1\u{202f}h 01\u{202f}min");
        assert_eq!(fixed(-0.001, 1), "0.0");
    }

    #[test]
    fn text_is_escaped() {
        let html = Text("<a href=\"x\">'&'</a>").to_string();
        assert_eq!(html, "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
    }
}
