//! Drawing images: what changes them, what does not, and going on after an interruption.

use std::fs;
use std::path::Path;

use assert_cmd::Command;

use super::place::Place;
use super::{SMALL_MODEL, assert_names, fixture, listing, printed, refused, scion};

fn sample(out: &Path, count: &str) -> Command {
    let mut command = scion("sample");
    command
        .arg(fixture(SMALL_MODEL))
        .args(["--heads", "3", "--steps", "2", "--count", count])
        .arg("--out")
        .arg(out);
    command
}

/// Names and bytes of a folder's images.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let images = listing(folder).into_iter().filter(|name| name.ends_with(".png"));
    images.map(|name| (name.clone(), fs::read(folder.join(name)).unwrap())).collect()
}

#[test]
fn images_depend_on_seed_alone() {
    let folder = tempfile::tempdir().unwrap();
    for sampler in ["ddim", "ddpm"] {
        let drawn = |name: &str, more: &[&str]| {
            let out = folder.path().join(format!("{sampler}-{name}"));
            printed(sample(&out, "7").args(["--sampler", sampler]).args(more));
            contents(&out)
        };
        let first = drawn("first", &["--seed", "3"]);
        assert_eq!(first.len(), 7);
        assert!(first == drawn("again", &["--seed", "3"]), "{sampler}: the same seed gives other images");
        for (name, option) in
            [("batch", ["--batch", "3"]), ("single", ["--batch", "1"]), ("threads", ["--threads", "1"])]
        {
            let other = drawn(name, &["--seed", "3", option[0], option[1]]);
            assert!(first == other, "{sampler}: {option:?} changes images");
        }
        let other = drawn("seed", &["--seed", "4"]);
        assert!(first.iter().zip(&other).all(|(a, b)| a != b), "{sampler}: the seed changes nothing");
    }
}

#[test]
fn auto_goes_on_in_the_precision_it_began_with() {
    let folder = tempfile::tempdir().unwrap();
    for precision in ["f32", "bf16"] {
        let [out, whole] = ["begun", "whole"].map(|name| folder.path().join(format!("{precision}-{name}")));
        printed(sample(&out, "3").args(["--precision", precision]));
        printed(sample(&out, "6").args(["--precision", "auto"]));
        printed(sample(&whole, "6").args(["--precision", precision]));
        assert!(contents(&out) == contents(&whole), "{precision}");
    }
}

#[test]
fn array_files_hold_images_and_labels_reproducibly() {
    let folder = tempfile::tempdir().unwrap();
    let drawn = |name: &str, batch: &str| {
        let out = folder.path().join(name);
        printed(sample(&out, "6").args(["--classes", "4,1", "--batch", batch]));
        out
    };
    let file = drawn("a.npz", "6");
    assert!(fs::read(&file).unwrap() == fs::read(drawn("b.npz", "4")).unwrap());
    let set = scion::data::samples::read_samples(&file).unwrap();
    assert_eq!((set.len(), set.labels()), (6, &[4, 1, 4, 1, 4, 1][..]));
    assert_eq!((set.shape().channels, set.shape().height), (1, 12));
    let png = drawn("grid.png", "6");
    assert!(fs::read(png).unwrap().starts_with(b"\x89PNG"));
}

#[test]
fn an_interrupted_folder_is_completed_with_the_same_images() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    printed(&mut sample(&whole, "270"));
    let expected = contents(&whole);
    assert_eq!((expected.len(), expected[269].0.as_str()), (270, "000269.png"));
    // A first session got through a chunk of 256 and a part of the next one.
    fs::create_dir(&broken).unwrap();
    fs::copy(whole.join("sample.json"), broken.join("sample.json")).unwrap();
    for (name, bytes) in &expected[..260] {
        fs::write(broken.join(name), bytes).unwrap();
    }
    let time = |name: &str| fs::metadata(broken.join(name)).unwrap().modified().unwrap();
    let before = time("000255.png");
    printed(&mut sample(&broken, "270"));
    assert!(contents(&broken) == expected);
    assert_eq!(time("000255.png"), before, "finished images are drawn again");
    let last = time("000269.png");
    printed(&mut sample(&broken, "270"));
    assert_eq!(time("000269.png"), last, "a complete folder is drawn again");
}

