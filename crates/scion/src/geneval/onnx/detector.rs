//! Object detectors as ONNX files.

use std::path::Path;

use super::Mask;
use super::network::{Network, Output};
use crate::data::Raster;
use crate::data::crop::resize;
use crate::data::resample::{Filter, Span};
use crate::error::Result;
use crate::geneval::detections::{Detection, share};

/// A detector.
///
/// Input: an RGB image [1, 3, H, W], 0 to 255; if the file fixes H and W, images are resized to them (bicubic, without
/// keeping their proportions), otherwise given as they are. Outputs, by name: `boxes` [N, 4], left, top, right and
/// bottom in pixels of the input; `scores` [N], 0 to 1; `labels` [N], classes counted from 0; and perhaps `masks`
/// [N, H, W], above 0.5 inside the object.
pub struct Detector {
    network: Network,
    classes: usize,
    places: [usize; 3],
    masks: Option<usize>,
}

/// An object with its class and mask.
pub(super) struct Found {
    pub(super) class: usize,
    pub(super) detection: Detection,
    pub(super) mask: Option<Mask>,
}

impl Detector {
    /// Opens a file whose labels are below `classes`.
    ///
    /// # Errors
    /// `Invalid` if it is no such network.
    pub fn open(path: &Path, classes: usize) -> Result<Self> {
        let network = Network::open(path)?;
        let place = |name: &str| network.outputs().iter().position(|output| output == name);
        let needed = |name| {
            let found = network.outputs().join(", ");
            place(name).ok_or_else(|| network.refused(format!("has no output `{name}`, but {found}")))
        };
        let places = [needed("boxes")?, needed("scores")?, needed("labels")?];
        let masks = place("masks");
        Ok(Self { network, classes, places, masks })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        self.network.path()
    }

    /// Everything that it sees in an RGB image.
    ///
    /// # Errors
    /// `Invalid` if the network fails or its outputs are not as described.
    pub(super) fn detect(&self, image: &Raster) -> Result<Vec<Found>> {
        let size = self.network.size().unwrap_or([image.height, image.width]);
        let [height, width] = size;
        let fitted = resize(image, Span::whole(width), Span::whole(height), Filter::Bicubic);
        let planes: Vec<f32> = fitted.to_planes().into_iter().map(f32::from).collect();
        let outputs = self.network.run(&planes, size)?;
        let [boxes, scores, labels] = self.places.map(|place| &outputs[place]);
        let masks = self.masks.map(|place| &outputs[place]);
        let count = scores.data.len();
        self.check("scores", scores, &[count])?;
        self.check("boxes", boxes, &[count, 4])?;
        self.check("labels", labels, &[count])?;
        if let Some(masks) = masks {
            self.check("masks", masks, &[count, height, width])?;
        }
        let scale = [image.width as f32 / width as f32, image.height as f32 / height as f32];
        let one = |index: usize| {
            let inside = |masks: &Output| {
                let pixels = &masks.data[index * height * width..][..height * width];
                Mask { width, height, inside: pixels.iter().map(|value| *value > 0.5).collect() }
            };
            let class = self.class(labels.data[index])?;
            let bounds = [0, 1, 2, 3].map(|side| boxes.data[4 * index + side] * scale[side % 2]);
            let detection = self.detection(bounds, scores.data[index])?;
            Ok(Found { class, detection, mask: masks.map(inside) })
        };
        (0..count).map(one).collect()
    }

    fn check(&self, name: &str, output: &Output, expected: &[usize]) -> Result<()> {
        if output.shape == expected {
            return Ok(());
        }
        Err(self.network.refused(format!("`{name}` is {:?}; expected {expected:?}", output.shape)))
    }

    fn class(&self, label: f32) -> Result<usize> {
        let class = label as usize;
        if label >= 0.0 && class < self.classes && class as f32 == label {
            return Ok(class);
        }
        let last = self.classes - 1;
        Err(self.network.refused(format!("gives the label {label}; expected one of 0 to {last}")))
    }

    fn detection(&self, bounds: [f32; 4], score: f32) -> Result<Detection> {
        let refused = |found: String, expected| self.network.refused(format!("{found}; expected {expected}"));
        let score = share(score).ok_or_else(|| refused(format!("gives the score {score}"), "0 to 1"))?;
        let [left, top, right, bottom] = bounds;
        if left <= right && top <= bottom && bounds.iter().all(|bound| bound.is_finite()) {
            return Ok(Detection { bounds, score, color: None });
        }
        Err(refused(format!("gives the box {bounds:?}"), "left, top, right, bottom"))
    }
}
