//! Latent models: encoding a folder of images, training on latents, pictures of what is drawn.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use scion::checkpoint::{Checkpoint, Precision, TensorSource, write_safetensors};
use scion::data::samples::read_samples;
use scion::data::{LatentSet, from_unit};
use scion::latent::Autoencoder;

use super::{SMALL_MODEL, assert_names, fixture, listing, printed, read_tensor, refused, scion};

/// An autoencoder of factor 4 with latents of 4 channels.
fn vae() -> PathBuf {
    fixture("latent/sd").canonicalize().unwrap()
}

/// Writes tensors, of the shapes given, for `scion forward`.
fn write(path: &Path, tensors: &[(&str, Vec<usize>, Vec<f32>)]) {
    let source = |(name, shape, values): &(&str, Vec<usize>, Vec<f32>)| {
        let values = values.clone();
        TensorSource::new((*name).into(), shape.clone(), move || Ok(values.clone()))
    };
    let sources: Vec<_> = tensors.iter().map(source).collect();
    write_safetensors(path, &sources, Precision::F32, &Default::default()).unwrap();
}

fn close(found: &[f32], expected: &[f32]) -> bool {
    let top = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-4 * top)
}

#[test]
fn forward_encodes_and_decodes() {
    let folder = tempfile::tempdir().unwrap();
    let (inputs, golden) = (folder.path().join("in.safetensors"), fixture("latent/sd.safetensors"));
    let forward = |output: &str| {
        let mut command = scion("forward");
        command.arg(vae()).arg("--inputs").arg(&inputs).arg("--output").arg(folder.path().join(output));
        command
    };
    for (input, part, shape, out) in
        [("image", "mean", [2, 3, 12, 20], [2, 4, 3, 5]), ("latent", "decoded", [2, 4, 3, 5], [2, 3, 12, 20])]
    {
        // The same twice, so that both come out.
        let values = read_tensor(&golden, &format!("odd.{input}")).repeat(2);
        write(&inputs, &[(input, shape.into(), values)]);
        printed(&mut forward(&format!("{part}.safetensors")));
        let file = folder.path().join(format!("{part}.safetensors"));
        assert_eq!(Checkpoint::open(&file).unwrap().entry("out").unwrap().shape, out);
        let expected = read_tensor(&golden, &format!("odd.{part}")).repeat(2);
        assert!(close(&read_tensor(&file, "out"), &expected), "{part}");
    }
    write(&inputs, &[("image", vec![1, 1, 8, 8], vec![0.0; 64])]);
    assert_names(&refused(&mut forward("x"), 1), &["image [1, 1, 8, 8]", "expected 3 channels"]);
    write(&inputs, &[("image", vec![3, 8, 8], vec![0.0; 192])]);
    assert_names(&refused(&mut forward("x"), 1), &["image [3, 8, 8]", "image [N,C,H,W]"]);
    write(&inputs, &[("x", vec![1], vec![0.0])]);
    assert_names(&refused(&mut forward("x"), 1), &["holds 0 of the tensors", "latent [N,C,h,w]"]);
    write(&inputs, &[("image", vec![1, 3, 3, 8], vec![0.0; 72])]);
    assert_names(&refused(&mut forward("x"), 2), &["an image of 3×8", "at least 4×4"]);
    assert!(!folder.path().join("x").exists());
}

/// Cats and dogs of the fixtures encoded into `name`, to latents of 8×8.
fn encode(root: &Path, name: &str, more: &[&str]) -> Command {
    encode_sized(root, name, "32", more)
}

fn encode_sized(root: &Path, name: &str, size: &str, more: &[&str]) -> Command {
    let mut command = scion("encode");
    command.arg(fixture("data/folder")).arg("--vae").arg(vae()).arg("--out").arg(root.join(name));
    command.args(["--size", size]).args(more);
    command
}

