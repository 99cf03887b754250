//! The whole method on a small text-to-image model with random weights: plan, capture, both stages, adapters.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, TensorData};

use super::*;
use crate::capture::{add_noise, capture};
use crate::config::Recipe;
use crate::data::Batch;
use crate::diffusion::{NoiseStream, Schedule};
use crate::model::{
    Architecture, Conditions, Dit, DitConfig, NULL_PROMPT, Prompts, Site, TextConfig, update_parameters,
};
use crate::operator::{Init, Slot};
use crate::plan::Plan;
use crate::run::with_fresh_parts;

fn sizes() -> DitConfig {
    DitConfig {
        input_size: 8,
        patch: 2,
        in_channels: 1,
        hidden: 16,
        depth: 5,
        heads: 2,
        mlp_ratio: 2.0,
        learn_sigma: true,
        conditions: Conditions::Text(TextConfig {
            width: 6,
            tokens: 4,
            interpolation: 1.0,
            size_conditions: false,
        }),
    }
}

fn normal(count: usize, stream: u64) -> Vec<f32> {
    let mut values = vec![0f32; count];
    NoiseStream::new(11, stream).fill_normal(&mut values);
    values
}

/// A teacher with random weights everywhere and three prompts.
fn teacher() -> Dit {
    let model = Dit::new(&Architecture::native(sizes()), &mut Init::new(1, 0, &Device::flex())).unwrap();
    let mut stream = 0;
    let model = update_parameters(model, |_, _, _, values| {
        stream += 1;
        let noise = normal(values.len(), stream);
        values.iter_mut().zip(noise).for_each(|(value, noise)| *value += 0.2 * noise);
        Ok(())
    });
    let prompts =
        Prompts::new(6, vec![normal(24, 90), normal(6, 91), normal(12, 92)], normal(6, 93)).unwrap();
    prompts.check(&sizes()).unwrap();
    model.unwrap().with_prompts(Arc::new(prompts))
}

fn batch(count: usize, stream: u64) -> Batch {
    Batch {
        images: normal(count * 64, stream),
        shape: [count, 1, 8, 8],
        labels: (0..count).map(|i| i % 3).collect(),
        indices: (0..count).collect(),
        flipped: vec![false; count],
    }
}

const GRAFTS: &str = "[[graft]]\ntarget = \"attention\"\nblocks = [0, 4]\noperator = { kind = \"hyena-x\", kernel = 3 }\n\
     [[graft]]\ntarget = \"mlp\"\nblocks = [1]\noperator = { kind = \"mlp\", ratio = 1.0 }\n\
     [[graft]]\ntarget = \"attention\"\nblocks = [1]\noperator = { kind = \"kv-compression\" }\n\
     [[restructure]]\nkind = \"parallel-pairs\"\npairs = [[2, 3]]\n\
     [distill]\nsteps = 40\nlr = 1e-2\nwarmup = 2\n";

fn recipe(rest: &str) -> Recipe {
    let text = format!("[model]\ncheckpoint = \"embedded\"\n{GRAFTS}{rest}");
    Recipe::parse(&text, Path::new("recipe.toml")).unwrap()
}

fn planned(recipe: &Recipe) -> Plan {
    Plan::new(&Architecture::native(sizes()), &recipe.grafts, &recipe.restructures).unwrap()
}

