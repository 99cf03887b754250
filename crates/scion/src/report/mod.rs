//! Self-contained HTML pages. Of a run: what was replaced, what it cost, what it saves; of several runs and of studies:
//! how they compare.
//!
//! A page makes no request of any kind: styles, script, charts and images are inside it, and its
//! content security policy forbids the rest.

pub mod analysis;
mod axis;
mod blocks;
mod compare;
mod cost;
mod headline;
mod locality;
mod number;
mod page;
mod picture;
mod plot;
mod prompts;
mod read;
pub mod results;
mod scatter;
pub mod study;
mod tables;

use std::path::{Path, PathBuf};

pub use compare::compare_runs;
pub(crate) use number::{estimate_text, significant};
pub use results::Results;

use crate::error::Result;

/// Everything on the page.
#[derive(Debug, Clone)]
pub struct Report<'a> {
    /// Name of the run, shown above the headline.
    pub run: &'a str,
    pub results: &'a Results,
    pub curves: &'a [Curve],
    pub grids: &'a [SampleGrid],
}

/// A line chart. Points that are not finite are left out; the y axis is logarithmic when the values
/// are positive and most of them span more than a factor of eight.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    pub name: String,
    pub x_label: String,
    pub y_label: String,
    pub series: Vec<Series>,
}

/// One line of a chart, as (x, y) points.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    /// The standard error of every point's y, or nothing.
    pub errors: Vec<f64>,
}

impl Series {
    /// A line without errors.
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, errors: Vec::new() }
    }
}

/// A grid of samples as one PNG image. Grids are compared side by side: each should be made from the
/// same noise, with one class a row.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleGrid {
    pub title: String,
    pub caption: String,
    pub png: Vec<u8>,
    /// Its rows, as PNG images, where each is of a prompt.
    pub rows: Vec<Vec<u8>>,
}

impl Report<'_> {
    /// Writes the page of the run in `run_dir` to `out`. The file appears whole or not at all.
    ///
    /// Of `run_dir` only the last component is shown; nothing is read from it.
    ///
    /// # Errors
    /// `Io` when `out` cannot be written.
    pub fn write(
        run_dir: &Path,
        results: &Results,
        curves: &[Curve],
        grids: &[SampleGrid],
        out: &Path,
    ) -> Result<()> {
        let run = run_name(run_dir);
        let html = Report { run: &run, results, curves, grids }.html();
        crate::atomic::write(out, html.as_bytes())
    }

    /// The page as one HTML document.
    pub fn html(&self) -> String {
        let mut out = String::new();
        page::document(&mut out, self).expect("writing to a String cannot fail");
        out
    }
}

/// Reads `results.json`, `metrics.jsonl` and `samples/*.png` of a run folder and writes its
/// `report.html`; returns the path of the page. Only `results.json` must exist.
///
/// # Errors
/// `Io` when a file cannot be read or written; `Invalid` when one does not hold what it should.
pub fn from_run_dir(dir: &Path) -> Result<PathBuf> {
    let results = Results::read(&dir.join("results.json"))?;
    let curves = read::curves(&dir.join("metrics.jsonl"))?;
    let grids = read::grids(&dir.join("samples"), &results)?;
    let out = dir.join("report.html");
    Report::write(dir, &results, &curves, &grids, &out)?;
    Ok(out)
}

/// A stage's name for people, from its name in a run folder's files.
fn stage_title(name: &str) -> &str {
    match name {
        "locality" => "Locality of attention",
        "stage1" => "Stage 1",
        "stage2" => "Stage 2",
        "samples" => "Samples",
        "evaluation" => "Evaluation",
        other => other,
    }
}

/// The folder's own name, also for `.` and paths that end in `..`.
fn run_name(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    whole.file_name().map_or_else(|| "run".into(), |n| n.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;
