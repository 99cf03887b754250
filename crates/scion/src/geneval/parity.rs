//! The official program's results on the same detections (`scripts/fixtures/geneval.py`).

use std::fs;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use serde_json::{Value, json};

use super::{Detections, Folder, Prompt, Rules, Summary, read_records, score};

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/geneval").join(name);
    let bytes = fs::read(path).unwrap();
    let mut text = String::new();
    if name.ends_with(".gz") {
        GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
    } else {
        text = String::from_utf8(bytes).unwrap();
    }
    text
}

fn rules(of: &Value) -> Rules {
    let number = |key: &str| of[key].as_f64().unwrap();
    Rules {
        threshold: number("threshold") as f32,
        counting_threshold: number("counting_threshold") as f32,
        max_objects: number("max_objects") as usize,
        max_overlap: number("max_overlap"),
        position_threshold: number("position_threshold") as f32,
    }
}

/// A folder with an empty image for each case, and the cases' detections as a file.
fn files(dir: &Path, cases: &[Value]) -> (Folder, Detections) {
    let mut images = serde_json::Map::new();
    for (index, case) in cases.iter().enumerate() {
        let samples = dir.join(format!("{index:05}/samples"));
        fs::create_dir_all(&samples).unwrap();
        fs::write(samples.join("0000.png"), "").unwrap();
        fs::write(samples.with_file_name("metadata.jsonl"), case["metadata"].as_str().unwrap()).unwrap();
        images.insert(format!("{index:05}/samples/0000.png"), case["objects"].clone());
    }
    let path = dir.join("detections.json");
    let file = json!({"format": "geneval-detections-1", "detector": "made up", "images": images});
    fs::write(&path, file.to_string()).unwrap();
    (Folder::open(dir).unwrap(), Detections::read(&path).unwrap())
}

#[test]
fn every_image_is_judged_as_by_the_official_program() {
    let fixture: Value = serde_json::from_str(&fixture("cases.json.gz")).unwrap();
    let mut compared = 0;
    for group in fixture["groups"].as_array().unwrap() {
        let cases = group["cases"].as_array().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (folder, detections) = files(dir.path(), cases);
        let rules = rules(&group["rules"]);
        let records = score(&folder, &detections, &rules, Path::new("detections.json")).unwrap();
        assert_eq!(records.len(), cases.len());
        for (record, case) in records.iter().zip(cases) {
            let place = format!("{} with {rules:?}", record.filename);
            assert_eq!(record.metadata, case["metadata"], "{place}");
            assert_eq!(record.details, case["details"], "{place}");
            assert_eq!(record.reason, case["reason"], "{place}: {} {}", record.metadata, record.details);
            assert_eq!(record.correct, case["correct"], "{place}");
            assert_eq!(record.prompt, Prompt::parse(&record.metadata).unwrap().prompt);
        }
        compared += cases.len();
    }
    assert!(compared > 500, "{compared}");
}

#[test]
fn summaries_are_those_of_the_official_program() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.jsonl");
    fs::write(&path, fixture("results.jsonl.gz")).unwrap();
    let summary = Summary::of(&read_records(&path).unwrap());
    let percent = |value: f64| format!("{:.2}%", 100.0 * value);
    let mut expected = vec![
        format!("Total images: {}", summary.all.images),
        format!("Total prompts: {}", summary.all.prompts),
        format!("% correct images: {}", percent(summary.all.accuracy.value)),
        format!("% correct prompts: {}", percent(summary.prompts_correct.value)),
        format!("Overall score (avg. over tasks): {:.5}", summary.overall.value),
    ];
    expected.extend(summary.tags.iter().map(|tag| {
        let score = &tag.score;
        let (accuracy, correct, images) = (percent(score.accuracy.value), score.correct, score.images);
        format!("{:<16} = {accuracy} ({correct} / {images})", tag.tag.name())
    }));
    let printed = fixture("summary.txt");
    let printed: Vec<&str> = printed.lines().filter(|line| line.contains([':', '%'])).collect();
    assert_eq!(printed.len(), 11, "{printed:?}");
    for line in printed {
        assert!(expected.iter().any(|own| own == line), "`{line}` is not in {expected:#?}");
    }
}
