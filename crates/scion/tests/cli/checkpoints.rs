//! Reading, writing, running and refusing checkpoints.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use super::{assert_names, fixture, listing, printed, read_tensor, refused, scion};

const TINY: &str = "dit/tiny/model.pt";
const TINY_WEIGHTS: &str = "dit/tiny/diffusers/diffusion_pytorch_model.safetensors";

/// Runs a model of a fixture folder on its inputs; gives the output file's bytes.
fn forward(model: &Path, case: &str, heads: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.safetensors");
    let inputs = fixture(case).join("inputs.safetensors");
    let mut command = scion("forward");
    printed(command.arg(model).args(["--heads", heads, "--inputs"]).arg(inputs).arg("--output").arg(&output));
    fs::read(output).unwrap()
}

#[test]
fn outputs_match_the_original_code() {
    for (case, file, heads) in [
        ("dit/tiny", "model.pt", "2"),
        ("dit/tiny", "diffusers", "2"),
        ("dit/tiny", "diffusers-sharded", "2"),
        ("dit/odd", "model.pt", "3"),
        ("dit/train", "model.pt", "1"),
        ("dit/nosigma", "model.pt", "4"),
        ("dit/bf16", "model.safetensors", "2"),
    ] {
        let bytes = forward(&fixture(case).join(file), case, heads);
        let out = SafeTensors::deserialize(&bytes).unwrap();
        let found: Vec<f32> = bytemuck::pod_collect_to_vec(out.tensor("out").unwrap().data());
        let expected = read_tensor(&fixture(case).join("expected.safetensors"), "out");
        assert_eq!(found.len(), expected.len(), "{case}/{file}");
        let top = expected.iter().fold(0f32, |top, v| top.max(v.abs()));
        let worst = found
            .iter()
            .zip(&expected)
            .map(|(f, e)| (f - e).abs())
            .fold(0f32, |m, d| if d > m || d.is_nan() { d } else { m });
        assert!(worst <= 1e-4 * top, "{case}/{file}: off by {worst} of {top}");
    }
}

#[test]
fn every_layout_leads_to_every_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut last = fixture(TINY);
    let expected = forward(&last, "dit/tiny", "2");
    let steps = [
        ("a.safetensors", "scion"),
        ("b", "diffusers"),
        ("c.safetensors", "dit"),
        ("d", "diffusers"),
        ("e.safetensors", "scion"),
        ("f.pt", "dit"),
        ("g.safetensors", "scion"),
    ];
    for (name, layout) in steps {
        let next = folder.path().join(name);
        let mut command = scion("convert");
        let said = printed(command.arg(&last).arg(&next).args(["--layout", layout, "--heads", "2"]));
        assert_names(&said, &["wrote", name]);
        assert!(forward(&next, "dit/tiny", "2") == expected, "{name} gives other outputs");
        last = next;
    }
    let bytes = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(
        bytes("a.safetensors") == bytes("e.safetensors") && bytes("a.safetensors") == bytes("g.safetensors")
    );
    assert!(bytes("f.pt").starts_with(b"PK"));
}

#[test]
fn half_precision_files_are_half_as_large() {
    let folder = tempfile::tempdir().unwrap();
    let size = |dtype: &str| {
        let file = folder.path().join(format!("{dtype}.safetensors"));
        let mut command = scion("convert");
        command.arg(fixture(TINY)).arg(&file).args(["--layout", "dit", "--heads", "2", "--dtype", dtype]);
        printed(&mut command);
        fs::metadata(file).unwrap().len() as f64
    };
    let whole = size("f32");
    assert!(["f16", "bf16"].iter().all(|dtype| (size(dtype) / whole - 0.5).abs() < 0.02));
}

#[test]
fn inspect_tells_layout_and_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let scion_file = folder.path().join("tiny.safetensors");
    printed(scion("convert").arg(fixture(TINY)).arg(&scion_file).args(["--layout", "scion", "--heads", "2"]));
    let sizes =
        ["width 32", "2 blocks", "2 heads", "patch 2 of 4×8×8 (16 tokens)", "10 classes", "grafts:     none"];
    for (file, layout) in [
        (fixture(TINY), "Dit"),
        (fixture("dit/tiny/diffusers"), "Diffusers"),
        (fixture("dit/tiny/diffusers-sharded"), "Diffusers"),
        (scion_file, "Scion"),
    ] {
        let text = printed(scion("inspect").arg(&file).args(["--heads", "2"]));
        assert_names(&text, &[layout]);
        assert_names(&text, &sizes);
    }
    let tensors = printed(scion("inspect").arg(fixture(TINY)).arg("--tensors"));
    assert_names(&tensors, &["blocks.1.attn.qkv.weight", "[96, 32]", "give --heads"]);
    let embedded = printed(scion("inspect").arg("embedded"));
    assert_names(&embedded, &["DiT, width", "of 1×28×28", "10 classes"]);
}

