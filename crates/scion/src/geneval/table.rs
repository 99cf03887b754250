//! Scores as people read them.

use std::fmt::Write;

use serde::Serialize;

use super::rules::Rules;
use super::score::Warning;
use super::summary::{Summary, TagScore};
use crate::metrics::Estimate;

/// Everything found about a folder of images; the JSON of `scion geneval`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The folder or the results' file.
    pub set: String,
    /// What saw the objects, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detector: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub color_classifier: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Rules>,
    #[serde(flatten)]
    pub summary: Summary,
    pub warnings: Vec<Warning>,
}

/// Heading, accuracy, right images and prompts of each line.
fn rows(summary: &Summary) -> Vec<[String; 4]> {
    let percent = |e: &Estimate| format!("{:.2}% ± {:.2}", 100.0 * e.value, 100.0 * e.stderr);
    let tag = |tag: &TagScore| {
        let score = &tag.score;
        let images = format!("{} / {}", score.correct, score.images);
        [tag.tag.name().to_owned(), percent(&score.accuracy), images, score.prompts.to_string()]
    };
    let mut rows = vec![["tag", "accuracy", "right images", "prompts"].map(str::to_owned)];
    rows.extend(summary.tags.iter().map(tag));
    let all = &summary.all;
    let images = format!("{} / {}", all.correct, all.images);
    rows.push(["all images".into(), percent(&all.accuracy), images, all.prompts.to_string()]);
    let any = "prompts with a right image".to_owned();
    rows.push([any, percent(&summary.prompts_correct), String::new(), all.prompts.to_string()]);
    rows
}

fn overall(summary: &Summary) -> String {
    format!("{:.5} ± {:.5}", summary.overall.value, summary.overall.stderr)
}

/// What the scores rest on.
fn instruments(report: &Report) -> Option<String> {
    let detector = report.detector.as_ref()?;
    let colors = report.color_classifier.as_ref().map_or(String::new(), |by| format!("; colours by {by}"));
    Some(format!("Detector: {detector}{colors}."))
}

/// Aligned columns.
pub fn table(report: &Report) -> String {
    let rows = rows(&report.summary);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3].map(width);
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    let _ = writeln!(text, "\noverall score (mean of the tags): {}", overall(&report.summary));
    instruments(report).into_iter().for_each(|line| text.push_str(&format!("{line}\n")));
    text
}

/// A Markdown table, and the warnings below it.
pub fn markdown(report: &Report) -> String {
    let mut text = String::new();
    for (index, row) in rows(&report.summary).iter().enumerate() {
        let _ = writeln!(text, "| {} |", row.join(" | "));
        if index == 0 {
            text.push_str("|-|-|-|-|\n");
        }
    }
    let _ = writeln!(text, "| **overall** | {} | | |", overall(&report.summary));
    instruments(report).into_iter().for_each(|line| text.push_str(&format!("\n{line}\n")));
    if !report.warnings.is_empty() {
        text.push_str("\nWarnings:\n\n");
        report.warnings.iter().for_each(|warning| text.push_str(&format!("- {}\n", warning.message)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::record::Record;
    use super::super::score::WarningKind;
    use super::super::words::Tag;
    use super::*;

    #[test]
    fn tables_show_tags_and_the_whole() {
        let record = |correct: bool, metadata: &str| Record {
            filename: String::new(),
            tag: Tag::Counting,
            prompt: String::new(),
            correct,
            reason: String::new(),
            metadata: metadata.into(),
            details: String::new(),
        };
        let summary =
            Summary::of(&[record(true, "a"), record(false, "a"), record(true, "b"), record(true, "b")]);
        let warnings = vec![Warning { kind: WarningKind::OtherDetector, message: "beware".into() }];
        let report = Report {
            set: "here".into(),
            detector: Some("mine".into()),
            color_classifier: Some("yours".into()),
            rules: None,
            summary,
            warnings,
        };
        #[rustfmt::skip]
        assert_eq!(table(&report), "\
tag                         accuracy         right images  prompts
counting                    75.00% ± 25.00   3 / 4         2
all images                  75.00% ± 25.00   3 / 4         2
prompts with a right image  100.00% ± 16.67                2

overall score (mean of the tags): 0.75000 ± 0.25000
Detector: mine; colours by yours.
");
        let text = markdown(&report);
        assert!(
            text.starts_with("| tag | accuracy | right images | prompts |\n|-|-|-|-|\n| counting | 75.00%"),
            "{text}"
        );
        assert!(text.ends_with("\nDetector: mine; colours by yours.\n\nWarnings:\n\n- beware\n"), "{text}");
    }
}
