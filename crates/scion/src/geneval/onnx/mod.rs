//! Detections by ONNX networks, run by `tract`; compiled with the feature `geneval-onnx`.

mod color;
mod crop;
mod detector;
mod network;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rayon::prelude::*;

use super::detections::{Detections, Objects};
use super::layout::{Folder, Sample, open_image};
use super::prompt::Prompt;
use super::rules::{Rules, surest};
use super::score::{check_classes, counted};
use crate::data::Raster;
use crate::error::Result;

pub use color::ColorClassifier;
pub use detector::Detector;

/// Which pixels are an object's, on the detector's grid over the whole image.
struct Mask {
    width: usize,
    height: usize,
    inside: Vec<bool>,
}

impl Mask {
    /// Whether it covers a pixel of `image`.
    fn covers(&self, x: usize, y: usize, image: &Raster) -> bool {
        let (column, row) = (x * self.width / image.width, y * self.height / image.height);
        self.inside[row * self.width + column]
    }
}

/// Classes of which prompts ask for a colour.
pub fn colored_classes(prompts: &[Prompt]) -> BTreeSet<&str> {
    let required = prompts.iter().flat_map(|prompt| &prompt.include);
    required.filter(|required| required.color.is_some()).map(|required| required.class.as_str()).collect()
}

/// Looks at every image of a folder. Colours are told of the objects whose colour the rules may ask for, at whatever
/// threshold; where there is no classifier, of none. `seen` is called after each image.
///
/// # Errors
/// `Usage` if a prompt names a class that is not in `classes`; `Invalid` if an image cannot be read or a network
/// fails; `Io`.
pub fn detect(
    folder: &Folder,
    detector: &Detector,
    colors: Option<&ColorClassifier>,
    classes: &[String],
    rules: &Rules,
    seen: impl Fn() + Sync,
) -> Result<Detections> {
    check_classes(&folder.prompts, classes)?;
    let look = |sample: &Sample| {
        let found = look(sample, &folder.prompts[sample.prompt], detector, colors, classes, rules)?;
        seen();
        Ok((sample.key.clone(), found))
    };
    let images = folder.samples.par_iter().with_max_len(1).map(look).collect::<Result<BTreeMap<_, _>>>()?;
    // Never the name of GenEval's own detector, whatever the file is called.
    let by = |path: &Path| format!("ONNX file {}", path.file_name().unwrap_or_default().to_string_lossy());
    Ok(Detections {
        detector: by(detector.path()),
        color_classifier: colors.map(|colors| by(colors.path())),
        classes: classes.to_vec(),
        images,
    })
}

/// What is seen in one image.
fn look(
    sample: &Sample,
    prompt: &Prompt,
    detector: &Detector,
    colors: Option<&ColorClassifier>,
    classes: &[String],
    rules: &Rules,
) -> Result<Objects> {
    let image = open_image(&sample.path)?;
    let mut objects = Objects::new();
    let mut masks: BTreeMap<&str, Vec<Option<Mask>>> = BTreeMap::new();
    for found in detector.detect(&image)? {
        let class = &classes[found.class];
        objects.entry(class.clone()).or_default().push(found.detection);
        masks.entry(class).or_default().push(found.mask);
    }
    let Some(colors) = colors else { return Ok(objects) };
    let any = Rules { threshold: 0.0, counting_threshold: 0.0, ..*rules };
    let counted = counted(&objects, prompt.tag, &any);
    for required in prompt.include.iter().filter(|required| required.color.is_some()) {
        for asked in surest(required, &counted) {
            let class = required.class.as_str();
            let boxes = objects.get_mut(class).expect("what counts was seen");
            let Some(index) = boxes.iter().position(|found| found == asked) else { continue };
            let crop = crop::crop(&image, asked.bounds, masks[class][index].as_ref());
            boxes[index].color = Some(colors.classify(&crop, class)?);
        }
    }
    Ok(objects)
}
