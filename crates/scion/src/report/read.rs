//! Reading a run folder: `metrics.jsonl` as curves and `samples/*.png` as grids.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::results::{ModelName, ModelResult, Results};
use super::{Curve, SampleGrid, Series, number, stage_title};
use crate::data::image_io::GAP;
use crate::error::{Error, Result};

const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// One line of `metrics.jsonl`. Stage 1 logs per operator or pair; other stages log one line a step. A value
/// that was not finite is `null`.
#[derive(Debug, Deserialize)]
struct Line {
    stage: String,
    block: Option<usize>,
    second: Option<usize>,
    slot: Option<String>,
    step: Option<f64>,
    epoch: Option<f64>,
    loss: Option<f64>,
    val_loss: Option<f64>,
    mse: Option<f64>,
    vb: Option<f64>,
    teacher_noise: Option<f64>,
    teacher_variance: Option<f64>,
    teacher_blocks: Option<f64>,
    lr: Option<f64>,
    grad_norm: Option<f64>,
}

/// Chooses one metric of a line.
type Pick = fn(&Line) -> Option<f64>;

/// Reads the training curves of `metrics.jsonl`; none when the file does not exist.
///
/// A last line without its newline is what a kill leaves behind and is ignored when it does not
/// parse. A step logged twice (before and after a resumption) counts once, as logged last.
///
/// # Errors
/// `Io` when the file cannot be read; `Invalid` with the line number when a line is not JSON of this
/// shape.
pub(super) fn curves(path: &Path) -> Result<Vec<Curve>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("read", path, e)),
    };
    let mut lines = Vec::new();
    for (i, line) in text.split_inclusive('\n').enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<Line>(line) {
            Ok(parsed) => lines.push(parsed),
            Err(_) if !line.ends_with('\n') => {}
            Err(e) => {
                let detail = format!("line {}: expected one object with the metrics of a step: {e}", i + 1);
                return Err(Error::invalid(path, detail));
            }
        }
    }
    let mut curves = stage1_curves(&lines);
    curves.extend(step_curves(&lines));
    Ok(curves)
}

/// Points by their position on the x axis, so that the last logged value of a step wins.
#[derive(Default)]
struct Points(BTreeMap<u64, f64>);

impl Points {
    fn add(&mut self, x: Option<f64>, y: Option<f64>) {
        // The bit patterns of non-negative floats sort as the floats do.
        if let (Some(x), Some(y)) = (x.filter(|x| *x >= 0.0), y) {
            self.0.insert((x + 0.0).to_bits(), y);
        }
    }

    fn series(self, name: String) -> Option<Series> {
        let points: Vec<(f64, f64)> = self.0.into_iter().map(|(x, y)| (f64::from_bits(x), y)).collect();
        (!points.is_empty()).then(|| Series::new(name, points))
    }
}

/// One chart per slot (or for pairs) and loss, one series per block (or pair).
fn stage1_curves(lines: &[Line]) -> Vec<Curve> {
    let lines: Vec<&Line> = lines.iter().filter(|l| l.stage == "stage1").collect();
    let mut slots: Vec<&str> = lines.iter().filter_map(|l| l.slot.as_deref()).collect();
    slots.sort_unstable();
    slots.dedup();
    let mut curves = Vec::new();
    for slot in slots {
        let of_slot: Vec<&Line> = lines.iter().copied().filter(|l| l.slot.as_deref() == Some(slot)).collect();
        let losses: [(&str, Pick); 2] = [("validation loss", |l| l.val_loss), ("training loss", |l| l.loss)];
        for (name, loss) in losses {
            let measured = || of_slot.iter().filter(|l| loss(l).is_some());
            // Validation happens once an epoch, training many times: each on the axis it was logged by.
            let by_epoch = name == "validation loss" && measured().all(|l| l.epoch.is_some());
            let mut blocks: BTreeMap<(usize, Option<usize>), Points> = BTreeMap::new();
            for line in measured() {
                let x = if by_epoch { line.epoch } else { line.step.or(line.epoch) };
                blocks.entry((line.block.unwrap_or(0), line.second)).or_default().add(x, loss(line));
            }
            let series = blocks.into_iter().filter_map(|(blocks, points)| {
                points.series(match blocks {
                    (block, None) => format!("block {block}"),
                    (first, Some(second)) => format!("blocks {first} and {second}"),
                })
            });
            let series = series.collect();
            let x_label = if by_epoch { "epoch" } else { "step" };
            curves.push(curve(format!("Stage 1, {slot}: {name}"), x_label, "loss", series));
        }
    }
    curves.retain(|c| !c.series.is_empty());
    curves
}

