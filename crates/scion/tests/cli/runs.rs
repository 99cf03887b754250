//! Run folders: data on disk, finished work, other recipes, full disks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use assert_cmd::Command;

use super::{SMALL_MODEL, assert_names, fixture, listing, printed, refused, scion};

/// A place with a recipe that grafts the small model on a folder of small images.
struct Place {
    root: tempfile::TempDir,
}

impl Place {
    /// Images are those of the fixtures, cat and dog, three each; other classes repeat the cats.
    fn new() -> Self {
        let place = Self { root: tempfile::tempdir().unwrap() };
        for (class, source) in
            [("cat", "cat"), ("dog", "dog"), ("eel", "cat"), ("fox", "cat"), ("owl", "cat")]
        {
            let from = fixture("data/folder").join(source);
            let to = place.path("images").join(class);
            fs::create_dir_all(&to).unwrap();
            for name in listing(&from) {
                fs::copy(from.join(&name), to.join(name)).unwrap();
            }
        }
        let recipe = format!(
            r#"seed = 5
[model]
checkpoint = {:?}
heads = 3
[data]
source = "image-folder"
path = {:?}
[[graft]]
target = "attention"
blocks = {{ interleaved = 0.5 }}
operator = {{ kind = "hyena-x" }}
[distill]
steps = 3
batch = 2
validation = 2
[finetune]
steps = 2
batch = 2
"#,
            fixture(SMALL_MODEL).canonicalize().unwrap(),
            place.path("images")
        );
        fs::write(place.recipe(), recipe).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn recipe(&self) -> PathBuf {
        self.path("recipe.toml")
    }

    fn edit(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.recipe()).unwrap();
        assert!(text.contains(from));
        fs::write(self.recipe(), text.replace(from, to)).unwrap();
    }

    /// A command on the recipe with its run in the folder `run`.
    fn run(&self, command: &str) -> Command {
        let mut program = scion(command);
        program.arg(self.recipe()).arg("--out").arg(self.path("run"));
        program
    }
}

/// Names, times and bytes of a folder's files.
fn state(folder: &Path) -> Vec<(String, SystemTime, Vec<u8>)> {
    let entry = |name: String| {
        let path = folder.join(&name);
        (name, fs::metadata(&path).unwrap().modified().unwrap(), fs::read(path).unwrap())
    };
    listing(folder).into_iter().map(entry).collect()
}

#[test]
fn finished_stages_are_left_as_they_are() {
    let place = Place::new();
    let run = place.path("run");
    for (command, file) in [("distill", "stage1.safetensors"), ("finetune", "stage2.safetensors")] {
        assert_names(&printed(&mut place.run(command)), &["done: ", file]);
        let before = state(&run);
        assert_names(&printed(&mut place.run(command)), &["nothing to do", file]);
        assert!(before == state(&run), "{command}: files changed: {:?}", listing(&run));
    }
    let text = printed(scion("inspect").arg(run.join("stage2.safetensors")));
    assert_names(&text, &["width 24, 3 blocks", "attention: hyena-x"]);
    let names = listing(&run);
    assert!(!names.iter().any(|name| name.contains("state") || name.contains("tmp")), "{names:?}");
    assert_names(&refused(scion("report").arg(&run), 1), &["results.json"]);
}

#[test]
fn a_trained_model_is_left_as_it_is() {
    let place = Place::new();
    let sizes = "[model.sizes]\ninput_size = 8\npatch = 4\nin_channels = 3\nhidden = 8\ndepth = 1\nheads = 2\nnum_classes = 5\n";
    let data = format!("[data]\nsource = \"image-folder\"\npath = {:?}\n", place.path("images"));
    fs::write(place.recipe(), format!("{sizes}{data}[pretrain]\nsteps = 2\nbatch = 2\n")).unwrap();
    assert_names(&printed(&mut place.run("pretrain")), &["done: ", "model.safetensors"]);
    let before = state(&place.path("run"));
    assert_names(&printed(&mut place.run("pretrain")), &["nothing to do", "model.safetensors"]);
    assert!(before == state(&place.path("run")));
    let text = printed(scion("inspect").arg(place.path("run/model.safetensors")));
    assert_names(&text, &["width 8, 1 blocks, 2 heads", "of 3×8×8", "5 classes"]);
}

