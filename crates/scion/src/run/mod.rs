//! Runs: a folder, the stages that fill it, and how an interrupted one goes on.

mod evaluate;
mod folder;
mod graft;
mod pipeline;
mod pretrain;
mod progress;
mod results;
mod sample;
mod source;
mod stage1;
mod teacher;

pub use evaluate::{FEATURE_SPACE, Judge, Scores};
pub use folder::{RunFolder, write_atomically};
pub use pipeline::{Outcome, Until, run};
pub use pretrain::pretrain;
pub use progress::Progress;
pub use sample::sample_images;
pub use source::training_images;
pub use teacher::{EMBEDDED_NAME, Teacher, open_checkpoint};
