//! Runs: a folder, the stages that fill it, and how an interrupted one goes on.

mod canvas;
mod evaluate;
mod events;
mod folder;
mod graft;
mod locality;
mod operators;
mod pictures;
mod pipeline;
mod plan;
mod pretrain;
mod progress;
mod prompts;
mod results;
mod sample;
mod source;
mod stage1;
mod teacher;
mod watch;

pub use canvas::Canvas;
pub use evaluate::{Judge, Scores};
pub use folder::RunFolder;
pub use locality::Locality;
pub use operators::with_stored_operators;
pub use pipeline::{Outcome, Until, check_stages, run};
pub(crate) use plan::plan_with;
pub use plan::{Planned, plan_of};
pub use pretrain::pretrain;
pub use progress::Progress;
pub use sample::{remove_parts, sample_film, sample_images, sample_in_parts};
pub use source::{held_out_images, training_images};
pub use teacher::{EMBEDDED_EMOJI, EMBEDDED_NAME, Teacher, embedded_teacher, is_at_hand, with_checkpoint};

pub(crate) use evaluate::same_teacher_images;
pub(crate) use folder::TEACHER;
pub(crate) use graft::with_fresh_parts;
pub(crate) use prompts::{embedded_prompts, fetched_prompts, with_embedded_captions};
pub(crate) use results::{cpu_name, kebab, peak_memory, reset_peak_memory};
pub(crate) use sample::{Template, draw};
pub(crate) use watch::{Glimpse, watch};

/// The recipe of `scion quickstart`.
pub const QUICKSTART: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/quickstart.toml"));
