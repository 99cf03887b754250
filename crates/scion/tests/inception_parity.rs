//! The Inception network against pytorch-fid, clean-fid and torch-fidelity (`scripts/fixtures/inception.py`), on random
//! weights and images that both sides make by the same rule: the weights are too large to be stored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use scion::checkpoint::{Checkpoint, Precision, TensorSource, write_safetensors};
use scion::data::ImageShape;
use scion::data::samples::write_samples;
use scion::inception::{CLASSES, Inception, InceptionFeatures, POOL, Preprocessing, SPATIAL};
use scion::metrics::{Features, Moments, frechet_distance};

/// `IMAGES` of the script.
const IMAGES: [(&str, ImageShape); 3] = [
    ("odd", ImageShape { channels: 3, height: 40, width: 57 }),
    ("large", ImageShape { channels: 3, height: 310, width: 301 }),
    ("grey", ImageShape { channels: 1, height: 28, width: 28 }),
];
const FLAVOURS: [(&str, Preprocessing); 3] = [
    ("adm", Preprocessing::Adm),
    ("pytorch-fid", Preprocessing::PytorchFid),
    ("clean-fid", Preprocessing::CleanFid),
];
/// `STEP` of the script.
const STEP: usize = 23;
/// Largest difference, relative to the largest value.
const TOLERANCE: f32 = 1e-4;

