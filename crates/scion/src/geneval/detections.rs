//! What a detector saw in each image, as a JSON file that any program can write (docs/geneval.md has an example).

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::words::{CLASSES, Color};
use crate::atomic;
use crate::error::{Error, Result};

/// The detector and the colour classifier that GenEval's published numbers come from.
pub const OFFICIAL_DETECTOR: &str = "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco";
pub const OFFICIAL_COLOR_CLASSIFIER: &str = "ViT-L-14 openai";

const FORMAT: &str = "geneval-detections-1";

/// An object that a detector saw. Single precision, as detectors give it: thresholds are compared in that.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// Left, top, right, bottom in pixels.
    pub bounds: [f32; 4],
    /// 0 to 1.
    pub score: f32,
    /// Its colour, where that was asked for.
    pub color: Option<Color>,
}

/// Detections of one image by class.
pub type Objects = BTreeMap<String, Vec<Detection>>;

/// Detections in a folder of images.
#[derive(Clone, Debug, PartialEq)]
pub struct Detections {
    pub detector: String,
    pub color_classifier: Option<String>,
    /// Every class that the detector knows, in the order in which results list them.
    pub classes: Vec<String>,
    /// By the image's name inside the folder, `00000/samples/0000.png`.
    pub images: BTreeMap<String, Objects>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    detector: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    color_classifier: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    classes: Option<Vec<String>>,
    images: BTreeMap<String, BTreeMap<String, Vec<Value>>>,
}

impl Detections {
    /// Reads a file.
    ///
    /// # Errors
    /// `Io`; `Invalid`, naming image, class and box, for anything but detections in the documented format.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let file: File = serde_json::from_slice(&bytes)
            .map_err(|e| Error::invalid(path, format!("is no file of detections: {e}")))?;
        Self::from_file(file).map_err(|detail| Error::invalid(path, detail))
    }

    fn from_file(file: File) -> Result<Self, String> {
        if file.format != FORMAT {
            return Err(format!("format: \"{}\"; expected \"{FORMAT}\"", file.format));
        }
        let classes = file.classes.unwrap_or_else(|| CLASSES.map(str::to_owned).to_vec());
        let mut known = HashSet::new();
        if let Some(twice) = classes.iter().find(|class| !known.insert(class.as_str())) {
            return Err(format!("classes: \"{twice}\" stands there twice"));
        }
        let mut images = BTreeMap::new();
        for (image, found) in file.images {
            let mut objects = Objects::new();
            for (class, boxes) in found {
                if !known.contains(class.as_str()) {
                    return Err(format!("image {image}: \"{class}\" is none of the detector's classes"));
                }
                let boxes = boxes.iter().enumerate().map(|(index, value)| {
                    detection(value).map_err(|e| format!("image {image}, \"{class}\", box {index}: {e}"))
                });
                objects.insert(class.clone(), boxes.collect::<Result<_, _>>()?);
            }
            images.insert(image, objects);
        }
        Ok(Self { detector: file.detector, color_classifier: file.color_classifier, classes, images })
    }

    /// Writes a file that [`Detections::read`] reads.
    ///
    /// # Errors
    /// `Io` if it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let plain = |boxes: &Vec<Detection>| boxes.iter().map(value).collect();
        let objects = |(image, objects): (&String, &Objects)| {
            (image.clone(), objects.iter().map(|(class, boxes)| (class.clone(), plain(boxes))).collect())
        };
        let file = File {
            format: FORMAT.into(),
            detector: self.detector.clone(),
            color_classifier: self.color_classifier.clone(),
            classes: (self.classes != CLASSES).then(|| self.classes.clone()),
            images: self.images.iter().map(objects).collect(),
        };
        let text = serde_json::to_string(&file).expect("detections are plain data");
        atomic::write_with(path, |to| writeln!(to, "{text}").map_err(|e| Error::io("write", path, e)))
    }

    /// Whether the detector is the one behind GenEval's published numbers.
    pub fn is_official_detector(&self) -> bool {
        self.detector == OFFICIAL_DETECTOR
    }
}

/// A score from 0 to 1, which a detector's rounding may leave by a little.
pub(super) fn share(score: f32) -> Option<f32> {
    (-1e-4..=1.0 + 1e-4).contains(&score).then(|| score.clamp(0.0, 1.0))
}

fn value(detection: &Detection) -> Value {
    let Detection { bounds: [left, top, right, bottom], score, color } = *detection;
    match color {
        Some(color) => json!([left, top, right, bottom, score, color]),
        None => json!([left, top, right, bottom, score]),
    }
}

