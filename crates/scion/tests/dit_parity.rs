//! The model against the original PyTorch code on random weights: outputs, gradients and guidance.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::Tensor;
use burn::tensor::{Device, TensorData};
use scion::checkpoint::Checkpoint;
use scion::diffusion::{Guidance, GuidanceChannels};
use scion::model::{Checkpointed, Dit, architecture_of, load};
use scion::train::collect;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/dit").join(name)
}

fn read(file: &Checkpoint, name: &str) -> Vec<f32> {
    file.read_f32(name).unwrap()
}

/// Largest difference over the largest expected magnitude.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let top = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let difference = found
        .iter()
        .zip(expected)
        .map(|(f, e)| (f - e).abs())
        .fold(0f32, |m, d| if d > m || d.is_nan() { d } else { m });
    if top == 0.0 { difference } else { difference / top }
}

struct Inputs {
    x: Vec<f32>,
    shape: Vec<usize>,
    t: Vec<f32>,
    y: Vec<usize>,
}

fn inputs(path: &Path) -> Inputs {
    let file = Checkpoint::open(path).unwrap();
    let integers = |name| file.read_i64(name).unwrap();
    Inputs {
        x: read(&file, "x"),
        shape: file.entry("x").unwrap().shape.clone(),
        t: integers("t").into_iter().map(|t| t as f32).collect(),
        y: integers("y").into_iter().map(|y| y as usize).collect(),
    }
}

fn model(file: &Path, heads: usize, device: &Device) -> Dit {
    let file = Checkpoint::open(file).unwrap();
    load(&file, &architecture_of(&file, Some(heads)).unwrap(), device).unwrap()
}

#[test]
fn outputs_match_the_original() {
    for (case, file, heads) in [
        ("tiny", "model.pt", 2),
        ("tiny", "diffusers", 2),
        ("tiny", "diffusers-sharded", 2),
        ("odd", "model.pt", 3),
        ("train", "model.pt", 1),
        ("nosigma", "model.pt", 4),
        ("bf16", "model.safetensors", 2),
    ] {
        let folder = fixture(case);
        let inputs = inputs(&folder.join("inputs.safetensors"));
        let expected = read(&Checkpoint::open(&folder.join("expected.safetensors")).unwrap(), "out");
        let found =
            model(&folder.join(file), heads, &Device::flex()).predict(&inputs.x, &inputs.t, &inputs.y);
        let error = error(&found, &expected);
        assert!(error < 1e-5, "{case}/{file}: output differs by {error}");
    }
}

#[test]
fn gradients_match_the_original() {
    for (case, heads) in [("tiny", 2), ("odd", 3)] {
        let folder = fixture(case);
        let device = Device::flex().autodiff();
        let model = model(&folder.join("model.pt"), heads, &device);
        let Inputs { x, shape, t, y } = inputs(&folder.join("inputs.safetensors"));
        let x = Tensor::<4>::from_data(TensorData::new(x, shape), &device).require_grad();
        let expected = Checkpoint::open(&folder.join("grads.safetensors")).unwrap();
        let pass = Checkpointed::forward(&model, x.clone(), &t, &y);
        let out = model.forward(x.clone(), &t, &y);
        assert_eq!(pass.out().to_data(), out.to_data(), "{case}: activation checkpointing");
        let weight = Tensor::<4>::from_data(TensorData::new(read(&expected, "w"), out.dims()), &device);
        let gradients = (out * weight).sum().backward();
        let dx: Vec<f32> = x.grad(&gradients).unwrap().into_data().try_into_vec().unwrap();
        assert!(error(&dx, &read(&expected, "grad.x")) < 1e-4, "{case}: gradient of x");
        let by_name = collect(&model, gradients);
        let trained =
            expected.names().filter(|n| n.starts_with("grad.") && !["grad.x", "grad.pos_embed"].contains(n));
        let mut seen = 0;
        for name in trained {
            let error = error(&by_name[&name["grad.".len()..]], &read(&expected, name));
            assert!(error < 1e-4, "{case}: {name} differs by {error}");
            seen += 1;
        }
        assert_eq!(seen, by_name.len(), "{case}: every parameter but the frozen table is compared");
        let mut again = BTreeMap::new();
        pass.backward(read(&expected, "w"), BTreeMap::new(), |part| again.extend(collect(&model, part)));
        assert!(again.keys().eq(by_name.keys()), "{case}: activation checkpointing misses parameters");
        for (name, found) in &again {
            // The conditioning's gradient is summed in another order.
            let error = error(found, &by_name[name]);
            assert!(error < 1e-5, "{case}: {name} differs by {error} with activation checkpointing");
        }
    }
}

#[test]
fn guidance_matches_the_original() {
    let folder = fixture("tiny");
    let expected = Checkpoint::open(&folder.join("cfg.safetensors")).unwrap();
    let Inputs { x, shape, t, y } = inputs(&folder.join("cfg.safetensors"));
    let half = x.len() / 2;
    let x = [&x[..half], &x[..half]].concat();
    let out = model(&folder.join("model.pt"), 2, &Device::flex()).predict(&x, &t, &y);
    let (conditional, unconditional) = out.split_at(out.len() / 2);
    let scale = read(&expected, "scale")[0];
    let images = [shape[0] / 2, shape[1], shape[2], shape[3]];
    for (channels, name) in [(GuidanceChannels::FirstThree, "out_three"), (GuidanceChannels::All, "out_all")]
    {
        let found = Guidance { scale, channels }.combine(conditional, unconditional, images).unwrap();
        let expected = read(&expected, name);
        let error = error(&found, &expected[..found.len()]);
        assert!(error < 1e-5, "{name} differs by {error}");
    }
}