/// Charts of loss, loss terms, gradient norm and learning rate for each stage that logs by step.
fn step_curves(lines: &[Line]) -> Vec<Curve> {
    type Lines = &'static [(&'static str, Pick)];
    let charts: [(&str, &str, Lines); 4] = [
        ("loss", "loss", &[("training", |l| l.loss), ("validation", |l| l.val_loss)]),
        (
            "loss terms",
            "loss",
            &[
                ("mean squared error", |l| l.mse),
                ("variational bound", |l| l.vb),
                ("teacher's noise", |l| l.teacher_noise),
                ("teacher's variance", |l| l.teacher_variance),
                ("teacher's block outputs", |l| l.teacher_blocks),
            ],
        ),
        ("gradient norm", "norm", &[("gradient norm", |l| l.grad_norm)]),
        ("learning rate", "rate", &[("learning rate", |l| l.lr)]),
    ];
    let mut stages: Vec<&str> = lines.iter().map(|l| l.stage.as_str()).filter(|s| *s != "stage1").collect();
    stages.sort_unstable();
    stages.dedup();
    let mut curves = Vec::new();
    for stage in stages {
        for (name, y_label, picks) in &charts {
            let mut series = Vec::new();
            for (label, pick) in *picks {
                let mut points = Points::default();
                for line in lines.iter().filter(|l| l.stage == stage) {
                    points.add(line.step.or(line.epoch), pick(line));
                }
                series.extend(points.series(label.to_string()));
            }
            let title = stage_title(stage);
            curves.push(curve(format!("{title}: {name}"), "step", y_label, series));
        }
    }
    curves.retain(|c| !c.series.is_empty());
    curves
}

fn curve(name: String, x_label: &str, y_label: &str, series: Vec<Series>) -> Curve {
    Curve { name, x_label: x_label.into(), y_label: y_label.into(), series }
}

/// Reads `samples/NAME.png` for every model name, in the order of the run, then any other grids there
/// by file name. None when the folder does not exist.
///
/// # Errors
/// `Io` when the folder or a file cannot be read; `Invalid` when a `.png` file is not a PNG image.
pub(super) fn grids(dir: &Path, results: &Results) -> Result<Vec<SampleGrid>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("read", dir, e)),
    };
    let mut files: Vec<(usize, String, PathBuf)> = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io("read", dir, e))?.path();
        let Some(stem) = path.file_stem().and_then(|s| s.to_str()).map(String::from) else { continue };
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png")) {
            let place = ModelName::ALL.iter().position(|m| m.id() == stem).unwrap_or(ModelName::ALL.len());
            files.push((place, stem, path));
        }
    }
    files.sort();
    files.into_iter().map(|(place, stem, path)| grid(place, stem, &path, results)).collect()
}

fn grid(place: usize, stem: String, path: &Path, results: &Results) -> Result<SampleGrid> {
    let png = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    if !png.starts_with(PNG_SIGNATURE) {
        let found: Vec<u8> = png.iter().take(8).copied().collect();
        return Err(Error::invalid(
            path,
            format!("expected a PNG image, found a file that starts with {found:02x?}"),
        ));
    }
    let rows = rows(path, &png, results.prompts.len())?;
    let Some(name) = ModelName::ALL.get(place) else {
        return Ok(SampleGrid { title: stem, caption: String::new(), png, rows });
    };
    let model = results.model(*name);
    let distance = |m: &ModelResult| {
        let score = m.frechet.as_ref()?;
        Some(format!("Fréchet distance {}", number::estimate_text(score)))
    };
    let shown = |m: &ModelResult| Some(format!("{} show their prompt", number::percent(m.accuracy?, 0)));
    let caption = model.and_then(|m| distance(m).or_else(|| shown(m))).unwrap_or_default();
    Ok(SampleGrid { title: name.label().into(), caption, png, rows })
}

