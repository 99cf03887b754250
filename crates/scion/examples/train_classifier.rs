//! Trains the classifier that Scion embeds, on all 60,000 training images of Fashion-MNIST, and judges the written
//! file by the 10,000 test images. `results/classifier/command.txt` has the command and its setting.
//!
//! `cargo run --release --example train_classifier -- assets/classifier.safetensors DATA_FOLDER`
//!
//! The four files of Fashion-MNIST are looked for in Debian's folder, then in DATA_FOLDER (default: `data`), and
//! downloaded there if neither has them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::Device;
use scion::classifier::{Classifier, Settings, train};
use scion::data::{FashionMnist, Split, to_unit};
use scion::error::{Error, Result};
use scion::metrics::Accuracy;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let usage = || Error::Usage("usage: train_classifier OUT.safetensors [DATA_FOLDER]".into());
    let out = arguments.next().ok_or_else(usage)?;
    let data = FashionMnist::find_or_download(&arguments.next().unwrap_or_else(|| "data".into()))?;
    scion_kernels::keep_freed_memory();
    scion_kernels::set_precision(scion_kernels::Precision::Bf16);

    let settings = Settings::default();
    println!("{settings:?}");
    let (device, started) = (Device::flex(), Instant::now());
    let classifier = train(Arc::new(data.read(Split::Train)?), settings, &device, |epoch| {
        println!(
            "epoch {:2}  loss {:.4}  training accuracy {:.4}  {:.0} s",
            epoch.epoch,
            epoch.loss,
            epoch.accuracy,
            started.elapsed().as_secs_f64()
        );
    })?;
    classifier.save(&out)?;

    let test = data.read(Split::Test)?;
    let pixels = test.read(&(0..test.len()).collect::<Vec<_>>())?;
    let started = Instant::now();
    let classified = Classifier::open(&out, &device)?.classify(&to_unit(&pixels))?;
    let accuracy = Accuracy::of(&classified.labels, test.labels())?;
    let (low, high) = accuracy.wilson(1.96);
    println!(
        "test accuracy {:.4} ({} of {}; 95 % interval {low:.4} to {high:.4}), classified in {:.1} s",
        accuracy.fraction(),
        accuracy.correct,
        accuracy.total,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}
