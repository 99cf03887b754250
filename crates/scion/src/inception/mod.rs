//! The Inception network of FID (Heusel et al. 2017): features of images from the weight file that users of pytorch-fid
//! have, with the preprocessing of the three programs whose numbers are published. Knows tensors and images, no metrics.
//!
//! Runs on the CPU. An image's features depend on nothing but the image: not on its batch, nor on the number of threads.

mod architecture;
mod fold;
mod layer;
mod pool;
mod preprocess;
mod weights;

use std::path::Path;

use rayon::prelude::*;
use scion_kernels::Precision;
use scion_kernels::gemm::{Epilogue, MatRef, PackedB, matmul_packed};

use crate::checkpoint::Checkpoint;
use crate::convolution::{Convolution, Map};
use crate::data::ImageShape;
use crate::error::{Error, Result};
use crate::metrics::Features;
use crate::metrics::inception_score::softmax;
use architecture::{Named, network};
use fold::{Norm, folded};
use layer::Layer;
pub use preprocess::Preprocessing;
use preprocess::{Preparation, SIDE};
pub use weights::{ADDRESS, FILE, SHA256, locate};

/// Dimensions of the pooled features, TensorFlow's `pool_3`.
pub const POOL: usize = 2048;
/// Dimensions of the spatial features: 17·17 places, 7 channels.
pub const SPATIAL: usize = 17 * 17 * SPATIAL_CHANNELS;
/// Classes of the logits.
pub const CLASSES: usize = 1008;
/// Channels of `Mixed_6d` that the spatial features keep.
const SPATIAL_CHANNELS: usize = 7;

/// The network with its weights.
pub struct Inception {
    /// Up to `Mixed_6d`, and from there to the last map.
    parts: [Layer<Convolution>; 2],
    /// [`POOL`] to [`CLASSES`], without bias.
    classifier: PackedB,
}

/// What the network makes of N images.
#[derive(Clone, Debug, PartialEq)]
pub struct InceptionFeatures {
    /// The mean of the last map over its places, [N, 2048]: for FID, KID, precision and recall; and for the Inception
    /// Score by way of [`Inception::logits`].
    pub pool: Features,
    /// For sFID (Nash et al. 2021), [N, 2023]: the first seven channels of TensorFlow's `mixed_6/conv`, which is
    /// `Mixed_6d.branch1x1` after ReLU, laid out [17, 17, 7] as in ADM's reference statistics.
    pub spatial: Features,
}

impl Inception {
    /// Loads a weight file with the names of pytorch-fid's (`Conv2d_1a_3x3.conv.weight`, …, `fc.bias`), a PyTorch or
    /// safetensors file. Batch norms are folded into the convolutions.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`]; `Tensors`, listing names, if a tensor is missing, left over or misshapen.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let parts = network();
        file.check(&expected(&parts, &file))?;
        let mut load = |named: &Named| {
            let read = |tensor: &str| file.read_f32(&format!("{}.{tensor}", named.name));
            let norm = Norm {
                weight: read("bn.weight")?,
                bias: read("bn.bias")?,
                mean: read("bn.running_mean")?,
                variance: read("bn.running_var")?,
            };
            Ok(folded(named.geometry, read("conv.weight")?, &norm))
        };
        let [front, back] = &parts;
        let parts = [front.try_map(&mut load)?, back.try_map(&mut load)?];
        let classifier = file.read_f32("fc.weight")?;
        let classifier = PackedB::pack(Precision::F32, MatRef::new(&classifier, CLASSES, POOL).t());
        Ok(Self { parts, classifier })
    }

    /// Collects features of images that come piece by piece; `expected` of them, more or less.
    pub fn extractor(&self, preprocessing: Preprocessing, expected: usize) -> Extractor<'_> {
        Extractor {
            inception: self,
            preprocessing,
            pool: Vec::with_capacity(expected * POOL),
            spatial: Vec::with_capacity(expected * SPATIAL),
        }
    }

    /// Logits without bias, [N, 1008], of pooled features: those whose softmax the Inception Score takes.
    ///
    /// # Errors
    /// `Usage` if the features have other than 2048 dimensions, or are so large that a logit is not finite.
    pub fn logits(&self, pool: &Features) -> Result<Features> {
        if pool.dim() != POOL {
            let detail =
                format!("inception: features of {} dimensions have no logits; expected {POOL}", pool.dim());
            return Err(Error::Usage(detail));
        }
        let mut logits = vec![0.0; pool.len() * CLASSES];
        let rows = MatRef::new(pool.as_slice(), pool.len(), POOL);
        matmul_packed(rows, &self.classifier, &mut logits, CLASSES, false, Epilogue::default());
        Features::new(CLASSES, logits)
    }

    /// Class probabilities, [N, 1008]: the softmax of [`Inception::logits`].
    ///
    /// # Errors
    /// As [`Inception::logits`].
    pub fn probabilities(&self, pool: &Features) -> Result<Features> {
        Ok(softmax(&self.logits(pool)?))
    }

    /// Pooled and spatial features of one prepared image, [299, 299, 3].
    fn forward(&self, prepared: Vec<f32>) -> (Vec<f32>, Vec<f32>) {
        let [front, back] = &self.parts;
        let mut patches = Vec::new();
        let middle = front.apply(&Map { shape: [SIDE, SIDE, 3], data: prepared }, &mut patches);
        let places = middle.data.chunks_exact(middle.shape[2]);
        let spatial = places.flat_map(|place| &place[..SPATIAL_CHANNELS]).copied().collect();
        let last = back.apply(&middle, &mut patches);
        let places = last.data.chunks_exact(POOL);
        let count = places.len() as f32;
        let mut pool = vec![0.0; POOL];
        places.for_each(|place| pool.iter_mut().zip(place).for_each(|(sum, value)| *sum += value));
        pool.iter_mut().for_each(|sum| *sum /= count);
        (pool, spatial)
    }
}

