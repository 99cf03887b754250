//! Tiny networks (`scripts/fixtures/geneval.py`): detectors that are as sure as a place is bright, and an encoder whose
//! features are the mean colour.

use std::path::PathBuf;

use super::*;
use crate::data::image_io::save_png;
use crate::geneval::layout::Layout;
use crate::geneval::prompt::official_prompts;
use crate::geneval::score::score;
use crate::geneval::words::{CLASSES, Color};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/geneval").join(name)
}

fn classes() -> Vec<String> {
    CLASSES.map(str::to_owned).to_vec()
}

fn detector(name: &str) -> Detector {
    Detector::open(&fixture(name), CLASSES.len()).unwrap()
}

fn classifier() -> ColorClassifier {
    let classes = ["dog", "cat"].into_iter();
    ColorClassifier::open(&fixture("encoder.onnx"), &fixture("colors.safetensors"), classes).unwrap()
}

fn flat(width: usize, height: usize, color: [u8; 3]) -> Raster {
    Raster { width, height, channels: 3, data: color.repeat(width * height) }
}

/// Four quarters of 4×4 pixels.
fn quarters(colors: [[u8; 3]; 4]) -> Raster {
    let pixels = (0..64).flat_map(|at| colors[at / 32 * 2 + at % 8 / 4]);
    Raster { width: 8, height: 8, channels: 3, data: pixels.collect() }
}

#[test]
fn detectors_of_a_fixed_size_see_and_mask() {
    let image = quarters([[255; 3], [102; 3], [0; 3], [9; 3]]);
    let found = detector("detector.onnx").detect(&image).unwrap();
    let seen: Vec<(&str, [f32; 4])> = found.iter().map(|f| (CLASSES[f.class], f.detection.bounds)).collect();
    let expected =
        [("dog", [0.0, 0.0, 4.0, 4.0]), ("cat", [4.0, 0.0, 8.0, 8.0]), ("dog", [0.0, 4.0, 4.0, 8.0])];
    assert_eq!(seen, expected);
    // The cat's place reaches down into the last quarter.
    for (found, score) in found.iter().zip([1.0, (102.0 + 9.0) / 2.0 / 255.0, 0.0]) {
        assert!((found.detection.score - score).abs() < 1e-5, "{:?}", found.detection);
    }
    let mask = found[0].mask.as_ref().unwrap();
    let covered = (0..64).filter(|at| mask.covers(at % 8, at / 8, &image)).count();
    assert!(covered == 15 && !mask.covers(0, 0, &image) && mask.covers(3, 3, &image));

    let wide = detector("detector.onnx").detect(&flat(16, 8, [255; 3])).unwrap();
    assert_eq!(wide[1].detection.bounds, [8.0, 0.0, 16.0, 8.0]);
    let mask = wide[1].mask.as_ref().unwrap();
    assert!(mask.covers(8, 7, &flat(16, 8, [0; 3])) && !mask.covers(7, 7, &flat(16, 8, [0; 3])));
}

#[test]
fn detectors_of_any_size_see_images_as_they_are() {
    let any = detector("detector-any.onnx");
    for (width, height) in [(5, 7), (16, 3), (5, 7)] {
        let found = any.detect(&flat(width, height, [255; 3])).unwrap();
        let scores: Vec<f32> = found.iter().map(|f| f.detection.score).collect();
        assert!(scores.iter().zip([1.0, 0.5, 0.25]).all(|(a, b)| (a - b).abs() < 1e-5), "{scores:?}");
        assert_eq!(found[0].detection.bounds, [0.0, 0.0, 4.0, 4.0]);
        assert!(found[0].mask.is_none());
    }
    assert!(detector("detector-empty.onnx").detect(&flat(4, 4, [0; 3])).unwrap().is_empty());
}

