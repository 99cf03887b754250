//! PixArt against diffusers on random weights: outputs and gradients, in every layout.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::Tensor;
use burn::module::Module;
use burn::tensor::{Device, TensorData};
use scion::checkpoint::{Checkpoint, Layout, Precision, TensorSource, write_dit};
use scion::model::{
    Architecture, Checkpointed, Dit, Text, architecture_of, load, save_diffusers, save_original, save_scion,
    tensor_sources,
};
use scion::train::collect;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/pixart").join(name)
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

fn tensor<const D: usize>(file: &Checkpoint, name: &str, device: &Device) -> Tensor<D> {
    let shape = file.entry(name).unwrap().shape.clone();
    Tensor::from_data(TensorData::new(file.read_f32(name).unwrap(), shape), device)
}

struct Inputs {
    x: Tensor<4>,
    t: Vec<f32>,
    text: Text,
}

fn inputs(case: &str, device: &Device) -> Inputs {
    let file = Checkpoint::open(&fixture(case).join("inputs.safetensors")).unwrap();
    let integers = |name| file.read_i64(name).unwrap().into_iter().map(|v| v as f32).collect::<Vec<f32>>();
    let shape = file.entry("text").unwrap().shape.clone().try_into().unwrap();
    let text = Text::new(file.read_f32("text").unwrap(), integers("mask"), shape, device);
    Inputs { x: tensor(&file, "x", device), t: integers("t"), text }
}

fn model(path: &Path, device: &Device) -> (Dit, Architecture) {
    let file = Checkpoint::open(path).unwrap();
    let heads = if path.to_string_lossy().contains("sizes") { 3 } else { 2 };
    let architecture = architecture_of(&file, Some(heads)).unwrap();
    (load(&file, &architecture, device).unwrap(), architecture)
}

fn expected(case: &str) -> Vec<f32> {
    Checkpoint::open(&fixture(case).join("expected.safetensors")).unwrap().read_f32("out").unwrap()
}

fn difference(case: &str, model: &Dit) -> f32 {
    let Inputs { x, t, text } = inputs(case, &model.device());
    error(&values(model.forward(x, &t, text)), &expected(case))
}

#[test]
fn outputs_match_diffusers() {
    for (case, file) in [
        ("square", "transformer"),
        ("square", "model.pth"),
        ("wide", "transformer"),
        ("masked", "transformer"),
        ("sizes", "transformer"),
        ("sizes", "model.pth"),
    ] {
        let path = fixture(case).join(file);
        let (mut model, architecture) = model(&path, &Device::flex());
        if file == "model.pth" {
            // The original layout does not hold what positions are divided by: this stands in for a published size.
            assert_eq!(architecture.dit.text().unwrap().interpolation, 8.0 / 64.0);
            assert_eq!(architecture.dit.text().unwrap().tokens, 9);
            let like = architecture_of(&Checkpoint::open(&fixture(case).join("transformer")).unwrap(), None)
                .unwrap();
            model = load(&Checkpoint::open(&path).unwrap(), &like, &Device::flex()).unwrap();
        }
        let error = difference(case, &model);
        assert!(error < 1e-5, "{case}/{file}: output differs by {error}");
        assert_eq!(model.num_params(), architecture.parameters(), "{case}");
    }
}

#[test]
fn gradients_match_diffusers() {
    let device = Device::flex().autodiff();
    let (model, _) = model(&fixture("square/transformer"), &device);
    let Inputs { x, t, text } = inputs("square", &device);
    let x = x.require_grad();
    let text = Text { tokens: text.tokens.require_grad(), mask: text.mask };
    let golden = Checkpoint::open(&fixture("square/grads.safetensors")).unwrap();
    let golden = |name: &str| golden.read_f32(name).unwrap();
    let pass = Checkpointed::forward(&model, x.clone(), &t, text.clone());
    let out = model.forward(x.clone(), &t, text.clone());
    // Softmax is taken in other steps where gradients are recorded.
    assert!(error(&values(pass.out().clone()), &values(out.clone())) < 1e-6, "activation checkpointing");
    let weight = Tensor::<4>::from_data(TensorData::new(golden("w"), out.dims()), &device);
    let gradients = (out * weight).sum().backward();
    assert!(error(&values(x.grad(&gradients).unwrap()), &golden("grad.x")) < 1e-4, "gradient of x");
    let d_text = values(text.tokens.grad(&gradients).unwrap());
    assert!(error(&d_text, &golden("grad.text")) < 1e-4, "gradient of the text");
    let by_name = collect(&model, gradients);
    let mut seen = 0;
    model_names(&model, |name| {
        let difference = error(&by_name[&name], &golden(&format!("grad.{name}")));
        assert!(difference < 1e-4, "gradient of {name} differs by {difference}");
        seen += 1;
    });
    assert_eq!(seen, by_name.len());
    let mut again = BTreeMap::new();
    pass.backward(golden("w"), BTreeMap::new(), |part| {
        for (name, gradient) in collect(&model, part) {
            assert!(again.insert(name.clone(), gradient).is_none(), "{name} is in two parts");
        }
    });
    assert!(again.keys().eq(by_name.keys()), "activation checkpointing misses parameters");
    for (name, found) in &again {
        // The gradients by the conditioning and by the text are summed in another order.
        let difference = error(found, &by_name[name]);
        assert!(difference < 1e-5, "{name} differs by {difference} with activation checkpointing");
    }
}

