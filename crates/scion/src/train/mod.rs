//! Training: the loop shared by pretraining and stage 2, and stage 1's regression of single parts.

mod config;
mod distill;
mod finetune;
mod gradient;
mod lora;
mod objective;
mod pass;
mod regression;
mod state;
mod trainer;

pub use config::{CaptureMode, DistillConfig, LrSchedule, RegressionLoss, TrainConfig};
pub use distill::{Distiller, PartReport};
pub use finetune::{LayerGroup, LoraConfig, Method, Objective, TeacherConfig};
pub use gradient::{Step, collect, descend};
pub use lora::adapt;
pub use regression::regression_loss;
pub use state::TrainState;
pub use trainer::{StepReport, Trainer};

#[cfg(test)]
mod tests;
#[cfg(test)]
mod text_tests;