#[test]
fn a_folder_is_encoded_once_and_gone_on_with() {
    let root = tempfile::tempdir().unwrap();
    let latents = root.path().join("latents");
    assert_names(&printed(&mut encode(root.path(), "latents", &["--flip"])), &["6 images in "]);
    assert_eq!(listing(&latents), ["latents.json", "shard-00000.safetensors"]);
    let set = LatentSet::open(&latents).unwrap();
    assert_eq!((set.labels(), set.class_names().len()), (&[0, 0, 0, 1, 1, 1][..], 2));
    assert_eq!((set.settings().shape, set.settings().size), ([4, 8, 8], 32));
    assert_eq!(set.settings().scaling_factor, 0.18215);
    // What is stored is what the autoencoder makes of the image and of its mirror.
    let options = scion::data::FolderOptions::new(32);
    let (images, _) = scion::data::open_folder(&fixture("data/folder"), &options).unwrap();
    let autoencoder = Autoencoder::open(&vae(), scion_kernels::Precision::F32).unwrap();
    for mirrored in [false, true] {
        let mut pixels = images.read(&[4]).unwrap();
        if mirrored {
            pixels.chunks_exact_mut(32).for_each(<[u8]>::reverse);
        }
        let expected = autoencoder.encode(&scion::data::to_unit(&pixels), [32, 32]).unwrap();
        let found = set.distribution(4, mirrored).unwrap();
        let near =
            |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-3 * b.abs().max(1.0));
        assert!(near(&found.mean, &expected.mean) && near(&found.logvar, &expected.logvar), "{mirrored}");
    }
    // A shard that a killed call did not get to is made again, the same; what is there is left alone.
    let (shard, settings) = (latents.join("shard-00000.safetensors"), latents.join("latents.json"));
    let (bytes, written) = (fs::read(&shard).unwrap(), fs::metadata(&settings).unwrap().modified().unwrap());
    fs::remove_file(&shard).unwrap();
    assert_names(
        &LatentSet::open(&latents).unwrap_err().to_string(),
        &["shard-00000.safetensors: is missing"],
    );
    printed(encode(root.path(), "latents", &["--flip"]).args(["--threads", "1"]));
    assert!(fs::read(&shard).unwrap() == bytes);
    assert_eq!(fs::metadata(&settings).unwrap().modified().unwrap(), written);
    // Latents of other settings are not put beside them.
    let mixed = refused(&mut encode(root.path(), "latents", &["--flip", "--dtype", "f32"]), 1);
    assert_names(&mixed, &["holds latents of dtype \"f16\" instead of \"f32\""]);
    assert_names(&refused(&mut encode(root.path(), "latents", &[]), 1), &["flip true instead of false"]);
}

#[test]
fn captions_lie_beside_images() {
    let root = tempfile::tempdir().unwrap();
    let images = root.path().join("images");
    fs::create_dir(&images).unwrap();
    let from = fixture("data/folder/cat");
    let names = listing(&from);
    for name in &names {
        fs::copy(from.join(name), images.join(name)).unwrap();
        fs::write(images.join(name).with_extension("txt"), format!("a cat: {name}\n")).unwrap();
    }
    let command = || {
        let mut command = scion("encode");
        command
            .arg(&images)
            .arg("--vae")
            .arg(vae())
            .args(["--size", "16"])
            .arg("--out")
            .arg(root.path().join("latents"));
        command
    };
    printed(&mut command());
    let set = LatentSet::open(&root.path().join("latents")).unwrap();
    assert_eq!(set.captions().len(), names.len());
    assert!(set.captions()[0].starts_with("a cat: ") && !set.captions()[0].ends_with('\n'));
    // Another caption is another set.
    let first = images.join(&names[0]).with_extension("txt");
    fs::write(&first, "a dog").unwrap();
    assert_names(&refused(&mut command(), 1), &["images-sha256"]);
    fs::remove_file(&first).unwrap();
    assert_names(
        &refused(&mut command(), 1),
        &[first.file_name().unwrap().to_str().unwrap(), "is missing", "NAME.txt"],
    );
}

#[test]
fn what_cannot_be_encoded_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let odd = refused(&mut encode_sized(root.path(), "latents", "30", &[]), 2);
    assert_names(&odd, &["--size 30", "a multiple of 4"]);
    let mut command = scion("encode");
    command
        .arg(root.path().join("none"))
        .arg("--vae")
        .arg(vae())
        .arg("--out")
        .arg(root.path().join("latents"));
    assert_names(&refused(&mut command, 1), &["none: no such folder"]);
    let mut command = scion("encode");
    command
        .arg(fixture("data/folder"))
        .args(["--vae", "nowhere"])
        .arg("--out")
        .arg(root.path().join("latents"));
    assert_names(&refused(&mut command, 1), &["nowhere: no such file or folder"]);
    assert!(!root.path().join("latents").exists());
}

