//! Autoencoders against diffusers (`scripts/fixtures/latent.py`), in every layout that their files have.

use std::fs;
use std::path::{Path, PathBuf};

use scion::checkpoint::{Checkpoint, TensorSource, write_safetensors};
use scion::latent::{Autoencoder, Tiling, fingerprint};
use scion_kernels::Precision;

/// Largest difference, relative to the largest value.
const TOLERANCE: f32 = 1e-4;
/// The same with operands rounded to bf16.
const ROUNDED: f32 = 5e-2;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/latent").join(name)
}

/// Largest difference over the largest expected magnitude.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let top = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let differences = found.iter().zip(expected).map(|(f, e)| (f - e).abs());
    differences.fold(0f32, |m, d| if d > m || d.is_nan() { d } else { m }) / top
}

/// A tensor of `[C, H, W]` with its rows and columns.
fn read(file: &Checkpoint, name: &str) -> (Vec<f32>, [usize; 2]) {
    let shape = &file.entry(name).unwrap_or_else(|| panic!("no {name}")).shape;
    (file.read_f32(name).unwrap(), [shape[1], shape[2]])
}

/// Compares both directions on the images of one size.
fn compare(model: &Autoencoder, golden: &Checkpoint, size: &str, tolerance: f32) {
    let expected = |part: &str| read(golden, &format!("{size}.{part}"));
    let (image, sides) = expected("image");
    let found = model.encode(&image, sides).unwrap();
    let (mean, latent_sides) = expected("mean");
    assert_eq!(found.shape[1..], latent_sides);
    let (latent, sides) = expected("latent");
    let decoded = model.decode(&latent, sides).unwrap();
    for (part, found) in [("mean", &found.mean), ("logvar", &found.logvar), ("decoded", &decoded)] {
        let wrong = error(found, &expected(part).0);
        println!("{} {size} {part}: {wrong:.1e}", golden.path().display());
        assert!(wrong < tolerance, "{} {size} {part}: {wrong}", golden.path().display());
    }
    assert_eq!(mean.len(), found.mean.len());
}

#[test]
fn every_layout_matches_diffusers() {
    let files = [("sd", "sd"), ("sdxl", "sdxl"), ("bare", "bare"), ("old", "sd"), ("compvis/vae.ckpt", "sd")];
    for (file, golden) in files {
        let model = Autoencoder::open(&fixture(file), Precision::F32).unwrap();
        let golden = Checkpoint::open(&fixture(&format!("{golden}.safetensors"))).unwrap();
        compare(&model, &golden, "odd", TOLERANCE);
        compare(&model, &golden, "ragged", TOLERANCE);
        let model = model.with_tiling(Tiling { above: 16, sample: 16 }).unwrap();
        compare(&model, &golden, "tiled", TOLERANCE);
        let rounded = Autoencoder::open(&fixture(file), Precision::Bf16).unwrap();
        compare(&rounded, &golden, "odd", ROUNDED);
    }
}

#[test]
fn settings_are_read() {
    let config = |name: &str| Autoencoder::open(&fixture(name), Precision::F32).unwrap().config().clone();
    let (sd, xl, bare) = (config("sd"), config("sdxl"), config("bare"));
    assert_eq!((sd.scaling_factor, sd.shift_factor, sd.factor()), (0.18215, 0.0, 4));
    assert_eq!((xl.scaling_factor, xl.sample_size), (0.13025, 24));
    assert_eq!((bare.scaling_factor, bare.shift_factor, bare.latent_channels), (1.5305, 0.0609, 3));
    let model = Autoencoder::open(&fixture("bare"), Precision::F32).unwrap();
    let scaled = [0.5f32; 12];
    let plain = scaled.map(|z| (f64::from(z) / 1.5305 + 0.0609) as f32);
    assert_eq!(model.decode_scaled(&scaled, [2, 2]).unwrap(), model.decode(&plain, [2, 2]).unwrap());
}

#[test]
fn weights_are_known_by_their_values() {
    let of = |name: &str| fingerprint(&fixture(name)).unwrap();
    let sd = of("sd");
    assert_eq!(sd.len(), 64);
    assert_eq!((&of("old"), &of("compvis/vae.ckpt")), (&sd, &sd));
    assert_ne!(of("bare"), sd);
}

