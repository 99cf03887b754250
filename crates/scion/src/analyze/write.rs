//! The files of an analysis: a page, its plots, and the numbers as JSON and CSV.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::atomic;
use crate::error::Result;
use crate::report::analysis::{AnalysisResults, Change, Look, Statistics};

/// The page, which comes last: where it is there, the analysis is done.
pub const PAGE: &str = "analysis.html";

/// Writes all files of an analysis into a folder and returns the path of the page.
///
/// # Errors
/// `Io` when a file cannot be written.
pub fn write(results: &AnalysisResults, folder: &Path) -> Result<PathBuf> {
    let json = serde_json::to_string_pretty(results).expect("results are plain data");
    let tables = [
        ("analysis.json", json),
        ("statistics.csv", statistics(results)),
        ("locality.csv", locality(results)),
        ("attention.csv", attention(results)),
        ("sensitivity.csv", sensitivity(results)),
    ];
    for (name, text) in tables {
        atomic::write(&folder.join(name), text.as_bytes())?;
    }
    for (name, svg) in results.pictures() {
        atomic::write(&folder.join(format!("{name}.svg")), svg.as_bytes())?;
    }
    let page = folder.join(PAGE);
    atomic::write(&page, results.html().as_bytes())?;
    Ok(page)
}

/// Activations of every operator, over all timesteps (an empty field) and at each.
fn statistics(results: &AnalysisResults) -> String {
    let mut out =
        String::from("block,slot,operator,side,timestep,count,mean,std,max_abs,kurtosis,outliers\n");
    for operator in &results.operators {
        let (block, slot, name) = (operator.block, operator.slot.name(), &operator.operator);
        for (side, activity) in [("input", &operator.input), ("output", &operator.output)] {
            for row in [&activity.all].into_iter().chain(&activity.by_timestep) {
                let Statistics { timestep, count, mean, std, max_abs, kurtosis, outliers } = row;
                let timestep = timestep.map_or(String::new(), |t| t.to_string());
                line(
                    &mut out,
                    format_args!(
                        "{block},{slot},{name},{side},{timestep},{count},{mean},{std},{max_abs},{kurtosis},{outliers}"
                    ),
                );
            }
        }
    }
    out
}

/// Every block's attention, with and without guidance.
fn looks(results: &AnalysisResults) -> impl Iterator<Item = (usize, &'static str, &Look)> {
    results.locality.iter().flat_map(|block| {
        let plain = [(block.block, "off", &block.plain)];
        plain.into_iter().chain(block.guided.as_ref().map(|look| (block.block, "on", look)))
    })
}

/// The whole curve of every block.
fn locality(results: &AnalysisResults) -> String {
    let mut out = String::from("block,guidance,k,locality\n");
    for (block, guidance, look) in looks(results) {
        for (k, local) in look.curve.iter().enumerate() {
            line(&mut out, format_args!("{block},{guidance},{k},{local}"));
        }
    }
    out
}

/// Locality at the reach and distance, over all timesteps (an empty field) and at each.
fn attention(results: &AnalysisResults) -> String {
    let mut out = String::from("block,guidance,timestep,k,locality,grid_distance\n");
    for (block, guidance, look) in looks(results) {
        let k = results.reach;
        let all = (String::new(), look.curve[k], look.grid_distance);
        let at = look.by_timestep.iter().map(|at| (at.timestep.to_string(), at.local, at.grid_distance));
        for (timestep, local, distance) in [all].into_iter().chain(at) {
            let distance = distance.map_or(String::new(), |distance| distance.to_string());
            line(&mut out, format_args!("{block},{guidance},{timestep},{k},{local},{distance}"));
        }
    }
    out
}

/// What every operator is worth; the table has no rows where this was not measured.
fn sensitivity(results: &AnalysisResults) -> String {
    let mut out = String::from(
        "block,slot,operator,replaced_by,loss_change,loss_stderr,frechet_change,frechet_stderr\n",
    );
    for operator in &results.operators {
        let removed = operator.removed.iter().map(|change| ("nothing", change));
        let replaced = operator.replaced.iter().map(|new| (new.operator.as_str(), &new.change));
        for (by, Change { loss, frechet }) in removed.chain(replaced) {
            let (block, slot, name) = (operator.block, operator.slot.name(), &operator.operator);
            let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
            let loss = [Some(loss.value), loss.stderr].map(number).join(",");
            let frechet = [frechet.map(|f| f.value), frechet.and_then(|f| f.stderr)].map(number).join(",");
            line(&mut out, format_args!("{block},{slot},{name},{by},{loss},{frechet}"));
        }
    }
    out
}

fn line(out: &mut String, fields: std::fmt::Arguments) {
    writeln!(out, "{fields}").expect("writing to a String cannot fail");
}
