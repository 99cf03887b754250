//! Diffusion transformers with replaceable operators: DiT (Peebles & Xie 2023), which is conditioned on a class, and
//! PixArt-α and -Σ (Chen et al. 2023, 2024), which are conditioned on a prompt.

mod architecture;
mod block;
mod checkpointed;
mod conditioning;
mod config;
mod cross_attention;
mod dit;
mod embed;
mod file;
mod pair;
mod parameters;
mod part;
mod prompts;

pub use architecture::{Architecture, Replacement};
pub use block::{Block, Modulation, Seen, Tap};
pub use checkpointed::Checkpointed;
pub use conditioning::{Context, Given, Text};
pub use config::{Conditions, DitConfig, PRESETS, TextConfig};
pub use cross_attention::CrossAttention;
pub use dit::Dit;
pub use file::{
    architecture_of, load, load_operator, operator_tensors, original_layout_tells, save_diffusers,
    save_original, save_scion, save_scion_as, tensor_sources,
};
pub use pair::{MergeInit, Pair};
pub(crate) use parameters::Path;
pub use parameters::{
    apply_weights, fingerprint, native_shape, parameters, trained, update_parameters, update_selected,
};
pub use part::{Part, Site};
pub use prompts::{NULL_PROMPT, Prompts};
