//! How local the teacher's attention is, block by block, and which blocks were chosen by it.

use std::fmt::{self, Write};

use super::axis::Scale;
use super::number;
use super::plot::Frame;
use super::results::LocalityResult;

/// Writes the chart and its legend.
pub(super) fn chart(out: &mut String, locality: &LocalityResult) -> fmt::Result {
    let blocks = &locality.blocks;
    if blocks.is_empty() {
        return Ok(());
    }
    let x = Scale { low: -0.5, high: blocks.len() as f64 - 0.5, log: false };
    let frame = Frame { x, y: Scale { low: 0.0, high: 1.0, log: false } };
    let title = format!("Attention within {} tokens", locality.k);
    write!(out, "<figure class=\"chart\"><figcaption>{title}</figcaption>")?;
    frame.open(out, &title, "block", &format!("share of attention, L{}", subscript(locality.k)))?;
    let base = frame.py(0.0);
    for (block, &value) in blocks.iter().enumerate().filter(|(_, value)| value.is_finite()) {
        let chosen = locality.chosen.contains(&block);
        let (class, paint) = if chosen { ("chosen", " data-c=\"0\"") } else { ("kept", "") };
        let (at, top, text) = (frame.px(block as f64), frame.py(value), number::fixed(value, 3));
        let note = if chosen { "chosen" } else { "not chosen" };
        write!(
            out,
            "<g class=\"stem {class}\"{paint}><path d=\"M{at:.1} {base:.1}V{top:.1}\"/>\
             <circle cx=\"{at:.1}\" cy=\"{top:.1}\" r=\"4.5\"><title>Block {block}, {note}\n{text}</title></circle></g>"
        )?;
    }
    out.push_str("</svg><p class=\"legend\"><span><i class=\"swatch\" data-c=\"0\"></i>chosen</span>");
    out.push_str("<span><i class=\"swatch kept\"></i>not chosen</span></p></figure>");
    Ok(())
}

/// A number in subscript digits.
fn subscript(n: usize) -> String {
    let digits = n.to_string();
    digits
        .chars()
        .map(|digit| char::from_u32(digit as u32 - '0' as u32 + '₀' as u32).unwrap_or(digit))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_drawn_and_the_chosen_are_marked() {
        let locality = LocalityResult {
            k: 32,
            samples: 250,
            steps: 50,
            cfg: 1.5,
            blocks: vec![0.2, 0.75, f64::NAN, 0.9],
            chosen: vec![1, 3],
        };
        let mut html = String::new();
        chart(&mut html, &locality).unwrap();
        assert_eq!((html.matches("<circle").count(), html.matches("stem chosen").count()), (3, 2));
        assert!(html.contains("Block 3, chosen\n0.9") && html.contains("L₃₂"), "{html}");
        assert!(!html.contains("NaN"));
    }
}
