//! The drawing of the model: blocks as columns with two slots each, replaced slots in colour, and the
//! operators' FLOPs before and after below.

use std::fmt::{self, Write};

use super::number::{self, Text};
use super::results::{BlockResult, SlotResult};
use crate::plan::Restructure;

/// Columns in one row of the drawing.
const PER_ROW: usize = 14;
const LEFT: f64 = 78.0;
const COLUMN: f64 = 46.0;
const GAP: f64 = 14.0;
const SLOT: f64 = 104.0;
const BAR: f64 = 40.0;
/// Top edges of the parts of a row.
const SLOTS_TOP: f64 = 26.0;
const BARS_TOP: f64 = SLOTS_TOP + 2.0 * SLOT + 26.0;
const ROW: f64 = BARS_TOP + BAR + 26.0;

/// Longest operator name that fits in a slot, in characters.
const NAME: usize = 16;

/// Writes the drawing and its legend; nothing when the results list no blocks.
pub(super) fn drawing(out: &mut String, blocks: &[BlockResult]) -> fmt::Result {
    if blocks.is_empty() {
        return Ok(());
    }
    let operators = new_operators(blocks);
    let columns = blocks.len().min(PER_ROW);
    let width = LEFT + columns as f64 * (COLUMN + GAP) + 8.0;
    let height = blocks.len().div_ceil(PER_ROW) as f64 * ROW - 14.0;
    let largest = blocks.iter().map(|b| flops(b).0.max(flops(b).1)).max().unwrap_or(0).max(1);
    write!(
        out,
        "<div class=\"scroll\"><svg class=\"blocks\" viewBox=\"0 0 {width} {height}\" style=\"min-width:{:.0}px;max-width:{:.0}px\" \
         role=\"img\" aria-label=\"The {} blocks of the model; replaced operators are coloured\">",
        width * 0.8,
        width * 1.25,
        blocks.len()
    )?;
    for (row, chunk) in blocks.chunks(PER_ROW).enumerate() {
        row_labels(out, row as f64 * ROW, width)?;
        for (column, block) in chunk.iter().enumerate() {
            let x = LEFT + column as f64 * (COLUMN + GAP);
            draw_block(out, block, &operators, (x, row as f64 * ROW), largest)?;
        }
    }
    out.push_str("</svg></div>");
    legend(out, blocks, &operators)
}

/// The new operators in order of first appearance; their place is their colour.
fn new_operators(blocks: &[BlockResult]) -> Vec<&str> {
    let mut names = Vec::new();
    for slot in blocks.iter().flat_map(|b| [&b.attention, &b.mlp]).filter(|s| s.replaced) {
        if !names.contains(&slot.operator.as_str()) {
            names.push(slot.operator.as_str());
        }
    }
    names
}

/// FLOPs of the operators of a block, before and after.
fn flops(block: &BlockResult) -> (u64, u64) {
    let (a, m) = (&block.attention, &block.mlp);
    (a.flops_before.saturating_add(m.flops_before), a.flops_after.saturating_add(m.flops_after))
}

fn row_labels(out: &mut String, y: f64, width: f64) -> fmt::Result {
    let x = LEFT - 16.0;
    let middle = y + SLOTS_TOP + SLOT + 2.0;
    write!(out, "<path class=\"stream\" d=\"M{x} {middle}H{}\"/>", width - 6.0)?;
    write!(out, "<path class=\"head\" d=\"M{} {}l6 4l-6 4z\"/>", width - 8.0, middle - 4.0)?;
    for (label, y) in [
        ("block", y + 15.0),
        ("attention", y + SLOTS_TOP + SLOT / 2.0 + 4.0),
        ("MLP", y + SLOTS_TOP + 1.5 * SLOT + 8.0),
        ("FLOPs", y + BARS_TOP + BAR - 4.0),
    ] {
        write!(out, "<text class=\"tick end\" x=\"{}\" y=\"{y}\">{label}</text>", LEFT - 20.0)?;
    }
    Ok(())
}

fn draw_block(
    out: &mut String,
    block: &BlockResult,
    operators: &[&str],
    (x, y): (f64, f64),
    largest: u64,
) -> fmt::Result {
    let class = match block.restructure {
        None => "block",
        Some(Restructure::ParallelWith(_)) => "block changed",
        Some(Restructure::Dropped) => "block changed gone",
    };
    let height = 2.0 * SLOT + 12.0;
    write!(out, "<g class=\"{class}\">")?;
    write!(
        out,
        "<rect class=\"shell\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{height}\" rx=\"8\">",
        x - 4.0,
        y + SLOTS_TOP - 4.0,
        COLUMN + 8.0
    )?;
    let edit = block.restructure.map_or_else(|| "not restructured".into(), |edit| edit.to_string());
    write!(out, "<title>Block {}: {edit}</title></rect>", block.block)?;
    let middle = x + COLUMN / 2.0;
    write!(out, "<text class=\"index mid\" x=\"{middle}\" y=\"{}\">{}</text>", y + 15.0, block.block)?;
    for (name, slot, top) in
        [("attention", &block.attention, y + SLOTS_TOP), ("MLP", &block.mlp, y + SLOTS_TOP + SLOT + 4.0)]
    {
        let fate = if block.restructure == Some(Restructure::Dropped) { "dropped" } else { "kept" };
        draw_slot(out, (x, top), slot, operators, (&format!("Block {}, {name}", block.block), fate))?;
    }
    draw_flops(out, block, (x, y + BARS_TOP), largest)?;
    out.push_str("</g>");
    Ok(())
}