/// A grid's rows as images of their own, the space between them left out; none of none.
fn rows(path: &Path, png: &[u8], count: usize) -> Result<Vec<Vec<u8>>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let invalid = |e: image::ImageError| Error::invalid(path, format!("cannot be read: {e}"));
    let grid = image::load_from_memory(png).map_err(invalid)?;
    let pitch = (grid.height() as usize + GAP) / count;
    let row = |row: usize| {
        let (top, height) = ((row * pitch) as u32, pitch.saturating_sub(GAP).max(1) as u32);
        let mut bytes = Vec::new();
        let cropped = grid.crop_imm(0, top, grid.width(), height);
        cropped.write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png).map_err(invalid)?;
        Ok(bytes)
    };
    (0..count).map(row).collect()
}

/// Width and height from a PNG's header; `None` when the bytes are too short to have one.
pub(super) fn png_size(png: &[u8]) -> Option<(u32, u32)> {
    let field = |at: usize| Some(u32::from_be_bytes(png.get(at..at + 4)?.try_into().ok()?));
    if !png.starts_with(PNG_SIGNATURE) {
        return None;
    }
    field(16).zip(field(20))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Curve>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        std::fs::write(&path, text).unwrap();
        curves(&path)
    }

    #[test]
    fn lines_become_curves_per_slot_and_metric() {
        let text = r#"{"stage":"stage1","block":1,"slot":"attention","step":10,"epoch":1,"loss":0.9,"val_loss":0.8}
{"stage":"stage1","block":0,"slot":"attention","step":10,"epoch":1,"loss":0.5}
{"stage":"stage1","block":2,"second":3,"slot":"pair","step":10,"loss":0.3}
{"stage":"stage2","step":1,"loss":1.0,"mse":0.9,"vb":0.1,"lr":0.0001,"grad_norm":null}
{"stage":"stage2","step":2,"loss":0.8,"teacher_noise":0.3}
{"stage":"stage2","step":2,"loss":0.7}
{"stage":"stage2","st"#;
        let curves = read(text).unwrap();
        let names: Vec<&str> = curves.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "Stage 1, attention: validation loss",
                "Stage 1, attention: training loss",
                "Stage 1, pair: training loss",
                "Stage 2: loss",
                "Stage 2: loss terms",
                "Stage 2: learning rate"
            ]
        );
        assert_eq!(curves[1].series[0].name, "block 0");
        assert_eq!(curves[2].series[0].name, "blocks 2 and 3");
        assert_eq!(curves[3].series[0].points, [(1.0, 1.0), (2.0, 0.7)]);
        let terms: Vec<&str> = curves[4].series.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(terms, ["mean squared error", "variational bound", "teacher's noise"]);
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = read("{\"stage\":\"stage2\",\"step\":1}\n{\"stage\":3}\n").unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn grids_come_in_the_order_of_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let mut png = PNG_SIGNATURE.to_vec();
        png.extend([0, 0, 0, 13, b'I', b'H', b'D', b'R', 0, 0, 1, 0, 0, 0, 0, 9]);
        assert_eq!(png_size(&png), Some((256, 9)));
        for name in ["stage2", "extra", "teacher"] {
            std::fs::write(dir.path().join(name).with_extension("png"), &png).unwrap();
        }
        let titles: Vec<String> =
            grids(dir.path(), &Results::default()).unwrap().into_iter().map(|g| g.title).collect();
        assert_eq!(titles, ["Teacher", "After stage 2", "extra"]);
        std::fs::write(dir.path().join("bad.png"), "text").unwrap();
        assert!(grids(dir.path(), &Results::default()).unwrap_err().to_string().contains("bad.png"));
    }
}