/// A folder with latents of two classes and a model pretrained on them for a moment.
struct Trained {
    root: tempfile::TempDir,
}

impl Trained {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        printed(&mut encode(root.path(), "latents", &["--flip"]));
        let trained = Self { root };
        let sizes = "sizes = { input_size = 8, patch = 2, in_channels = 4, hidden = 16, depth = 2, heads = 2, num_classes = 2 }";
        trained.write("pretrain.toml", sizes, "[pretrain]\nsteps = 2\nbatch = 4\nflip = true\nema = 0.5\n");
        printed(&mut trained.run("pretrain", "pretrain.toml", "teacher"));
        trained
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, model: &str, stages: &str) {
        let data = format!("[data]\nsource = \"latents\"\npath = {:?}\n", self.path("latents"));
        fs::write(self.path(name), format!("seed = 4\n[model]\n{model}\n{data}{stages}")).unwrap();
    }

    fn run(&self, command: &str, recipe: &str, out: &str) -> Command {
        let mut program = scion(command);
        program.arg(self.path(recipe)).arg("--out").arg(self.path(out));
        program
    }

    fn model(&self) -> PathBuf {
        self.path("teacher/model.safetensors")
    }
}

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
flip = true
[sample]
steps = 2
count = 10
[evaluate]
models = ["teacher", "stage2"]
latency-runs = 1
latency-batch = 2
"#;