/// Features of images that come piece by piece, and perhaps in different sizes; holds nothing but features.
pub struct Extractor<'a> {
    inception: &'a Inception,
    preprocessing: Preprocessing,
    pool: Vec<f32>,
    spatial: Vec<f32>,
}

impl Extractor<'_> {
    /// Adds images, u8 [N, C, H, W], each of shape `shape`. Grey images count as coloured ones of three equal channels.
    ///
    /// # Errors
    /// `Usage` if the bytes are not whole images, or have other than 1 or 3 channels.
    pub fn push(&mut self, shape: ImageShape, pixels: &[u8]) -> Result<()> {
        let preparation = Preparation::new(self.preprocessing, shape)?;
        if !pixels.len().is_multiple_of(shape.len()) {
            let detail = format!("inception: {} bytes are not images of shape {shape}", pixels.len());
            return Err(Error::Usage(detail));
        }
        let images: Vec<_> = pixels
            .par_chunks_exact(shape.len())
            .with_max_len(1)
            .map(|image| self.inception.forward(preparation.prepare(image)))
            .collect();
        for (pool, spatial) in images {
            self.pool.extend(pool);
            self.spatial.extend(spatial);
        }
        Ok(())
    }

    /// How many images it has seen.
    pub fn len(&self) -> usize {
        self.pool.len() / POOL
    }

    /// Whether it has seen none.
    pub fn is_empty(&self) -> bool {
        self.pool.is_empty()
    }

    /// The features, in the order of the images.
    ///
    /// # Errors
    /// `Usage` if one is not finite, which only weights can cause.
    pub fn finish(self) -> Result<InceptionFeatures> {
        Ok(InceptionFeatures {
            pool: Features::new(POOL, self.pool)?,
            spatial: Features::new(SPATIAL, self.spatial)?,
        })
    }
}

/// Names and shapes of the tensors in a weight file.
fn expected(parts: &[Layer<Named>], file: &Checkpoint) -> Vec<(String, Vec<usize>)> {
    let mut tensors =
        vec![("fc.weight".to_owned(), vec![CLASSES, POOL]), ("fc.bias".to_owned(), vec![CLASSES])];
    for Named { name, geometry } in parts.iter().flat_map(Layer::convolutions) {
        let [rows, columns] = geometry.kernel;
        tensors.push((format!("{name}.conv.weight"), vec![geometry.outputs, geometry.inputs, rows, columns]));
        for tensor in ["weight", "bias", "running_mean", "running_var"] {
            tensors.push((format!("{name}.bn.{tensor}"), vec![geometry.outputs]));
        }
        // A counter that PyTorch saves since 0.4.1 and nothing here needs.
        let counter = format!("{name}.bn.num_batches_tracked");
        if file.entry(&counter).is_some() {
            tensors.push((counter, vec![]));
        }
    }
    tensors
}
