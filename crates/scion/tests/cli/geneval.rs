//! `scion geneval`: prompts out, a folder and detections in, scores and results out.

use std::fs;
use std::path::{Path, PathBuf};

use scion::data::Raster;
use scion::data::image_io::save_png;
use scion::geneval::{Layout, official_prompts, read_prompts, read_records};
use serde_json::{Value, json};

use super::{assert_names, printed, refused, scion};

/// A bench, a dog that must be red, each drawn twice.
fn drawn(dir: &Path) -> PathBuf {
    let prompts = official_prompts();
    let colored = prompts.iter().find(|p| p.prompt == "a photo of a red dog").unwrap();
    let layout = Layout::create(&dir.join("drawn"), vec![prompts[0].clone(), colored.clone()], 2).unwrap();
    let grey = Raster { width: 16, height: 16, channels: 3, data: vec![128; 768] };
    for (prompt, image) in layout.missing() {
        save_png(&layout.sample_path(prompt, image), &grey).unwrap();
    }
    dir.join("drawn")
}

/// One bench of two is seen; of the dogs, one is red and one is brown.
fn seen() -> Value {
    let dog = |color: &str| json!({"dog": [[1, 1, 9, 9, 0.5, color]]});
    json!({
        "format": "geneval-detections-1",
        "detector": "a trained eye",
        "images": {
            "00000/samples/0000.png": {"bench": [[0, 0, 5, 5, 0.75]], "dog": [[1, 1, 2, 2, 0.1]]},
            "00000/samples/0001.png": {},
            "00001/samples/0000.png": dog("red"),
            "00001/samples/0001.png": dog("brown"),
        },
    })
}

fn file(dir: &Path, name: &str, contents: &Value) -> PathBuf {
    fs::write(dir.join(name), contents.to_string()).unwrap();
    dir.join(name)
}

fn score(folder: &Path, detections: &Path) -> assert_cmd::Command {
    let mut command = scion("geneval");
    command.arg("score").arg(folder).arg("--detections").arg(detections);
    command
}

#[test]
fn a_folder_is_scored_and_its_results_summed_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, found) = (drawn(dir.path()), file(dir.path(), "found.json", &seen()));
    let output = score(&folder, &found).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_names(&text, &["single_object", "50.00% ± ", "1 / 2", "Detector: a trained eye."]);
    let warned = String::from_utf8(output.stderr).unwrap();
    let warnings =
        ["the detector is a trained eye, not GenEval's Mask2Former", "unnamed", "lacks two_object"];
    assert_names(&warned, &warnings);

    let results = folder.join("results.jsonl");
    let records = read_records(&results).unwrap();
    let reasons: Vec<&str> = records.iter().map(|record| record.reason.as_str()).collect();
    let expected = ["", "expected bench>=1, found 0", "", "expected red dog>=1, found 0 red; and 1 brown"];
    assert_eq!(reasons, expected);
    assert_eq!(records[0].details, r#"{"bench": [[0.0, 0.0, 5.0, 5.0, 0.75]]}"#);
    assert!(Path::new(&records[3].filename).ends_with("00001/samples/0001.png"));
    assert_names(&refused(&mut score(&folder, &found), 1), &["results.jsonl", "exists already"]);

    let again = printed(scion("geneval").arg("summary").arg(&results).arg("--json"));
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!((&again["overall"]["value"], &again["all"]["images"]), (&json!(0.5), &json!(4)));
    assert_eq!(again["tags"][1]["tag"], "colors");
    assert_eq!(again["prompts_correct"]["value"], 1.0);
    assert_eq!(again["warnings"][0]["kind"], "tags-missing");
}

#[test]
fn settings_change_the_outcome_and_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, found) = (drawn(dir.path()), file(dir.path(), "found.json", &seen()));
    let results = dir.path().join("strict.jsonl");
    let mut strict = score(&folder, &found);
    strict.args(["--threshold", "0.6", "--json", "--results"]).arg(&results);
    let report: Value = serde_json::from_str(&printed(&mut strict)).unwrap();
    assert_eq!((&report["tags"][0]["correct"], &report["tags"][1]["correct"]), (&json!(1), &json!(0)));
    assert_eq!(report["rules"]["max_objects"], 16);
    let kinds: Vec<&Value> = report["warnings"].as_array().unwrap().iter().map(|w| &w["kind"]).collect();
    assert_eq!(kinds, ["other-detector", "other-color-classifier", "other-rules", "tags-missing"]);
    assert!(results.exists() && !folder.join("results.jsonl").exists());

    let wrong = |option: &str, value: &str| refused(score(&folder, &found).args([option, value]), 2);
    assert_names(&wrong("--threshold", "30"), &["--threshold 30: expected 0 to 1"]);
    assert_names(&wrong("--max-objects", "0"), &["--max-objects 0"]);
}