#[test]
fn a_run_of_another_recipe_is_refused() {
    let place = Place::new();
    printed(&mut place.run("distill"));
    let before = state(&place.path("run"));
    for changed in [&["--seed", "6"][..], &["--skip-broken"]] {
        let message = refused(place.run("distill").args(changed), 1);
        assert_names(&message, &["run", "another recipe", "--out"]);
    }
    place.edit("steps = 3", "steps = 4");
    assert_names(&refused(&mut place.run("finetune"), 1), &["another recipe"]);
    assert!(before == state(&place.path("run")));
}

#[test]
fn auto_goes_on_in_the_precision_it_began_with() {
    let place = Place::new();
    place.edit("seed = 5", "seed = 5\nprecision = \"auto\"");
    printed(&mut place.run("distill"));
    let kept = place.path("run/recipe.toml");
    let text = fs::read_to_string(&kept).unwrap();
    let [f32, bf16] = ["f32", "bf16"].map(|name| format!("precision = \"{name}\""));
    // As if the machine had found the other one then.
    let other = if text.contains(&f32) { text.replace(&f32, &bf16) } else { text.replace(&bf16, &f32) };
    assert_ne!(text, other);
    fs::write(&kept, &other).unwrap();
    assert_names(&printed(&mut place.run("distill")), &["nothing to do"]);
    assert_eq!(fs::read_to_string(&kept).unwrap(), other);
}

#[test]
fn a_run_that_did_nothing_yet_takes_another_recipe() {
    let place = Place::new();
    let path = format!("{:?}", place.path("images"));
    place.edit(&path, "\"no/such/folder\"");
    assert_names(&refused(&mut place.run("distill"), 1), &["no/such/folder"]);
    place.edit("\"no/such/folder\"", &path);
    printed(&mut place.run("distill"));
}

#[test]
fn a_recipe_in_the_output_folder_is_the_users() {
    let place = Place::new();
    let before = fs::read(place.recipe()).unwrap();
    for _ in 0..2 {
        let mut program = scion("distill");
        let message = refused(program.arg(place.recipe()).arg("--out").arg(place.root.path()), 1);
        assert_names(&message, &["another recipe"]);
        assert!(fs::read(place.recipe()).unwrap() == before);
    }
}

#[test]
fn a_run_of_another_teacher_is_refused() {
    let place = Place::new();
    let teacher = place.path("teacher.safetensors");
    let train = |seed: &str| {
        let sizes = "[model.sizes]\ninput_size = 12\npatch = 4\nin_channels = 3\nhidden = 8\ndepth = 2\nheads = 2\nnum_classes = 5\n";
        let data = format!("[data]\nsource = \"image-folder\"\npath = {:?}\n", place.path("images"));
        let (recipe, run) = (place.path("pretrain.toml"), place.path("pretraining"));
        fs::write(&recipe, format!("{sizes}{data}[pretrain]\nsteps = 1\nbatch = 2\n")).unwrap();
        printed(scion("pretrain").arg(&recipe).args(["--seed", seed, "--out"]).arg(&run));
        fs::rename(run.join("model.safetensors"), &teacher).unwrap();
        fs::remove_dir_all(&run).unwrap();
    };
    train("1");
    let old = format!("{:?}\nheads = 3\n", fixture(SMALL_MODEL).canonicalize().unwrap());
    place.edit(&old, &format!("{teacher:?}\n"));
    printed(&mut place.run("distill"));
    train("2");
    assert_names(&refused(&mut place.run("finetune"), 1), &["run", "teacher with other weights"]);
    train("1");
    printed(&mut place.run("finetune"));
}