#[test]
fn images_of_other_settings_are_never_mixed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    printed(sample(&out, "3").args(["--seed", "1"]));
    let expected = contents(&out);
    let message = refused(sample(&out, "5").args(["--seed", "2", "--cfg", "3"]), 1);
    assert_names(&message, &["out", "cfg 1.5 instead of 3.0", "seed 1 instead of 2"]);
    assert!(contents(&out) == expected);
    printed(sample(&out, "5").args(["--seed", "1"]));
    assert!(contents(&out).len() == 5 && contents(&out)[..3] == expected);

    let file = folder.path().join("small.npz");
    let foreign = folder.path().join("small.npz.parts");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("notes"), "mine").unwrap();
    printed(&mut sample(&file, "3"));
    fs::remove_file(&file).unwrap();
    assert_names(&refused(&mut sample(&file, "300"), 1), &["small.npz.parts", "is not empty"]);
    assert_eq!(listing(&foreign), ["notes"]);

    fs::remove_file(out.join("sample.json")).unwrap();
    assert_names(&refused(sample(&out, "5").args(["--seed", "1"]), 1), &["out", "no sample.json"]);
}

#[test]
fn an_interrupted_file_is_completed_with_the_same_images() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, broken) = (folder.path().join("whole.npz"), folder.path().join("broken.npz"));
    let mut first = std::process::Command::new(scion("sample").get_program());
    first.args(sample(&whole, "2000").get_args()).stderr(std::process::Stdio::null());
    let mut first = first.spawn().unwrap();
    let parts = folder.path().join("whole.npz.parts");
    while !parts.join("000000.u8").exists() && first.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(parts.exists() && !whole.exists(), "the kill came too late");
    assert_names(&refused(sample(&whole, "2000").args(["--cfg", "7"]), 1), &["whole.npz.parts", "cfg 1.5"]);
    printed(&mut sample(&whole, "2000"));
    printed(&mut sample(&broken, "2000"));
    assert!(fs::read(&whole).unwrap() == fs::read(&broken).unwrap());
    assert_eq!(listing(folder.path()), ["broken.npz", "whole.npz"]);
}

#[test]
fn guidance_needs_a_null_class() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.safetensors");
    let recipe = folder.path().join("recipe.toml");
    let text = "[model.sizes]\ninput_size = 28\npatch = 14\nin_channels = 1\nhidden = 8\ndepth = 1\nheads = 2\nnum_classes = 10\nnull_class = false\n[pretrain]\nsteps = 1\nbatch = 2\n";
    fs::write(&recipe, text).unwrap();
    let run = folder.path().join("run");
    printed(scion("pretrain").arg(&recipe).arg("--out").arg(&run));
    fs::rename(run.join("model.safetensors"), &model).unwrap();
    let draw = |cfg: &str| {
        let mut command = scion("sample");
        command.arg(&model).args(["--steps", "2", "--count", "2", "--cfg", cfg, "--out"]);
        command.arg(folder.path().join("out.png"));
        command
    };
    assert_names(&refused(&mut draw("1.5"), 2), &["scale 1.5", "null class"]);
    printed(&mut draw("1"));
}

