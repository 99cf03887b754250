//! Whole files: the fixtures of `scripts/fixtures/dit.py`, round trips through every writer, damage.

use super::*;
use crate::positions::sincos_positions;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/dit");

fn fixture(name: &str) -> PathBuf {
    Path::new(FIXTURES).join(name)
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture(name)).unwrap()
}

/// Every tensor of `found` equals that of `expected`, which may hold others named in `but`.
fn assert_same(found: &Checkpoint, expected: &Checkpoint, but: &[&str]) {
    let names: Vec<_> = expected.names().filter(|name| !but.contains(name)).collect();
    assert_eq!(found.names().collect::<Vec<_>>(), names);
    for name in names {
        assert_eq!(found.entry(name).unwrap().shape, expected.entry(name).unwrap().shape, "{name}");
        assert_eq!(found.read_f32(name).unwrap(), expected.read_f32(name).unwrap(), "{name}");
    }
}

#[test]
fn views_types_and_protocols() {
    let expected = open("views/expected.safetensors");
    for (name, entry) in [("views/views.pt", Some("model")), ("views/protocol4.pt", None)] {
        let file = open(name);
        assert_eq!(file.source().entry.as_deref(), entry);
        assert_eq!(file.names().collect::<Vec<_>>(), expected.names().collect::<Vec<_>>());
        for tensor in expected.names() {
            assert_eq!(file.entry(tensor).unwrap().shape, expected.entry(tensor).unwrap().shape, "{tensor}");
            let values = match file.entry(tensor).unwrap().dtype.is_float() {
                true => file.read_f32(tensor).unwrap(),
                false => file.read_i64(tensor).unwrap().iter().map(|&n| n as f32).collect(),
            };
            assert_eq!(values, expected.read_f32(tensor).unwrap(), "{tensor}");
        }
        assert!(file.read_f32("long").unwrap_err().to_string().contains("I64; expected floating point"));
    }
    let arguments = open("views/views.pt").source().arguments.clone();
    let wanted = serde_json::json!({ "count": 1.5, "lr": 0.5, "name": "views", "shape": [2, 3] });
    assert_eq!(serde_json::json!(arguments), wanted);
}

#[test]
fn single_rows_are_read() {
    let file = open("views/views.pt");
    let mut compared = 0;
    let floats = |name: &&str| file.entry(name).unwrap().dtype.is_float();
    for name in file.names().filter(floats) {
        let (whole, shape) = (file.read_f32(name).unwrap(), &file.entry(name).unwrap().shape);
        let Some(rows) = shape.first().copied().filter(|rows| *rows > 0) else { continue };
        let width = whole.len() / rows;
        let expected = [&whole[(rows - 1) * width..], &whole[..width]].concat();
        assert_eq!(file.read_rows(name, &[rows - 1, 0]).unwrap(), expected, "{name}");
        assert!(file.read_rows(name, &[]).unwrap().is_empty());
        let message = file.read_rows(name, &[rows]).unwrap_err().to_string();
        assert!(message.contains(&format!("none is numbered {rows}")), "{message}");
        compared += usize::from(rows > 1 && width > 1);
    }
    assert!(compared > 2);
    let diffusers = open("tiny/diffusers");
    let message = diffusers.read_rows("blocks.0.attn.qkv.weight", &[0]).unwrap_err().to_string();
    assert!(message.contains("in several pieces"), "{message}");
}

/// `scripts/fixtures/inception.py` makes these files: the published Inception weights are of the older layout.
#[test]
fn files_of_before_pytorch_1_6() {
    let folder = Path::new(FIXTURES).join("../inception");
    let expected = Checkpoint::open(&folder.join("legacy.safetensors")).unwrap();
    let file = Checkpoint::open(&folder.join("legacy.pth")).unwrap();
    assert_eq!(file.source().format, Format::PytorchLegacy);
    assert_eq!(file.names().collect::<Vec<_>>(), expected.names().collect::<Vec<_>>());
    for name in file.names() {
        let entry = file.entry(name).unwrap();
        assert_eq!(entry.shape, expected.entry(name).unwrap().shape, "{name}");
        let values = match entry.dtype.is_float() {
            true => file.read_f32(name).unwrap(),
            false => file.read_i64(name).unwrap().iter().map(|&n| n as f32).collect(),
        };
        assert_eq!(values, expected.read_f32(name).unwrap(), "{name}");
    }
}

