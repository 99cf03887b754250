//! Objectives and adapters on a small model with random weights.

use std::collections::BTreeMap;

use burn::Tensor;
use burn::module::Module;
use burn::tensor::{Device, TensorData};
use scion_kernels::{backward, with_values};

use super::gradient::collect;
use super::objective::{Guide, TeacherTerms};
use super::pass::{Pass, Slopes};
use super::*;
use crate::capture::{NoisedBatch, add_noise};
use crate::data::Batch;
use crate::diffusion::{NoiseStream, Schedule};
use crate::model::{Architecture, Conditions, Dit, DitConfig, Site, parameters, trained, update_selected};
use crate::operator::{Init, Slot};
use crate::plan::BlockPair;

fn sizes() -> DitConfig {
    DitConfig {
        input_size: 8,
        patch: 4,
        in_channels: 1,
        hidden: 16,
        depth: 3,
        heads: 2,
        mlp_ratio: 2.0,
        learn_sigma: true,
        conditions: Conditions::Classes { count: 3, null: true },
    }
}

/// A model with random weights everywhere.
fn model(seed: u64, device: &Device) -> Dit {
    let model = Dit::new(&Architecture::native(sizes()), &mut Init::new(seed, 0, device)).unwrap();
    randomised(model, seed, |_| true)
}

/// Adds N(0, 0.2²) to chosen parameters.
fn randomised(model: Dit, seed: u64, chosen: impl Fn(&str) -> bool) -> Dit {
    let mut stream = NoiseStream::new(seed, 0);
    let chosen = |name: &str| name != "pos_embed" && chosen(name);
    let edit = |_: &str, _: &[usize], _, values: &mut [f32]| {
        let mut noise = vec![0f32; values.len()];
        stream.fill_normal(&mut noise);
        values.iter_mut().zip(noise).for_each(|(value, noise)| *value += 0.2 * noise);
        Ok(())
    };
    update_selected(model, chosen, edit).unwrap()
}

fn images() -> Batch {
    let mut images = vec![0f32; 4 * 64];
    NoiseStream::new(5, 1).fill_normal(&mut images);
    Batch {
        images,
        shape: [4, 1, 8, 8],
        labels: vec![0, 1, 2, 1],
        indices: vec![0, 1, 2, 3],
        flipped: vec![false; 4],
    }
}

fn noised() -> NoisedBatch {
    let Batch { images, labels, .. } = images();
    add_noise(&sizes(), &Schedule::linear(), &images, &labels, 0.1, 3, 0).unwrap()
}

fn autodiff() -> Device {
    Device::flex().autodiff()
}

/// Settings of stage 2 in TOML.
fn config(text: &str) -> TrainConfig {
    let text =
        format!("[model]\ncheckpoint = \"embedded\"\n[finetune]\nsteps = 4\nlr = 1e-2\nema = 0.5\n{text}");
    let recipe = crate::config::Recipe::parse(&text, std::path::Path::new("recipe.toml")).unwrap();
    recipe.finetune.unwrap()
}

fn pairs() -> Vec<BlockPair> {
    (0..3).map(|index| BlockPair { student: index, teacher: index }).collect()
}

fn guide(text: &str) -> Guide {
    Guide::new(model(2, &Device::flex()), &config(text), pairs())
}

/// The teacher's loss of a model, its terms and its gradients.
fn teacher_loss(
    guide: &Guide,
    model: &Dit,
    checkpointing: bool,
) -> (f64, TeacherTerms, BTreeMap<String, Vec<f32>>) {
    let (sizes, noised) = (sizes(), noised());
    let answer = guide.answer(&sizes, &noised);
    let x = noised.tensor(&sizes, &model.device());
    let pass = Pass::forward(model, x, (&noised.times(), &noised.labels), checkpointing, true);
    let mut slopes = Slopes { out: vec![0f32; 4 * 2 * 64], ..Slopes::default() };
    let (loss, terms) = guide.compare(&pass, &answer, &sizes, &mut slopes);
    (loss, terms, pass.backward(model, slopes))
}

/// Largest difference over the largest expected magnitude.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let top = expected.iter().fold(0f32, |top, v| top.max(v.abs()));
    found
        .iter()
        .zip(expected)
        .map(|(f, e)| (f - e).abs())
        .fold(0f32, |m, d| if d > m || d.is_nan() { d } else { m })
        / top
}