#[test]
fn impossible_requests_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.png");
    let message = refused(sample(&out, "4").args(["--class", "5"]), 2);
    assert_names(&message, &["class 5", "0 to 4"]);
    assert_names(&refused(sample(&out, "4").args(["--classes", "1,9"]), 2), &["class 9"]);
    let mut idle = scion("sample");
    idle.arg(fixture(SMALL_MODEL)).args(["--heads", "3", "--steps", "0", "--out"]).arg(&out);
    assert_names(&refused(&mut idle, 2), &["--steps 0"]);
    assert_names(&refused(&mut sample(&folder.path().join("out.jpg"), "4"), 2), &[".jpg", ".png"]);
    let mut latents = scion("sample");
    latents.arg(fixture("dit/nosigma/model.pt")).args(["--heads", "4", "--out"]).arg(&out);
    assert_names(&refused(&mut latents, 2), &["latents of 4 channels"]);
    assert_eq!(listing(folder.path()), [""; 0]);
    assert_names(&refused(&mut sample(&folder.path().join("none"), "0"), 2), &["--count 0"]);
    assert_names(&refused(sample(&out, "4").args(["--cfg", "nan"]), 2), &["--cfg NaN"]);
    assert_names(&refused(&mut sample(&out, "18446744073709551615"), 2), &["--count", "at most"]);
    assert_names(&refused(sample(&out, "4").args(["--threads", "100000"]), 2), &["--threads"]);
    let nowhere = folder.path().join("nowhere/out.png");
    assert_names(&refused(&mut sample(&nowhere, "1"), 1), &["cannot be written", "nowhere/out.png"]);
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_no_partial_file() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["full.npz", "full.png"] {
        let message = refused(&mut super::on_full_disk(&sample(&folder.path().join(name), "150")), 1);
        assert_names(&message, &["cannot write", name]);
        assert_eq!(listing(folder.path()), [""; 0], "{name} left something");
    }
}

/// Pixels of a grey sheet.
fn pixels(path: &Path) -> image::GrayImage {
    image::open(path).unwrap().into_luma8()
}

#[test]
fn several_models_share_the_noise_of_a_row() {
    let place = Place::new();
    printed(&mut place.run("distill"));
    let (grafted, path) = (place.path("run/stage1.safetensors"), |name: &str| place.path(name));
    printed(sample(&path("one.png"), "3").args(["--class", "2"]));
    let mut other = scion("sample");
    other
        .arg(&grafted)
        .args(["--steps", "2", "--count", "3", "--class", "2", "--out"])
        .arg(path("other.png"));
    printed(&mut other);
    let said = printed(sample(&path("both.png"), "3").args(["--class", "2"]).arg(&grafted));
    assert_names(&said, &["model.pt", "stage1.safetensors"]);
    let [one, other, both] = ["one.png", "other.png", "both.png"].map(|name| pixels(&path(name)));
    // Of 24 pixels with a gap of 2: images in a row there, and below each other here, a column a model.
    assert_eq!((one.dimensions(), both.dimensions()), ((76, 24), (50, 76)));
    assert!(one != other);
    for (left, own) in [(0, &one), (26, &other)] {
        for (place, x, y) in (0..3).flat_map(|p| (0..24 * 24).map(move |i| (p, i % 24, i / 24))) {
            assert_eq!(both.get_pixel(left + x, place * 26 + y), own.get_pixel(place * 26 + x, y));
        }
    }
    let message = refused(sample(&path("two.npz"), "3").arg("embedded"), 2);
    assert_names(&message, &["several models", ".png"]);
    let message = refused(scion("sample").arg(&grafted).args(["embedded", "--out"]).arg(path("two.png")), 2);
    assert_names(&message, &["28", "12", "alike"]);
}

#[test]
fn a_film_ends_in_the_images() {
    let folder = tempfile::tempdir().unwrap();
    let (grid, film) = (folder.path().join("grid.png"), folder.path().join("film.png"));
    printed(sample(&grid, "5").args(["--batch", "2"]).arg("--film").arg(&film));
    let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(&film).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    assert_eq!(reader.info().animation_control().unwrap().num_frames, 2);
    let mut frames = [(); 2].map(|()| vec![0; reader.output_buffer_size().unwrap()]);
    for frame in &mut frames {
        reader.next_frame(frame).unwrap();
    }
    assert!(frames[1] == pixels(&grid).into_raw() && frames[0] != frames[1]);
    let again = folder.path().join("other.png");
    assert_names(&refused(sample(&again, "5").arg("--film").arg(&film), 1), &["film.png"]);
    assert_names(&refused(sample(&again, "5").arg("--film").arg(&again), 2), &["--film", "same file"]);
}