#[test]
fn damage_in_files_of_before_pytorch_1_6() {
    let whole = std::fs::read(Path::new(FIXTURES).join("../inception/legacy.pth")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.pth");
    let message = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Checkpoint::open(&path).err().map_or("opened".into(), |e| e.to_string())
    };
    assert_eq!(message(&whole), "opened");
    for len in (15..whole.len()).step_by(7) {
        assert!(message(&whole[..len]).contains("truncated or damaged"), "cut at {len}");
    }
    assert!(message(&whole[..whole.len() - 1]).contains("bytes are left"));
    let altered = |from: &[u8], to: &[u8]| {
        let at = whole.windows(from.len()).position(|bytes| bytes == from).unwrap();
        message(&[&whole[..at], to, &whole[at + from.len()..]].concat())
    };
    assert!(altered(b"M\xe9\x03.", b"M\xea\x03.").contains("version 1002 of torch.save; expected 1001"));
    assert!(altered(b"little_endianq\x02\x88", b"little_endianq\x02\x89").contains("big-endian"));
    assert!(altered(b"ctorch\nHalfStorage", b"ctorch\nHalfStorags").contains("`torch.HalfStorags`"));
    for at in (0..whole.len()).step_by(5) {
        let mut changed = whole.clone();
        changed[at] ^= 0x5a;
        std::fs::write(&path, &changed).unwrap();
        if let Ok(file) = Checkpoint::open(&path) {
            file.names().for_each(|name| drop((file.read_f32(name), file.read_i64(name))));
        }
    }
}

#[test]
fn a_training_file_gives_ema_unless_told() {
    let file = open("train/model.pt");
    assert_eq!(file.source().entry.as_deref(), Some("ema"));
    assert_eq!(file.source().arguments["num_classes"], 3);
    assert_eq!(file.source().arguments["lr"], 1e-4);
    let raw = Checkpoint::open_entry(&fixture("train/model.pt"), Some("model")).unwrap();
    let name = "blocks.1.mlp.fc2.weight";
    assert_ne!(raw.read_f32(name).unwrap(), file.read_f32(name).unwrap());
    let message = Checkpoint::open_entry(&fixture("train/model.pt"), Some("best")).unwrap_err().to_string();
    assert!(message.contains("`best`") && message.contains("`model`, `ema`, `opt`, `args`"), "{message}");
    let message = Checkpoint::open_entry(&fixture("train/model.pt"), Some("opt")).unwrap_err().to_string();
    assert!(message.contains("entry `state` is a dict; expected a tensor"), "{message}");
}

#[test]
fn shapes_tell_the_architecture() {
    for case in ["tiny", "odd", "train", "nosigma", "bf16"] {
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(fixture(case).join("case.json")).unwrap()).unwrap();
        let number = |field: &str| json[field].as_u64().unwrap() as usize;
        let file =
            if case == "bf16" { open("bf16/model.safetensors") } else { open(&format!("{case}/model.pt")) };
        let channels = number("in_channels");
        let expected = DitShape {
            hidden: number("hidden_size"),
            depth: number("depth"),
            heads: None,
            patch: number("patch_size"),
            in_channels: channels,
            out_channels: if json["learn_sigma"] == true { 2 * channels } else { channels },
            num_classes: number("num_classes"),
            label_dropout: true,
            mlp_ratio: json["mlp_ratio"].as_f64().unwrap(),
            tokens: Some((number("input_size") / number("patch_size")).pow(2)),
        };
        assert_eq!(file.layout(), Layout::Dit);
        assert_eq!(file.infer_dit().unwrap(), expected, "{case}");
    }
    let message = open("tiny/inputs.safetensors").infer_dit().unwrap_err().to_string();
    assert!(message.contains("no tensor `x_embedder.proj.weight`"), "{message}");
}

