//! Blocks side by side against PyTorch on random weights, the blocks being the original code's: values and gradients.

use std::collections::BTreeMap;
use std::path::Path;

use burn::Tensor;
use burn::module::Module;
use burn::tensor::{Device, TensorData};
use scion::checkpoint::Checkpoint;
use scion::model::{Architecture, Checkpointed, Conditions, Context, Dit, DitConfig, Part, Seen, Site, load};
use scion::operator::Init;
use scion::train::collect;

fn fixture(name: &str) -> Checkpoint {
    Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/pairs").join(name)).unwrap()
}

/// As `scripts/fixtures/pairs.py` makes it.
fn architecture() -> Architecture {
    let dit = DitConfig {
        input_size: 6,
        patch: 2,
        in_channels: 2,
        hidden: 12,
        depth: 5,
        heads: 3,
        mlp_ratio: 2.0,
        learn_sigma: true,
        conditions: Conditions::Classes { count: 3, null: true },
    };
    Architecture::native(dit).with_pairs(vec![[1, 2], [3, 4]]).unwrap()
}

fn tensor<const D: usize>(file: &Checkpoint, name: &str, device: &Device) -> Tensor<D> {
    let shape = file.entry(name).unwrap().shape.clone();
    Tensor::from_data(TensorData::new(file.read_f32(name).unwrap(), shape), device)
}

/// Timesteps and labels.
fn conditions(file: &Checkpoint) -> (Vec<f32>, Vec<usize>) {
    let integers = |name| file.read_i64(name).unwrap();
    (
        integers("t").into_iter().map(|t| t as f32).collect(),
        integers("y").into_iter().map(|y| y as usize).collect(),
    )
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

/// Largest difference over the largest expected magnitude.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let top = expected.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    found
        .iter()
        .zip(expected)
        .map(|(f, e)| (f - e).abs())
        .fold(0f32, |m, d| if d > m || d.is_nan() { d } else { m })
        / top
}

#[test]
fn values_and_gradients_match_pytorch() {
    let (device, golden) = (Device::flex().autodiff(), fixture("expected.safetensors"));
    let model = load(&fixture("model.safetensors"), &architecture(), &device).unwrap();
    let (t, y) = conditions(&golden);
    let x = tensor::<4>(&golden, "x", &device);
    let out = model.forward(x.clone(), &t, &y);
    let difference = error(&values(out.clone().detach()), &golden.read_f32("out").unwrap());
    assert!(difference < 1e-5, "output differs by {difference}");
    let checkpointed = Checkpointed::forward(&model, x, &t, &y);
    assert_eq!(checkpointed.out().to_data(), out.to_data(), "activation checkpointing");

    let found = collect(&model, (out * tensor(&golden, "w", &device)).sum().backward());
    for (name, gradient) in &found {
        let difference = error(gradient, &golden.read_f32(&format!("grad.{name}")).unwrap());
        assert!(difference < 1e-4, "gradient of {name} differs by {difference}");
    }
    let compared = golden.names().filter(|name| name.starts_with("grad.")).count();
    assert_eq!(compared, found.len(), "every gradient is compared");
    assert!(found.contains_key("merges.1.weight"));

    let mut again = BTreeMap::new();
    checkpointed.backward(golden.read_f32("w").unwrap(), BTreeMap::new(), |part| {
        for (name, gradient) in collect(&model, part) {
            assert!(again.insert(name.clone(), gradient).is_none(), "{name} is in two parts");
        }
    });
    assert!(again.keys().eq(found.keys()), "activation checkpointing misses parameters");
    for (name, gradient) in &again {
        // The conditioning's gradient is summed in another order.
        let difference = error(gradient, &found[name]);
        assert!(difference < 1e-5, "{name} differs by {difference} with activation checkpointing");
    }
}

#[test]
fn a_pair_by_itself_does_what_it_does_in_the_model() {
    let (device, golden) = (Device::flex(), fixture("expected.safetensors"));
    let mut model = load(&fixture("model.safetensors"), &architecture(), &device).unwrap();
    let mut tokens = BTreeMap::new();
    let look = |model: &Dit, tokens: &mut BTreeMap<usize, Vec<f32>>| {
        let (t, y) = conditions(&golden);
        model.forward_tapped(tensor(&golden, "x", &device), &t, &y, &mut |seen| {
            if let Seen::Tokens { before, tokens: now, .. } = seen {
                tokens.insert(before, values(now.clone()));
            }
        });
    };
    look(&model, &mut tokens);
    assert_eq!(tokens.keys().copied().collect::<Vec<_>>(), [0, 1, 3, 5]);
    let Part::Pair(pair) = model.part(Site::Pair(1)) else { panic!("a pair stands there") };
    let context =
        Context { conditioning: tensor(&golden, "c", &device), text: None, grid: architecture().dit.grid() };
    let run = |name| pair.forward(tensor(&golden, name, &device), &context);
    assert!(error(&values(run("before")), &golden.read_f32("after").unwrap()) < 1e-5);
    assert!(error(&tokens[&1], &golden.read_f32("before").unwrap()) < 1e-5);
    assert!(error(&tokens[&3], &golden.read_f32("after").unwrap()) < 1e-5);

    // Put into the other pair's place, it changes that one alone.
    let before = tokens.clone();
    model.place(Site::Pair(3), Part::Pair(pair));
    look(&model, &mut tokens);
    assert!(tokens[&3] == before[&3] && tokens[&5] != before[&5]);
    let weight = |site| match model.part(site) {
        Part::Pair(pair) => values(pair.merge.weight.val()),
        Part::Operator(_) => panic!("a pair stands there"),
    };
    assert_eq!(weight(Site::Pair(1)), weight(Site::Pair(3)));
}

#[test]
fn parameters_are_counted_as_they_are() {
    let architecture = architecture();
    let model = Dit::new(&architecture, &mut Init::empty(&Device::flex())).unwrap();
    let table = architecture.dit.tokens() * architecture.dit.hidden;
    assert_eq!(model.num_params() - table, architecture.parameters());
}
