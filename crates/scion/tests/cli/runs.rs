//! Run folders: data on disk, finished work, other recipes, full disks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::place::Place;
use super::{SMALL_MODEL, assert_names, fixture, listing, printed, refused, scion};

/// Paths, times and bytes of all files under a folder.
fn state(folder: &Path) -> Vec<(PathBuf, SystemTime, Vec<u8>)> {
    let mut files = Vec::new();
    for path in listing(folder).into_iter().map(|name| folder.join(name)) {
        if path.is_dir() {
            files.extend(state(&path));
        } else {
            let (time, bytes) = (fs::metadata(&path).unwrap().modified().unwrap(), fs::read(&path).unwrap());
            files.push((path, time, bytes));
        }
    }
    files
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
    assert_names(&refused(&mut place.run("distill"), 2), &["data.path is set", "compiled in"]);
    place.edit(&format!("path = {:?}\n", place.path("images")), "");
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