#[test]
fn a_latent_model_is_grafted_to_the_end() {
    let trained = Trained::new();
    let checkpoint = format!("checkpoint = {:?}", trained.model());
    trained.write("pictures.toml", &format!("{checkpoint}\nvae = {:?}", vae()), STAGES);
    printed(&mut trained.run("run", "pictures.toml", "pictures"));
    let samples = trained.path("pictures/samples");
    assert_eq!(listing(&samples), ["stage2.npz", "stage2.png", "teacher.npz", "teacher.png"]);
    let set = read_samples(&samples.join("stage2.npz")).unwrap();
    assert_eq!((set.len(), set.shape().channels, set.shape().width), (10, 3, 32));
    let results = fs::read_to_string(trained.path("pictures/results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_str(&results).unwrap();
    assert!(
        results["models"][1]["frechet"].is_null()
            && results["models"][1]["latency_ms"].as_f64().unwrap() > 0.0
    );
    assert!(
        fs::read_to_string(trained.path("pictures/report.html")).unwrap().contains("data:image/png;base64")
    );

    // Without the autoencoder the same samples stay latents.
    trained.write("plain.toml", &checkpoint, STAGES);
    let output = trained.run("run", "plain.toml", "plain").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_names(&stderr, &["latents of 4 channels", "model.vae"]);
    let samples = trained.path("plain/samples");
    assert_eq!(listing(&samples), ["stage2.safetensors", "teacher.safetensors"]);
    let latents = read_tensor(&samples.join("stage2.safetensors"), "latents");
    let autoencoder = Autoencoder::open(&vae(), scion_kernels::Precision::F32).unwrap();
    let first = from_unit(&autoencoder.decode_scaled(&latents[..256], [8, 8]).unwrap());
    assert!(set.read(&[0]).unwrap() == first, "the pictures are not those of the latents");

    // The autoencoder must be the one that made the latents.
    trained.write("other.toml", &format!("{checkpoint}\nvae = {:?}", fixture("latent/sdxl")), STAGES);
    assert_names(&refused(&mut trained.run("run", "other.toml", "other"), 2), &["model.vae", "were made by"]);
    // A model of pixels has no latents to read.
    let pixels = format!("checkpoint = {:?}\nheads = 3", fixture(SMALL_MODEL).canonicalize().unwrap());
    trained.write("pixels.toml", &pixels, STAGES);
    assert_names(
        &refused(&mut trained.run("run", "pixels.toml", "pixels"), 2),
        &["[4, 8, 8]", "1 channels of 12×12"],
    );
}

/// No images at all: the teacher draws latents, which are trained on as they are.
#[test]
fn a_latent_teacher_draws_latents() {
    let trained = Trained::new();
    let stages = STAGES.replace("flip = true\n", "");
    let write = |stages: &str| {
        trained.write("drawn.toml", &format!("checkpoint = {:?}", trained.model()), stages);
        let text = fs::read_to_string(trained.path("drawn.toml")).unwrap();
        let data = format!("source = \"latents\"\npath = {:?}\n", trained.path("latents"));
        fs::write(trained.path("drawn.toml"), text.replace(&data, "source = \"teacher\"\ncount = 8\n"))
            .unwrap();
    };
    write(&stages);
    printed(&mut trained.run("finetune", "drawn.toml", "drawn"));
    let file = trained.path("drawn/teacher-latents.safetensors");
    let entry = Checkpoint::open(&file).unwrap().entry("latents").unwrap().shape.clone();
    assert_eq!(entry, [8, 4, 8, 8]);
    assert!(trained.path("drawn/stage2.safetensors").exists());
    write(STAGES);
    let mirrored = refused(&mut trained.run("finetune", "drawn.toml", "mirrored"), 2);
    assert_names(&mirrored, &["flip = true", "cannot be mirrored"]);
}

#[test]
fn data_sections_of_latents_are_checked() {
    let trained = Trained::new();
    let sizes = fs::read_to_string(trained.path("pretrain.toml")).unwrap();
    let message = |from: &str, to: &str, code: i32| {
        assert!(sizes.contains(from));
        fs::write(trained.path("edited.toml"), sizes.replace(from, to)).unwrap();
        refused(&mut trained.run("pretrain", "edited.toml", "edited"), code)
    };
    let path = format!("path = {:?}", trained.path("latents"));
    assert_names(&message(&path, "", 2), &["data.path is not set", "scion encode"]);
    let nowhere = message(&path, &format!("path = {:?}", trained.path("teacher")), 1);
    assert_names(&nowhere, &["teacher: holds no latents.json"]);
    printed(&mut encode(trained.root.path(), "plain", &[]));
    let plain = message(&path, &format!("path = {:?}", trained.path("plain")), 2);
    assert_names(&plain, &["flip = true needs", "scion encode --flip"]);
}

#[test]
fn drawn_latents_become_pictures() {
    let trained = Trained::new();
    let sample = |out: &str, more: &[&str]| {
        let mut command = scion("sample");
        command
            .arg(trained.model())
            .args(["--count", "4", "--steps", "2", "--out"])
            .arg(trained.path(out))
            .args(more);
        command
    };
    let vae = vae();
    let vae = ["--vae", vae.to_str().unwrap()];
    printed(&mut sample("drawn.safetensors", &[]));
    let latents = read_tensor(&trained.path("drawn.safetensors"), "latents");
    printed(&mut sample("drawn.npz", &vae));
    let set = read_samples(&trained.path("drawn.npz")).unwrap();
    let autoencoder = Autoencoder::open(Path::new(vae[1]), scion_kernels::Precision::F32).unwrap();
    let decoded = |i: usize| autoencoder.decode_scaled(&latents[i * 256..(i + 1) * 256], [8, 8]).unwrap();
    for i in 0..4 {
        assert!(set.read(&[i]).unwrap() == from_unit(&decoded(i)), "image {i}");
    }
    printed(&mut sample(
        "drawn.png",
        &[vae[0], vae[1], "--film", trained.path("film.png").to_str().unwrap()],
    ));
    printed(&mut sample("drawn", &vae));
    assert_eq!(listing(&trained.path("drawn")).len(), 5);
    for name in ["drawn.png", "film.png", "drawn/000003.png"] {
        assert!(fs::read(trained.path(name)).unwrap().starts_with(b"\x89PNG"), "{name}");
    }
    assert_names(&refused(&mut sample("x.png", &[]), 2), &["latents of 4 channels", "--vae", ".safetensors"]);
    assert_names(&refused(&mut sample("x.safetensors", &vae), 2), &["is for latents"]);
    let bare = fixture("latent/bare");
    let other = refused(&mut sample("x.png", &["--vae", bare.to_str().unwrap()]), 2);
    assert_names(&other, &["its latents have 3 channels, the model's 4"]);
}
