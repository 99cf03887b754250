//! `generate` on a tiny complete pipeline, against what diffusers draws with it.

use std::fs::{self, File};
use std::path::Path;

use assert_cmd::Command;
use flate2::read::GzDecoder;
use scion::checkpoint::Checkpoint;
use scion::geneval::{Folder, OFFICIAL_PROMPTS};

use super::{assert_names, fixture, listing, printed, read_tensor, refused, scion};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

/// A copy of the fixture's pipeline, with its tokenizer.
pub(super) fn pipeline() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("pipeline");
    copy(&fixture("pipeline/folder"), &root);
    fs::create_dir(root.join("tokenizer")).unwrap();
    let mut packed = GzDecoder::new(File::open(fixture("text/tokenizer/spiece.model.gz")).unwrap());
    std::io::copy(&mut packed, &mut File::create(root.join("tokenizer/spiece.model")).unwrap()).unwrap();
    folder
}

/// The command with the fixture's settings, but for prompts and steps.
fn generate(folder: &Path, out: &str) -> Command {
    let mut command = scion("generate");
    command.arg(folder.join("pipeline")).args(["--negative", "blurry", "--plain", "--precision", "f32"]);
    command.env("SCION_CACHE", folder.join("cache")).arg("--out").arg(folder.join(out));
    command
}

fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let top = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    found.iter().zip(expected).fold(0f32, |m, (f, e)| m.max((f - e).abs())) / top
}

const PROMPTS: &str = "A red Fox in the snow\n\ntwo cups\n";
const SIZE: [&str; 4] = ["--height", "200", "--width", "120"];

#[test]
fn latents_are_those_of_diffusers() {
    let folder = pipeline();
    let path = folder.path();
    fs::write(path.join("prompts.txt"), PROMPTS).unwrap();
    let expected = fixture("pipeline/expected.safetensors");
    // One batch, and one image a batch.
    for batch in ["2", "1"] {
        let out = format!("latents-{batch}.safetensors");
        let mut command = generate(path, &out);
        command.args(["--steps", "6", "--batch", batch, "--prompts"]).arg(path.join("prompts.txt"));
        printed(command.arg("--noise").arg(fixture("pipeline/noise.safetensors")));
        let error = error(&read_tensor(&path.join(&out), "latents"), &read_tensor(&expected, "latents"));
        assert!(error < 1e-3, "latents differ by {error}");
    }
    let mut command = generate(path, "sized.safetensors");
    command.args(["A red Fox in the snow", "--steps", "6"]).args(SIZE);
    printed(command.arg("--noise").arg(fixture("pipeline/sized-noise.safetensors")));
    let file = Checkpoint::open(&path.join("sized.safetensors")).unwrap();
    assert_eq!(file.entry("latents").unwrap().shape, [1, 4, 40, 24], "the nearest bin is drawn");
    let error = error(&file.read_f32("latents").unwrap(), &read_tensor(&expected, "sized.latents"));
    assert!(error < 1e-3, "latents of another size differ by {error}");
}

/// Channels of a picture, row by row, as bytes.
fn planes(path: &Path) -> (u32, u32, Vec<u8>) {
    let image = image::open(path).unwrap().to_rgb8();
    let plane = |channel: usize| image.pixels().map(move |pixel| pixel[channel]).collect::<Vec<u8>>();
    (image.width(), image.height(), [plane(0), plane(1), plane(2)].concat())
}

#[test]
fn pictures_are_those_of_diffusers() {
    let folder = pipeline();
    let path = folder.path();
    let mut command = generate(path, "fox.png");
    command.args(["A red Fox in the snow", "--steps", "6"]).args(SIZE);
    printed(command.arg("--noise").arg(fixture("pipeline/sized-noise.safetensors")));
    let expected = Checkpoint::open(&fixture("pipeline/expected.safetensors")).unwrap();
    let expected = expected.read_i64("sized.image").unwrap();
    let (width, height, found) = planes(&path.join("fox.png"));
    assert_eq!((width, height, found.len()), (120, 200, expected.len()));
    // Rounding differs: bytes are 127.5·x + 128 cut off here, and rounded there.
    let far =
        found.iter().zip(&expected).filter(|(found, expected)| (i64::from(**found) - **expected).abs() > 1);
    assert_eq!(far.count(), 0);
    let varied = expected.iter().max().unwrap() - expected.iter().min().unwrap();
    assert!(varied > 50, "the picture has no contrast: {varied}");
}