fn model_names(model: &Dit, mut see: impl FnMut(String)) {
    scion::model::parameters(model, |name, _| see(name));
}

#[test]
fn every_layout_reads_back_equal() {
    let folder = tempfile::tempdir().unwrap();
    for case in ["square", "sizes"] {
        let (model, architecture) = model(&fixture(case).join("transformer"), &Device::flex());
        let [pth, diffusers, scion] = ["model.pth", "diffusers", "scion.safetensors"]
            .map(|name| folder.path().join(format!("{case}-{name}")));
        save_original(&model, &architecture.dit, Precision::F32, &pth).unwrap();
        save_diffusers(&model, &architecture.dit, Precision::F32, &diffusers).unwrap();
        save_scion(&model, &architecture, &scion).unwrap();
        let want: Vec<f32> = expected(case);
        for (path, layout) in
            [(&pth, Layout::PixArt), (&diffusers, Layout::Diffusers), (&scion, Layout::Scion)]
        {
            let file = Checkpoint::open(path).unwrap();
            assert_eq!(file.layout(), layout);
            let back = load(&file, &architecture, &Device::flex()).unwrap();
            let Inputs { x, t, text } = inputs(case, &Device::flex());
            assert!(error(&values(back.forward(x, &t, text)), &want) < 1e-5, "{case} {layout:?}");
        }
        let told = |path: &Path| architecture_of(&Checkpoint::open(path).unwrap(), None).unwrap();
        assert_eq!(told(&scion), architecture);
        assert_eq!(told(&diffusers), architecture);
        let original =
            architecture_of(&Checkpoint::open(&pth).unwrap(), Some(architecture.dit.heads)).unwrap();
        assert_eq!(original.dit.input_size, architecture.dit.input_size);
        // The same tensors under the same names as diffusers' own writer.
        let names = |folder: PathBuf| {
            let bytes = std::fs::read(folder.join("diffusion_pytorch_model.safetensors")).unwrap();
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
            let shape = |(name, entry): (&String, &serde_json::Value)| (name.clone(), entry["shape"].clone());
            header.as_object().unwrap().iter().map(shape).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(names(diffusers), names(fixture(case).join("transformer")));
    }
}

#[test]
fn what_a_file_does_not_fit_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (model, architecture) = model(&fixture("square/transformer"), &Device::flex());
    let copied = folder.path().join("copied");
    save_diffusers(&model, &architecture.dit, Precision::F32, &copied).unwrap();
    let config = std::fs::read_to_string(copied.join("config.json")).unwrap();
    let refused = |from: &str, to: &str| {
        assert!(config.contains(from), "{config}");
        std::fs::write(copied.join("config.json"), config.replace(from, to)).unwrap();
        architecture_of(&Checkpoint::open(&copied).unwrap(), None).unwrap_err().to_string()
    };
    assert!(refused("gelu-approximate", "geglu").contains("activation_fn \"geglu\""));
    assert!(refused("\"norm_eps\": 1e-6", "\"norm_eps\": 1e-5").contains("norm_eps"));
    assert!(
        refused("\"num_attention_heads\": 2", "\"num_attention_heads\": 3").contains("3 attention heads")
    );
    // Without its positions, nothing in a file of the original layout tells the image's size.
    let bare = folder.path().join("bare.pth");
    write_dit(&bare, &tensor_sources(&model, architecture.dit.patch), Precision::F32).unwrap();
    let message = architecture_of(&Checkpoint::open(&bare).unwrap(), Some(2)).unwrap_err().to_string();
    assert!(message.contains("nothing tells the image size"), "{message}");
    let message = architecture_of(&Checkpoint::open(&bare).unwrap(), None).unwrap_err().to_string();
    assert!(message.contains("--heads"), "{message}");
    // As the original's experiments with normalised queries write them, and filters that it does not write.
    let positions = || TensorSource::new("pos_embed".into(), vec![1, 9, 16], || Ok(vec![0.0; 144]));
    let refused = |name: &str, shape: &[usize]| {
        let (path, values) = (folder.path().join("more.pth"), shape.iter().product());
        let more = TensorSource::new(name.into(), shape.to_vec(), move || Ok(vec![0.25; values]));
        let tensors = tensor_sources(&model, 2).into_iter().chain([positions(), more]);
        write_dit(&path, &tensors.collect::<Vec<_>>(), Precision::F32).unwrap();
        architecture_of(&Checkpoint::open(&path).unwrap(), Some(2)).unwrap_err().to_string()
    };
    let message = refused("blocks.1.attn.q_norm.weight", &[16]);
    assert!(message.contains("blocks.1.attn.q_norm.weight") && message.contains("normalised"), "{message}");
    let message = refused("blocks.1.attn.sr.weight", &[16, 1, 2, 1]);
    assert!(message.contains("[16, 1, 2, 1]") && message.contains("(D, 1, f, f)"), "{message}");
    let message = refused("blocks.1.attn.sr.weight", &[16, 1, 2, 2]);
    assert!(message.contains("multiples of 2, found 3×3") && message.contains(".pth"), "{message}");
}
