//! Text-to-image models on captioned pictures: trained, grafted, drawn from.

use std::fs;

use scion::data::samples::read_samples;

use super::{assert_names, listing, printed, refused, scion};

/// A tiny text-to-image model: 16 tokens of width 16.
const SIZES: &str = "[model.sizes]\ninput_size = 64\npatch = 16\nin_channels = 3\nhidden = 16\ndepth = 2\nheads = 2\n\
                     text = { width = 384, tokens = 16 }\n";

#[test]
fn captioned_pictures_train_a_model_that_is_grafted_and_drawn_from() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let pretrain =
        |data: &str| format!("{SIZES}[data]\nsource = \"{data}\"\n[pretrain]\nsteps = 2\nbatch = 4\n");
    fs::write(path("faulty.toml"), pretrain("embedded")).unwrap();
    let message = refused(scion("pretrain").arg(path("faulty.toml")).arg("--out").arg(path("faulty")), 2);
    assert_names(&message, &["text-to-image", "data.source = \"emoji\"", "data.prompts"]);
    fs::write(path("teacher.toml"), pretrain("emoji")).unwrap();
    printed(scion("pretrain").arg(path("teacher.toml")).arg("--out").arg(path("teacher")));
    let teacher = path("teacher").join("model.safetensors");
    let recipe = format!(
        "[model]\ncheckpoint = {teacher:?}\n[data]\nsource = \"emoji\"\n[[graft]]\ntarget = \"attention\"\nblocks = \"all\"\n\
         operator = {{ kind = \"hyena-x\" }}\n[distill]\nsteps = 2\nbatch = 4\nvalidation = 4\n[finetune]\nsteps = 2\nbatch = 4\n\
         [sample]\nsampler = \"dpm-solver++\"\nsteps = 2\ncfg = 2.0\ncount = 12\n[evaluate]\nlatency-runs = 1\nlatency-batch = 2\n"
    );
    fs::write(path("graft.toml"), recipe).unwrap();
    printed(scion("run").arg(path("graft.toml")).arg("--out").arg(path("run")));
    let samples = path("run").join("samples");
    assert!(listing(&samples).contains(&"stage2.png".to_string()), "{:?}", listing(&samples));
    let drawn = read_samples(&samples.join("stage2.npz")).unwrap();
    assert_eq!((drawn.len(), drawn.shape().len()), (12, 3 * 64 * 64));
    // Spread over the captions.
    assert_eq!(drawn.labels()[..4], [0, 85, 171, 256]);
    assert_names(&fs::read_to_string(path("run").join("report.html")).unwrap(), &["hyena-x"]);
    let class = "[model]\ncheckpoint = \"embedded\"\n[data]\nsource = \"emoji\"\n[[graft]]\ntarget = \"mlp\"\nblocks = [0]\n\
                 operator = { kind = \"mlp\", ratio = 3 }\n[distill]\nsteps = 1\nbatch = 2\nvalidation = 2\n";
    fs::write(path("class.toml"), class).unwrap();
    let message = refused(scion("distill").arg(path("class.toml")).arg("--out").arg(path("class")), 2);
    assert_names(&message, &["64×64", "found 28"]);
}

#[test]
fn the_embedded_model_draws_captions_it_knows() {
    let folder = tempfile::tempdir().unwrap();
    let generate = |out: &str, rest: &[&str]| {
        let mut command = scion("generate");
        command.args(["embedded-emoji", "--steps", "2", "--out"]).arg(folder.path().join(out)).args(rest);
        command
    };
    printed(&mut generate("apple.png", &["red apple", "--count", "3"]));
    let sheet = image::open(folder.path().join("apple.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (3 * 64 + 2 * 2, 64));
    printed(&mut generate("apple.safetensors", &["red apple"]));
    let message = refused(&mut generate("x.png", &["a redd apple"]), 2);
    assert_names(&message, &["\"a redd apple\"", "the nearest of", "\"red apple\""]);
    let message = refused(&mut generate("x.png", &["red apple", "--negative", "blurry"]), 2);
    assert_names(&message, &["embedded-emoji has no text encoder"]);
    let message =
        refused(scion("sample").args(["embedded-emoji", "--out"]).arg(folder.path().join("y.png")), 2);
    assert_names(&message, &["text-to-image model", "scion generate"]);
}

#[test]
fn the_embedded_model_is_analysed_and_planned_by_locality() {
    let folder = tempfile::tempdir().unwrap();
    let mut analyze = scion("analyze");
    analyze.args([
        "embedded-emoji",
        "--samples",
        "4",
        "--steps",
        "2",
        "--images",
        "4",
        "--frechet",
        "0",
        "--out",
    ]);
    printed(analyze.arg(folder.path().join("analysis")));
    assert_names(
        &fs::read_to_string(folder.path().join("analysis/analysis.html")).unwrap(),
        &["embedded emoji, which the model may have learned from"],
    );
    let recipe = "[model]\ncheckpoint = \"embedded-emoji\"\n[data]\nsource = \"emoji\"\n[locality]\nsamples = 4\nsteps = 2\n\
                  [[graft]]\ntarget = \"attention\"\nblocks = { most-local = 0.5 }\noperator = { kind = \"hyena-x\" }\n";
    fs::write(folder.path().join("local.toml"), recipe).unwrap();
    assert_names(&printed(scion("plan").arg(folder.path().join("local.toml"))), &["hyena-x"]);
}
