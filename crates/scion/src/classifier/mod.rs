//! A small classifier of Fashion-MNIST: the judge of class-conditional samples, and the feature space of
//! Fréchet distance and KID on 28×28 images. Distances in it are not FID, whose features are Inception's.
//!
//! `assets/classifier.safetensors` holds the weights in f16; `examples/train_classifier.rs` makes that file.

mod augment;
mod network;
mod train;

use std::path::Path;

use burn::Tensor;
use burn::tensor::{Device, TensorData};
use half::f16;
use safetensors::{Dtype, SafeTensors};
use scion_kernels::linear::linear_reference;

use crate::checkpoint::{Precision, TensorSource, write_safetensors};
use crate::error::{Error, Result};
use crate::model::{apply_weights, parameters};
use crate::operator::Init;
pub use network::{CLASSES, FEATURES, SIDE};
use network::{Network, PIXELS};
pub use train::{EpochReport, Settings, train};

/// What the embedded feature space is called, so that nobody takes the distance for FID.
pub const FEATURE_SPACE: &str = "penultimate features of Scion's own Fashion-MNIST classifier (these distances are not FID or Inception KID)";

/// Images computed at a time. Fixed, and short blocks are filled up, so that no image's features depend on
/// how many others are asked for.
const BLOCK: usize = 100;

const ASSET: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/classifier.safetensors"));

/// A trained classifier of grey 28×28 images.
#[derive(Debug)]
pub struct Classifier {
    network: Network,
    device: Device,
}

/// What a classifier says of N images.
#[derive(Clone, Debug, PartialEq)]
pub struct Classified {
    /// Activations of the layer below the logits, [N, [`FEATURES`]].
    pub features: Vec<f32>,
    /// Most probable class of each image, [N].
    pub labels: Vec<usize>,
}

impl Classifier {
    /// The classifier compiled into the program.
    ///
    /// # Errors
    /// `Invalid` or `Tensors` only if the program file itself is damaged.
    pub fn embedded(device: &Device) -> Result<Self> {
        Self::from_bytes(ASSET, Path::new("embedded classifier.safetensors"), device)
    }

    /// A classifier that [`Classifier::save`] wrote.
    ///
    /// # Errors
    /// `Io` if the file cannot be read, `Invalid` or `Tensors` if it does not hold this classifier.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        Self::from_bytes(&bytes, path, device)
    }

    /// Writes the weights in f16, rounded to nearest.
    ///
    /// # Errors
    /// `Io` if the file cannot be written, `Tensors` if a weight does not fit f16.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut sources = Vec::new();
        parameters(&self.network, |name, data| {
            let shape = data.shape().to_vec();
            let values: Vec<f32> = data.try_into_vec().expect("parameters are f32");
            sources.push(TensorSource::new(name, shape, move || Ok(values.clone())));
        });
        write_safetensors(path, &sources, Precision::F16, &Default::default())
    }

    /// Features and classes of `images`, [N, 1, 28, 28] in [-1, 1].
    ///
    /// Always computed in f32, whatever precision the process has chosen for its models.
    ///
    /// # Errors
    /// `Usage` if the values are not whole images.
    pub fn classify(&self, images: &[f32]) -> Result<Classified> {
        if !images.len().is_multiple_of(PIXELS) {
            let detail =
                format!("classifier: {} values are not images of {SIDE}×{SIDE} grey pixels", images.len());
            return Err(Error::Usage(detail));
        }
        let count = images.len() / PIXELS;
        let mut result = Classified { features: Vec::new(), labels: Vec::with_capacity(count) };
        for block in images.chunks(BLOCK * PIXELS) {
            let mut pixels = block.to_vec();
            pixels.resize(BLOCK * PIXELS, 0.0);
            let pixels = Tensor::from_data(TensorData::new(pixels, [BLOCK, PIXELS]), &self.device);
            let (features, logits) = self.network.forward(pixels, linear_reference);
            let filled = block.len() / PIXELS;
            result.features.extend_from_slice(&values(features)[..filled * FEATURES]);
            result.labels.extend(values(logits).chunks_exact(CLASSES).take(filled).map(largest));
        }
        Ok(result)
    }

    fn from_bytes(bytes: &[u8], path: &Path, device: &Device) -> Result<Self> {
        let file = SafeTensors::deserialize(bytes)
            .map_err(|e| Error::invalid(path, format!("is no safetensors file: {e}")))?;
        let network = Network::new(&mut Init::empty(device));
        let mut shapes = std::collections::BTreeMap::new();
        parameters(&network, |name, data| drop(shapes.insert(name, data.shape().to_vec())));
        let network = apply_weights(network, |name| {
            let wrong = |found: String| Error::Tensors {
                path: path.into(),
                detail: format!(
                    "tensor `{name}`: expected F16 {:?} of Scion's classifier, found {found}",
                    shapes[name]
                ),
            };
            let tensor = file.tensor(name).map_err(|_| wrong("none".into()))?;
            if tensor.dtype() != Dtype::F16 || tensor.shape() != shapes[name] {
                return Err(wrong(format!("{:?} {:?}", tensor.dtype(), tensor.shape())));
            }
            Ok(Some(tensor.data().as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()))
        })?;
        Ok(Self { network, device: device.clone() })
    }
}

