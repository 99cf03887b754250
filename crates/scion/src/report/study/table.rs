//! A question's table: one row a variant, then the teacher and real images.

use std::fmt;

use super::results::{QuestionResult, VariantResult};
use crate::report::headline::{Verdict, compare, relative};
use crate::report::number::{self, Text};
use crate::report::results::{Estimate, ModelName, ModelResult};
use crate::report::tables::{
    Cell, Column, accuracy, column, higher, lower, missing, noted, score, table, unit_name, value,
};

/// Units of the columns of a question's table, and which models have one.
struct Layout {
    models: Vec<ModelName>,
    /// Whether stage 1 has the same loss in all variants, so that values can be compared.
    one_loss: bool,
    params: (f64, &'static str),
    flops: (f64, &'static str),
}

/// Writes the table.
pub(super) fn variants(out: &mut String, question: &QuestionResult) -> fmt::Result {
    let largest = |of: fn(&VariantResult) -> u64| question.variants.iter().map(of).max().unwrap_or(0) as f64;
    let layout = Layout {
        models: question.edited_models(),
        one_loss: !question
            .variants
            .iter()
            .flat_map(|v| &v.changes)
            .any(|change| change.starts_with("distill.loss")),
        params: number::unit(largest(|v| v.params)),
        flops: number::unit(largest(|v| v.flops)),
    };
    let mut rows: Vec<(&str, Vec<Cell>)> =
        question.variants.iter().map(|v| ("", layout.variant(v))).collect();
    if let Some(row) = layout.teacher(question) {
        rows.push(("reference", row));
    }
    if let Some(floor) = question.floor() {
        rows.push(("reference", layout.reference("Real images", [missing(), missing()], floor, missing())));
    }
    table(out, "variants", &layout.columns(), &rows)
}

impl Layout {
    fn columns(&self) -> Vec<Column> {
        let mut columns = vec![
            column("Variant"),
            lower(unit_name("Parameters", self.params.1)),
            lower(unit_name("FLOPs", self.flops.1)),
            if self.one_loss { lower("Held-out loss") } else { column("Held-out loss") },
        ];
        let stage = |model: &ModelName| lower(format!("Fréchet, {}", model.label().to_lowercase()));
        columns.extend(self.models.iter().map(stage));
        columns.extend([lower("Over teacher’s"), higher("Accuracy, %"), lower("Time")]);
        columns
    }

    fn variant(&self, variant: &VariantResult) -> Vec<Cell> {
        let measured = variant.measured.as_ref();
        let mut row = vec![
            name(variant),
            size(variant.params, variant.params_before, self.params.0),
            size(variant.flops, variant.flops_before, self.flops.0),
            measured.and_then(|m| Some(loss(m.held_out_best?, m.held_out_first))).unwrap_or_else(missing),
        ];
        let stage = |model: &ModelName| measured.and_then(|m| m.frechet(*model)).map_or_else(missing, score);
        row.extend(self.models.iter().map(stage));
        let edited = measured.and_then(|m| m.edited());
        let teacher = measured.and_then(|m| m.frechet(ModelName::Teacher));
        row.push(edited.and_then(|e| ratio(e.frechet.as_ref()?, teacher?)).unwrap_or_else(missing));
        row.push(edited.map_or_else(missing, accuracy));
        row.push(measured.map_or_else(missing, |m| value(number::duration(m.seconds), m.seconds)));
        row
    }

    fn teacher(&self, question: &QuestionResult) -> Option<Vec<Cell>> {
        let frechet = question.teacher()?;
        let variant = question.variants.iter().find(|v| v.measured.is_some())?;
        let model: &ModelResult = variant.measured.as_ref()?.model(ModelName::Teacher)?;
        let plain = |n: u64, scale: f64| value(number::significant(n as f64 / scale, 4), n as f64);
        let sizes = [plain(model.params, self.params.0), plain(model.flops, self.flops.0)];
        Some(self.reference("Teacher", sizes, frechet, accuracy(model)))
    }

    /// A row of what variants are compared with; its score stands in the last stage's column.
    fn reference(&self, name: &str, sizes: [Cell; 2], score_of: &Estimate, accuracy: Cell) -> Vec<Cell> {
        let mut row = vec![Cell { html: Text(name).to_string(), key: None, numeric: false }];
        row.extend(sizes);
        row.extend((0..self.models.len()).map(|_| missing()));
        row.push(score(score_of));
        row.extend([missing(), accuracy, missing()]);
        row
    }
}

/// The name as a link to the run's report, with what it changes below.
fn name(variant: &VariantResult) -> Cell {
    let (name, run) = (Text(&variant.name), Text(&variant.run));
    let title = match (&variant.measured, &variant.diverged) {
        (Some(_), _) => format!("<a href=\"{run}/report.html\">{name}</a>"),
        (None, Some(detail)) => format!("{name} <small title=\"{}\">diverged</small>", Text(detail)),
        (None, None) => format!("{name} <small>not run yet</small>"),
    };
    let changes = variant.changes.join("; ");
    Cell {
        html: format!("{title}<small class=\"changes\">{}</small>", Text(&changes)),
        key: None,
        numeric: false,
    }
}

/// A count in the column's unit and its change against the teacher's.
fn size(new: u64, old: u64, scale: f64) -> Cell {
    let text = number::significant(new as f64 / scale, 4);
    match relative(new as f64, old as f64) {
        Some(change) => noted(&text, &number::change(change), new as f64),
        None => value(text, new as f64),
    }
}

/// The best held-out loss and what share of the first it is.
fn loss(best: f64, first: Option<f64>) -> Cell {
    let text = number::significant(best, 3);
    match first.map(|first| best / first).filter(|share| share.is_finite()) {
        Some(share) => noted(&text, &number::percent(share, 0), best),
        None => value(text, best),
    }
}

/// A score over the teacher's, with the error of the ratio.
fn ratio(edited: &Estimate, teacher: &Estimate) -> Option<Cell> {
    let ratio = edited.value / teacher.value;
    if !ratio.is_finite() || teacher.value <= 0.0 {
        return None;
    }
    let share = |e: &Estimate| Some(e.stderr? / e.value);
    let stderr = share(edited).zip(share(teacher)).map(|(a, b)| ratio * a.hypot(b));
    let mut cell = score(&Estimate { value: ratio, stderr });
    if matches!(compare(Some(edited), Some(teacher)), Verdict::Same | Verdict::Better) {
        cell.html = format!("<span class=\"same\">{}</span>", cell.html);
    }
    Some(cell)
}
