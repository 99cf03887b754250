//! Every operator in one row.

use std::fmt;

use super::results::{AnalysisResults, Change, Look, OperatorResult};
use crate::operator::Slot;
use crate::report::number;
use crate::report::results::Estimate;
use crate::report::tables::{self, Cell, column};

/// Writes the table of all operators.
pub(super) fn operators(out: &mut String, results: &AnalysisResults) -> fmt::Result {
    let changes = |of: fn(&Change) -> bool, replaced: bool| {
        results.operators.iter().any(|operator| change(operator, replaced).is_some_and(of))
    };
    let mut columns = vec![
        named("Block", |o| tables::value(o.block.to_string(), o.block as f64)),
        named("Operator", |o| tables::word(&o.operator)),
        named("Output: deviation", |o| plain(o.output.all.std)),
        named("largest |x|", |o| plain(o.output.all.max_abs)),
        named("kurtosis", |o| plain(o.output.all.kurtosis)),
        named("outlier channels", |o| channels(&o.output.outlier_channels)),
        named("Input: kurtosis", |o| plain(o.input.all.kurtosis)),
        named("outlier channels", |o| channels(&o.input.outlier_channels)),
    ];
    if !results.locality.is_empty() {
        let within = format!("Attention within {}", results.reach);
        let local = |o: &OperatorResult| look(results, o, |look| look.curve.get(results.reach).copied());
        columns.push(named(&within, local));
        columns.push(named("distance", |o| look(results, o, |look| look.grid_distance)));
    }
    for (replaced, name) in [(false, "Removed"), (true, "Replaced")] {
        if changes(|_| true, replaced) {
            let loss = move |o: &OperatorResult| estimate(change(o, replaced).map(|c| c.loss));
            columns.push(named(&format!("{name}: loss"), loss));
        }
        if changes(|change| change.frechet.is_some(), replaced) {
            let frechet = move |o: &OperatorResult| estimate(change(o, replaced).and_then(|c| c.frechet));
            columns.push(named("Fréchet", frechet));
        }
    }
    let rows: Vec<(&str, Vec<Cell>)> = results
        .operators
        .iter()
        .map(|operator| ("", columns.iter().map(|(_, value)| value(operator)).collect()))
        .collect();
    let columns: Vec<_> = columns.into_iter().map(|(name, _)| column(name)).collect();
    tables::table(out, "operators", &columns, &rows)
}

/// What a column shows of an operator.
type Value<'a> = Box<dyn Fn(&OperatorResult) -> Cell + 'a>;

fn named<'a>(name: &str, value: impl Fn(&OperatorResult) -> Cell + 'a) -> (String, Value<'a>) {
    (name.into(), Box::new(value))
}

fn change(operator: &OperatorResult, replaced: bool) -> Option<&Change> {
    if replaced { operator.replaced.as_ref().map(|new| &new.change) } else { operator.removed.as_ref() }
}

fn plain(value: f64) -> Cell {
    if value.is_finite() { tables::value(number::significant(value, 3), value) } else { tables::missing() }
}

/// How many channels, and which are the first.
fn channels(found: &[usize]) -> Cell {
    const SHOWN: usize = 3;
    let mut names: Vec<String> = found.iter().take(SHOWN).map(usize::to_string).collect();
    if found.len() > SHOWN {
        names.push("…".into());
    }
    let (count, names) = (found.len(), names.join(", "));
    match count {
        0 => tables::value("0".into(), 0.0),
        _ => tables::noted(&count.to_string(), &format!("({names})"), count as f64),
    }
}

fn look(results: &AnalysisResults, operator: &OperatorResult, of: impl Fn(&Look) -> Option<f64>) -> Cell {
    let block = results.locality.iter().find(|look| look.block == operator.block);
    let value = block.filter(|_| operator.slot == Slot::Attention).and_then(|block| of(block.usual()));
    value.map_or_else(tables::missing, plain)
}

fn estimate(value: Option<Estimate>) -> Cell {
    value.as_ref().map_or_else(tables::missing, tables::score)
}