#[test]
fn the_teachers_terms_follow_their_definitions() {
    let guide = guide("objective = \"teacher\"\nteacher = { noise = 2.0, variance = 0.5, blocks = 3.0 }\n");
    let (student, teacher) = (model(1, &Device::flex()), model(2, &Device::flex()));
    let (sizes, noised) = (sizes(), noised());
    let run = |model: &Dit| {
        let x = noised.tensor(&sizes, &model.device());
        let (out, blocks) = model.forward_with_blocks(x, &noised.times(), &noised.labels);
        let out = with_values(&out, <[f32]>::to_vec);
        (out, blocks.values().map(|tokens| with_values(tokens, <[f32]>::to_vec)).collect::<Vec<_>>())
    };
    let ((out, blocks), (answer, answers)) = (run(&student), run(&teacher));
    let mean = |values: &mut dyn Iterator<Item = f64>| {
        let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
        sum / f64::from(count)
    };
    let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
    // Channel 0 of a sample's two is noise, channel 1 variance.
    let channel = |c: usize| {
        let pairs = out.chunks(64).zip(answer.chunks(64)).enumerate().filter(move |(i, _)| i % 2 == c);
        mean(&mut pairs.flat_map(|(_, (a, b))| a.iter().zip(b).map(square)))
    };
    let relative = |(found, expected): (&Vec<f32>, &Vec<f32>)| {
        mean(&mut found.iter().zip(expected).map(square))
            / mean(&mut expected.iter().map(|e| f64::from(*e).powi(2)))
    };
    let expected = [channel(0), channel(1), mean(&mut blocks.iter().zip(&answers).map(relative))];
    let (loss, terms, _) = teacher_loss(&guide, &model(1, &autodiff()), false);
    let found = [terms.noise, terms.variance, terms.blocks].map(Option::unwrap);
    for (found, expected) in found.into_iter().zip(expected) {
        assert!((found - expected).abs() < 1e-5 * expected, "{found} instead of {expected}");
    }
    assert!((loss - (2.0 * found[0] + 0.5 * found[1] + 3.0 * found[2])).abs() < 1e-12);
}

/// Along a direction in which each part of the model contributes, the loss grows as the gradient says.
#[test]
fn the_teachers_gradient_matches_finite_differences() {
    for terms in [
        "noise = 1.0, variance = 0.0",
        "noise = 0.0",
        "noise = 0.0, variance = 0.0, blocks = 2.0",
        "blocks = 0.5",
    ] {
        let guide = guide(&format!("objective = \"teacher\"\nteacher = {{ {terms} }}\n"));
        let student = model(1, &autodiff());
        let (_, _, gradients) = teacher_loss(&guide, &student, false);
        let (_, _, again) = teacher_loss(&guide, &student, true);
        assert!(gradients.keys().eq(again.keys()), "{terms}: activation checkpointing misses parameters");
        for (name, gradient) in &again {
            if gradients[name].iter().any(|g| g.abs() > 1e-6) {
                let error = error(gradient, &gradients[name]);
                assert!(error < 1e-4, "{terms}: {name} differs by {error} with activation checkpointing");
            }
        }
        for part in
            ["x_embedder.", "y_embedder.", "blocks.0.", "blocks.1.attn", "blocks.2.mlp", "final_layer."]
        {
            let own = || gradients.iter().filter(|(name, _)| name.starts_with(part));
            let norm = own().flat_map(|(_, g)| g).map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            if norm < 1e-6 {
                // The tokens after the last block do not depend on the last layer.
                assert!(part == "final_layer." && !terms.contains("blocks = 0.5"), "{terms}: {part}");
                continue;
            }
            let at = |step: f64| {
                let edit = |name: &str, _: &[usize], _, values: &mut [f32]| {
                    let along = gradients[name].iter().map(|g| (step * f64::from(*g) / norm) as f32);
                    values.iter_mut().zip(along).for_each(|(value, along)| *value += along);
                    Ok(())
                };
                let moved = update_selected(student.clone(), |name| name.starts_with(part), edit).unwrap();
                teacher_loss(&guide, &moved, false).0
            };
            let slope = (at(4e-3) - at(-4e-3)) / 8e-3;
            assert!((slope - norm).abs() < 2e-2 * norm, "{terms}: {part}: {slope} instead of {norm}");
        }
    }
}