fn draw_slot(
    out: &mut String,
    (x, y): (f64, f64),
    slot: &SlotResult,
    operators: &[&str],
    (place, fate): (&str, &str),
) -> fmt::Result {
    let colour = operators.iter().position(|o| slot.replaced && *o == slot.operator);
    let paint = colour.map(|c| format!(" new\" data-c=\"{}", c % 6)).unwrap_or_default();
    writeln!(out, "<g class=\"slot{paint}\" tabindex=\"0\"><title>{place}")?;
    if slot.replaced {
        write!(out, "{} → {}", Text(&slot.original), Text(&slot.operator))?;
    } else {
        write!(out, "{}, {fate}", Text(&slot.operator))?;
    }
    if let Some(init) = &slot.init {
        write!(out, "\ninitialisation: {}", Text(init))?;
    }
    write!(out, "\nparameters {}", before_after(slot.params_before, slot.params_after))?;
    write!(out, "\nFLOPs {}</title>", before_after(slot.flops_before, slot.flops_after))?;
    write!(out, "<rect x=\"{x}\" y=\"{y}\" width=\"{COLUMN}\" height=\"{SLOT}\" rx=\"5\"/>")?;
    let mut name: String = slot.operator.chars().take(NAME).collect();
    if slot.operator.chars().count() > NAME {
        name.pop();
        name.push('…');
    }
    let (middle, centre) = (x + COLUMN / 2.0 + 4.0, y + SLOT / 2.0);
    // Fonts differ in width: 0.7 em a letter is on the wide side.
    let size = (SLOT / (0.7 * name.chars().count().max(1) as f64)).min(12.0);
    write!(
        out,
        "<text class=\"mid\" style=\"font-size:{size:.1}px\" \
         transform=\"translate({middle} {centre}) rotate(-90)\">{}</text></g>",
        Text(&name)
    )
}

fn before_after(before: u64, after: u64) -> String {
    if before == after {
        number::count(after)
    } else {
        format!("{} → {}", number::count(before), number::count(after))
    }
}

/// The block's operator FLOPs: an outline for before, a filled bar for after.
fn draw_flops(out: &mut String, block: &BlockResult, (x, y): (f64, f64), largest: u64) -> fmt::Result {
    let (before, after) = flops(block);
    let height = |n: u64| BAR * n as f64 / largest as f64;
    let (x, width) = (x + 9.0, COLUMN - 18.0);
    let text = before_after(before, after);
    write!(out, "<g class=\"flops\"><title>Block {}, both operators\nFLOPs {text}</title>", block.block)?;
    for (class, h) in [("after", height(after)), ("before", height(before))] {
        let top = y + BAR - h;
        write!(
            out,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{top:.1}\" width=\"{width}\" height=\"{h:.1}\"/>"
        )?;
    }
    out.push_str("</g>");
    Ok(())
}

fn legend(out: &mut String, blocks: &[BlockResult], operators: &[&str]) -> fmt::Result {
    out.push_str("<p class=\"legend\">");
    for (i, name) in operators.iter().enumerate() {
        let slots = blocks.iter().flat_map(|b| [&b.attention, &b.mlp]);
        let n = slots.filter(|s| s.replaced && s.operator == **name).count();
        write!(out, "<span><i class=\"swatch\" data-c=\"{}\"></i>{} × {n}</span>", i % 6, Text(name))?;
    }
    out.push_str("<span><i class=\"swatch kept\"></i>kept</span>");
    if blocks.iter().any(|b| matches!(b.restructure, Some(Restructure::ParallelWith(_)))) {
        out.push_str("<span><i class=\"swatch dashed\"></i>in parallel with its neighbour</span>");
    }
    if blocks.iter().any(|b| b.restructure == Some(Restructure::Dropped)) {
        out.push_str("<span><i class=\"swatch dashed gone\"></i>dropped</span>");
    }
    out.push_str(
        "<span class=\"hint\">bars: FLOPs of the block’s operators, outline before, filled after</span></p>",
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample_results;

    #[test]
    fn replaced_slots_are_coloured_and_named() {
        let mut blocks = sample_results().blocks;
        blocks[0].restructure = Some(Restructure::Dropped);
        blocks[1].restructure = Some(Restructure::ParallelWith(2));
        let mut html = String::new();
        drawing(&mut html, &blocks).unwrap();
        assert_eq!(html.matches("slot new").count(), 1);
        assert!(html.contains("attention → sliding-window"));
        assert!(html.contains("sliding-window × 1"));
        assert!(html.contains("Block 1: in parallel with block 2") && html.contains("in parallel with its"));
        assert!(html.contains("Block 0, attention\nattention, dropped") && html.contains("</i>dropped"));
    }

    #[test]
    fn deep_models_wrap_into_rows() {
        let one = sample_results().blocks[0].clone();
        let blocks: Vec<BlockResult> = (0..28).map(|block| BlockResult { block, ..one.clone() }).collect();
        let mut html = String::new();
        drawing(&mut html, &blocks).unwrap();
        assert_eq!(html.matches("class=\"stream\"").count(), 2);
    }
}