/// The message of `convert`, which reads all of a file, on one that it refuses.
fn refused_file(file: &Path) -> String {
    let output = file.with_extension("converted");
    let mut command = scion("convert");
    let message = refused(command.arg(file).arg(&output).args(["--layout", "scion", "--heads", "2"]), 1);
    assert_names(&message, &[file.file_name().unwrap().to_str().unwrap()]);
    assert!(!output.exists(), "a damaged file was converted");
    message
}

#[test]
fn damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("damaged.pt");
    for source in [TINY, TINY_WEIGHTS] {
        let whole = fs::read(fixture(source)).unwrap();
        for length in [0, 1, 7, 100, whole.len() / 2, whole.len() - 1] {
            fs::write(&file, &whole[..length]).unwrap();
            refused_file(&file);
        }
    }
    let mut long_header = fs::read(fixture(TINY_WEIGHTS)).unwrap();
    long_header[..8].copy_from_slice(&(u64::MAX - 3).to_le_bytes());
    fs::write(&file, long_header).unwrap();
    refused_file(&file);
}

#[test]
fn flipped_bytes_never_crash() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flipped.pt");
    let whole = fs::read(fixture(TINY)).unwrap();
    // Among them the pickle, zip headers and tensor data; a flip may also leave a readable file.
    for at in (0..whole.len()).step_by(whole.len() / 24) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x41;
        fs::write(&file, flipped).unwrap();
        let output = scion("inspect").arg(&file).args(["--heads", "2"]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            matches!(output.status.code(), Some(0 | 1)) && !stderr.contains("panicked"),
            "byte {at}: {stderr}"
        );
    }
}

#[test]
fn other_files_are_told_from_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.pt");
    for (bytes, part) in [
        (&b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"[..], "git lfs pull"),
        (b"<!DOCTYPE html><html>Not found</html>", "model.pt"),
        (b"\x89PNG\r\n\x1a\n0000000000000000", "model.pt"),
        (b"\x80\x02}q\x00.", "torch.save"),
        (b"seed = 1\n[model]\ncheckpoint = \"embedded\"\n", "model.pt"),
    ] {
        fs::write(&file, bytes).unwrap();
        assert_names(&refused_file(&file), &[part]);
    }
    assert_names(&refused(scion("inspect").arg(folder.path()), 1), &["holds none of the weight files"]);
}

type Change = fn(&str, Vec<usize>, Vec<u8>) -> Option<(String, Vec<usize>, Vec<u8>)>;

/// The tiny weights in the original layout with some tensors changed or left out.
fn changed(folder: &Path, change: Change) -> PathBuf {
    let (plain, file) = (folder.join("plain.safetensors"), folder.join("changed.safetensors"));
    if !plain.exists() {
        printed(scion("convert").arg(fixture(TINY)).arg(&plain).args(["--layout", "dit", "--heads", "2"]));
    }
    let bytes = fs::read(&plain).unwrap();
    let tensors: Vec<_> = SafeTensors::deserialize(&bytes)
        .unwrap()
        .iter()
        .filter_map(|(name, view)| change(name, view.shape().to_vec(), view.data().to_vec()))
        .collect();
    let views = tensors.iter().map(|(name, shape, data)| {
        (name, TensorView::new(safetensors::Dtype::F32, shape.clone(), data).unwrap())
    });
    fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
    file
}

#[test]
fn wrong_shapes_and_names_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let short: Change = |name, mut shape, mut data| {
        if name == "blocks.1.mlp.fc2.bias" {
            shape = vec![31];
            data.truncate(31 * 4);
        }
        Some((name.into(), shape, data))
    };
    assert_names(&refused_file(&changed(folder.path(), short)), &["blocks.1.mlp.fc2.bias", "[32]", "[31]"]);
    let missing: Change =
        |name, shape, data| (name != "blocks.1.mlp.fc2.bias").then(|| (name.into(), shape, data));
    assert_names(&refused_file(&changed(folder.path(), missing)), &["blocks.1.mlp.fc2.bias"]);
    let renamed: Change = |name, shape, data| Some((name.replace("fc2.bias", "fc9.bias"), shape, data));
    assert_names(&refused_file(&changed(folder.path(), renamed)), &["fc9.bias"]);
}