#[test]
fn both_objectives_add_up() {
    let step = |text: &str| {
        let trainer = Trainer::new(model(1, &autodiff()), sizes(), config(text), 3);
        let trainer =
            if text.is_empty() { trainer } else { trainer.guided(model(2, &Device::flex()), pairs()) };
        trainer.step(&images()).unwrap().1
    };
    let diffusion = step("");
    assert_eq!(diffusion.loss, diffusion.mse.unwrap() + diffusion.vb.unwrap());
    assert_eq!((diffusion.teacher_noise, diffusion.teacher_blocks), (None, None));
    let teacher = step("objective = \"teacher\"\nteacher = { blocks = 0.5 }\n");
    assert_eq!((teacher.mse, teacher.vb), (None, None));
    let both = step("objective = \"both\"\nteacher = { blocks = 0.5, diffusion = 0.25 }\n");
    assert_eq!((both.mse, both.vb), (diffusion.mse, diffusion.vb));
    assert_eq!((both.teacher_noise, both.teacher_blocks), (teacher.teacher_noise, teacher.teacher_blocks));
    assert!((both.loss - (0.25 * diffusion.loss + teacher.loss)).abs() < 1e-12);
    let summed = diffusion.grad_norm * 0.25 + teacher.grad_norm;
    assert!(both.grad_norm < summed && both.grad_norm > summed / 3.0, "{} of {summed}", both.grad_norm);
    // A teacher that agrees leaves nothing to do.
    let own = Trainer::new(
        model(1, &autodiff()),
        sizes(),
        config("objective = \"teacher\"\nteacher = { blocks = 1.0 }\n"),
        3,
    );
    let report = own.guided(model(1, &Device::flex()), pairs()).step(&images()).unwrap().1;
    assert!(report.loss < 1e-10 && report.grad_norm < 1e-4, "{report:?}");
}

const GRAFTED: [Site; 1] = [Site::Operator(1, Slot::Attention)];
const LORA: &str =
    "method = \"lora\"\nlora = { rank = 3, alpha = 6.0, layers = [\"attention\", \"mlp\", \"ada-ln\"] }\n";

fn adapted(text: &str, device: &Device) -> Dit {
    adapt(model(1, device), config(text).lora.as_ref().unwrap(), &GRAFTED, 7).unwrap()
}

fn values_of(model: &Dit) -> BTreeMap<String, Vec<f32>> {
    let mut found = BTreeMap::new();
    parameters(model, |name, data| {
        found.insert(name, data.try_into_vec().unwrap());
    });
    found
}

fn out(model: &Dit) -> Vec<f32> {
    let noised = noised();
    model.predict(&noised.x_t, &noised.times(), &noised.labels)
}

#[test]
fn a_new_adapter_changes_no_bit() {
    let plain = out(&model(1, &Device::flex()));
    assert_eq!(out(&adapted(LORA, &Device::flex())), plain);
    assert_eq!(out(&adapted(LORA, &autodiff())), out(&model(1, &autodiff())));
    assert_eq!(out(&adapted(LORA, &Device::flex()).materialize()), plain);
}

#[test]
fn adapters_go_where_the_recipe_says_and_nothing_else_trains() {
    let names = |text: &str| trained(&adapted(text, &autodiff()));
    let factors = |layers: &[&str]| {
        let both = |layer: &&str| ["A", "B"].map(|factor| format!("{layer}.lora_{factor}.weight"));
        layers.iter().flat_map(both).collect::<std::collections::BTreeSet<String>>()
    };
    let found = names("method = \"lora\"\n");
    assert_eq!(found.len(), 3 * 4 * 2);
    let first = ["blocks.0.attn.qkv", "blocks.0.attn.proj", "blocks.0.mlp.fc1", "blocks.0.mlp.fc2"];
    assert!(found.is_superset(&factors(&first)), "{found:?}");
    let found = names("method = \"lora\"\nlora = { layers = [\"embedders\", \"final\"] }\n");
    let all = [
        "x_embedder.proj",
        "t_embedder.mlp.0",
        "t_embedder.mlp.2",
        "final_layer.adaLN_modulation.1",
        "final_layer.linear",
    ];
    assert_eq!(found, factors(&all));
    let found = names("method = \"lora\"\nlora = { layers = [\"attention\"], full = [\"grafted\"] }\n");
    let own =
        ["qkv.weight", "qkv.bias", "proj.weight", "proj.bias"].map(|name| format!("blocks.1.attn.{name}"));
    let rest = ["blocks.0.attn.qkv", "blocks.0.attn.proj", "blocks.2.attn.qkv", "blocks.2.attn.proj"];
    assert_eq!(found, factors(&rest).into_iter().chain(own).collect());
}

