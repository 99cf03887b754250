//! A PixArt with compressed keys and values against the original code, and through every layout.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::Tensor;
use burn::module::Module;
use burn::tensor::{Device, TensorData};
use scion::checkpoint::{Checkpoint, Precision};
use scion::model::{
    Architecture, Checkpointed, Dit, Text, architecture_of, load, original_layout_tells, save_diffusers,
    save_original, save_scion,
};
use scion::operator::{HyenaXConfig, KvCompressionConfig, OperatorConfig, Slot};
use scion::train::collect;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/kv-compression").join(name)
}

/// Largest difference over the largest expected magnitude.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let top = expected.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    let differences = found.iter().zip(expected).map(|(f, e)| (f - e).abs());
    differences.fold(0f32, |m, d| if d > m || d.is_nan() { d } else { m }) / top
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

/// The model, of three heads, which the file does not tell.
fn model(device: &Device) -> (Dit, Architecture) {
    let file = Checkpoint::open(&fixture("model.pth")).unwrap();
    let architecture = architecture_of(&file, Some(3)).unwrap();
    (load(&file, &architecture, device).unwrap(), architecture)
}

/// A case's x, t and text.
fn inputs(case: &str, device: &Device) -> (Tensor<4>, Vec<f32>, Text) {
    let file = Checkpoint::open(&fixture(case).join("inputs.safetensors")).unwrap();
    let integers = |name| file.read_i64(name).unwrap().into_iter().map(|v| v as f32).collect::<Vec<f32>>();
    let shape = |name: &str| file.entry(name).unwrap().shape.clone();
    let x = Tensor::from_data(TensorData::new(file.read_f32("x").unwrap(), shape("x")), device);
    let text = shape("text").try_into().unwrap();
    (x, integers("t"), Text::new(file.read_f32("text").unwrap(), integers("mask"), text, device))
}

/// How far the model's output is from the original code's.
fn difference(case: &str, model: &Dit) -> f32 {
    let (x, t, text) = inputs(case, &model.device());
    let expected = Checkpoint::open(&fixture(case).join("expected.safetensors")).unwrap();
    error(&values(model.forward(x, &t, text)), &expected.read_f32("out").unwrap())
}

#[test]
fn outputs_match_the_original_code() {
    let (model, architecture) = model(&Device::flex());
    let compression = OperatorConfig::KvCompression(KvCompressionConfig { heads: 3, factor: 2 });
    let found: Vec<_> = architecture.grafts.iter().map(|graft| (graft.block, &graft.operator)).collect();
    assert_eq!(found, [(0, &compression), (2, &compression)]);
    assert_eq!(model.num_params(), architecture.parameters());
    for case in ["square", "wide"] {
        let error = difference(case, &model);
        assert!(error < 1e-5, "{case}: output differs by {error}");
    }
}

#[test]
fn activation_checkpointing_changes_no_gradient() {
    let (model, _) = model(&Device::flex().autodiff());
    let (x, t, text) = inputs("wide", &model.device());
    let pass = Checkpointed::forward(&model, x.clone(), &t, text.clone());
    let out = model.forward(x, &t, text);
    let slope: Vec<f32> =
        (0..out.dims().iter().product()).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let weight = Tensor::<4>::from_data(TensorData::new(slope.clone(), out.dims()), &model.device());
    let expected = collect(&model, (out * weight).sum().backward());
    let mut found = BTreeMap::new();
    pass.backward(slope, BTreeMap::new(), |part| found.extend(collect(&model, part)));
    assert!(found.contains_key("blocks.2.attn.sr.weight") && found.keys().eq(expected.keys()));
    for (name, gradient) in &found {
        let difference = error(gradient, &expected[name]);
        assert!(difference < 1e-5, "{name} differs by {difference}");
    }
}

#[test]
fn layouts_hold_it_or_say_that_they_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let (model, architecture) = model(&Device::flex());
    let [one, original, diffusers] =
        ["one.safetensors", "original.pth", "diffusers"].map(|name| folder.path().join(name));
    save_scion(&model, &architecture, &one).unwrap();
    let file = Checkpoint::open(&one).unwrap();
    assert_eq!(architecture_of(&file, None).unwrap(), architecture);
    let back = load(&file, &architecture, &Device::flex()).unwrap();
    assert!(difference("wide", &back) < 1e-5);
    save_original(&model, &architecture.dit, Precision::F32, &original).unwrap();
    let file = Checkpoint::open(&original).unwrap();
    assert_eq!(file.compressed_blocks(3).unwrap(), [(0, 2), (2, 2)]);
    assert_eq!(file.entry("blocks.2.attn.sr.weight").unwrap().shape, [12, 1, 2, 2]);
    let back = load(&file, &architecture, &Device::flex()).unwrap();
    assert!(difference("wide", &back) < 1e-5);
    let message =
        save_diffusers(&model, &architecture.dit, Precision::F32, &diffusers).unwrap_err().to_string();
    assert!(
        message.contains("diffusers layout cannot hold") && message.contains("blocks.0.attn."),
        "{message}"
    );
    assert!(!diffusers.exists());
}

#[test]
fn the_original_layout_tells_its_own_edits_alone() {
    let (_, architecture) = model(&Device::flex());
    assert!(original_layout_tells(&architecture));
    let mut grafts = architecture.grafts.clone();
    grafts[1].operator = OperatorConfig::KvCompression(KvCompressionConfig { heads: 2, factor: 2 });
    assert!(!original_layout_tells(&architecture.with_grafts(grafts.clone()).unwrap()));
    grafts[1].operator = OperatorConfig::HyenaX(HyenaXConfig::default());
    assert!(!original_layout_tells(&architecture.with_grafts(grafts).unwrap()));
    assert_eq!(architecture.operator(1, Slot::Attention).name(), "attention");
}