/// `noise` of the script.
fn noise(name: &str, count: usize) -> Vec<f32> {
    let seed =
        name.bytes().fold(0x811c_9dc5_u32, |seed, byte| (seed ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let one = |i: usize| {
        let mut x = (i as u32).wrapping_mul(0x9e37_79b9).wrapping_add(seed);
        x = (x ^ x >> 16).wrapping_mul(0x21f0_aaad);
        x = (x ^ x >> 15).wrapping_mul(0x735a_2d97);
        x ^= x >> 15;
        (x >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(one).collect()
}

/// `weight` of the script.
fn weight(name: &str, shape: &[usize]) -> Vec<f32> {
    let mut values = noise(name, shape.iter().product());
    let kind = name.rsplit('.').next().unwrap();
    if kind == "weight" && shape.len() > 1 {
        let scale = (24.0 / shape[1..].iter().product::<usize>() as f64).sqrt() as f32;
        values.iter_mut().for_each(|value| *value *= scale);
    } else if matches!(kind, "weight" | "running_var") {
        values.iter_mut().for_each(|value| *value += 1.0);
    }
    values
}

/// `image` of the script, [C, H, W].
fn image(name: &str, shape: ImageShape) -> Vec<u8> {
    let grain = noise(&format!("image.{name}"), shape.len());
    let pixel = |(i, grain): (usize, f32)| {
        let (c, y, x) = (i / (shape.height * shape.width), i / shape.width % shape.height, i % shape.width);
        ((3 * y + 2 * x + 40 * c) % 128) as u8 + ((grain + 0.5) * 128.0) as u8
    };
    grain.into_iter().enumerate().map(pixel).collect()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/inception").join(name)
}

/// A weight file with the names and shapes of pytorch-fid's state dict.
fn weight_file(folder: &Path) -> PathBuf {
    let json = std::fs::read(fixture("shapes.json")).unwrap();
    let shapes: BTreeMap<String, Vec<usize>> = serde_json::from_slice(&json).unwrap();
    let tensors: Vec<_> = shapes
        .into_iter()
        .map(|(name, shape)| {
            TensorSource::new(name.clone(), shape.clone(), move || Ok(weight(&name, &shape)))
        })
        .collect();
    let path = folder.join("inception.safetensors");
    write_safetensors(&path, &tensors, Precision::F32, &BTreeMap::new()).unwrap();
    path
}

/// The originals' outputs.
fn expected() -> impl Fn(&str) -> Vec<f32> {
    let file = Checkpoint::open(&fixture("expected.safetensors")).unwrap();
    move |name| file.read_f32(name).unwrap()
}

/// Largest difference over the largest expected magnitude.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let top = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    found
        .iter()
        .zip(expected)
        .map(|(f, e)| (f - e).abs())
        .fold(0f32, |m, d| if d > m || d.is_nan() { d } else { m })
        / top
}

#[test]
fn features_match_the_originals() {
    let folder = tempfile::tempdir().unwrap();
    let inception = Inception::open(&weight_file(folder.path())).unwrap();
    let expected = expected();
    for (flavour, preprocessing) in FLAVOURS {
        // All images through one extractor, whatever their sizes.
        let mut extractor = inception.extractor(preprocessing, IMAGES.len());
        for (name, shape) in IMAGES {
            extractor.push(shape, &image(name, shape)).unwrap();
        }
        let InceptionFeatures { pool, spatial } = extractor.finish().unwrap();
        let logits = inception.logits(&pool).unwrap();
        assert_eq!((pool.dim(), spatial.dim(), logits.dim()), (POOL, SPATIAL, CLASSES));
        for (i, (name, _)) in IMAGES.iter().enumerate() {
            for (part, found) in [("pool", &pool), ("spatial", &spatial), ("logits", &logits)] {
                let wrong = error(found.row(i), &expected(&format!("{flavour}.{name}.{part}")));
                println!("{flavour} {name} {part}: {wrong:.1e}");
                assert!(wrong < TOLERANCE, "{flavour} {name} {part}: {wrong:.1e}");
            }
        }
        let probabilities = inception.probabilities(&pool).unwrap();
        for i in 0..IMAGES.len() {
            let (row, logits) = (probabilities.row(i), logits.row(i));
            let top = (0..CLASSES).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            for (p, logit) in row.iter().zip(logits) {
                assert!((p / row[top] - (logit - logits[top]).exp()).abs() < 1e-5);
            }
        }
    }
    a_set_gives_what_its_images_give_alone(&inception);
    the_program_takes_the_same(&inception, folder.path());
    let two = Features::new(2, vec![0.0; 2]).unwrap();
    assert!(inception.logits(&two).unwrap_err().to_string().contains("expected 2048"));
}

/// Part of the test above, which has loaded the weights.
fn a_set_gives_what_its_images_give_alone(inception: &Inception) {
    let shape = ImageShape { channels: 1, height: 9, width: 12 };
    let pixels = image("set", ImageShape { height: 2 * 9, ..shape });
    let mut extractor = inception.extractor(Preprocessing::Adm, 2);
    extractor.push(shape, &pixels).unwrap();
    assert_eq!(extractor.len(), 2);
    let both = extractor.finish().unwrap();
    // The second image alone, in colours that are all the same grey.
    let mut extractor = inception.extractor(Preprocessing::Adm, 1);
    extractor.push(ImageShape { channels: 3, ..shape }, &pixels[shape.len()..].repeat(3)).unwrap();
    let alone = extractor.finish().unwrap();
    assert_eq!(both.pool.row(1), alone.pool.row(0));
    assert_eq!(both.spatial.row(1), alone.spatial.row(0));
    let mut extractor = inception.extractor(Preprocessing::Adm, 1);
    let message = extractor.push(shape, &pixels[1..]).unwrap_err().to_string();
    assert!(message.contains("215 bytes are not images of shape [1, 9, 12]"), "{message}");
    assert!(extractor.is_empty());
}

/// Part of the test above: `scion evaluate` scores the features of the chosen flavour.
fn the_program_takes_the_same(inception: &Inception, folder: &Path) {
    let shape = ImageShape { channels: 3, height: 20, width: 16 };
    let [a, b] = ["a", "b"].map(|name| {
        let pixels: Vec<u8> = (0..5).flat_map(|i| image(&format!("{name}{i}"), shape)).collect();
        let file = folder.join(format!("{name}.npz"));
        write_samples(&file, &pixels, shape, None).unwrap();
        (pixels, file)
    });
    for (flavour, preprocessing) in FLAVOURS {
        let features = |pixels: &[u8]| {
            let mut extractor = inception.extractor(preprocessing, 5);
            extractor.push(shape, pixels).unwrap();
            extractor.finish().unwrap()
        };
        let (ours, real) = (features(&a.0), features(&b.0));
        let distance = |a: &Features, b: &Features| {
            frechet_distance(&Moments::of(a).unwrap(), &Moments::of(b).unwrap()).unwrap()
        };
        let mut program = assert_cmd::cargo::cargo_bin_cmd!("scion");
        program.args(["evaluate", "--json", "--metrics", "fid,sfid", "--preprocess", flavour, "--inception"]);
        program.arg(folder.join("inception.safetensors")).arg(&a.1).arg("--reference").arg(&b.1);
        let output = program.output().unwrap();
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        for (name, expected) in [
            ("frechet", distance(&ours.pool, &real.pool)),
            ("spatial_frechet", distance(&ours.spatial, &real.spatial)),
        ] {
            let value = found[name]["value"].as_f64();
            let near = value.is_some_and(|value| (value - expected).abs() < 1e-6 * expected);
            assert!(near, "{flavour} {name}: {value:?}, not {expected}: {output:?}");
        }
    }
}

#[test]
fn preprocessing_matches_the_originals() {
    let expected = expected();
    for ((flavour, preprocessing), (name, shape)) in
        FLAVOURS.iter().flat_map(|f| IMAGES.map(|image| (f, image)))
    {
        let prepared = preprocessing.prepare(shape, &image(name, shape)).unwrap();
        let grid: Vec<f32> = (0..299)
            .step_by(STEP)
            .flat_map(|y| (0..299).step_by(STEP).map(move |x| (y * 299 + x) * 3))
            .flat_map(|at| prepared[at..at + 3].to_vec())
            .collect();
        let wrong = error(&grid, &expected(&format!("{flavour}.{name}.input")));
        assert!(wrong < 1e-6, "{flavour} {name}: {wrong:.1e}");
    }
}

#[test]
fn files_of_other_networks_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.safetensors");
    let tensors = [
        TensorSource::new("fc.weight".into(), vec![2, 3], || Ok(vec![0.0; 6])),
        TensorSource::new("AuxLogits.fc.bias".into(), vec![1], || Ok(vec![0.0])),
    ];
    write_safetensors(&path, &tensors, Precision::F32, &BTreeMap::new()).unwrap();
    let message = Inception::open(&path).err().unwrap().to_string();
    for part in [
        "471 missing: fc.bias [1008], Conv2d_1a_3x3.conv.weight [32, 3, 3, 3]",
        "1 unused: AuxLogits.fc.bias [1]",
        "fc.weight (expected [1008, 2048], found [2, 3])",
    ] {
        assert!(message.contains(part), "{message}");
    }
}
