//! GenEval (arXiv:2310.11513): does an image show the objects, counts, colours and positions that its prompt names?
//!
//! [`Prompt`]s say what must be seen, [`Layout`] is the folder that image generation fills, [`Folder`] reads one.
//! [`Detections`] say what a detector saw there, [`Rules`] what counts and whether it is right, [`score`] makes
//! [`Record`]s of it and [`Summary`] the numbers. The rules and files are those of the official program,
//! djghosh13/geneval, whose results `parity.rs` compares with; docs/geneval.md is for users.

mod detections;
mod layout;
#[cfg(feature = "geneval-onnx")]
pub mod onnx;
#[cfg(test)]
mod parity;
mod prompt;
mod python_json;
mod record;
mod rules;
mod score;
mod summary;
mod table;
mod words;

pub use detections::{Detection, Detections, OFFICIAL_COLOR_CLASSIFIER, OFFICIAL_DETECTOR, Objects};
pub use layout::{Folder, Layout, Sample};
pub use prompt::{Excluded, OFFICIAL_PROMPTS, Prompt, Required, official_prompts, read_prompts};
pub use record::{Record, read_records, write_records};
pub use rules::{Rules, Verdict};
pub use score::{Warning, WarningKind, score, warnings};
pub use summary::{Score, Summary, TagScore};
pub use table::{Report, markdown, table};
pub use words::{CLASSES, Color, Relation, Tag};