#[test]
fn other_peoples_files_are_left_alone() {
    let place = Place::new();
    fs::create_dir(place.path("run")).unwrap();
    fs::write(place.path("run/.notes.tmp"), "mine").unwrap();
    printed(&mut place.run("distill"));
    assert_eq!(fs::read_to_string(place.path("run/.notes.tmp")).unwrap(), "mine");
}

#[cfg(target_os = "linux")]
#[test]
fn two_processes_do_not_share_a_run() {
    let place = Place::new();
    place.edit("[distill]\nsteps = 3", "[distill]\nsteps = 1000000");
    let mut first = std::process::Command::new(assert_cmd::cargo::cargo_bin!("scion"));
    first.args(["--quiet", "distill"]).arg(place.recipe()).arg("--out").arg(place.path("run"));
    let mut first = first.spawn().unwrap();
    while !place.path("run/metrics.jsonl").exists() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let message = refused(&mut place.run("distill"), 1);
    first.kill().unwrap();
    first.wait().unwrap();
    assert_names(&message, &["run", "another scion process"]);
}

/// The main job in small: every stage, four models drawn and scored, the report.
#[test]
fn a_whole_run_ends_in_a_report() {
    let root = tempfile::tempdir().unwrap();
    let (recipe, run) = (root.path().join("small.toml"), root.path().join("run"));
    let text = r#"seed = 2
[model]
checkpoint = "embedded"
[[graft]]
target = "attention"
blocks = [3]
operator = { kind = "hyena-x" }
[distill]
steps = 2
batch = 4
validation = 10
[finetune]
steps = 2
batch = 4
[sample]
steps = 2
cfg = 2.0
count = 20
[evaluate]
latency-runs = 2
latency-batch = 2
"#;
    fs::write(&recipe, text).unwrap();
    let command = || {
        let mut program = scion("run");
        program.arg(&recipe).arg("--out").arg(&run);
        program
    };
    assert_names(&printed(&mut command()), &["done: ", "report.html"]);
    let results = fs::read_to_string(run.join("results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_str(&results).unwrap();
    let models = results["models"].as_array().unwrap();
    assert_eq!(
        models.iter().map(|m| &m["name"]).collect::<Vec<_>>(),
        ["teacher", "untrained", "stage1", "stage2"]
    );
    for model in models {
        assert_eq!(model["samples"], 20);
        assert!(model["frechet"]["value"].as_f64().unwrap() > 0.0, "{model}");
        assert!(model["latency_ms"].as_f64().unwrap() > 0.0, "{model}");
    }
    assert_eq!(results["floor"]["samples"], 20);
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(page.contains("After stage 2") && page.contains("data:image/png;base64"));
    assert_eq!(
        listing(&run.join("samples")),
        [
            "stage1.npz",
            "stage1.png",
            "stage2.npz",
            "stage2.png",
            "teacher.npz",
            "teacher.png",
            "untrained.npz",
            "untrained.png"
        ]
    );
    assert_names(&printed(&mut command()), &["nothing to do", "report.html"]);

    // What is lost is made again, the same as before.
    let images = fs::read(run.join("samples/stage2.npz")).unwrap();
    for name in ["report.html", "results.json", "samples/stage2.npz"] {
        fs::remove_file(run.join(name)).unwrap();
    }
    printed(&mut command());
    assert!(fs::read(run.join("samples/stage2.npz")).unwrap() == images);
    assert!(fs::read_to_string(run.join("report.html")).unwrap().contains("After stage 2"));
}

/// No data set: the teacher draws, once, the images that both stages see.
#[test]
fn a_teacher_draws_the_images() {
    let drawn_by = |batch: usize| {
        let place = Place::new();
        let data = format!("source = \"image-folder\"\npath = {:?}\n", place.path("images"));
        place.edit(&data, "source = \"teacher\"\ncount = 12\nsteps = 2\ncfg = 2.0\n");
        place.edit("[finetune]\n", &format!("[sample]\nbatch = {batch}\n[finetune]\nobjective = \"both\"\n"));
        place
    };
    let place = drawn_by(64);
    printed(&mut place.run("distill"));
    let images = place.path("run/teacher-images.npz");
    let (before, written) = (fs::read(&images).unwrap(), fs::metadata(&images).unwrap().modified().unwrap());
    let set = scion::data::samples::read_samples(&images).unwrap();
    assert_eq!((set.len(), &set.labels()[..7]), (12, &[0, 1, 2, 3, 4, 0, 1][..]));
    printed(&mut place.run("finetune"));
    assert_eq!(fs::metadata(&images).unwrap().modified().unwrap(), written, "drawn twice");
    assert!(!listing(&place.path("run")).contains(&"teacher-images.parts".to_string()));
    let log = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    for term in ["loss", "mse", "vb", "teacher_noise", "teacher_variance"] {
        assert!(last[term].as_f64().unwrap() > 0.0, "{term} in {last}");
    }
    assert!(last.get("teacher_blocks").is_none(), "{last}");
    let kept = fs::read_to_string(place.path("run/recipe.toml")).unwrap();
    assert_names(&kept, &["count = 12", "objective = \"both\"", "variance = 1.0", "diffusion = 1.0"]);

    // Images depend on the seed and their number alone.
    let other = drawn_by(5);
    printed(&mut other.run("distill"));
    assert!(fs::read(other.path("run/teacher-images.npz")).unwrap() == before);
    let mut again = scion("distill");
    printed(again.arg(other.recipe()).args(["--seed", "6", "--out"]).arg(other.path("other-seed")));
    assert!(fs::read(other.path("other-seed/teacher-images.npz")).unwrap() != before);

    // A run that has drawn images is one of its recipe.
    fs::remove_file(place.path("run/stage1.safetensors")).unwrap();
    fs::remove_file(place.path("run/stage2.safetensors")).unwrap();
    fs::remove_file(place.path("run/metrics.jsonl")).unwrap();
    place.edit("count = 12", "count = 13");
    assert_names(&refused(&mut place.run("distill"), 1), &["another recipe"]);
}

#[test]
fn adapters_end_in_a_plain_model() {
    let place = Place::new();
    place.edit(
        "[finetune]\n",
        "[finetune]\nmethod = \"lora\"\nema = 0.5\nlora = { rank = 4, full = [\"grafted\"] }\n",
    );
    printed(&mut place.run("finetune"));
    let weights = |name: &str| {
        let file = scion::checkpoint::Checkpoint::open(&place.path("run").join(name)).unwrap();
        let names: Vec<String> = file.names().map(String::from).collect();
        names.into_iter().map(|name| (name.clone(), file.read_f32(&name).unwrap())).collect::<Vec<_>>()
    };
    let (before, after) = (weights("stage1.safetensors"), weights("stage2.safetensors"));
    assert_eq!(before.len(), after.len());
    for ((name, before), (same, after)) in before.iter().zip(&after) {
        assert_eq!(name, same);
        let grafted = name.starts_with("blocks.1.attn.");
        let adapted = name.ends_with("weight") && (name.contains(".attn.") || name.contains(".mlp.fc"));
        assert_eq!(before != after, grafted || adapted, "{name}");
    }
    let text = printed(scion("inspect").arg(place.path("run/stage2.safetensors")));
    assert_names(&text, &["width 24, 3 blocks", "attention: hyena-x"]);
}

#[test]
fn rules_of_locality_can_stand_side_by_side() {
    let place = Place::new();
    place.edit(
        "[[graft]]",
        "[locality]\nk = 1\nsamples = 2\nsteps = 2\n[[graft]]\ntarget = \"attention\"\nblocks = { most-local = 1 }\n\
         operator = { kind = \"sliding-window\", left = 1, right = 1 }\n[[graft]]",
    );
    place.edit("{ interleaved = 0.5 }", "{ least-local = 1 }");
    printed(&mut place.run("plan"));
    printed(&mut place.run("distill"));
    assert!(place.path("run").join("locality.json").exists());
}

#[test]
fn adapters_need_something_to_adapt() {
    let place = Place::new();
    place.edit(
        "[finetune]",
        "[finetune]\nema = 0.4\nmethod = \"lora\"\nlora = { layers = [], full = [\"grafted\"] }",
    );
    let whole = fs::read_to_string(place.recipe()).unwrap();
    let (head, rest) = whole.split_once("[[graft]]").unwrap();
    let stages = rest.split_once("[distill]").unwrap().1;
    let drop = "[[restructure]]\nkind = \"drop\"\nblocks = [1]\n";
    fs::write(place.recipe(), format!("{head}{drop}[distill]{stages}")).unwrap();
    let message = refused(&mut place.run("finetune"), 2);
    assert_names(&message, &["finetune.lora", "trains nothing", "layers", "full"]);
}

#[test]
fn inherited_operators_start_nearer_to_the_teacher() {
    let place = Place::new();
    let grafts = |init: &str| {
        format!(
            "[[graft]]\ntarget = \"attention\"\nblocks = [0]\ninit = \"{init}\"\n\
             operator = {{ kind = \"sliding-window\", left = 4, right = 4 }}\n\
             [[graft]]\ntarget = \"mlp\"\nblocks = [1]\ninit = \"{init}\"\noperator = {{ kind = \"mlp\", ratio = 2.0 }}\n\
             [[graft]]\ntarget = \"mlp\"\nblocks = [2]\noperator = {{ kind = \"identity\" }}\n[distill]"
        )
    };
    let whole = fs::read_to_string(place.recipe()).unwrap();
    let (head, rest) = whole.split_once("[[graft]]").unwrap();
    let stages = rest.split_once("[distill]").unwrap().1;
    let losses = ["random", "inherit"].map(|init| {
        fs::write(place.recipe(), format!("{head}{}{stages}", grafts(init))).unwrap();
        printed(scion("distill").arg(place.recipe()).arg("--out").arg(place.path(init)));
        let rows = fs::read_to_string(place.path(init).join("stage1.json")).unwrap();
        let rows: Vec<serde_json::Value> = serde_json::from_str(&rows).unwrap();
        assert_eq!(rows.len(), 2, "the identity has nothing to learn");
        let named = rows.iter().all(|row| row["operator"].as_str().unwrap().ends_with(", inherited"));
        assert_eq!(named, init == "inherit");
        rows.iter().map(|row| row["val_first"].as_f64().unwrap()).collect::<Vec<_>>()
    });
    assert!(
        losses[1].iter().zip(&losses[0]).all(|(inherited, random)| inherited < &(0.8 * random)),
        "{losses:?}"
    );
    place.edit("kind = \"sliding-window\", left = 4, right = 4", "kind = \"sliding-window\", heads = 1");
    let message = refused(&mut place.run("plan"), 2);
    assert_names(&message, &["sliding-window", "cannot inherit", "1 heads instead of 3"]);
}

#[test]
fn a_report_is_made_of_the_stages_and_models_that_a_recipe_has() {
    let place = Place::new();
    let sections = "[sample]\nsteps = 2\ncount = 10\n[evaluate]\nmodels = [\"untrained\", \"stage1\", \"stage2\"]\nlatency-runs = 1\nlatency-batch = 1\n";
    place.edit("[distill]\nsteps = 3\nbatch = 2\nvalidation = 2\n", sections);
    assert_names(&printed(&mut place.run("run")), &["done: ", "report.html"]);
    let drawn = ["stage2.npz", "stage2.png", "untrained.npz", "untrained.png"];
    assert_eq!(listing(&place.path("run/samples")), drawn);
    let results = fs::read_to_string(place.path("run/results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_str(&results).unwrap();
    let models = results["models"].as_array().unwrap();
    assert_eq!(models.iter().map(|m| &m["name"]).collect::<Vec<_>>(), ["untrained", "stage2"]);

    place.edit("[finetune]\nsteps = 2\nbatch = 2\n", "");
    assert_names(&refused(&mut place.run("run"), 2), &["[distill] or [finetune]"]);
    place.edit("models = [\"untrained\", \"stage1\", \"stage2\"]", "models = []");
    assert_names(&refused(&mut place.run("run"), 2), &["evaluate.models is empty"]);
}

#[test]
fn recipes_without_what_a_command_needs_are_refused() {
    let place = Place::new();
    assert_names(&refused(&mut place.run("pretrain"), 2), &["[pretrain]"]);
    place.edit("[finetune]\nsteps = 2\nbatch = 2\n", "");
    assert_names(&refused(&mut place.run("finetune"), 2), &["[finetune]"]);
    assert!(!place.path("run").exists(), "refused only after some work");
    let place = Place::new();
    place.edit("validation = 2", "validation = 15");
    assert_names(&refused(&mut place.run("distill"), 2), &["distill.validation", "15"]);
    let place = Place::new();
    place.edit("image-folder", "embedded");
    assert_names(&refused(&mut place.run("distill"), 2), &["[1, 28, 28]", "12×12"]);
    let place = Place::new();
    place.edit("heads = 3\n", "");
    assert_names(&refused(&mut place.run("distill"), 2), &["give --heads"]);
}

#[test]
fn missing_and_empty_image_folders_are_named() {
    let place = Place::new();
    fs::rename(place.path("images/dog"), place.path("dog")).unwrap();
    let message = refused(&mut place.run("distill"), 2);
    assert_names(&message, &["4 classes (cat to owl)", "the model 5", "one folder for each"]);
    fs::create_dir(place.path("images/dog")).unwrap();
    assert_names(&refused(&mut place.run("distill"), 1), &["dog", "image"]);
    fs::remove_dir_all(place.path("images")).unwrap();
    assert_names(&refused(&mut place.run("distill"), 1), &["images"]);
    fs::create_dir(place.path("images")).unwrap();
    assert_names(&refused(&mut place.run("distill"), 1), &["images", "class"]);
}

#[test]
fn broken_images_stop_a_run_or_are_left_out() {
    let place = Place::new();
    fs::write(place.path("images/cat/broken.png"), "no image").unwrap();
    let whole = fs::read(place.path("images/dog/full.jpg")).unwrap();
    fs::write(place.path("images/dog/half.png"), &whole[..20]).unwrap();
    let message = refused(&mut place.run("distill"), 1);
    assert_names(&message, &["2 broken", "broken.png", "half.png", "skip-broken"]);

    let place_out = place.path("skipped");
    let mut program = assert_cmd::cargo::cargo_bin_cmd!("scion");
    let output = program.arg("distill").arg(place.recipe()).arg("--skip-broken").arg("--out").arg(&place_out);
    let output = output.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_names(&said, &["broken.png", "half.png"]);
    assert_eq!(said.matches("cat/broken.png").count(), 1, "said more than once: {said}");
    assert!(place_out.join("stage1.safetensors").exists());
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_a_run_that_can_go_on() {
    let place = Place::new();
    let message = refused(&mut super::on_full_disk(&place.run("distill")), 1);
    assert_names(&message, &["cannot write", "stage1.safetensors"]);
    let names = listing(&place.path("run"));
    assert!(
        !names.iter().any(|name| name.starts_with("stage1.safetensors") || name.contains("tmp")),
        "{names:?}"
    );
    printed(&mut place.run("distill"));
    let unbroken = Place::new();
    printed(&mut unbroken.run("distill"));
    let model = |place: &Place| fs::read(place.path("run/stage1.safetensors")).unwrap();
    assert!(model(&place) == model(&unbroken));
}
