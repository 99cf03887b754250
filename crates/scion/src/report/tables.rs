//! The report's tables. Every cell carries its sort key, so the page's script can order the rows.

use std::fmt::{self, Write};

use super::number::{self, Text};
use super::results::{Estimate, ModelName, ModelResult, Results, Stage1Result};

/// A column's name and which direction is better, if either.
pub(super) struct Column {
    pub name: String,
    pub mark: &'static str,
}

/// What a cell shows (HTML) and sorts by.
pub(super) struct Cell {
    pub html: String,
    pub key: Option<f64>,
    pub numeric: bool,
}

pub(super) fn column(name: impl Into<String>) -> Column {
    Column { name: name.into(), mark: "" }
}

pub(super) fn lower(name: impl Into<String>) -> Column {
    Column { name: name.into(), mark: "<i class=\"better\" title=\"lower is better\">↓</i>" }
}

pub(super) fn higher(name: impl Into<String>) -> Column {
    Column { name: name.into(), mark: "<i class=\"better\" title=\"higher is better\">↑</i>" }
}

pub(super) fn word(text: &str) -> Cell {
    Cell { html: Text(text).to_string(), key: None, numeric: false }
}

pub(super) fn value(text: String, key: f64) -> Cell {
    Cell { html: Text(&text).to_string(), key: Some(key), numeric: true }
}

/// A value with its range below.
fn ranged(text: &str, low: &str, high: &str, key: f64) -> Cell {
    let html = format!("{} <small class=\"range\">{} – {}</small>", Text(text), Text(low), Text(high));
    Cell { html, key: Some(key), numeric: true }
}

/// A value with a muted note behind it.
pub(super) fn noted(text: &str, note: &str, key: f64) -> Cell {
    let html = format!("{} <small>{}</small>", Text(text), Text(note));
    Cell { html, key: Some(key), numeric: true }
}

pub(super) fn missing() -> Cell {
    Cell { html: "<small>—</small>".into(), key: None, numeric: true }
}

/// Writes the comparison of all models, with the real images as the last row.
pub(super) fn models(out: &mut String, results: &Results) -> fmt::Result {
    let largest = |f: fn(&ModelResult) -> u64| results.models.iter().map(f).max().unwrap_or(0) as f64;
    let params = number::unit(largest(|m| m.params));
    let flops = number::unit(largest(|m| m.flops));
    let columns = [
        column("Model"),
        lower(unit_name("Parameters", params.1)),
        lower(unit_name("FLOPs", flops.1)),
        lower("Latency, ms"),
        lower("Latency ratio"),
        column("Samples"),
        lower("Fréchet"),
        lower("KID"),
        higher("Accuracy, %"),
    ];
    let teacher = results.model(ModelName::Teacher);
    let mut models: Vec<&ModelResult> = results.models.iter().collect();
    models.sort_by_key(|m| m.name);
    let mut rows: Vec<(&str, Vec<Cell>)> =
        models.iter().map(|m| (m.name.id(), model_row(m, teacher, params.0, flops.0))).collect();
    if let Some(floor) = &results.floor {
        let mut row = vec![word("Real images")];
        row.extend((0..4).map(|_| missing()));
        row.push(value(floor.samples.to_string(), floor.samples as f64));
        row.push(floor.frechet.as_ref().map_or_else(missing, score));
        row.push(floor.kid.as_ref().map_or_else(missing, score));
        row.push(floor.accuracy.map_or_else(missing, |a| value(number::fixed(100.0 * a, 1), a)));
        rows.push(("real", row));
    }
    table(out, "models", &columns, &rows)
}

pub(super) fn unit_name(name: &str, letter: &str) -> String {
    if letter.is_empty() { name.into() } else { format!("{name}, {letter}") }
}

fn model_row(m: &ModelResult, teacher: Option<&ModelResult>, params: f64, flops: f64) -> Vec<Cell> {
    let size = |n: u64, scale: f64| value(number::significant(n as f64 / scale, 4), n as f64);
    let baseline = teacher.and_then(|t| t.latency_ms);
    let ratio = m.latency_ratio.or_else(|| Some(m.latency_ms? / baseline?)).filter(|r| r.is_finite());
    vec![
        Cell {
            html: format!("<i class=\"dot {}\"></i>{}", m.name.id(), m.name.label()),
            key: Some(f64::from(m.name as u8)),
            numeric: false,
        },
        size(m.params, params),
        size(m.flops, flops),
        latency(m),
        ratio.map_or_else(missing, |r| value(format!("{}×", number::fixed(r, 2)), r)),
        if m.samples == 0 { missing() } else { value(number::group(m.samples), m.samples as f64) },
        m.frechet.as_ref().map_or_else(missing, score),
        m.kid.as_ref().map_or_else(missing, score),
        accuracy(m),
    ]
}