#[test]
fn an_image_depends_on_the_seed_and_its_number_alone() {
    let folder = pipeline();
    let path = folder.path();
    fs::write(path.join("prompts.txt"), PROMPTS).unwrap();
    let draw = |out: &str, batch: &str, seed: &str| {
        let mut command = generate(path, out);
        command.args(["--count", "2", "--batch", batch, "--seed", seed, "--steps", "2"]);
        printed(command.arg("--prompts").arg(path.join("prompts.txt")));
    };
    draw("a.safetensors", "1", "3");
    draw("b.safetensors", "4", "3");
    draw("c.safetensors", "4", "4");
    let [a, b, c] =
        ["a", "b", "c"].map(|name| read_tensor(&path.join(format!("{name}.safetensors")), "latents"));
    assert!(error(&a, &b) < 1e-5 && error(&a, &c) > 0.1);
    draw("pictures", "4", "3");
    assert_eq!(listing(&path.join("pictures")).len(), 4);
    draw("grid.png", "4", "3");
    let (width, height, _) = planes(&path.join("grid.png"));
    assert!(width > 2 * 256 && height > 2 * 256, "{width}×{height}");
}

#[test]
fn a_grafted_transformer_takes_the_folders_place() {
    let folder = pipeline();
    let path = folder.path();
    let source = path.join("pipeline/transformer");
    let file = path.join("grafted.safetensors");
    printed(scion("convert").arg(&source).arg(&file).args(["--layout", "scion"]));
    let draw = |out: &str, transformer: &Path| {
        let mut command = generate(path, out);
        printed(command.args(["two cups", "--steps", "2", "--transformer"]).arg(transformer));
        read_tensor(&path.join(out), "latents")
    };
    assert_eq!(draw("a.safetensors", &source), draw("b.safetensors", &file));
    let mut command = generate(path, "c.safetensors");
    let message = refused(command.args(["two cups", "--transformer"]).arg(fixture("dit/tiny/diffusers")), 2);
    assert_names(&message, &["reads no prompts", "scion sample"]);
}

/// A copy of the first images of a folder as GenEval has it, by their names there, and of the sheets.
fn gallery(folder: &Path, prompts: usize, images: usize) -> Vec<Vec<u8>> {
    let files = (0..prompts).flat_map(|prompt| {
        let samples = (0..images).map(move |image| format!("{prompt:05}/samples/{image:04}.png"));
        samples.chain([format!("{prompt:05}/grid.png")])
    });
    files.map(|name| fs::read(folder.join(name)).unwrap()).collect()
}

#[test]
fn genevals_folder_is_filled_and_gone_on_with() {
    let folder = pipeline();
    let path = folder.path();
    let lines: Vec<&str> = OFFICIAL_PROMPTS.lines().take(3).collect();
    let file = |name: &str, lines: &[&str]| {
        fs::write(path.join(name), format!("{}\n", lines.join("\n"))).unwrap();
        path.join(name)
    };
    let (two, three) = (file("two.jsonl", &lines[..2]), file("three.jsonl", &lines));
    let fill = |prompts: &Path, more: &[&str]| {
        let mut command = generate(path, "drawn");
        command.args(["--steps", "2", "--seed", "3", "--batch", "2", "--height", "64", "--width", "64"]);
        command.arg("--geneval").arg(prompts).args(more);
        command
    };
    let drawn = path.join("drawn");
    printed(&mut fill(&two, &[]));
    let first = gallery(&drawn, 2, 4);
    assert_eq!(listing(&drawn), ["00000", "00001", "generate.json"]);

    // What is lost is drawn again, to the last bit; what is there is left alone.
    fs::remove_file(drawn.join("00000/samples/0003.png")).unwrap();
    fs::remove_file(drawn.join("00001/grid.png")).unwrap();
    fs::write(drawn.join("00000/samples/0001.png"), "mine").unwrap();
    printed(&mut fill(&two, &[]));
    assert_eq!(fs::read(drawn.join("00000/samples/0001.png")).unwrap(), b"mine");
    fs::remove_file(drawn.join("00000/samples/0001.png")).unwrap();
    printed(&mut fill(&two, &[]));
    assert!(gallery(&drawn, 2, 4) == first, "an image is not what it was");

    // The scorer finds them all, and the images are those of the same prompts without the layout.
    let folder = Folder::open(&drawn).unwrap();
    assert_eq!((folder.samples.len(), folder.uneven()), (8, None));
    let texts: Vec<&str> = folder.prompts.iter().map(|prompt| prompt.prompt.as_str()).collect();
    fs::write(path.join("prompts.txt"), texts.join("\n")).unwrap();
    let mut plain = generate(path, "pictures");
    plain.args([
        "--steps", "2", "--seed", "3", "--batch", "2", "--height", "64", "--width", "64", "--count", "4",
    ]);
    printed(plain.arg("--prompts").arg(path.join("prompts.txt")));
    for (number, sample) in folder.samples.iter().enumerate() {
        let picture = fs::read(path.join(format!("pictures/{number:06}.png"))).unwrap();
        assert!(fs::read(&sample.path).unwrap() == picture, "{} is another image", sample.key);
    }

    let grafted = path.join("grafted.safetensors");
    let source = path.join("pipeline/transformer");
    printed(scion("convert").arg(&source).arg(&grafted).args(["--layout", "scion", "--dtype", "bf16"]));
    let model = ["--transformer", grafted.to_str().unwrap()];
    let others: [(&[&str], &str); 5] = [
        (&["--cfg", "3"], "cfg 4.5 instead of 3.0"),
        (&["--count", "2"], "count 4 instead of 2"),
        (&["--sampler", "ddim"], "sampler \"dpm-solver++\" instead of \"ddim\""),
        (&["--exact-size"], "drawn-size [256,256] instead of [64,64]"),
        (&model, "transformer-sha256"),
    ];
    for (more, told) in others {
        assert_names(&refused(&mut fill(&two, more), 1), &["drawn", told, "choose another --out"]);
    }
    assert!(gallery(&drawn, 2, 4) == first);

    // Further prompts do not change the first.
    printed(&mut fill(&three, &[]));
    assert!(gallery(&drawn, 2, 4) == first && gallery(&drawn, 3, 4).len() == 15);
    let fewer = refused(&mut fill(&two, &[]), 1);
    assert_names(&fewer, &["drawn", "holds 00002, which is none of these 2 prompts"]);
}