#[test]
fn colours_are_those_of_the_nearest_texts() {
    let classifier = classifier();
    let shades = [
        [255, 0, 0],
        [255, 165, 0],
        [255, 255, 0],
        [0, 128, 0],
        [0, 0, 255],
        [128, 0, 128],
        [255, 192, 203],
        [150, 75, 0],
        [0, 0, 0],
        [255, 255, 255],
    ];
    for (shade, color) in shades.into_iter().zip(Color::ALL) {
        assert_eq!(classifier.classify(&flat(9, 5, shade), "dog").unwrap(), color);
    }
}

#[test]
fn folders_are_seen_and_scored() {
    let dir = tempfile::tempdir().unwrap();
    let prompts = official_prompts();
    let chosen = ["a photo of a red dog", "a photo of a white dog"];
    let chosen = chosen.map(|text| prompts.iter().find(|p| p.prompt == text).unwrap().clone());
    let layout = Layout::create(dir.path(), chosen.to_vec(), 2).unwrap();
    // The dog in the upper left is white, which is surer than anything else; or there is none but a red one.
    let (red, blue) = ([255, 0, 0], [0, 0, 255]);
    for (prompt, image) in layout.missing() {
        let colors = if image == 0 { [[255; 3], [0; 3], red, [0; 3]] } else { [[0; 3], blue, red, blue] };
        save_png(&layout.sample_path(prompt, image), &quarters(colors)).unwrap();
    }
    let folder = Folder::open(dir.path()).unwrap();
    let seen = std::sync::atomic::AtomicUsize::new(0);
    let count = || {
        seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    };
    let rules = Rules::default();
    let (detector, colors) = (detector("detector.onnx"), classifier());
    let detections = detect(&folder, &detector, Some(&colors), &classes(), &rules, count).unwrap();
    assert_eq!((seen.into_inner(), detections.images.len()), (4, 4));
    assert_eq!(detections.detector, "ONNX file detector.onnx");
    let dogs = &detections.images["00000/samples/0000.png"]["dog"];
    // Only the surest is asked for its colour. Its mask leaves a corner out, which is grey then.
    assert_eq!(dogs.iter().map(|dog| dog.color).collect::<Vec<_>>(), [Some(Color::White), None]);
    let records = score(&folder, &detections, &rules, Path::new("detector.onnx")).unwrap();
    let right: Vec<bool> = records.iter().map(|record| record.correct).collect();
    assert_eq!(right, [false, true, true, false]);
}

#[test]
fn other_networks_are_refused() {
    let message = |outcome: Result<Detector>| outcome.err().unwrap().to_string();
    let refusal = message(Detector::open(&fixture("encoder.onnx"), 80));
    assert!(refusal.contains("encoder.onnx: has no output `boxes`, but features"), "{refusal}");
    let refusal = message(Detector::open(&fixture("summary.txt"), 80));
    assert!(refusal.contains("summary.txt: cannot be read as ONNX"), "{refusal}");
    let few = Detector::open(&fixture("detector.onnx"), 16).unwrap();
    let refusal = few.detect(&flat(8, 8, [0; 3])).err().unwrap().to_string();
    assert!(refusal.contains("gives the label 16; expected one of 0 to 15"), "{refusal}");

    let texts = fixture("colors.safetensors");
    let open = |encoder: &str, class| ColorClassifier::open(&fixture(encoder), &texts, [class].into_iter());
    let refusal = open("detector-any.onnx", "dog").err().unwrap().to_string();
    assert!(refusal.contains("expected a fixed square"), "{refusal}");
    let refusal = open("encoder.onnx", "bird").err().unwrap().to_string();
    assert!(refusal.contains("colors.safetensors: has no tensor \"bird\""), "{refusal}");
    let wrong = open("detector.onnx", "dog").unwrap();
    let refusal = wrong.classify(&flat(8, 8, [0; 3]), "dog").err().unwrap().to_string();
    assert!(refusal.contains("detector.onnx: gives features of"), "{refusal}");
}
