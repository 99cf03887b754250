//! Fused operators of diffusion transformers, each beside a plain reference, for Burn.
//!
//! One folder an operator: `mod.rs` is what a model calls, `reference.rs` the same in plain tensor
//! operations, `cpu.rs` the fused version with its hand-written backward pass, checked against the reference.

#[macro_use]
mod multiversion;

pub mod adapted;
mod array;
pub mod attention;
mod awake;
mod backend;
pub mod conv;
pub mod feature_conv;
pub mod gemm;
pub mod hyena;
pub mod linear;
pub mod linear_attention;
pub mod mamba2;
mod memory;
pub mod mlp;
pub mod norm;
pub mod optimizer;
mod packed;
mod pull;
pub mod residual;
mod runs;
mod shared;
mod sums;
mod taps;

use std::sync::atomic::{AtomicBool, Ordering};

use burn::Tensor;
use burn::backend::Flex;

use array::Array;
pub use awake::keep_awake;
pub use backend::KernelBackend;
pub use gemm::Precision;
pub use memory::{CacheLines, keep_freed_memory, release_freed_memory};
pub use packed::PackedWeights;
pub use pull::{backward, pull};

static BF16: AtomicBool = AtomicBool::new(false);

/// Chooses the operand precision of every product from here on, in the whole process.
pub fn set_precision(precision: Precision) {
    BF16.store(precision == Precision::Bf16, Ordering::Relaxed);
}

/// The operand precision of products.
pub fn precision() -> Precision {
    if BF16.load(Ordering::Relaxed) { Precision::Bf16 } else { Precision::F32 }
}

/// Chunk `index` of a modulation row [N, k·width] as [N, 1, width].
fn chunk(modulation: &Tensor<2>, index: usize, width: usize) -> Tensor<3> {
    modulation.clone().narrow(1, index * width, width).unsqueeze_dim(1)
}

/// Gives access to a tensor's values, row by row, without copying them.
///
/// # Panics
/// When the tensor does not live on the CPU backend or is not f32.
pub fn with_values<const D: usize, R>(tensor: &Tensor<D>, see: impl FnOnce(&[f32]) -> R) -> R {
    let tensor = if tensor.is_autodiff() { tensor.clone().inner() } else { tensor.clone() };
    let primitive = tensor.try_into_primitive::<Flex>().expect("values are read on the CPU");
    see(Array::new(primitive).values())
}

/// Gives mutable access to a tensor's values, in place where no one else holds them.
///
/// # Panics
/// When the tensor does not live on the CPU backend or records gradients.
pub fn with_values_mut<const D: usize>(tensor: Tensor<D>, edit: impl FnOnce(&mut [f32])) -> Tensor<D> {
    let mut primitive = tensor.try_into_primitive::<Flex>().expect("values are edited on the CPU");
    if !primitive.is_contiguous() {
        primitive = primitive.to_contiguous();
    }
    edit(primitive.storage_mut::<f32>());
    Tensor::from_primitive::<Flex>(primitive)
}