#[test]
fn folders_that_are_not_genevals_are_refused() {
    let folder = pipeline();
    let path = folder.path();
    let refused = |out: &str, rest: &[&str], code: i32| refused(generate(path, out).args(rest), code);
    assert_names(&refused("x.png", &["--geneval", "embedded"], 2), &["--out ends in .png", "fills a folder"]);
    fs::create_dir(path.join("occupied")).unwrap();
    fs::write(path.join("occupied/precious"), "").unwrap();
    let message = refused("occupied", &["--geneval", "embedded"], 1);
    assert_names(&message, &["occupied", "is not empty, and has no generate.json"]);
    fs::write(path.join("odd.jsonl"), "{}\n").unwrap();
    let odd = path.join("odd.jsonl");
    assert_names(&refused("x", &["--geneval", odd.to_str().unwrap()], 1), &["odd.jsonl: line 1", "`tag`"]);
    assert_names(&refused("x", &["--geneval", "nowhere.jsonl"], 1), &["nowhere.jsonl"]);
    for clash in [&["a cat"][..], &["--prompts", "p.txt"], &["--noise", "n.safetensors"]] {
        generate(path, "x").args(["--geneval", "embedded"]).args(clash).assert().code(2);
    }
    assert!(!path.join("x").exists());
}

#[test]
fn what_cannot_be_drawn_is_said() {
    let folder = pipeline();
    let path = folder.path();
    let refused = |out: &str, rest: &[&str], code: i32| refused(generate(path, out).args(rest), code);
    assert_names(&refused("x.jpg", &["a cat"], 2), &[".jpg", ".safetensors or a folder"]);
    assert_names(&refused("x.png", &["a cat", "--count", "0"], 2), &["--count 0"]);
    assert_names(&refused("x.png", &["a cat", "--count", "99999999999999"], 2), &["at most 100000000"]);
    assert_names(&refused("nowhere/x.png", &["a cat"], 1), &["its folder does not exist"]);
    assert_names(&refused("x.png", &["a cat", "--steps", "1000"], 2), &["expected 1 to 999"]);
    let odd = ["a cat", "--exact-size", "--height", "100"];
    assert_names(&refused("x.png", &odd, 2), &["sides of 100 pixels", "multiples of 8"]);
    let noise = fixture("pipeline/sized-noise.safetensors");
    let noise = ["a cat", "--noise", noise.to_str().unwrap()];
    assert_names(&refused("x.png", &noise, 1), &["sized-noise.safetensors", "[N, 4, 32, 32]"]);
    fs::write(path.join("none.txt"), "\n").unwrap();
    let none = path.join("none.txt");
    assert_names(&refused("x.png", &["--prompts", none.to_str().unwrap()], 1), &["holds no prompt"]);
    let scheduler = path.join("pipeline/scheduler/scheduler_config.json");
    let text = fs::read_to_string(&scheduler).unwrap();
    fs::write(&scheduler, text.replace("\"use_karras_sigmas\": false", "\"use_karras_sigmas\": true"))
        .unwrap();
    assert_names(&refused("x.png", &["a cat"], 1), &["use_karras_sigmas = true"]);
    fs::write(&scheduler, text).unwrap();
    fs::remove_dir_all(path.join("pipeline/vae")).unwrap();
    assert_names(&refused("x.png", &["a cat"], 1), &["has no folder vae"]);
    fs::remove_file(path.join("pipeline/model_index.json")).unwrap();
    assert_names(&refused("x.png", &["a cat"], 1), &["model_index.json"]);
}
