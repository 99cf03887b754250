//! Many sets in one evaluation, reference files, warnings, and images that are wrong in every way.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use image::{DynamicImage, GrayImage, ImageBuffer, Luma, RgbImage};
use scion::data::samples::write_samples;
use scion::data::{ImageShape, Split, embedded};
use scion::metrics::npz::{NpyArray, NpyData, Packing, write_npz, write_npz_as};
use serde_json::Value;

use super::{assert_names, fixture, printed, refused, scion};

const SHAPE: ImageShape = ImageShape { channels: 1, height: 28, width: 28 };

/// Real training images from `first` on.
fn real(first: usize, count: usize) -> Vec<u8> {
    let train = embedded::fashion_mnist(Split::Train).unwrap();
    train.as_bytes().unwrap()[first * SHAPE.len()..(first + count) * SHAPE.len()].to_vec()
}

fn sample_file(folder: &Path, name: &str, pixels: &[u8]) -> PathBuf {
    let path = folder.join(name);
    write_samples(&path, pixels, SHAPE, None).unwrap();
    path
}

/// A feature file of `n` rows of `d` values by a fixed formula, in which the spatial features and logits are there
/// too.
fn feature_file(folder: &Path, name: &str, n: usize, d: usize, step: usize) -> PathBuf {
    let value = |i: usize| ((i * i * step + 7 * i) % 1009) as f32 / 1009.0;
    let array =
        |d: usize| NpyArray { shape: vec![n, d], data: NpyData::F32((0..n * d).map(value).collect()) };
    let labels = NpyArray { shape: vec![n], data: NpyData::I64((0..n as i64).map(|i| i % 2).collect()) };
    let path = folder.join(name);
    let arrays =
        [("features", &array(d)), ("spatial", &array(d + 1)), ("logits", &array(10)), ("labels", &labels)];
    write_npz(&path, &arrays).unwrap();
    path
}

/// One JSON object a set.
fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn kinds(entry: &Value) -> Vec<&str> {
    entry["warnings"].as_array().unwrap().iter().map(|w| w["kind"].as_str().unwrap()).collect()
}

#[test]
fn every_metric_comes_in_json_markdown_and_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b, reference] = [("a.npz", 3), ("b.npz", 5), ("reference.npz", 11)]
        .map(|(name, step)| feature_file(folder.path(), name, 60, 4, step));
    let evaluate = |extra: &[&str]| {
        let mut command = scion("evaluate");
        command.args([&a, &b]).arg("--reference").arg(&reference).args(extra);
        printed(&mut command)
    };
    let found = objects(&evaluate(&["--json"]));
    assert_eq!(found.len(), 2);
    for (entry, name) in found.iter().zip(["a.npz", "b.npz"]) {
        assert!(entry["set"].as_str().unwrap().ends_with(name));
        let estimates = [
            "frechet",
            "spatial_frechet",
            "kid",
            "inception_score",
            "precision",
            "recall",
            "density",
            "coverage",
        ];
        for key in estimates {
            assert!(entry[key]["value"].is_f64() && entry[key]["stderr"].is_f64(), "{key} of {entry}");
        }
        assert!(entry.get("per_class").is_none() && entry.get("accuracy").is_none());
        assert_eq!(kinds(entry), [""; 0], "{entry}");
    }
    let table = evaluate(&[]);
    assert_names(&table, &["set", "Fréchet", "sFréchet", "KID", "IS", "precision", "a.npz", "b.npz"]);
    assert_eq!(table.lines().count(), 3);

    let few = objects(&evaluate(&["--json", "--metrics", "fid,pr,per-class"]));
    assert_eq!(few[0]["frechet"], found[0]["frechet"]);
    assert_eq!((&few[0]["precision"], few[0].get("density")), (&found[0]["precision"], None));
    assert_eq!(few[0]["per_class"]["classes"].as_array().unwrap().len(), 2);
    let split = objects(&evaluate(&["--json", "--metrics", "is", "--splits", "3"]));
    assert_ne!(split[0]["inception_score"], found[0]["inception_score"]);
    assert!(split[0]["inception_score_split_std"].as_f64().unwrap() > 0.0);

    let out = folder.path().join("table.md");
    assert_eq!(evaluate(&["--markdown", "--out", out.to_str().unwrap()]), "");
    let text = fs::read_to_string(&out).unwrap();
    assert_names(&text, &["| set | images | Fréchet |", "\n|-|-|-|", "b.npz"]);
    let mut again = scion("evaluate");
    again.arg(&a).arg("--reference").arg(&reference).arg("--out").arg(&out);
    assert_names(&refused(&mut again, 1), &["table.md", "exists already"]);
}

