//! From a folder of images and what was detected in them to results.

use std::collections::HashSet;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use super::detections::{Detection, Detections, OFFICIAL_COLOR_CLASSIFIER, OFFICIAL_DETECTOR, Objects};
use super::layout::{Folder, Sample};
use super::prompt::Prompt;
use super::python_json;
use super::record::Record;
use super::rules::Rules;
use super::words::Tag;
use crate::error::{Error, Result};

/// Judges every image of a folder. `path` names the file of detections in errors.
///
/// # Errors
/// `Invalid` if an image has no detections or detections no image, if a colour is missing, or a prompt names a
/// class that the detector does not know.
pub fn score(folder: &Folder, detections: &Detections, rules: &Rules, path: &Path) -> Result<Vec<Record>> {
    check_classes(&folder.prompts, &detections.classes)?;
    check_images(folder, detections).map_err(|detail| Error::invalid(path, detail))?;
    let judge = |sample: &Sample| {
        let prompt = &folder.prompts[sample.prompt];
        let objects = counted(&detections.images[&sample.key], prompt.tag, rules);
        let verdict = rules
            .judge(prompt, &objects)
            .map_err(|detail| Error::invalid(path, format!("image {}: {detail}", sample.key)))?;
        Ok(Record {
            filename: sample.path.display().to_string(),
            tag: prompt.tag,
            prompt: prompt.prompt.clone(),
            correct: verdict.correct,
            reason: verdict.reason,
            metadata: prompt.to_json(),
            details: details(&objects, &detections.classes),
        })
    };
    folder.samples.iter().map(judge).collect()
}

/// The objects of each class that count for a prompt of `tag`; classes without any are left out.
pub(super) fn counted(found: &Objects, tag: Tag, rules: &Rules) -> Objects {
    let selected = found.iter().map(|(class, boxes)| (class.clone(), rules.select(boxes, tag)));
    selected.filter(|(_, boxes)| !boxes.is_empty()).collect()
}

/// Boxes as results hold them, classes in the detector's order.
fn details(objects: &Objects, classes: &[String]) -> String {
    let numbers = |&Detection { bounds: [left, top, right, bottom], score, .. }: &Detection| {
        Value::from([left, top, right, bottom, score].map(f64::from).to_vec())
    };
    let entry = |class: &String| {
        let boxes = objects.get(class)?;
        Some((class.clone(), boxes.iter().map(numbers).collect()))
    };
    python_json::dumps(&classes.iter().filter_map(entry).collect::<Map<String, Value>>())
}

/// Refuses prompts whose objects the detector can never see.
pub(super) fn check_classes(prompts: &[Prompt], classes: &[String]) -> Result<()> {
    let known = |class: &&str| classes.iter().any(|known| known == class);
    let unknown = prompts.iter().find_map(|p| Some((p, p.classes().find(|class| !known(class))?)));
    let Some((prompt, class)) = unknown else { return Ok(()) };
    let near = classes
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(class, a).total_cmp(&strsim::jaro_winkler(class, b)));
    let hint = near.map_or(String::new(), |near| format!(" (nearest: \"{near}\")"));
    let detail = format!("prompt \"{}\": the detector knows no class \"{class}\"{hint}", prompt.prompt);
    Err(Error::Usage(format!("geneval: {detail}")))
}

/// Refuses detections of other images than the folder's.
fn check_images(folder: &Folder, detections: &Detections) -> Result<(), String> {
    let keys: HashSet<&str> = folder.samples.iter().map(|sample| sample.key.as_str()).collect();
    let named = |mut list: Vec<&str>, what: &str| {
        list.sort_unstable();
        match list[..] {
            [] => Ok(()),
            [one] => Err(format!("{what} {one}")),
            [first, ..] => Err(format!("{what} {} images, the first {first}", list.len())),
        }
    };
    let lacking = keys.iter().copied().filter(|key| !detections.images.contains_key(*key));
    named(lacking.collect(), "has no detections of")?;
    let left_over = detections.images.keys().map(String::as_str).filter(|key| !keys.contains(key));
    named(left_over.collect(), "has detections that the folder has no image for, of")
}

/// A doubt about the scores, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WarningKind {
    /// The detector is another than GenEval's.
    OtherDetector,
    /// The colour classifier is another, or unknown.
    OtherColorClassifier,
    /// Settings of the rules are not GenEval's.
    OtherRules,
    /// Some of the six tags have no images.
    TagsMissing,
    /// Prompts have unequal numbers of images.
    CountsDiffer,
}

/// A doubt, for programs and for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    pub kind: WarningKind,
    pub message: String,
}

/// What keeps scores of a folder from being compared with published ones.
pub fn warnings(folder: &Folder, detections: &Detections, rules: &Rules) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |kind, message| warnings.push(Warning { kind, message });
    if !detections.is_official_detector() {
        let message = format!(
            "the detector is {}, not GenEval's Mask2Former ({OFFICIAL_DETECTOR}): do not compare with published scores",
            detections.detector
        );
        warn(WarningKind::OtherDetector, message);
    }
    let colored = folder.prompts.iter().any(|p| p.include.iter().any(|required| required.color.is_some()));
    let classifier = detections.color_classifier.as_deref();
    if colored && classifier != Some(OFFICIAL_COLOR_CLASSIFIER) {
        let message = format!(
            "colours are by {}, not GenEval's CLIP ({OFFICIAL_COLOR_CLASSIFIER})",
            classifier.unwrap_or("an unnamed classifier")
        );
        warn(WarningKind::OtherColorClassifier, message);
    }
    if *rules != Rules::default() {
        warn(WarningKind::OtherRules, "the rules' settings are not GenEval's".to_owned());
    }
    if let Some([(least, few), (most, many)]) = folder.uneven() {
        let message = format!("prompts have unequal numbers of images: {least} has {few}, {most} has {many}");
        warn(WarningKind::CountsDiffer, message);
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_classes_are_refused_with_a_hint() {
        let prompt = r#"{"tag": "counting", "include": [{"class": "dog", "count": 2}],
            "exclude": [{"class": "mouse", "count": 3}], "prompt": "two dogs"}"#;
        let prompts = [Prompt::parse(prompt).unwrap()];
        let classes = ["dog", "mousse"].map(str::to_owned);
        let message = check_classes(&prompts, &classes).unwrap_err().to_string();
        assert!(
            message.contains("\"two dogs\"") && message.contains("\"mouse\" (nearest: \"mousse\")"),
            "{message}"
        );
        assert!(check_classes(&prompts, &["dog", "mouse"].map(str::to_owned)).is_ok());
    }
}