#[test]
fn diffusers_folders_read_as_the_original() {
    let original = open("tiny/model.pt");
    let expected = DitShape { heads: Some(2), ..original.infer_dit().unwrap() };
    let paths =
        ["tiny/diffusers", "tiny/diffusers-sharded", "tiny/diffusers/diffusion_pytorch_model.safetensors"];
    for path in paths {
        let file = open(path);
        assert_eq!((file.layout(), file.absent()), (Layout::Diffusers, ["pos_embed"].as_slice()));
        assert_same(&file, &original, &["pos_embed"]);
        assert_eq!(file.infer_dit().unwrap(), expected, "{path}");
        let needed: Vec<_> =
            original.names().map(|n| (n.to_owned(), original.entry(n).unwrap().shape.clone())).collect();
        file.check(&needed).unwrap();
    }
    let positions = sincos_positions(4, 32);
    let close =
        positions.iter().zip(original.read_f32("pos_embed").unwrap()).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(close);
}

#[test]
fn a_pipeline_folder_leads_to_its_transformer() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("transformer");
    std::fs::create_dir(&inner).unwrap();
    for file in ["config.json", "diffusion_pytorch_model.safetensors"] {
        std::fs::copy(fixture("tiny/diffusers").join(file), inner.join(file)).unwrap();
    }
    assert_same(&Checkpoint::open(folder.path()).unwrap(), &open("tiny/model.pt"), &["pos_embed"]);
    std::fs::remove_file(inner.join("diffusion_pytorch_model.safetensors")).unwrap();
    assert!(Checkpoint::open(folder.path()).unwrap_err().to_string().contains("none of the weight files"));
}