fn values(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("the classifier computes in f32")
}

/// Index of the largest value; of equal ones the first.
fn largest(values: &[f32]) -> usize {
    (1..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Split, embedded, to_unit};
    use crate::metrics::Accuracy;

    fn test_images(count: usize) -> (Vec<f32>, Vec<usize>) {
        let set = embedded::fashion_mnist(Split::Test).unwrap();
        (to_unit(&set.as_bytes().unwrap()[..count * PIXELS]), set.labels()[..count].to_vec())
    }

    /// `results/classifier/train.log` has the figure for all 10,000 images.
    #[test]
    fn real_images_are_put_in_the_right_class() {
        let (images, labels) = test_images(2000);
        let classified = Classifier::embedded(&Device::flex()).unwrap().classify(&images).unwrap();
        let accuracy = Accuracy::of(&classified.labels, &labels).unwrap();
        assert!(accuracy.fraction() >= 0.91, "accuracy {}", accuracy.fraction());
        assert_eq!(classified.features.len(), 2000 * FEATURES);
        assert!(classified.features.iter().all(|v| v.is_finite()));
    }

    #[test]
    fn an_image_is_judged_alone() {
        let (images, _) = test_images(130);
        let classifier = Classifier::embedded(&Device::flex()).unwrap();
        let whole = classifier.classify(&images).unwrap();
        let mut parts = Classified { features: Vec::new(), labels: Vec::new() };
        for part in images.chunks(37 * PIXELS) {
            let part = classifier.classify(part).unwrap();
            parts.features.extend(part.features);
            parts.labels.extend(part.labels);
        }
        assert_eq!(whole, parts);
        assert!(
            classifier.classify(&images[1..]).unwrap_err().to_string().contains("are not images of 28×28")
        );
        assert!(classifier.classify(&[]).unwrap().labels.is_empty());
    }

    #[test]
    fn saving_keeps_the_classifier_and_foreign_files_are_named() {
        let (images, _) = test_images(3);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.safetensors");
        let classifier = Classifier::embedded(&Device::flex()).unwrap();
        classifier.save(&path).unwrap();
        let opened = Classifier::open(&path, &Device::flex()).unwrap();
        assert_eq!(opened.classify(&images).unwrap(), classifier.classify(&images).unwrap());

        let foreign = TensorSource::new("head.weight".into(), vec![1], || Ok(vec![0.0]));
        write_safetensors(&path, &[foreign], Precision::F16, &Default::default()).unwrap();
        let message = Classifier::open(&path, &Device::flex()).unwrap_err().to_string();
        assert!(message.contains("c.safetensors: tensor `") && message.contains("found none"), "{message}");
    }
}
