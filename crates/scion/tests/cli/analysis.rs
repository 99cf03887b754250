//! What `scion analyze` leaves: numbers that follow from exported attention, a page, and refusals.

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use scion::checkpoint::Checkpoint;
use serde_json::Value;

use super::{SMALL_MODEL, assert_names, fixture, listing, printed, refused, scion};

/// A quick analysis of the small model.
fn analyze(out: &Path) -> Command {
    let mut command = scion("analyze");
    command.arg(fixture(SMALL_MODEL)).args(["--heads", "3", "--samples", "2", "--steps", "2"]);
    command.arg("--out").arg(out);
    command
}

fn results(out: &Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("analysis.json")).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn a_model_without_data_is_watched_and_its_curves_follow_from_exported_attention() {
    let folder = tempfile::tempdir().unwrap();
    let (out, file) = (folder.path().join("out"), folder.path().join("attention.safetensors"));
    let text = printed(analyze(&out).args(["--precision", "f32", "--export-attention"]).arg(&file));
    assert_names(&text, &["Loss for attention: ", "left out: What operators are worth", "analysis.html"]);
    for name in ["analysis.json", "statistics.csv", "locality.csv", "attention.csv", "sensitivity.csv"] {
        assert!(out.join(name).is_file(), "{name}");
    }
    assert!(listing(&out).contains(&"locality-plain.svg".to_string()), "{:?}", listing(&out));
    let (results, file) = (results(&out), Checkpoint::open(&file).unwrap());
    let tokens = results["tokens"].as_u64().unwrap() as usize;
    for block in results["locality"].as_array().unwrap() {
        let name = format!("block.{}", block["block"]);
        let shape = file.entry(&name).unwrap().shape.clone();
        // Two images at each of two steps are all passes without guidance.
        assert_eq!(shape, [4, 3, tokens, tokens]);
        let weights = file.read_f32(&name).unwrap();
        let (rows, found) = ((4 * 3 * tokens) as f64, numbers(&block["plain"]["curve"]));
        for (k, found) in found.into_iter().enumerate() {
            let near = |at: &usize| (at / tokens % tokens).abs_diff(at % tokens) <= k;
            let sum: f64 = (0..weights.len()).filter(near).map(|at| f64::from(weights[at])).sum();
            assert!((found - sum / rows).abs() < 1e-6, "{name}, L_{k}: {found} for {}", sum / rows);
        }
    }
    let depth = results["locality"].as_array().unwrap().len();
    assert_eq!(results["operators"].as_array().unwrap().len(), 2 * depth);
    // Every step of every image: 2 images of `tokens` tokens and so many channels.
    let output = &results["operators"][0]["output"];
    let count = |row: &Value| row["count"].as_u64().unwrap();
    assert_eq!(count(&output["all"]), 2 * count(&output["by_timestep"][0]));
    assert!(results.get("baseline").is_none());
}

#[test]
fn with_guidance_the_curve_is_what_a_run_chooses_blocks_by() {
    let folder = tempfile::tempdir().unwrap();
    let (recipe, run, out) =
        (folder.path().join("r.toml"), folder.path().join("run"), folder.path().join("out"));
    let text = "precision = \"f32\"\n[model]\ncheckpoint = \"embedded\"\n[[graft]]\ntarget = \"attention\"\n\
                blocks = { most-local = 0.5 }\noperator = { kind = \"hyena-x\" }\n\
                [locality]\nk = 6\nsamples = 3\nsteps = 2\ncfg = 2.5\n\
                [distill]\nsteps = 1\nbatch = 2\nvalidation = 2\n";
    fs::write(&recipe, text).unwrap();
    printed(scion("distill").arg(&recipe).arg("--out").arg(&run));
    let settings = ["--samples", "3", "--steps", "2", "--cfg", "2.5", "--precision", "f32"];
    let fast = ["--images", "2", "--frechet", "0"];
    printed(scion("analyze").arg("embedded").args(settings).args(fast).arg("--out").arg(&out));
    let chosen: Value = serde_json::from_slice(&fs::read(run.join("locality.json")).unwrap()).unwrap();
    let results = results(&out);
    for (block, expected) in results["locality"].as_array().unwrap().iter().zip(numbers(&chosen["blocks"])) {
        let guided = numbers(&block["guided"]["curve"])[6];
        assert!((guided - expected).abs() < 1e-9, "{}: {guided} for {expected}", block["block"]);
        assert!((guided - numbers(&block["plain"]["curve"])[6]).abs() > 1e-9, "guidance changes nothing");
    }
}