/// Reads `[x0, y0, x1, y1, score]`, which a colour's name may follow.
fn detection(value: &Value) -> Result<Detection, String> {
    let expected = || format!("{value}; expected [x0, y0, x1, y1, score], perhaps with the name of a colour");
    let items = value.as_array().filter(|items| matches!(items.len(), 5 | 6)).ok_or_else(expected)?;
    let mut numbers = [0.0; 5];
    for (number, item) in numbers.iter_mut().zip(items) {
        *number = item.as_f64().ok_or_else(expected)? as f32;
        if !number.is_finite() {
            return Err(format!("{item} is beyond single precision"));
        }
    }
    let [left, top, right, bottom, score] = numbers;
    if right < left || bottom < top {
        return Err(format!("{value} ends before it begins; expected corners, not width and height"));
    }
    let score = share(score).ok_or_else(|| format!("its score is {score}; expected 0 to 1"))?;
    let named = |item: &Value| {
        let color = item.as_str().and_then(Color::named);
        color.ok_or_else(|| {
            format!("{item} is no colour; expected one of {}", Color::ALL.map(Color::name).join(", "))
        })
    };
    let color = items.get(5).map(named).transpose()?;
    Ok(Detection { bounds: [left, top, right, bottom], score, color })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(boxes: &str) -> String {
        format!(
            r#"{{"format": "{FORMAT}", "detector": "mine", "images": {{"00000/samples/0000.png": {boxes}}}}}"#
        )
    }

    fn read(text: &str) -> Result<Detections> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("found.json");
        fs::write(&path, text).unwrap();
        Detections::read(&path)
    }

    #[test]
    fn files_round_trip() {
        let found =
            read(&text(r#"{"dog": [[0, 1.5, 2, 3, 0.1], [1, 1, 1, 1, 1.000001, "pink"]], "cat": []}"#))
                .unwrap();
        assert!(found.classes == CLASSES && !found.is_official_detector());
        let objects = &found.images["00000/samples/0000.png"];
        assert_eq!(objects["dog"][0], Detection { bounds: [0.0, 1.5, 2.0, 3.0], score: 0.1, color: None });
        assert_eq!((objects["dog"][1].color, objects["dog"][1].score), (Some(Color::Pink), 1.0));

        let own = Detections {
            classes: vec!["dog".into(), "cat".into()],
            color_classifier: Some("c".into()),
            ..found.clone()
        };
        let folder = tempfile::tempdir().unwrap();
        for (name, detections) in [("a.json", &found), ("b.json", &own)] {
            let path = folder.path().join(name);
            detections.write(&path).unwrap();
            assert_eq!(&Detections::read(&path).unwrap(), detections);
        }
    }

    #[test]
    fn wrong_files_name_image_class_and_box() {
        let place = r#"image 00000/samples/0000.png, "dog", box 1: "#;
        for (wrong, expected) in [
            ("[1, 2, 3, 4]", "expected [x0, y0, x1, y1, score]"),
            ("{}", "expected [x0, y0, x1, y1, score]"),
            (r#"[1, 2, 3, "4", 0.5]"#, "expected [x0, y0, x1, y1, score]"),
            ("[1, 2, 3, 1e300, 0.5]", "beyond single precision"),
            ("[9, 9, 3, 4, 0.5]", "expected corners, not width and height"),
            ("[1, 2, 3, 4, 50]", "its score is 50; expected 0 to 1"),
            ("[1, 2, 3, 4, 1.001]", "its score is 1.001; expected 0 to 1"),
            (r#"[1, 2, 3, 4, 0.5, "grey"]"#, "\"grey\" is no colour; expected one of red, orange"),
        ] {
            let boxes = format!(r#"{{"dog": [[0, 0, 1, 1, 0], {wrong}]}}"#);
            let message = read(&text(&boxes)).unwrap_err().to_string();
            assert!(message.contains("found.json: ") && message.contains(place), "{message}");
            assert!(message.contains(expected), "{message}");
        }
        for (wrong, expected) in [
            (text(r#"{"mouse": []}"#), "\"mouse\" is none of the detector's classes"),
            (text("{}").replace("-1", "-2"), "format: \"geneval-detections-2\"; expected"),
            (text("{}").replace("detector", "detektor"), "unknown field `detektor`"),
            (text("[]"), "invalid type"),
            (
                text("{}").replace("\"images\"", r#""classes": ["a", "a"], "images""#),
                "\"a\" stands there twice",
            ),
        ] {
            let message = read(&wrong).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