#[test]
fn statistics_stand_in_for_rows() {
    let folder = tempfile::tempdir().unwrap();
    let [a, reference] = [("a.npz", 3), ("reference.npz", 11)]
        .map(|(name, step)| feature_file(folder.path(), name, 60, 4, step));
    let evaluate = |reference: &Path, metrics: &str| {
        let mut command = scion("evaluate");
        command.arg(&a).arg("--reference").arg(reference).args(["--json", "--metrics", metrics]);
        objects(&printed(&mut command)).remove(0)
    };
    let direct = evaluate(&reference, "fid,sfid");
    for name in ["stats.npz", "stats.safetensors"] {
        let stats = folder.path().join(name);
        assert_eq!(printed(scion("evaluate").arg(&reference).arg("--save-stats").arg(&stats)), "");
        let stored = evaluate(&stats, "fid,sfid");
        assert_eq!(stored["reference_samples"], 60);
        for key in ["frechet", "spatial_frechet"] {
            assert_eq!(stored[key]["value"], direct[key]["value"], "{key} by {name}");
            assert!(stored[key]["stderr"].as_f64() < direct[key]["stderr"].as_f64());
        }
        let mut command = scion("evaluate");
        command.arg(&a).arg("--reference").arg(&stats).args(["--metrics", "kid"]);
        assert_names(&refused(&mut command, 2), &["a.npz", "kid needs the reference's rows"]);
        // Without being asked, it measures what can be had.
        let all = printed(scion("evaluate").arg(&a).arg("--reference").arg(&stats));
        assert_names(&all, &["Fréchet:", "sFréchet:", "IS:"]);
        assert!(!all.contains("KID"));
        assert_names(&refused(scion("evaluate").arg(&stats), 2), &[name, "--reference"]);
    }
    // NumPy's files, of 24 dimensions; ADM's holds images beside the statistics.
    let samples = folder.path().join("relu.npz");
    let rows = scion::metrics::npz::Npz::open(fixture("metrics/relu.npz")).unwrap().array("x").unwrap();
    write_npz(&samples, &[("features", &rows)]).unwrap();
    for name in ["stats-adm.npz", "stats-pytorch-fid.npz"] {
        let mut command = scion("evaluate");
        command.arg(&samples).arg("--reference").arg(fixture("metrics").join(name)).arg("--json");
        let found = objects(&printed(&mut command)).remove(0);
        assert!((found["frechet"]["value"].as_f64().unwrap() - 0.94970).abs() < 1e-4, "{found}");
        assert_eq!(found["reference_samples"], Value::Null);
    }
}