#[test]
fn stage_1_regresses_operators_and_pairs_on_what_the_teacher_does_to_prompts() {
    let (teacher, recipe) = (teacher(), recipe(""));
    let plan = planned(&recipe);
    let sites = plan.trained_sites();
    assert_eq!(sites.len(), 5);
    let dropped = Cell::new(0);
    let activations = |stream| {
        let Batch { images, labels, .. } = batch(6, stream);
        let noised = add_noise(&sizes(), &Schedule::linear(), &images, &labels, 0.4, 3, stream).unwrap();
        dropped.set(dropped.get() + noised.labels.iter().filter(|&&label| label == NULL_PROMPT).count());
        capture(&teacher, &sizes(), &noised, &sites)
    };
    let mut student = with_fresh_parts(&teacher, &plan, 5, &BTreeMap::new()).unwrap();
    let fresh: Vec<_> = sites.iter().map(|&site| student.part(plan.place(site)).train()).collect();
    let config = recipe.distill.clone().unwrap();
    let mut distiller = Distiller::new(sites.clone(), fresh, 16, 16, config, activations(70));
    let before = distiller.validate();
    for step in 0..40 {
        distiller = distiller.step(&activations(1000 + 10 * step)).unwrap().0;
    }
    for ((site, part, after), before) in distiller.best().into_iter().zip(before) {
        assert!(after < 0.9 * before, "{site}: {before} → {after}");
        student.place(plan.place(site), part.valid());
    }
    assert!((50..200).contains(&dropped.get()), "{dropped:?} of 246 prompts were dropped");
    let out = student.predict(&batch(3, 4).images, &[5.0, 500.0, 999.0], &[0, 2, NULL_PROMPT]);
    assert!(out.iter().all(|value| value.is_finite()));
}

/// Two steps of stage 2, and the names of what they changed.
fn changed_by(rest: &str) -> Vec<String> {
    let (teacher, recipe) = (teacher(), recipe(rest));
    let plan = planned(&recipe);
    let config = recipe.finetune.clone().unwrap();
    let student = with_fresh_parts(&teacher, &plan, 5, &BTreeMap::new()).unwrap();
    let values = |model: &Dit| {
        let mut found: BTreeMap<String, TensorData> = BTreeMap::new();
        crate::model::parameters(model, |name, data| drop(found.insert(name, data)));
        found
    };
    let before = values(&student);
    let mut tracked = student.train();
    if let Some(lora) = &config.lora {
        tracked = adapt(tracked, lora, &plan.sites, 3).unwrap();
    }
    let mut trainer = Trainer::new(tracked, sizes(), config, 0).guided(teacher, Vec::new());
    for step in 0..2 {
        let report;
        (trainer, report) = trainer.step(&batch(6, 20 + step)).unwrap();
        assert!(report.loss.is_finite() && report.grad_norm > 0.0);
    }
    let after = values(&trainer.ema_model().unwrap());
    assert!(after.keys().eq(before.keys()));
    after.into_iter().filter(|(name, data)| before[name] != *data).map(|(name, _)| name).collect()
}

#[test]
fn stage_2_trains_every_parameter() {
    let text = "[finetune]\nsteps = 4\nlr = 1e-2\nema = 0.5\nlabel-dropout = 0.3\n";
    let whole = changed_by(text);
    let mut names = Vec::new();
    crate::model::parameters(
        &with_fresh_parts(&teacher(), &planned(&recipe("")), 5, &BTreeMap::new()).unwrap(),
        |name, _| names.push(name),
    );
    names.sort();
    assert_eq!(whole, names);
    let again = changed_by(&format!("{text}activation-checkpointing = true\nobjective = \"both\"\n"));
    assert_eq!(again, names);
}

#[test]
fn adapters_stand_beside_attention_to_prompts_where_asked() {
    let text = "[finetune]\nsteps = 4\nlr = 1e-2\nema = 0.5\nmethod = \"lora\"\n";
    let layers = |layers: &str| {
        let changed = changed_by(&format!("{text}lora = {{ rank = 2, layers = [{layers}] }}\n"));
        let mut kinds: Vec<String> = changed
            .iter()
            .map(|name| {
                name.split('.').filter(|part| part.parse::<usize>().is_err()).collect::<Vec<_>>().join(".")
            })
            .collect();
        kinds.sort();
        kinds.dedup();
        kinds
    };
    let cross = ["kv_linear", "proj", "q_linear"].map(|layer| format!("blocks.cross_attn.{layer}.weight"));
    assert_eq!(layers("\"cross-attention\""), cross);
    assert_eq!(layers("\"ada-ln\""), ["t_block.weight"]);
    let grafted = layers("\"grafted\"");
    assert!(
        grafted.contains(&"blocks.attn.in_proj.weight".into()) && grafted.contains(&"merges.weight".into())
    );
    assert!(planned(&recipe("")).sites.contains(&Site::Operator(4, Slot::Attention)));
}
