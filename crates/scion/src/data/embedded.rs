//! The data set compiled into the program: part of Fashion-MNIST (`assets/fashion-mnist/README.md` says
//! which part, under which licence, and how it was made).

use std::path::Path;

use super::fashion_mnist::{FashionMnist, Split};
use super::{ImageSet, idx};
use crate::error::Result;

macro_rules! asset {
    ($name:literal) => {
        (
            $name,
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/fashion-mnist/", $name))
                .as_slice(),
        )
    };
}

type Asset = (&'static str, &'static [u8]);
const TRAIN: [Asset; 2] = [asset!("train-6000-images.idx.gz"), asset!("train-6000-labels.idx.gz")];
const TEST: [Asset; 2] = [asset!("test-images.idx.gz"), asset!("test-labels.idx.gz")];

/// Embedded Fashion-MNIST: `Split::Train` is 6,000 training images, 600 a class; `Split::Test` all
/// 10,000 test images. Grey, 28×28.
///
/// # Errors
/// `Invalid` only if the program file itself is damaged.
pub fn fashion_mnist(split: Split) -> Result<ImageSet> {
    let [images, labels] = match split {
        Split::Train => TRAIN,
        Split::Test => TEST,
    };
    let unpack = |(name, bytes): Asset, rank| {
        let path = Path::new("embedded").join(name);
        idx::parse(&idx::decompress(bytes.to_vec(), &path)?, rank, &path)
    };
    let source = format!("embedded {}", images.0);
    FashionMnist::image_set(unpack(images, 3)?, unpack(labels, 1)?, Path::new(&source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subset_is_stratified_and_test_set_whole() {
        for (split, a_class) in [(Split::Train, 600), (Split::Test, 1000)] {
            let set = fashion_mnist(split).unwrap();
            let mut counts = [0; 10];
            set.labels().iter().for_each(|&label| counts[label] += 1);
            assert_eq!(counts, [a_class; 10]);
        }
    }

    #[test]
    fn pixels_are_photographs() {
        let set = fashion_mnist(Split::Train).unwrap();
        let bytes = set.as_bytes().unwrap();
        let mean = bytes.iter().map(|&b| f64::from(b)).sum::<f64>() / bytes.len() as f64;
        // The full training set's mean grey level is 72.94 (0.2860 of 255).
        assert!((mean - 72.94).abs() < 1.0, "mean grey level {mean}");
        assert_eq!(set.class_names()[9], "Ankle boot");
    }
}