#[test]
fn detections_must_fit_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let folder = drawn(dir.path());
    let refusal = |change: &dyn Fn(&mut Value), code| {
        let mut contents = seen();
        change(&mut contents);
        refused(&mut score(&folder, &file(dir.path(), "found.json", &contents)), code)
    };
    let images = |contents: &mut Value| contents["images"].as_object_mut().unwrap().clone();
    let lacking = refusal(
        &|contents| {
            let mut left = images(contents);
            left.remove("00001/samples/0000.png");
            contents["images"] = left.into();
        },
        1,
    );
    assert_names(&lacking, &["found.json: has no detections of 00001/samples/0000.png"]);
    let beyond = refusal(&|contents| contents["images"]["00007/samples/0000.png"] = json!({}), 1);
    assert_names(&beyond, &["no image for, of 00007/samples/0000.png"]);
    let colorless = refusal(
        &|contents| contents["images"]["00001/samples/0000.png"]["dog"] = json!([[1, 1, 9, 9, 0.5]]),
        1,
    );
    assert_names(&colorless, &["image 00001/samples/0000.png", "\"dog\" at [1, 1, 9, 9] has no colour"]);
    let classes = refusal(&|contents| contents["classes"] = json!(["dog", "bench press"]), 1);
    assert_names(&classes, &["\"bench\" is none of the detector's classes"]);
    assert!(!folder.join("results.jsonl").exists());
    let other = dir.path().join("nothing");
    fs::create_dir(&other).unwrap();
    let empty = refused(&mut score(&other, &file(dir.path(), "found.json", &seen())), 1);
    assert_names(&empty, &["nothing: holds no images; expected 00000/metadata.jsonl"]);
}

#[test]
fn the_published_prompts_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("prompts.jsonl");
    assert_eq!(printed(scion("geneval").args(["prompts", "--out"]).arg(&path)), "");
    assert_eq!(read_prompts(&path).unwrap(), official_prompts());
    assert_eq!(printed(scion("geneval").arg("prompts")), fs::read_to_string(&path).unwrap());
    refused(scion("geneval").args(["prompts", "--out"]).arg(&path), 1);
}

#[cfg(not(feature = "geneval-onnx"))]
#[test]
fn networks_need_the_feature() {
    let dir = tempfile::tempdir().unwrap();
    let folder = drawn(dir.path());
    let mut command = scion("geneval");
    let message = refused(command.arg("score").arg(folder).args(["--detector", "d.onnx"]), 2);
    assert_names(&message, &["--detector d.onnx", "--features geneval-onnx", "--detections"]);
}

#[cfg(feature = "geneval-onnx")]
#[test]
fn networks_look_at_the_images() {
    use super::fixture;

    let dir = tempfile::tempdir().unwrap();
    let folder = drawn(dir.path());
    let [detector, colors] = ["geneval/detector.onnx", "geneval/encoder.onnx"].map(fixture);
    let found = dir.path().join("found.json");
    let mut command = scion("geneval");
    command.arg("score").arg(&folder).arg("--detector").arg(&detector);
    assert_names(&refused(&mut command, 2), &["ask for colours", "--colors", "--color-texts"]);
    command.arg("--colors").arg(colors).arg("--color-texts").arg(fixture("geneval/colors.safetensors"));
    command.arg("--save-detections").arg(&found).arg("--json");
    let report: Value = serde_json::from_str(&printed(&mut command)).unwrap();
    assert_eq!(
        (&report["detector"], &report["color_classifier"]),
        (&json!("ONNX file detector.onnx"), &json!("ONNX file encoder.onnx"))
    );
    assert_eq!(report["warnings"][0]["kind"], "other-detector");
    let seen = scion::geneval::Detections::read(&found).unwrap();
    assert_eq!(seen.images["00000/samples/0000.png"]["dog"].len(), 2);

    // Colours were told of objects that a lower threshold lets count, too.
    let low = dir.path().join("low.jsonl");
    printed(score(&folder, &found).args(["--threshold", "0.01", "--results"]).arg(&low));
    let again = dir.path().join("again.jsonl");
    let second = printed(score(&folder, &found).arg("--json").arg("--results").arg(&again));
    assert_eq!(serde_json::from_str::<Value>(&second).unwrap(), report);
    assert_eq!(read_records(&again).unwrap(), read_records(&folder.join("results.jsonl")).unwrap());
}
