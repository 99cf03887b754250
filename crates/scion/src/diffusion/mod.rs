//! Gaussian diffusion as DiT trains and samples it (Ho et al. 2020, Nichol & Dhariwal 2021, Song et al. 2021), and the solver
//! that PixArt is sampled with (Lu et al. 2022).
//!
//! Nothing here knows a network: a model is a closure over flat `f32` slices in `[N, C, H, W]` order. Tables and
//! per-element arithmetic are `f64`; tensors are `f32`. A step's *index* counts the steps of the schedule in hand, its
//! *timestep* is the original process's and is what the network sees; the two differ once a schedule is respaced.

mod dpm_solver;
mod gaussian;
mod guidance;
mod loss;
mod noise;
mod sampler;
mod schedule;

#[cfg(test)]
mod golden;

pub use dpm_solver::dpm_solver_step;
pub use gaussian::{Moments, Variance, moments, q_sample};
pub use guidance::{Guidance, GuidanceChannels};
pub use loss::{HybridLoss, hybrid_loss};
pub use noise::{NoiseStream, Purpose};
pub use sampler::{Sampler, Sampling, Step, ddim_step, ddpm_step, sample_loop};
pub use schedule::{Respacing, Schedule};