#[test]
fn doubtful_sets_are_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let images = real(0, 80);
    let a = sample_file(folder.path(), "a.npz", &images);
    // 20 of a's images, 20 new ones, and 5 copies; 45 in all.
    let mixed = [&images[..20 * SHAPE.len()], &real(80, 20), &real(80, 5)].concat();
    let b = sample_file(folder.path(), "b.npz", &mixed);
    let grey: Vec<u8> = real(200, 80).iter().map(|v| 40 + v / 2).collect();
    let c = sample_file(folder.path(), "c.npz", &grey);
    // Values beyond the range wrap around where 8 bits are taken of them.
    let wrapped: Vec<u8> = real(300, 80)
        .iter()
        .enumerate()
        .map(|(i, v)| if i % 2 == 0 { v.wrapping_sub(6) } else { *v })
        .collect();
    let d = sample_file(folder.path(), "d.npz", &wrapped);
    let output =
        scion("evaluate").args([&a, &b, &c, &d]).args(["--json", "--metrics", "fid"]).output().unwrap();
    let found = objects(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(kinds(&found[0]), [""; 0], "{}", found[0]);
    assert_eq!(kinds(&found[1]), ["few-samples", "duplicates", "counts-differ", "shared-with-set"]);
    let message = |i: usize| found[1]["warnings"][i]["message"].as_str().unwrap();
    assert_names(message(0), &["45 samples", "64 dimensions"]);
    assert_names(message(1), &["5 of 45"]);
    assert_names(message(2), &["45 samples against 80"]);
    assert_names(message(3), &["20 of 45", "a.npz"]);
    assert_eq!(kinds(&found[2]), ["unclipped"]);
    assert_names(found[2]["warnings"][0]["message"].as_str().unwrap(), &["between 40 and"]);
    assert_eq!(kinds(&found[3]), ["unclipped"]);
    assert_names(found[3]["warnings"][0]["message"].as_str().unwrap(), &["without clipping"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 6, "{stderr}");
    assert_names(&stderr, &["warning: ", "b.npz: 45 samples"]);

    // The reference is one of the sets.
    let mut command = scion("evaluate");
    let same = printed(command.arg(&a).arg("--reference").arg(&a).args(["--json", "--metrics", "fid,pr"]));
    let same = objects(&same).remove(0);
    assert_eq!(kinds(&same), ["shared-with-reference"]);
    assert!(same["frechet"]["value"].as_f64().unwrap() < 1e-9, "{same}");
    assert_eq!((&same["precision"]["value"], &same["recall"]["value"]), (&1.0.into(), &1.0.into()));
}

#[test]
fn float_pixels_are_scored_clipped_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let images = real(0, 70);
    let plain = sample_file(folder.path(), "plain.npz", &images);
    let floats = |name: &str, change: fn(f32) -> f32| {
        let data = NpyData::F32(images.iter().map(|&v| change(f32::from(v))).collect());
        let path = folder.path().join(name);
        let array = NpyArray { shape: vec![70, 28, 28, 1], data };
        write_npz_as(&path, &[("arr_0", &array)], Packing::Stored).unwrap();
        path
    };
    let evaluate = |path: &Path| {
        objects(&printed(scion("evaluate").arg(path).args(["--json", "--metrics", "fid"]))).remove(0)
    };
    let expected = evaluate(&plain)["frechet"].clone();
    let whole = evaluate(&floats("whole.npz", |v| v));
    assert_eq!((&whole["frechet"], kinds(&whole)), (&expected, vec![]));
    let beyond = evaluate(&floats("beyond.npz", |v| if v == 0.0 { -9.0 } else { v }));
    assert_eq!((&beyond["frechet"], kinds(&beyond)), (&expected, vec!["unclipped"]));
    let unit = floats("unit.npz", |v| v / 127.5 - 1.0);
    assert_names(&refused(scion("evaluate").arg(&unit), 1), &["unit.npz", "between -2 and 2", "0 to 255"]);
    let nan = floats("nan.npz", |v| if v == 255.0 { f32::NAN } else { v });
    assert_names(&refused(scion("evaluate").arg(&nan), 1), &["nan.npz", "not a number in image"]);
}

#[test]
fn picture_files_of_every_depth_score_alike() {
    let folder = tempfile::tempdir().unwrap();
    let images = real(0, 70);
    let grey = |image: &[u8]| GrayImage::from_raw(28, 28, image.to_vec()).unwrap();
    let save = |name: &str, picture: &dyn Fn(&[u8]) -> DynamicImage| {
        let path = folder.path().join(name);
        fs::create_dir(&path).unwrap();
        for (i, image) in images.chunks_exact(SHAPE.len()).enumerate() {
            picture(image).save(path.join(format!("{i:03}.png"))).unwrap();
        }
        path
    };
    let deep = |image: &[u8]| {
        let values = image.iter().map(|&v| u16::from(v) * 257).collect();
        let picture: ImageBuffer<Luma<u16>, Vec<u16>> = ImageBuffer::from_raw(28, 28, values).unwrap();
        DynamicImage::from(picture)
    };
    let colour = |image: &[u8]| {
        let values = image.iter().flat_map(|&v| [v; 3]).collect();
        DynamicImage::from(RgbImage::from_raw(28, 28, values).unwrap())
    };
    let folders = [
        save("grey", &|image| DynamicImage::from(grey(image))),
        save("deep", &deep),
        save("colour", &colour),
    ];
    let sets = printed(scion("evaluate").args(&folders).args(["--json", "--metrics", "fid,kid"]));
    let found = objects(&sets);
    for entry in &found[1..] {
        assert_eq!((&entry["frechet"], &entry["kid"]), (&found[0]["frechet"], &found[0]["kid"]));
    }
    // A picture of another size is named.
    GrayImage::new(28, 27).save(folders[0].join("070.png")).unwrap();
    assert_names(&refused(scion("evaluate").arg(&folders[0]), 1), &["070.png", "28×27", "expected 28×28"]);
}