/// A pipeline's folder holds the autoencoder's.
#[test]
fn pipelines_are_entered() {
    let folder = tempfile::tempdir().unwrap();
    let vae = folder.path().join("vae");
    fs::create_dir(&vae).unwrap();
    for name in ["config.json", "diffusion_pytorch_model.safetensors"] {
        fs::copy(fixture("sd").join(name), vae.join(name)).unwrap();
    }
    assert_eq!(fingerprint(folder.path()).unwrap(), fingerprint(&fixture("sd")).unwrap());
}

fn refused(path: &Path) -> String {
    Autoencoder::open(path, Precision::F32).err().expect("it is refused").to_string()
}

#[track_caller]
fn assert_names(message: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(message.contains(part), "{message} lacks {part}"));
}

/// The folder `sd` with its config.json edited, and with the tensors that `edit` makes of it.
fn damaged(from: &str, to: &str, edit: impl Fn(&str, Vec<usize>) -> Option<Vec<usize>>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = fs::read_to_string(fixture("sd/config.json")).unwrap();
    assert!(config.contains(from), "{config}");
    fs::write(folder.path().join("config.json"), config.replace(from, to)).unwrap();
    let file = Checkpoint::open(&fixture("sd")).unwrap();
    let kept =
        file.names().filter_map(|name| Some((name, edit(name, file.entry(name).unwrap().shape.clone())?)));
    let zeros = |shape: &[usize]| vec![0.0; shape.iter().product()];
    let tensors: Vec<_> = kept
        .map(|(name, shape)| TensorSource::new(name.into(), shape.clone(), move || Ok(zeros(&shape))))
        .collect();
    let path = folder.path().join("diffusion_pytorch_model.safetensors");
    write_safetensors(&path, &tensors, scion::checkpoint::Precision::F32, &Default::default()).unwrap();
    folder
}

#[test]
fn unfit_files_are_refused_by_name() {
    let whole = |_: &str, shape| Some(shape);
    let folder = damaged("\"act_fn\": \"silu\"", "\"act_fn\": \"relu\"", whole);
    assert_names(&refused(folder.path()), &["config.json", "act_fn is \"relu\""]);
    let folder = damaged("\"use_quant_conv\": true", "\"use_quant_conv\": false", whole);
    assert_names(&refused(folder.path()), &["2 unused: quant_conv.bias [8], quant_conv.weight [8, 8, 1, 1]"]);
    let folder = damaged("{", "{", |name, shape| (name != "decoder.conv_in.bias").then_some(shape));
    assert_names(&refused(folder.path()), &["1 missing: decoder.conv_in.bias [8]"]);
    let folder = damaged("{", "{", |name, shape| {
        Some(if name == "encoder.conv_in.weight" { vec![4, 1, 3, 3] } else { shape })
    });
    assert_names(
        &refused(folder.path()),
        &["encoder.conv_in.weight (expected [4, 3, 3, 3], found [4, 1, 3, 3])"],
    );
    fs::remove_file(folder.path().join("config.json")).unwrap();
    assert_names(&refused(folder.path()), &["has no config.json beside its weights"]);
    assert_names(&refused(&folder.path().join("absent")), &["absent: no such file or folder"]);
}

#[test]
fn unfit_images_are_refused() {
    let model = Autoencoder::open(&fixture("sd"), Precision::F32).unwrap();
    let message = |result: scion::error::Result<Vec<f32>>| result.unwrap_err().to_string();
    let encode = |model: &Autoencoder, values, sides| {
        model.encode(&vec![0.0; values], sides).map(|latent| latent.mean)
    };
    assert_names(&message(encode(&model, 48, [4, 5])), &["48 values are not an image of 3 channels, 4×5"]);
    assert_names(&message(encode(&model, 36, [3, 4])), &["an image of 3×4; expected at least 4×4"]);
    assert_names(
        &message(model.decode(&[0.0; 7], [1, 2])),
        &["7 values are not a latent of 4 channels, 1×2"],
    );
    assert_names(&message(model.decode(&[], [0, 2])), &["a latent of 0×2"]);
    let tiled = model.with_tiling(Tiling { above: 16, sample: 16 }).unwrap();
    // 25 pixels are 12, 12 and one.
    assert_names(&message(encode(&tiled, 3 * 25 * 16, [25, 16])), &["the last tile of 25 pixels has only 1"]);
    let small = tiled.with_tiling(Tiling { above: 16, sample: 8 }).err().unwrap().to_string();
    assert_names(&small, &["tiles of 8 pixels", "at least 16"]);
}
