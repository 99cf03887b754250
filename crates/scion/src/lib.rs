//! Scion grafts pretrained diffusion transformers: it replaces their operators, repairs the model in two
//! cheap stages, and tells what the edit cost and what it kept.
//!
//! Modules in the order data flows through them.

pub mod analyze;
mod atomic;
pub mod bench;
pub mod capture;
pub mod checkpoint;
pub mod classifier;
pub mod cli;
pub mod config;
mod convolution;
pub mod data;
pub mod diffusion;
mod download;
pub mod error;
pub mod evaluate;
pub mod generate;
pub mod geneval;
pub mod inception;
pub mod latent;
pub mod metrics;
pub mod model;
pub mod operator;
pub mod plan;
mod positions;
pub mod report;
pub mod run;
pub mod sweep;
pub mod text;
pub mod train;
mod zip_output;