#[test]
fn every_layout_reads_back_equal() {
    let folder = tempfile::tempdir().unwrap();
    let original = open("tiny/model.pt");
    let tensors = original.tensors();
    for name in ["a.pt", "a.safetensors"] {
        let path = folder.path().join(name);
        write_dit(&path, &tensors, Precision::F32).unwrap();
        assert_same(&Checkpoint::open(&path).unwrap(), &original, &[]);
        assert!(ensure_absent(&path).is_err() && ensure_absent(&path.with_extension("new")).is_ok());
    }
    let path = folder.path().join("scion.safetensors");
    write_scion(&path, &tensors, r#"{"kind":"dit"}"#, Precision::F32).unwrap();
    let scion = Checkpoint::open(&path).unwrap();
    assert_eq!((scion.layout(), scion.model_json()), (Layout::Scion, Some(r#"{"kind":"dit"}"#)));
    assert_same(&scion, &original, &[]);

    let path = folder.path().join("diffusers");
    let shape = DitShape { heads: Some(2), ..original.infer_dit().unwrap() };
    write_diffusers(&path, &tensors, &shape, Precision::F32).unwrap();
    let back = Checkpoint::open(&path).unwrap();
    assert_same(&back, &original, &["pos_embed"]);
    assert_eq!(back.infer_dit().unwrap(), shape);
    // The same bytes under the same names as diffusers' own writer.
    let [ours, theirs] = [path, fixture("tiny/diffusers")].map(|folder| {
        let bytes = std::fs::read(folder.join("diffusion_pytorch_model.safetensors")).unwrap();
        let tensors = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let all: BTreeMap<_, _> = tensors
            .tensors()
            .into_iter()
            .map(|(n, t)| (n, (t.shape().to_vec(), t.data().to_vec())))
            .collect();
        all
    });
    assert!(ours == theirs);
    let leftovers = std::fs::read_dir(folder.path())
        .unwrap()
        .flatten()
        .filter(|f| f.file_name().to_string_lossy().ends_with("tmp"));
    assert_eq!(leftovers.count(), 0);
}

#[test]
fn half_precision_round_trips() {
    let folder = tempfile::tempdir().unwrap();
    let original = open("bf16/model.safetensors");
    assert!(original.names().all(|name| original.entry(name).unwrap().dtype == Dtype::BF16));
    for name in ["b.pt", "b.safetensors"] {
        let path = folder.path().join(name);
        write_dit(&path, &original.tensors(), Precision::BF16).unwrap();
        let back = Checkpoint::open(&path).unwrap();
        assert!(back.names().all(|name| back.entry(name).unwrap().dtype == Dtype::BF16));
        assert_same(&back, &original, &[]);
    }
    let huge = [TensorSource::new("w".into(), vec![2], || Ok(vec![f32::INFINITY, 1e6]))];
    let message = write_dit(&folder.path().join("c.pt"), &huge, Precision::F16).unwrap_err().to_string();
    assert!(message.contains("tensor `w` holds 1000000, beyond the range of F16"), "{message}");
    assert!(!folder.path().join("c.pt").exists());
}

#[test]
fn what_a_layout_cannot_hold_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refuse = |tensors: &[TensorSource], shape: &DitShape, why: &str| {
        let path = folder.path().join("d");
        let message = write_diffusers(&path, tensors, shape, Precision::F32).unwrap_err().to_string();
        assert!(message.contains(why) && !path.exists(), "{message}");
    };
    let odd = open("odd/model.pt");
    refuse(&odd.tensors(), &DitShape { heads: Some(3), ..odd.infer_dit().unwrap() }, "MLP ratio is 3");
    let tiny = open("tiny/model.pt");
    let shape = DitShape { heads: Some(2), ..tiny.infer_dit().unwrap() };
    refuse(&tiny.tensors(), &DitShape { heads: None, ..shape.clone() }, "heads is unknown");
    let mut tensors = tiny.tensors();
    tensors.push(TensorSource::new("blocks.0.attn.in_proj.weight".into(), vec![1], || Ok(vec![0.0])));
    refuse(&tensors, &shape, "no place for the tensor `blocks.0.attn.in_proj.weight`");
    tensors.pop();
    tensors.retain(|tensor| tensor.name != "pos_embed");
    tensors.push(TensorSource::new("pos_embed".into(), vec![1, 16, 32], || Ok(vec![0.0; 512])));
    refuse(&tensors, &shape, "not DiT's sine table");
}

#[test]
fn copies_must_be_equal_and_thirds_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.safetensors");
    let file = fixture("tiny/diffusers/diffusion_pytorch_model.safetensors");
    let stored = super::safetensors::open(&file).unwrap().tensors;
    let rewrite = |keep: &dyn Fn(&str) -> bool, change: &str| {
        let kept = stored.iter().filter(|(name, _)| keep(name));
        let tensors: Vec<_> = kept
            .map(|(name, tensor)| {
                let delta = if name == change { 1.0 } else { 0.0 };
                TensorSource::new(name.clone(), tensor.entry.shape.clone(), move || {
                    Ok(tensor.read_f32(name)?.into_iter().map(|v| v + delta).collect())
                })
            })
            .collect();
        write_dit(&path, &tensors, Precision::F32).unwrap();
        Checkpoint::open(&path)
    };
    let table = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight";
    let message = rewrite(&|_| true, table)
        .unwrap()
        .read_f32("y_embedder.embedding_table.weight")
        .unwrap_err()
        .to_string();
    assert!(message.contains(&format!("`{table}` differs from `transformer_blocks.0.")), "{message}");
    let gone = "transformer_blocks.1.attn1.to_k.bias";
    let message = rewrite(&|name| name != gone, "").unwrap_err().to_string();
    assert!(
        message.contains(&format!("`blocks.1.attn.qkv.bias` needs the missing tensors {gone}")),
        "{message}"
    );
}

#[test]
fn damaged_files_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.pt");
    let message = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Checkpoint::open(&path).err().map_or("opened".into(), |e| e.to_string())
    };
    let whole = std::fs::read(fixture("train/model.pt")).unwrap();
    assert_eq!(message(&whole), "opened");
    assert!(message(&whole[..whole.len() / 2]).contains("truncated or damaged"));
    assert!(message(b"\x80\x02}q\x00.").contains("a pickle that torch.save did not write"));
    assert!(message(b"").contains("is empty"));
    assert!(message(b"<!DOCTYPE html>").contains("is a web page"));
    assert!(message(b"version https://git-lfs.github.com/spec/v1\n").contains("Git LFS pointer"));
    assert!(message(b"garbage that is long enough").contains("not a zip archive"));
    assert!(
        Checkpoint::open(&folder.path().join("none.pt")).unwrap_err().to_string().contains("cannot open")
    );
    assert!(Checkpoint::open(folder.path()).unwrap_err().to_string().contains("none of the weight files"));
    // Whatever byte is hit, the reader answers; it may not notice, but it may not panic.
    let small = std::fs::read(fixture("views/views.pt")).unwrap();
    for at in (0..small.len()).step_by(3) {
        let mut changed = small.clone();
        changed[at] ^= 0x5a;
        std::fs::write(&path, &changed).unwrap();
        if let Ok(file) = Checkpoint::open(&path) {
            file.names().for_each(|name| drop((file.read_f32(name), file.read_i64(name))));
        }
    }
}