fn latency(m: &ModelResult) -> Cell {
    let Some(ms) = m.latency_ms else { return missing() };
    let text = number::significant(ms, 3);
    match (m.latency_ms_min, m.latency_ms_max) {
        (Some(low), Some(high)) => {
            ranged(&text, &number::significant(low, 3), &number::significant(high, 3), ms)
        }
        _ => value(text, ms),
    }
}

pub(super) fn score(e: &Estimate) -> Cell {
    match number::estimate(e) {
        (text, Some(stderr)) => noted(&text, &format!("± {stderr}"), e.value),
        (text, None) => value(text, e.value),
    }
}

pub(super) fn accuracy(m: &ModelResult) -> Cell {
    let Some(share) = m.accuracy else { return missing() };
    let text = number::fixed(100.0 * share, 1);
    match m.accuracy_interval {
        Some([low, high]) => {
            ranged(&text, &number::fixed(100.0 * low, 1), &number::fixed(100.0 * high, 1), share)
        }
        None => value(text, share),
    }
}

/// Writes one row per distilled operator or pair.
pub(super) fn stage1(out: &mut String, rows: &[Stage1Result]) -> fmt::Result {
    let columns = [
        column("Block"),
        column("Slot"),
        column("Trained"),
        column("Loss"),
        column("Train, first"),
        lower("Train, best"),
        column("Validation, first"),
        lower("Validation, best"),
        lower("Remaining"),
        column("Epochs"),
        column("Time"),
    ];
    let number = |v: Option<f64>| v.map_or_else(missing, |v| value(number::significant(v, 3), v));
    let cells = |r: &Stage1Result| {
        let left = r.val_first.zip(r.val_best).map(|(first, best)| best / first).filter(|v| v.is_finite());
        vec![
            value(
                r.second.map_or_else(|| r.block.to_string(), |second| format!("{}, {second}", r.block)),
                r.block as f64,
            ),
            word(&r.slot),
            word(&r.operator),
            word(&r.loss),
            number(r.train_first),
            number(r.train_best),
            number(r.val_first),
            number(r.val_best),
            left.map_or_else(missing, |v| value(number::percent(v, 1), v)),
            value(number::significant(r.epochs, 3), r.epochs),
            value(number::duration(r.seconds), r.seconds),
        ]
    };
    let rows: Vec<(&str, Vec<Cell>)> = rows.iter().map(|r| ("", cells(r))).collect();
    table(out, "stage1", &columns, &rows)
}

pub(super) fn table(
    out: &mut String,
    class: &str,
    columns: &[Column],
    rows: &[(&str, Vec<Cell>)],
) -> fmt::Result {
    write!(out, "<div class=\"scroll\"><table class=\"sortable {class}\"><thead><tr>")?;
    for (i, column) in columns.iter().enumerate() {
        let numeric = rows.first().is_some_and(|(_, cells)| cells[i].numeric);
        let class = if numeric { " class=\"num\"" } else { "" };
        write!(out, "<th scope=\"col\"{class}><button>{}{}</button></th>", Text(&column.name), column.mark)?;
    }
    out.push_str("</tr></thead><tbody>");
    for (class, cells) in rows {
        write!(out, "<tr class=\"{class}\">")?;
        for cell in cells {
            let class = if cell.numeric { " class=\"num\"" } else { "" };
            write!(out, "<td{class}")?;
            if let Some(key) = cell.key.filter(|k| k.is_finite()) {
                write!(out, " data-v=\"{key:e}\"")?;
            }
            write!(out, ">{}</td>", cell.html)?;
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample_results;

    #[test]
    fn missing_and_diverged_values_are_shown_as_such() {
        let mut results = sample_results();
        results.models[1].frechet = Some(Estimate { value: f64::NAN, stderr: None });
        results.models[1].kid = None;
        let mut html = String::new();
        models(&mut html, &results).unwrap();
        assert!(html.contains("not finite") && html.contains("<small>—</small>"));
        assert!(html.contains("3.000 <small>± 0.100</small>") || html.contains("3.00 <small>± 0.10</small>"));
        assert_eq!(html.matches("<tr").count(), 1 + 2 + 1);
    }

    #[test]
    fn operator_names_are_escaped() {
        let mut rows = sample_results().stage1;
        rows[0].operator = "<script>".into();
        let mut html = String::new();
        stage1(&mut html, &rows).unwrap();
        assert!(html.contains("&lt;script&gt;") && html.contains("25.0\u{202f}%"));
        rows[0].second = Some(2);
        html.clear();
        stage1(&mut html, &rows).unwrap();
        assert!(html.contains(">1, 2</td>"), "{html}");
    }
}
