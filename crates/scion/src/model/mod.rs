//! The class-conditional diffusion transformer (DiT, Peebles & Xie 2023) with replaceable operators.

mod block;
mod checkpointed;
mod config;
mod dit;
mod embed;
mod file;
mod parameters;

pub use block::{Block, Tap};
pub use checkpointed::Checkpointed;
pub use config::{Architecture, DitConfig, PRESETS, Replacement};
pub use dit::Dit;
pub use file::{architecture_of, load, save_scion, save_scion_as, tensor_sources};
pub(crate) use parameters::Path;
pub use parameters::{
    apply_weights, fingerprint, native_shape, parameters, trained, update_parameters, update_selected,
};
