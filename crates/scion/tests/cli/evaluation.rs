//! Scoring feature and sample files.

use std::path::{Path, PathBuf};

use scion::metrics::Features;

use super::{assert_names, fixture, printed, refused, scion};

/// 400 rows of three independent uniform values, moved by `shift` along the first axis.
fn features(folder: &Path, name: &str, seed: u64, shift: f32) -> PathBuf {
    let mut state = seed;
    let values = (0..400 * 3).map(|i| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 + if i % 3 == 0 { shift } else { 0.0 }
    });
    let path = folder.join(name);
    Features::new(3, values.collect()).unwrap().write_npz(&path).unwrap();
    path
}

#[test]
fn feature_files_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let reference = features(folder.path(), "reference.npz", 1, 0.0);
    let score = |samples: PathBuf| -> serde_json::Value {
        let mut command = scion("evaluate");
        command.arg(samples).arg("--reference").arg(&reference).arg("--json");
        serde_json::from_str(&printed(&mut command)).unwrap()
    };
    let same = score(reference.clone());
    assert_eq!(same["samples"], 400);
    assert!(same["frechet"]["value"].as_f64().unwrap().abs() < 1e-6, "{same}");
    // The same rows moved by 2: the means differ by 2, the covariances not at all.
    let moved = score(features(folder.path(), "moved.npz", 1, 2.0));
    assert!((moved["frechet"]["value"].as_f64().unwrap() - 4.0).abs() < 1e-3, "{moved}");
    assert!(moved["kid"]["value"].as_f64().unwrap() > same["kid"]["value"].as_f64().unwrap());
    let fresh = score(features(folder.path(), "fresh.npz", 2, 0.0));
    let (value, error) = (&fresh["frechet"]["value"], &fresh["frechet"]["stderr"]);
    assert!(value.as_f64().unwrap() < 0.05 && error.as_f64().unwrap() > 0.0, "{fresh}");
    assert_eq!(fresh, score(folder.path().join("fresh.npz")), "the same files give other scores");

    let mut command = scion("evaluate");
    let text = printed(command.arg(folder.path().join("moved.npz")).arg("--reference").arg(&reference));
    assert_names(&text, &["400 of 3 dimensions", "Fréchet:", "KID:", "±"]);
}

#[test]
fn images_are_scored_with_and_without_labels() {
    let folder = tempfile::tempdir().unwrap();
    let (file, images) = (folder.path().join("samples.npz"), folder.path().join("images"));
    for out in [&file, &images] {
        printed(scion("sample").args(["embedded", "--steps", "2", "--count", "40", "--out"]).arg(out));
    }
    let labelled = printed(scion("evaluate").arg(&file));
    assert_names(&labelled, &["images:        40", "not FID", "accuracy:      ", "95%"]);
    assert_eq!(printed(scion("evaluate").arg(&images)), labelled);
    std::fs::remove_file(images.join("sample.json")).unwrap();
    let unlabelled = printed(scion("evaluate").arg(&images));
    assert_names(&unlabelled, &["accuracy:      unknown"]);
    let distance = |text: &str| text.lines().find(|l| l.starts_with("Fréchet")).unwrap().to_owned();
    assert_eq!(distance(&labelled), distance(&unlabelled));

    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::copy(fixture("data/folder/dog/full.jpg"), other.join("full.jpg")).unwrap();
    assert_names(&refused(scion("evaluate").arg(&other), 1), &["full.jpg", "expected 28×28"]);
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let rows = features(folder.path(), "rows.npz", 1, 0.0);
    assert_names(&refused(scion("evaluate").arg(&rows), 2), &["rows.npz", "--reference"]);
    let wide = folder.path().join("wide.npz");
    Features::new(5, vec![0.5; 100]).unwrap().write_npz(&wide).unwrap();
    let output = scion("evaluate").arg(&rows).arg("--reference").arg(&wide).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{message}");
    assert_names(&message, &["3", "5", "dimension"]);
    let other = fixture("dit/tiny/inputs.safetensors");
    let message = refused(scion("evaluate").arg(&rows).arg("--reference").arg(&other), 1);
    assert_names(&message, &["inputs.safetensors", "features"]);

    let samples = folder.path().join("small.npz");
    let mut command = scion("sample");
    command.arg(fixture(super::SMALL_MODEL)).args(["--heads", "3", "--steps", "2", "--count", "4", "--out"]);
    printed(command.arg(&samples));
    assert_names(&refused(scion("evaluate").arg(&samples), 2), &["small.npz", "12", "28"]);
}