#[test]
fn factors_are_drawn_as_pefts() {
    let values = values_of(&adapted(LORA, &autodiff()));
    for (name, values) in values {
        if name.ends_with("lora_B.weight") {
            assert!(values.iter().all(|&v| v == 0.0), "{name}");
        }
        if name.ends_with("lora_A.weight") {
            // Uniform in ±1/√inputs.
            let bound = ((values.len() / 3) as f32).sqrt().recip();
            let largest = values.iter().fold(0f32, |top, v| top.max(v.abs()));
            assert!(largest <= bound && largest > 0.8 * bound, "{name}: {largest} of {bound}");
        }
    }
    let other = adapt(model(1, &autodiff()), config(LORA).lora.as_ref().unwrap(), &GRAFTED, 8).unwrap();
    assert_ne!(values_of(&adapted(LORA, &autodiff())), values_of(&other));
}

/// Gradients of a sum of outputs with fixed weights.
fn gradients(model: &Dit) -> BTreeMap<String, Vec<f32>> {
    let (noised, sizes) = (noised(), sizes());
    let mut slope = vec![0f32; 4 * 2 * 64];
    NoiseStream::new(6, 6).fill_normal(&mut slope);
    let out = model.forward(noised.tensor(&sizes, &model.device()), &noised.times(), &noised.labels);
    collect(model, backward(out, slope))
}

#[test]
fn factors_get_the_gradient_of_the_weight_that_they_make() {
    let device = autodiff();
    let adapted = randomised(adapted(LORA, &device), 9, |name| name.contains(".lora_"));
    let merged = adapted.valid().materialize();
    let error_out = error(&out(&adapted.valid()), &out(&merged));
    assert!(error_out < 1e-6, "adapters and weights with them differ by {error_out}");
    assert_ne!(out(&merged), out(&model(1, &Device::flex())));
    let (found, of_weights) = (gradients(&adapted), gradients(&merged.train().set_require_grad(true)));
    let values = values_of(&adapted);
    let tensor = |values: &[f32], rows: usize| {
        let shape = [rows, values.len() / rows];
        Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &Device::flex())
    };
    let mut seen = 0;
    for (name, d_weight) in &of_weights {
        let Some(layer) = name.strip_suffix(".weight") else { continue };
        let names = ["A", "B"].map(|factor| format!("{layer}.lora_{factor}.weight"));
        let Some(a) = values.get(&names[0]) else { continue };
        let b = &values[&names[1]];
        let (a, b, d_weight) = (tensor(a, 3), tensor(b, b.len() / 3), tensor(d_weight, b.len() / 3));
        // alpha / rank is 2.
        let expected = [b.transpose().matmul(d_weight.clone()), d_weight.matmul(a.transpose())];
        for (name, expected) in names.iter().zip(expected) {
            let expected: Vec<f32> = (expected * 2.0).into_data().try_into_vec().unwrap();
            let error = error(&found[name], &expected);
            assert!(error < 1e-4, "{name} differs by {error}");
            seen += 1;
        }
    }
    assert_eq!((seen, found.len()), (3 * 5 * 2, 3 * 5 * 2));
}

#[test]
fn training_adapters_leaves_the_weights_alone() {
    for text in [LORA.to_string(), format!("activation-checkpointing = true\n{LORA}")] {
        let mut trainer = Trainer::new(adapted(&text, &autodiff()), sizes(), config(&text), 3);
        let before = values_of(trainer.model());
        assert_eq!(out(&trainer.ema_model().unwrap()), out(&model(1, &Device::flex())));
        for _ in 0..3 {
            trainer = trainer.step(&images()).unwrap().0;
        }
        for (name, values) in values_of(trainer.model()) {
            assert_eq!(values == before[&name], !name.contains(".lora_"), "{name}");
        }
        let moments = &trainer.state().moments;
        assert!(moments.keys().all(|name| name.contains(".lora_")), "{:?}", moments.keys());
        assert_eq!(moments.len(), 3 * 5 * 2);
        // The average of the factors, added to the weights.
        let averaged = trainer.ema_model().unwrap();
        assert_eq!(values_of(&averaged).len(), values_of(&model(1, &Device::flex())).len());
        assert_ne!(out(&averaged), out(&model(1, &Device::flex())));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state.safetensors");
        trainer.save("test", &file).unwrap();
        let stored = crate::checkpoint::Checkpoint::open(&file).unwrap();
        assert!(stored.names().all(|name| name.contains(".lora_")));
        assert_eq!(stored.names().count(), 4 * 3 * 5 * 2);
    }
}
