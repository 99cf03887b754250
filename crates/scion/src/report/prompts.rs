//! Samples of a text-to-image model, prompt by prompt.

use std::fmt::{self, Write};

use super::SampleGrid;
use super::number::Text;
use super::page::image;

/// Writes a table with a row a prompt and a column a model; nothing without grids.
pub(super) fn table(out: &mut String, prompts: &[String], grids: &[SampleGrid]) -> fmt::Result {
    if grids.is_empty() {
        return Ok(());
    }
    out.push_str("<div class=\"scroll\"><table class=\"prompts\"><thead><tr><th>Prompt</th>");
    for grid in grids {
        write!(out, "<th>{}<small>{}</small></th>", Text(&grid.title), Text(&grid.caption))?;
    }
    out.push_str("</tr></thead><tbody>");
    for (row, prompt) in prompts.iter().enumerate() {
        write!(out, "<tr><th scope=\"row\">{}</th>", Text(prompt))?;
        for grid in grids {
            out.push_str("<td>");
            if let Some(png) = grid.rows.get(row) {
                image(out, &format!("{}: {}", Text(&grid.title), Text(prompt)), png)?;
            }
            out.push_str("</td>");
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    Ok(())
}