#[test]
fn impossible_headers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good.safetensors");
    let mut convert = scion("convert");
    convert.arg(fixture(TINY)).arg(&good).args(["--layout", "scion", "--heads", "2"]);
    printed(&mut convert);
    let bytes = fs::read(&good).unwrap();
    let out = folder.path().join("out.pt");
    for (field, expected) in [("patch", "patches of 0"), ("heads", "0 heads"), ("depth", "depth")] {
        let key = format!("{field}\\\":");
        let at = bytes.windows(key.len()).position(|w| w == key.as_bytes()).unwrap() + key.len();
        let mut bad = bytes.clone();
        bad[at] = b'0';
        let file = folder.path().join(format!("{field}.safetensors"));
        fs::write(&file, bad).unwrap();
        let message = refused(scion("convert").arg(&file).arg(&out).args(["--layout", "dit"]), 1);
        assert_names(&message, &[field, "header", expected]);
    }
    let mut other = scion("convert");
    other.arg(&good).arg(&out).args(["--layout", "dit", "--heads", "4"]);
    assert_names(&refused(&mut other, 2), &["--heads 4", "2 attention heads"]);
}

/// A zip as `torch.save` writes it around a pickle.
fn torch_file(path: &Path, pickle: &[u8]) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("archive/data.pkl", pickle), ("archive/version", b"3\n")] {
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

#[test]
fn code_in_a_pickle_is_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let (file, marker) = (folder.path().join("hostile.pt"), folder.path().join("executed"));
    let order = format!("touch {}", marker.display());
    let text = |s: &str| [b"X".to_vec(), (s.len() as u32).to_le_bytes().to_vec(), s.into()].concat();
    let call = [b"cos\nsystem\n".to_vec(), text(&order), b"\x85R".to_vec()].concat();
    let stacked = [text("os"), text("system"), b"\x93".to_vec(), text(&order), b"\x85R".to_vec()].concat();
    let key = text("blocks.0.mlp.fc1.weight");
    let pickles = [
        [b"\x80\x02".to_vec(), call.clone(), b".".to_vec()].concat(),
        [b"\x80\x04".to_vec(), stacked, b".".to_vec()].concat(),
        [b"\x80\x02}".to_vec(), key, call, b"s.".to_vec()].concat(),
    ];
    for pickle in pickles {
        torch_file(&file, &pickle);
        refused_file(&file);
        assert_eq!(listing(folder.path()), ["hostile.pt"], "the pickle's code ran");
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.safetensors");
    let run = |inputs: PathBuf| {
        let mut command = scion("forward");
        command
            .arg(fixture(TINY))
            .args(["--heads", "2", "--inputs"])
            .arg(inputs)
            .arg("--output")
            .arg(&output);
        command
    };
    let message = refused(&mut run(fixture("dit/odd/inputs.safetensors")), 1);
    assert_names(&message, &["odd/inputs.safetensors", "x [N, 4, 8, 8]"]);
    assert_names(&refused(&mut run(fixture("dit/tiny/expected.safetensors")), 1), &["has no tensor x"]);
    let message = refused(scion("convert").arg(fixture(TINY)).arg(&output).args(["--layout", "scion"]), 2);
    assert_names(&message, &["tiny/model.pt", "give --heads"]);
    let mut command = scion("convert");
    let message =
        refused(command.arg(fixture(TINY)).arg(&output).args(["--layout", "scion", "--heads", "5"]), 2);
    assert_names(&message, &["hidden 32", "5 heads"]);
    assert_eq!(listing(folder.path()), [""; 0]);
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_no_partial_file() {
    let folder = tempfile::tempdir().unwrap();
    for (name, layout) in [
        ("full.safetensors", "scion"),
        ("full-dit.safetensors", "dit"),
        ("full.pt", "dit"),
        ("full", "diffusers"),
    ] {
        let output = folder.path().join(name);
        let mut command = scion("convert");
        command.arg(fixture(TINY)).arg(&output).args(["--layout", layout, "--heads", "2"]);
        let message = refused(&mut super::on_full_disk(&command), 1);
        assert_names(&message, &["cannot write", name]);
        assert_eq!(listing(folder.path()), [""; 0], "{name} left something");
    }
}