#[test]
fn a_finished_analysis_is_left_alone_and_others_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    printed(&mut analyze(&out));
    let page = fs::read(out.join("analysis.html")).unwrap();
    assert_names(&printed(&mut analyze(&out)), &["nothing to do"]);
    assert!(fs::read(out.join("analysis.html")).unwrap() == page);
    assert_names(&refused(analyze(&out).args(["--seed", "7"]), 1), &["seed 0 instead of 7"]);
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("thesis.txt"), "mine").unwrap();
    assert_names(&refused(&mut analyze(&other), 1), &["is not empty", "choose another --out"]);
    assert_eq!(listing(&other), ["thesis.txt"]);
}

#[test]
fn what_operators_are_worth_is_measured_on_data_and_with_a_runs_operators() {
    let folder = tempfile::tempdir().unwrap();
    let (recipe, run, out) =
        (folder.path().join("r.toml"), folder.path().join("run"), folder.path().join("out"));
    let text = "[model]\ncheckpoint = \"embedded\"\n[[graft]]\ntarget = \"attention\"\nblocks = [1, 3]\n\
                operator = { kind = \"hyena-x\" }\n[distill]\nsteps = 1\nbatch = 2\nvalidation = 2\n";
    fs::write(&recipe, text).unwrap();
    printed(scion("distill").arg(&recipe).arg("--out").arg(&run));
    let few = ["--samples", "1", "--steps", "2", "--images", "4", "--frechet", "10"];
    printed(scion("analyze").arg("embedded").args(few).arg("--run").arg(&run).arg("--out").arg(&out));
    let results = results(&out);
    assert_eq!(results["baseline"]["images"], 4);
    for operator in results["operators"].as_array().unwrap() {
        let change = &operator["removed"];
        assert!(change["loss"]["value"].as_f64().unwrap() != 0.0, "{operator}");
        assert!(change["frechet"]["stderr"].as_f64().unwrap() > 0.0, "{operator}");
        let new = operator["slot"] == "attention" && [1, 3].map(Value::from).contains(&operator["block"]);
        assert_eq!(operator.get("replaced").is_some(), new, "{operator}");
    }
    let page = fs::read_to_string(out.join("analysis.html")).unwrap();
    assert_names(&page, &["hyena-x", "attention replaced", "Start with attention in blocks"]);
    let small = refused(analyze(&out).arg("--run").arg(&run), 1);
    assert_names(&small, &["is the run of a teacher with other weights"]);
}

#[test]
fn what_cannot_be_analysed_is_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let (out, text) = (folder.path().join("out"), folder.path().join("text.safetensors"));
    fs::write(&text, "no model").unwrap();
    refused(scion("analyze").arg(&text).arg("--out").arg(&out), 1);
    let run = folder.path().join("no-run");
    assert_names(&refused(analyze(&out).arg("--run").arg(&run), 1), &["no-run", "no recipe.toml"]);
    for (option, value, names) in [
        ("--steps", "600", "ddim600"),
        ("--frechet", "5", "at least 10 images"),
        ("--images", "1", "--images 1"),
        ("--cfg", "inf", "finite"),
        ("--data", "nowhere", "--data nowhere"),
        ("--data", "embedded", "model takes"),
    ] {
        let mut command = scion("analyze");
        command.arg(fixture(SMALL_MODEL)).args(["--heads", "3", option, value]).arg("--out").arg(&out);
        assert_names(&refused(&mut command, 2), &[names]);
    }
    refused(scion("analyze").arg("embedded").args(["--samples", "0"]).arg("--out").arg(&out), 2);
    assert!(!out.exists(), "something was written");
}
