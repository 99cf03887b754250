//! Grafting a text-to-image pipeline with prompts of one's own: what its teacher draws of them, or captioned latents.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use scion::checkpoint::Checkpoint;
use scion::model::Prompts;

use super::generate::pipeline;
use super::{assert_names, fixture, listing, printed, refused, scion};

const STAGES: &str = r#"[[graft]]
target = "attention"
blocks = [1]
operator = { kind = "hyena-x" }
[distill]
steps = 2
batch = 2
validation = 2
[finetune]
steps = 2
batch = 2
ema = 0.5
method = "lora"
lora = { rank = 2 }
[sample]
sampler = "dpm-solver++"
steps = 2
count = 10
[evaluate]
prompts = ["two cups", "a blue house"]
models = ["teacher", "stage2"]
latency-runs = 1
latency-batch = 1
"#;

/// A pipeline, and recipes for it.
struct Studio {
    folder: tempfile::TempDir,
}

impl Studio {
    fn new() -> Self {
        let studio = Self { folder: pipeline() };
        fs::write(studio.path("prompts.txt"), "A red Fox in the snow\n\ntwo cups\na dog\n").unwrap();
        studio
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a recipe with everything that the pipeline has.
    fn write(&self, data: &str, stages: &str) {
        self.write_with(&format!("text-encoder = {:?}\n", self.path("pipeline")), data, stages);
    }

    fn write_with(&self, model: &str, data: &str, stages: &str) {
        let [transformer, vae] = ["transformer", "vae"].map(|part| self.path("pipeline").join(part));
        let model = format!("[model]\ncheckpoint = {transformer:?}\nvae = {vae:?}\n{model}");
        fs::write(self.path("recipe.toml"), format!("seed = 4\n{model}[data]\n{data}{stages}")).unwrap();
    }

    fn run(&self, command: &str, out: &str) -> Command {
        let mut program = scion(command);
        program.arg(self.path("recipe.toml")).arg("--out").arg(self.path(out));
        program.env("SCION_CACHE", self.path("cache"));
        program
    }

    fn drawn(&self) -> String {
        format!("source = \"teacher\"\nprompts = {:?}\ncount = 7\ncfg = 3.0\n", self.path("prompts.txt"))
    }
}

fn record(path: &Path) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_teacher_draws_prompts_and_its_graft_the_same() {
    let studio = Studio::new();
    studio.write(&studio.drawn(), STAGES);
    printed(&mut studio.run("run", "run"));
    let run = studio.path("run");
    // What was drawn, of what, and how.
    let drawn = Checkpoint::open(&run.join("teacher-latents.safetensors")).unwrap();
    assert_eq!(drawn.entry("latents").unwrap().shape, [7, 4, 32, 32]);
    assert_eq!(drawn.metadata()["labels"], "[0,1,2,0,1,2,0]");
    let prompts = ["A red Fox in the snow", "two cups", "a dog", "a blue house"];
    assert_eq!(record(&run.join("prompts.json"))["prompts"], serde_json::json!(prompts));
    assert_eq!(Prompts::open(&run.join("prompts.safetensors")).unwrap().len(), 4);
    assert_names(
        &fs::read_to_string(run.join("recipe.toml")).unwrap(),
        &["cfg = 3.0", "steps = 2", "dpm-solver++"],
    );
    // Prompts of the evaluation are a row each, of pictures.
    assert_eq!(listing(&run.join("samples")), ["stage2.npz", "stage2.png", "teacher.npz", "teacher.png"]);
    assert_eq!(record(&run.join("results.json"))["prompts"], serde_json::json!(["two cups", "a blue house"]));
    assert_names(&fs::read_to_string(run.join("report.html")).unwrap(), &["Teacher: a blue house"]);
    // The graft is one that generate takes.
    let mut generate = scion("generate");
    generate.arg(studio.path("pipeline")).args(["two cups", "--steps", "2", "--transformer"]);
    generate.env("SCION_CACHE", studio.path("cache"));
    printed(generate.arg(run.join("stage2.safetensors")).arg("--out").arg(studio.path("cups.png")));
    // Other prompts are another run, even in a file of the same name.
    for name in ["results.json", "report.html"] {
        fs::remove_file(run.join(name)).unwrap();
    }
    fs::write(studio.path("prompts.txt"), "a cat\n").unwrap();
    assert_names(&refused(&mut studio.run("run", "run"), 1), &["prompts.json", "other prompts"]);
}

#[test]
fn what_is_lost_is_made_again_the_same() {
    let studio = Studio::new();
    studio.write(&studio.drawn(), STAGES);
    printed(&mut studio.run("distill", "whole"));
    printed(&mut studio.run("distill", "again"));
    let again = studio.path("again");
    for name in ["stage1.safetensors", "teacher-latents.safetensors", "prompts.safetensors"] {
        fs::remove_file(again.join(name)).unwrap();
    }
    printed(&mut studio.run("distill", "again"));
    for name in ["stage1.safetensors", "teacher-latents.safetensors", "prompts.safetensors"] {
        assert!(
            fs::read(again.join(name)).unwrap() == fs::read(studio.path("whole").join(name)).unwrap(),
            "{name}"
        );
    }
}

/// A prompt's embedding depends on the precision of the encoder's products, and on nothing that was computed before.
#[test]
fn embeddings_of_one_precision_are_not_those_of_another() {
    let studio = Studio::new();
    let draw = |cache: &str, precision: &str, out: &str| {
        let mut command = scion("generate");
        command.arg(studio.path("pipeline")).args(["two cups", "--steps", "2", "--precision", precision]);
        printed(command.env("SCION_CACHE", studio.path(cache)).arg("--out").arg(studio.path(out)));
        fs::read(studio.path(out)).unwrap()
    };
    let fresh = draw("fresh", "f32", "a.safetensors");
    draw("shared", "bf16", "b.safetensors");
    assert!(draw("shared", "f32", "c.safetensors") == fresh);
}

/// Images lie beside labels that another list of prompts would change.
#[test]
fn a_run_keeps_the_prompts_that_it_began_with() {
    let studio = Studio::new();
    let list = studio.path("shown.txt");
    fs::write(&list, "red apple\nred aple\n").unwrap();
    let recipe = format!(
        "[model]\ncheckpoint = \"embedded-emoji\"\n[data]\nsource = \"emoji\"\nfraction = 0.1\n{}",
        STAGES.replace("[\"two cups\", \"a blue house\"]", &format!("{list:?}"))
    );
    fs::write(studio.path("recipe.toml"), recipe).unwrap();
    assert_names(&refused(&mut studio.run("run", "run"), 2), &["\"red aple\"", "\"red apple\""]);
    // A slip that is mended before anything came of it is no other run.
    fs::write(&list, "Red apple\nrocket\n").unwrap();
    printed(&mut studio.run("run", "run"));
    let stage1 = record(&studio.path("run/stage1.json"));
    // 2 steps of 2 images over a tenth of 1,026 pictures without 2.
    let epochs = stage1[0]["epochs"].as_f64().unwrap();
    assert!((epochs - 4.0 / 101.0).abs() < 1e-3, "{epochs}");
    for name in ["results.json", "report.html", "samples/stage2.npz"] {
        fs::remove_file(studio.path("run").join(name)).unwrap();
    }
    fs::write(&list, "rocket\nred apple\n").unwrap();
    assert_names(&refused(&mut studio.run("run", "run"), 1), &["prompts.json", "other prompts"]);
}

#[test]
fn captioned_latents_are_learned_from() {
    let studio = Studio::new();
    let (images, latents) = (studio.path("images"), studio.path("latents"));
    fs::create_dir(&images).unwrap();
    let from = fixture("data/folder/cat");
    for name in listing(&from) {
        fs::copy(from.join(&name), images.join(&name)).unwrap();
        fs::write(images.join(&name).with_extension("txt"), format!("a cat, {name}")).unwrap();
    }
    let mut encode = scion("encode");
    encode
        .arg(&images)
        .arg("--vae")
        .arg(studio.path("pipeline/vae"))
        .args(["--size", "256", "--out"])
        .arg(&latents);
    printed(&mut encode);
    let data = format!("source = \"latents\"\npath = {latents:?}\n");
    let stages = STAGES
        .replace("validation = 2", "validation = 1")
        .replace("prompts = [\"two cups\", \"a blue house\"]\n", "");
    studio.write(&data, &stages);
    printed(&mut studio.run("run", "run"));
    let prompts = &record(&studio.path("run/prompts.json"))["prompts"];
    assert!(prompts[0].as_str().unwrap().starts_with("a cat, "), "{prompts}");
    // Latents with classes are nothing for it.
    let mut encode = scion("encode");
    encode.arg(fixture("data/folder")).arg("--vae").arg(studio.path("pipeline/vae"));
    printed(encode.args(["--size", "256", "--out"]).arg(studio.path("classes")));
    studio.write(&format!("source = \"latents\"\npath = {:?}\n", studio.path("classes")), &stages);
    assert_names(
        &refused(&mut studio.run("run", "other"), 1),
        &["classes: holds latents with classes", "NAME.txt"],
    );
}

#[test]
fn what_prompts_cannot_be_is_said() {
    let studio = Studio::new();
    let refused = |code: i32| refused(&mut studio.run("distill", "run"), code);
    studio.write_with("", &studio.drawn(), STAGES);
    assert_names(&refused(2), &["reads text of width 8", "model.text-encoder"]);
    studio.write("source = \"teacher\"\n", STAGES);
    assert_names(&refused(2), &["data.prompts is not set"]);
    studio.write("source = \"emoji\"\nprompts = \"x.txt\"\n", STAGES);
    assert_names(&refused(2), &["data.prompts", "source = \"teacher\""]);
    studio.write(&studio.drawn(), &STAGES.replace("[\"two cups\", \"a blue house\"]", "[]"));
    assert_names(&refused(2), &["a list of prompts is empty"]);
    studio.write(&studio.drawn(), &STAGES.replace("[\"two cups\", \"a blue house\"]", "\"none.txt\""));
    assert_names(&refused(1), &["none.txt"]);
    studio.write_with("text-encoder = \"nowhere\"\n", &studio.drawn(), STAGES);
    assert_names(&refused(1), &["nowhere/tokenizer: is missing"]);
    studio.write(&studio.drawn(), &STAGES.replace("[\"two cups\", \"a blue house\"]", "3"));
    assert_names(&refused(2), &["line", "a list of prompts, or the name of a text file"]);
    studio.write(&studio.drawn(), &format!("{STAGES}grid-columns = 0\n"));
    assert_names(&refused(2), &["evaluate.grid-columns"]);
    // A model of classes has no use for them.
    for (data, section, name) in [
        ("source = \"embedded\"", "[evaluate]\nprompts = [\"a cat\"]\n", "evaluate.prompts"),
        ("source = \"teacher\"\nprompts = \"prompts.txt\"", "", "data.prompts"),
    ] {
        let graft = "[[graft]]\ntarget = \"mlp\"\nblocks = [0]\noperator = { kind = \"mlp\", ratio = 3 }\n[distill]\nsteps = 1\n";
        let recipe = format!("[model]\ncheckpoint = \"embedded\"\n[data]\n{data}\n{graft}{section}");
        fs::write(studio.path("recipe.toml"), recipe).unwrap();
        assert_names(&refused(2), &[name, "conditioned on classes"]);
    }
    // A text encoder of another model is told before it encodes anything.
    let data = "source = \"emoji\"\n";
    let model =
        format!("[model]\ncheckpoint = \"embedded-emoji\"\ntext-encoder = {:?}\n", studio.path("pipeline"));
    fs::write(studio.path("recipe.toml"), format!("{model}[data]\n{data}{STAGES}")).unwrap();
    assert_names(&refused(1), &["text_encoder: makes tokens of width 8", "width 384"]);
    // The embedded texts are all that is known without a text encoder.
    let embedded = "[model]\ncheckpoint = \"embedded-emoji\"\n[data]\nsource = \"emoji\"\n";
    let stages = STAGES.replace("two cups", "a grinning face");
    fs::write(studio.path("recipe.toml"), format!("{embedded}{stages}")).unwrap();
    assert_names(&refused(2), &["\"a grinning face\"", "the nearest of", "\"grinning face\""]);
}
