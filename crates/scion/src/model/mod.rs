//! The class-conditional diffusion transformer (DiT, Peebles & Xie 2023) with replaceable operators.

mod block;
mod checkpointed;
mod config;
mod dit;
mod embed;
mod file;
mod pair;
mod parameters;
mod part;

pub use block::{Block, Seen, Tap};
pub use checkpointed::Checkpointed;
pub use config::{Architecture, DitConfig, PRESETS, Replacement};
pub use dit::Dit;
pub use file::{
    architecture_of, load, load_operator, operator_tensors, save_scion, save_scion_as, tensor_sources,
};
pub use pair::{MergeInit, Pair};
pub(crate) use parameters::Path;
pub use parameters::{
    apply_weights, fingerprint, native_shape, parameters, trained, update_parameters, update_selected,
};
pub use part::{Part, Site};
