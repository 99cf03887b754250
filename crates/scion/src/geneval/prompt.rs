//! Prompts, each with what must and must not be seen in its images: the lines of `evaluation_metadata.jsonl`.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::python_json;
use super::words::{Color, Relation, Tag};
use crate::error::{Error, Result};

/// The prompts of the published benchmark, 553 lines (`assets/geneval/README.md`).
pub const OFFICIAL_PROMPTS: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/geneval/evaluation_metadata.jsonl"));

/// A prompt and its conditions. An image is right if every entry of `include` holds and none of `exclude`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    pub tag: Tag,
    pub include: Vec<Required>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<Excluded>,
    /// The text that the model is given.
    pub prompt: String,
}

/// Objects that must be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Required {
    pub class: String,
    /// At least so many.
    pub count: usize,
    /// The colour of the `count` surest of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color: Option<Color>,
    /// Where they lie, as seen from the objects of an earlier entry of `include`, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<(Relation, usize)>,
}

/// Objects of which there must be fewer than `count`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Excluded {
    pub class: String,
    pub count: usize,
}

impl Prompt {
    /// Reads one JSON object.
    ///
    /// # Errors
    /// What is wrong with it, without a file's name: bad JSON, an unknown, missing or impossible field.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let prompt: Self = serde_json::from_str(text).map_err(|e| {
            // Objects of a JSONL file are one line long, and the file's line is told by the caller.
            e.to_string().replace(" at line 1 column", ", at column")
        })?;
        prompt.check()?;
        Ok(prompt)
    }

    fn check(&self) -> Result<(), String> {
        if self.prompt.trim().is_empty() {
            return Err("prompt: is empty".into());
        }
        if self.include.is_empty() {
            return Err("include: is empty; expected at least one object".into());
        }
        let included = self.include.iter().map(|r| ("include", &r.class, r.count)).enumerate();
        let excluded = self.exclude.iter().map(|e| ("exclude", &e.class, e.count)).enumerate();
        for (index, (list, class, count)) in included.chain(excluded) {
            if class.is_empty() {
                return Err(format!("{list}[{index}].class: is empty"));
            }
            if count == 0 {
                return Err(format!("{list}[{index}].count: 0; expected at least 1"));
            }
        }
        for (index, required) in self.include.iter().enumerate() {
            if let Some((_, target)) = required.position.filter(|(_, target)| *target >= index) {
                return Err(format!(
                    "include[{index}].position: its target is entry {target} of include; expected an earlier one than \
                     {index}"
                ));
            }
        }
        Ok(())
    }

    /// The prompt as Python writes it, which is how `metadata.jsonl` and results hold it.
    pub fn to_json(&self) -> String {
        python_json::dumps(self)
    }

    /// Names of the classes in its conditions.
    pub fn classes(&self) -> impl Iterator<Item = &str> {
        let included = self.include.iter().map(|r| r.class.as_str());
        included.chain(self.exclude.iter().map(|e| e.class.as_str()))
    }
}

/// Reads a file of prompts, one JSON object a line.
///
/// # Errors
/// `Io`; `Invalid`, naming line and field, for anything that is not such a prompt, and for a file without prompts.
pub fn read_prompts(path: &Path) -> Result<Vec<Prompt>> {
    let text = fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let prompts = parse_prompts(&text).map_err(|detail| Error::invalid(path, detail))?;
    if prompts.is_empty() {
        return Err(Error::invalid(path, "holds no prompts; expected one JSON object a line"));
    }
    Ok(prompts)
}

fn parse_prompts(text: &str) -> Result<Vec<Prompt>, String> {
    let one = |(index, line): (usize, &str)| {
        let line = if line.trim().is_empty() { Err("is empty".into()) } else { Prompt::parse(line) };
        line.map_err(|detail| format!("line {}: {detail}", index + 1))
    };
    text.lines().enumerate().map(one).collect()
}

/// The prompts of the published benchmark.
pub fn official_prompts() -> Vec<Prompt> {
    parse_prompts(OFFICIAL_PROMPTS).expect("the embedded prompts are well formed")
}

#[cfg(test)]
mod tests {
    use super::super::words::CLASSES;
    use super::*;

    #[test]
    fn official_prompts_are_read_and_written_alike() {
        let prompts = official_prompts();
        assert_eq!(prompts.len(), 553);
        for (line, prompt) in OFFICIAL_PROMPTS.lines().zip(&prompts) {
            assert_eq!(prompt.to_json(), line);
            assert!(prompt.classes().all(|class| CLASSES.contains(&class)), "{line}");
        }
        let counts = Tag::ALL.map(|tag| prompts.iter().filter(|p| p.tag == tag).count());
        assert_eq!(counts, [80, 99, 80, 94, 100, 100]);
        for tag in Tag::ALL {
            assert_eq!(serde_json::to_value(tag).unwrap(), tag.name());
        }
    }

    #[test]
    fn wrong_prompts_name_line_and_field() {
        let good = r#"{"tag": "colors", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}"#;
        let cases = [
            ("{", "EOF while parsing"),
            ("", "is empty"),
            (r#"{"tag": "colour"}"#, "unknown variant `colour`, expected one of `single_object`"),
            (r#"{"tag": "colors", "prompt": "x"}"#, "missing field `include`"),
            (r#"{"tag": "colors", "include": [], "prompt": "x"}"#, "include: is empty"),
            (&good.replace("1}", "0}"), "include[0].count: 0; expected at least 1"),
            (&good.replace("1}", "-1}"), "invalid value: integer `-1`"),
            (&good.replace("1}", r#"1, "colour": "red"}"#), "unknown field `colour`"),
            (&good.replace("1}", r#"1, "color": "grey"}"#), "unknown variant `grey`"),
            (
                &good.replace("1}", r#"1, "position": ["above", 0]}"#),
                "include[0].position: its target is entry 0",
            ),
            (&good.replace("1}", r#"1, "position": ["over", 0]}"#), "unknown variant `over`"),
            (&good.replace("a dog", " "), "prompt: is empty"),
            (&good.replace(r#""dog""#, r#""""#), "include[0].class: is empty"),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.jsonl");
        for (line, expected) in cases {
            fs::write(&path, format!("{good}\n{line}\n{good}\n")).unwrap();
            let message = read_prompts(&path).unwrap_err().to_string();
            assert!(message.contains("prompts.jsonl: line 2: ") && message.contains(expected), "{message}");
        }
        fs::write(&path, "").unwrap();
        assert!(read_prompts(&path).unwrap_err().to_string().contains("holds no prompts"));
        fs::write(&path, good).unwrap();
        assert_eq!(read_prompts(&path).unwrap()[0].prompt, "a dog");
    }
}
