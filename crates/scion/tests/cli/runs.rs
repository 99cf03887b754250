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
    /// Images are those of the fixtures: cat and dog, three each.
    fn new() -> Self {
        let place = Self { root: tempfile::tempdir().unwrap() };
        for class in ["cat", "dog"] {
            let from = fixture("data/folder").join(class);
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
    let sizes = "[model.sizes]\ninput_size = 8\npatch = 4\nin_channels = 3\nhidden = 8\ndepth = 1\nheads = 2\nnum_classes = 2\n";
    let data = format!("[data]\nsource = \"image-folder\"\npath = {:?}\n", place.path("images"));
    fs::write(place.recipe(), format!("{sizes}{data}[pretrain]\nsteps = 2\nbatch = 2\n")).unwrap();
    assert_names(&printed(&mut place.run("pretrain")), &["done: ", "model.safetensors"]);
    let before = state(&place.path("run"));
    assert_names(&printed(&mut place.run("pretrain")), &["nothing to do", "model.safetensors"]);
    assert!(before == state(&place.path("run")));
    let text = printed(scion("inspect").arg(place.path("run/model.safetensors")));
    assert_names(&text, &["width 8, 1 blocks, 2 heads", "of 3×8×8", "2 classes"]);
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
fn recipes_without_what_a_command_needs_are_refused() {
    let place = Place::new();
    assert_names(&refused(&mut place.run("pretrain"), 2), &["[pretrain]"]);
    place.edit("[finetune]\nsteps = 2\nbatch = 2\n", "");
    fs::remove_dir_all(place.path("run")).ok();
    assert_names(&refused(&mut place.run("finetune"), 2), &["[finetune]"]);
    let place = Place::new();
    place.edit("validation = 2", "validation = 6");
    assert_names(&refused(&mut place.run("distill"), 2), &["distill.validation", "6"]);
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