#[test]
fn hopeless_sets_get_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert_names(&refused(scion("evaluate").arg(&empty), 1), &["empty", "no image"]);

    let one = sample_file(folder.path(), "one.npz", &real(0, 1));
    assert_names(&refused(scion("evaluate").arg(&one), 2), &["one.npz", "1 feature row", "at least 2"]);

    let whole = sample_file(folder.path(), "whole.npz", &real(0, 30));
    let cut = folder.path().join("cut.npz");
    let bytes = fs::read(&whole).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    assert_names(&refused(scion("evaluate").arg(&cut), 1), &["cut.npz", "not an .npz"]);

    let rows = folder.path().join("nan.npz");
    let data = NpyData::F64([0.5; 20].into_iter().chain([f64::NAN; 4]).collect());
    write_npz(&rows, &[("features", &NpyArray { shape: vec![6, 4], data })]).unwrap();
    let mut command = scion("evaluate");
    command.arg(&rows).arg("--reference").arg(&rows);
    assert_names(&refused(&mut command, 1), &["nan.npz", "row 5, column 0 is NaN"]);

    let other = folder.path().join("other.npz");
    write_npz(&other, &[("weights", &NpyArray { shape: vec![1], data: NpyData::F32(vec![0.0]) })]).unwrap();
    assert_names(
        &refused(scion("evaluate").arg(&other), 1),
        &["other.npz", "holds weights", "arr_0", "features"],
    );
    File::create(folder.path().join("empty.safetensors")).unwrap();
    let message = refused(scion("evaluate").arg(folder.path().join("empty.safetensors")), 1);
    assert_names(&message, &["empty.safetensors", "not a safetensors file"]);

    let features = feature_file(folder.path(), "rows.npz", 20, 4, 3);
    let mut mixed = scion("evaluate");
    mixed.args([&features, &whole]).arg("--reference").arg(&features);
    assert_names(&refused(&mut mixed, 2), &["whole.npz holds images"]);
    assert_names(&refused(scion("evaluate").args([&whole, &features]), 2), &["rows.npz holds features"]);
    let mut asked = scion("evaluate");
    asked.arg(&whole).args(["--metrics", "is"]);
    assert_names(&refused(&mut asked, 2), &["whole.npz", "inception-score needs class probabilities"]);
    let mut weightless = scion("evaluate");
    weightless.arg(&whole).arg("--reference").arg(&whole).args(["--inception", "nowhere.pth"]);
    assert_names(&refused(&mut weightless, 1), &["nowhere.pth"]);
    let mut two = scion("evaluate");
    two.args([&whole, &whole]).arg("--save-stats").arg(folder.path().join("stats.npz"));
    assert_names(&refused(&mut two, 2), &["--save-stats takes one set, found 2"]);
}

#[test]
fn identical_images_have_a_distance_of_their_mean() {
    let folder = tempfile::tempdir().unwrap();
    let same = sample_file(folder.path(), "same.npz", &real(7, 1).repeat(80));
    let output = scion("evaluate").arg(&same).arg("--json").output().unwrap();
    let entry = objects(&String::from_utf8(output.stdout).unwrap()).remove(0);
    assert_eq!(kinds(&entry), ["duplicates"], "{entry}");
    assert_eq!(entry["recall"]["value"], 0.0);
    let real = sample_file(folder.path(), "real.npz", &real(0, 80));
    let all = printed(scion("evaluate").arg(&real).arg("--json"));
    let better = objects(&all).remove(0);
    assert!(entry["frechet"]["value"].as_f64() > better["frechet"]["value"].as_f64());
}
