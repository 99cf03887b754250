//! Scores as people read them.

use super::entry::Entry;
use crate::metrics::Estimate;

/// Column headings and cells of an entry, in one order for all.
fn cells(entry: &Entry) -> Vec<(String, Option<String>)> {
    let scores = &entry.scores;
    let estimate = |e: &Estimate| format!("{:.5} ± {:.5}", e.value, e.stderr);
    let cell = |heading: &str, value: Option<Estimate>| (heading.to_owned(), value.as_ref().map(estimate));
    let accuracy = scores
        .accuracy
        .zip(scores.accuracy_interval)
        .map(|(share, [low, high])| format!("{share:.4} (95%: {low:.4} to {high:.4})"));
    let classes = scores.per_class.as_ref().map(|found| {
        let counted = found.classes.iter().filter(|class| class.frechet.is_some()).count();
        format!("{:.5} (mean of {counted} classes)", found.mean)
    });
    vec![
        cell(entry.distance, scores.frechet),
        cell(&format!("s{}", entry.distance), scores.spatial_frechet),
        cell("KID", scores.kid),
        cell("IS", scores.inception_score),
        cell("precision", scores.precision),
        cell("recall", scores.recall),
        cell("density", scores.density),
        cell("coverage", scores.coverage),
        ("accuracy".into(), accuracy),
        ("per class".into(), classes),
    ]
}

/// One entry, a line for each score.
pub fn listing(entry: &Entry) -> String {
    let lines = cells(entry).into_iter().filter_map(|(heading, cell)| {
        let heading = format!("{heading}:");
        cell.map(|cell| format!("{heading:<14} {cell}\n"))
    });
    lines.collect()
}

/// Headings and rows of the columns that any entry fills.
fn grid(entries: &[Entry]) -> Vec<Vec<String>> {
    let all: Vec<_> = entries.iter().map(cells).collect();
    let columns = all.first().map_or(0, Vec::len);
    let used: Vec<usize> = (0..columns).filter(|&c| all.iter().any(|cells| cells[c].1.is_some())).collect();
    let mut rows = Vec::with_capacity(entries.len() + 1);
    let heads = used.iter().filter_map(|&c| Some(all.first()?[c].0.clone()));
    rows.push(["set".to_owned(), "images".to_owned()].into_iter().chain(heads).collect());
    for (entry, cells) in entries.iter().zip(&all) {
        let values = used.iter().map(|&c| cells[c].1.clone().unwrap_or_else(|| "–".into()));
        rows.push([entry.set.clone(), entry.samples.to_string()].into_iter().chain(values).collect());
    }
    rows
}

/// All entries, one line each, in aligned columns.
pub fn table(entries: &[Entry]) -> String {
    let rows = grid(entries);
    let width = |c: usize| rows.iter().map(|row| row[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// All entries as a Markdown table, and the warnings below it.
pub fn markdown(entries: &[Entry]) -> String {
    // A bar in a file's name would end its cell.
    let line = |row: &[String]| {
        format!("| {} |\n", row.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>().join(" | "))
    };
    let rows = grid(entries);
    let mut text = line(&rows[0]);
    text.push_str(&format!("{}|\n", "|-".repeat(rows[0].len())));
    rows[1..].iter().for_each(|row| text.push_str(&line(row)));
    if let Some(entry) = entries.first() {
        text.push_str(&format!(
            "\nFeature space: {}. Reference: {}.\n",
            entry.feature_space, entry.reference
        ));
    }
    let warnings = entries.iter().flat_map(|e| e.warnings.iter().map(move |w| (&e.set, &w.message)));
    let warnings: String = warnings.map(|(set, message)| format!("- {set}: {message}\n")).collect();
    if !warnings.is_empty() {
        text.push_str(&format!("\nWarnings:\n\n{warnings}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::entry::Scores;
    use super::*;

    fn entry(set: &str, scores: Scores) -> Entry {
        Entry {
            set: set.into(),
            feature_space: "some".into(),
            distance: "FID",
            samples: 10,
            dimensions: 2,
            reference: "real".into(),
            reference_samples: None,
            scores,
            warnings: vec![],
        }
    }

    #[test]
    fn tables_hold_the_columns_that_are_filled() {
        let value = |value| Some(Estimate { value, stderr: 0.5 });
        let entries = [
            entry("a|b", Scores { frechet: value(2.0), ..Scores::default() }),
            entry("c", Scores { frechet: value(3.0), recall: value(0.25), ..Scores::default() }),
        ];
        #[rustfmt::skip]
        assert_eq!(table(&entries), "\
set  images  FID                recall
a|b  10      2.00000 ± 0.50000  –
c    10      3.00000 ± 0.50000  0.25000 ± 0.50000
");
        let text = markdown(&entries);
        assert!(text.starts_with("| set | images | FID | recall |\n|-|-|-|-|\n| a\\|b | 10 | 2.0"), "{text}");
        assert_eq!(listing(&entries[0]), "FID:           2.00000 ± 0.50000\n");
    }
}
