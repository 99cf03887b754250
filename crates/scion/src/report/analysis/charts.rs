//! The curves of an analysis.

use super::results::{AnalysisResults, BlockLocality, Change, Look, LookAt, OperatorResult, Statistics};
use crate::operator::Slot;
use crate::report::axis::Scale;
use crate::report::results::Estimate;
use crate::report::{Curve, Series};

/// A curve, the file it is written to, and its y axis where that is given.
pub(super) struct Chart {
    pub file: String,
    pub curve: Curve,
    pub y: Option<Scale>,
}

/// What is drawn of a block, a change, or a row of statistics.
type LookOf = fn(&BlockLocality) -> Option<&Look>;
type ChangeOf = fn(&Change) -> Option<Estimate>;
type NumberOf = fn(&Statistics) -> f64;

/// Shares are shown on an axis of their own.
const SHARES: Scale = Scale { low: 0.0, high: 1.0, log: false };

fn chart(file: &str, name: &str, axes: [&str; 2], series: Vec<Series>) -> Chart {
    let [x_label, y_label] = axes.map(String::from);
    let curve = Curve { name: name.into(), x_label, y_label, series };
    Chart { file: file.into(), curve, y: None }
}

/// Where attention looks.
pub(super) fn locality(results: &AnalysisResults) -> Vec<Chart> {
    if results.locality.is_empty() {
        return Vec::new();
    }
    let guided = format!("with guidance {}", results.drawing.cfg);
    let ways: [(&str, &str, LookOf); 2] = [
        ("guided", guided.as_str(), |block| block.guided.as_ref()),
        ("plain", "without guidance", |block| Some(&block.plain)),
    ];
    let mut charts = Vec::new();
    for (file, way, look) in ways {
        let curve = |block| {
            let points = look(block)?.curve.iter().enumerate().map(|(k, &share)| (k as f64, share));
            Some(Series::new(format!("block {}", block.block), points.collect()))
        };
        let series: Vec<Series> = results.locality.iter().filter_map(curve).collect();
        if !series.is_empty() {
            let axes = ["k, tokens in raster order", "share of attention within k"];
            let name = format!("Locality curve Lₖ {way}");
            charts.push(Chart { y: Some(SHARES), ..chart(&format!("locality-{file}"), &name, axes, series) });
        }
    }
    let by_block = |value: &dyn Fn(&Look) -> Option<f64>| -> Vec<Series> {
        let series = |(_, way, look): &(&str, &str, LookOf)| {
            let point = |block| Some((block_number(block), value(look(block)?)?));
            let points: Vec<(f64, f64)> = results.locality.iter().filter_map(point).collect();
            (!points.is_empty()).then(|| Series::new(*way, points))
        };
        ways.iter().filter_map(series).collect()
    };
    let reach = results.reach;
    let within = format!("share within {reach} tokens");
    let local = by_block(&|look| look.curve.get(reach).copied());
    let name = format!("Attention within {reach} tokens, by block");
    charts.push(Chart { y: Some(SHARES), ..chart("locality-by-block", &name, ["block", &within], local) });
    let distance = by_block(&|look| look.grid_distance);
    charts.push(chart("distance-by-block", "Distance on the grid, by block", ["block", "tokens"], distance));
    charts.extend(over_time(results, &within));
    charts
}

fn block_number(block: &BlockLocality) -> f64 {
    block.block as f64
}

/// How attention changes while an image is drawn.
fn over_time(results: &AnalysisResults, within: &str) -> [Chart; 2] {
    let series = |value: &dyn Fn(&LookAt) -> Option<f64>| -> Vec<Series> {
        let line = |block: &BlockLocality| {
            let point = |at: &LookAt| Some((at.timestep as f64, value(at)?));
            let points = block.usual().by_timestep.iter().filter_map(point).collect();
            Series::new(format!("block {}", block.block), points)
        };
        results.locality.iter().map(line).collect()
    };
    let name = format!("Attention within {} tokens, over timesteps", results.reach);
    let local = chart("locality-over-time", &name, [TIMESTEP, within], series(&|at| Some(at.local)));
    let distance = series(&|at| at.grid_distance);
    [
        Chart { y: Some(SHARES), ..local },
        chart("distance-over-time", "Distance on the grid, over timesteps", [TIMESTEP, "tokens"], distance),
    ]
}

const TIMESTEP: &str = "timestep, noise to the right";

/// What operators are worth.
pub(super) fn sensitivity(results: &AnalysisResults) -> Vec<Chart> {
    let measures: [(&str, &str, &str, ChangeOf); 2] = [
        ("loss-by-block", "Change in loss", "change in loss", |change| Some(change.loss)),
        ("frechet-by-block", "Change in Fréchet distance", "change in distance", |change| change.frechet),
    ];
    let mut charts = Vec::new();
    for (file, name, axis, of) in measures {
        let mut series = Vec::new();
        for (slot, names) in [
            (Slot::Attention, ["attention removed", "attention replaced"]),
            (Slot::Mlp, ["MLP removed", "MLP replaced"]),
        ] {
            let line = |name: &str, change: &dyn Fn(&OperatorResult) -> Option<Change>| {
                let found = |o: &OperatorResult| Some((o.block as f64, of(&change(o)?)?));
                let (points, errors): (Vec<_>, Vec<f64>) = results
                    .slot(slot)
                    .filter_map(found)
                    .map(|(block, Estimate { value, stderr })| ((block, value), stderr.unwrap_or(f64::NAN)))
                    .unzip();
                (!points.is_empty()).then(|| Series { errors, ..Series::new(name, points) })
            };
            series.extend(line(names[0], &|o| o.removed.clone()));
            series.extend(line(names[1], &|o| o.replaced.as_ref().map(|new| new.change.clone())));
        }
        if !series.is_empty() {
            charts.push(chart(file, name, ["block", axis], series));
        }
    }
    charts
}

/// Activations over timesteps, at one side of the operators.
pub(super) fn activations(results: &AnalysisResults, side: Side) -> Vec<Chart> {
    let measures: [(&str, &str, NumberOf); 4] = [
        ("std", "standard deviation", |s| s.std),
        ("max", "largest |x|", |s| s.max_abs),
        ("kurtosis", "kurtosis", |s| s.kurtosis),
        ("mean", "mean", |s| s.mean),
    ];
    let mut charts = Vec::new();
    for (slot, slot_name) in [(Slot::Attention, "Attention"), (Slot::Mlp, "MLP")] {
        for (file, measure, of) in measures {
            let line = |operator: &OperatorResult| {
                let activity = match side {
                    Side::Input => &operator.input,
                    Side::Output => &operator.output,
                };
                let point = |s: &Statistics| Some((s.timestep? as f64, of(s)));
                let points = activity.by_timestep.iter().filter_map(point).collect();
                Series::new(format!("block {}", operator.block), points)
            };
            let series: Vec<Series> = results.slot(slot).map(line).collect();
            let side = side.name();
            let name = format!("{slot_name}, {side}: {measure}");
            let file = format!("{side}-{}-{file}", slot.name());
            charts.push(chart(&file, &name, [TIMESTEP, measure], series));
        }
    }
    charts
}

/// A side of an operator.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Input,
    Output,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}
