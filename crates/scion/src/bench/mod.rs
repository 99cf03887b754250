//! How fast Scion is at what it is for: steps of given work, timed, with their arithmetic and memory.
//!
//! The first five workloads are those of `scripts/bench/torch_twin.py`, the same mathematics in stock PyTorch.

mod distilled;
mod pixart;
mod stages;
mod times;
mod workload;

use std::hint::black_box;
use std::time::Instant;

use scion_kernels::gemm::{Epilogue, MatRef, matmul};
use scion_kernels::{Precision, keep_awake, release_freed_memory};
use serde::Serialize;

pub use distilled::Distilled;
pub use pixart::{Comparison, Passes, measure_pixart};
pub use stages::Setting;
pub use times::Times;
use workload::Job;
pub use workload::{WORKLOADS, Workload};

use crate::config::PrecisionConfig;
use crate::error::Result;
use crate::run::{peak_memory, reset_peak_memory};

/// Steps before the first timed one: they fill caches and the allocator.
const WARM_UP: usize = 3;

/// Times of one workload.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// Name of the workload.
    pub workload: String,
    /// Tokens an image, where workloads of several lengths are compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
    /// Operand precision of products.
    pub precision: PrecisionConfig,
    /// Timed steps.
    pub runs: usize,
    /// Threads of the pool.
    pub threads: usize,
    /// How long they took.
    #[serde(flatten)]
    pub times: Times,
    /// Arithmetic of a step in GFLOP (a multiply-add is two), where it is products that take the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gflop: Option<f64>,
    /// GFLOP/s at the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gflops: Option<f64>,
    /// That as a share of [`peak_gflops`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_of_peak: Option<f64>,
    /// Images a second at the median, for work that is counted in images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images_per_s: Option<f64>,
    /// Largest resident memory of the process while the workload was built and run, in bytes.
    pub peak_rss_bytes: u64,
}

/// The fastest of some large matrix products, in GFLOP/s: what the machine gives in this precision.
pub fn peak_gflops(precision: Precision) -> f64 {
    let side = 2048;
    let values: Vec<f32> = (0..side * side).map(|i| (i * 7919 % 1009) as f32 / 504.5 - 1.0).collect();
    let (a, b) = (MatRef::new(&values, side, side), MatRef::new(&values, side, side));
    let mut c = vec![0f32; side * side];
    let mut fastest = f64::INFINITY;
    for _ in 0..8 {
        let started = Instant::now();
        matmul(precision, a, b, black_box(&mut c), side, false, Epilogue::default());
        fastest = fastest.min(started.elapsed().as_secs_f64());
    }
    2.0 * (side as f64).powi(3) / fastest / 1e9
}

/// Builds a workload, runs it `runs` times after a warm-up, and says how long its steps took.
///
/// `peak` is what [`peak_gflops`] found in this precision.
///
/// # Errors
/// When the workload cannot be built.
pub fn measure(
    workload: Workload,
    precision: PrecisionConfig,
    runs: usize,
    peak: f64,
) -> Result<Measurement> {
    let job = || workload.build();
    let found = timed(job, precision, runs)?;
    let share_of_peak = found.gflops.map(|gflops| gflops / peak);
    Ok(Measurement { workload: workload.name().into(), share_of_peak, ..found })
}

/// How long a step of stage 1 of one image takes at each of the lengths, and what memory, for an operator at DiT-XL's
/// width.
///
/// # Errors
/// When the operator does not fit a length.
pub fn measure_lengths(
    operator: Distilled,
    tokens: &[usize],
    precision: PrecisionConfig,
    runs: usize,
    mut on_length: impl FnMut(Measurement) -> Result<()>,
) -> Result<()> {
    let operator = operator.config();
    for &tokens in tokens {
        operator.check(distilled::WIDTH, tokens)?;
        let found = timed(|| workload::one_image(&operator, tokens), precision, runs)?;
        on_length(Measurement { workload: operator.name(), tokens: Some(tokens), ..found })?;
    }
    Ok(())
}

/// A measurement without the workload's name.
fn timed(
    build: impl FnOnce() -> Result<Job>,
    precision: PrecisionConfig,
    runs: usize,
) -> Result<Measurement> {
    release_freed_memory();
    reset_peak_memory();
    let mut job = build()?;
    for _ in 0..WARM_UP {
        (job.step)()?;
    }
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs.max(1) {
        let started = Instant::now();
        // As the loops of training and sampling do.
        keep_awake(&mut job.step)?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let times = Times::of(times);
    let a_second = |amount: f64| amount / times.median_ms * 1e3;
    Ok(Measurement {
        workload: String::new(),
        tokens: None,
        precision,
        runs: times.times_ms.len(),
        threads: rayon::current_num_threads(),
        gflop: job.gflop,
        gflops: job.gflop.map(a_second),
        share_of_peak: None,
        images_per_s: job.images.map(|images| a_second(images as f64)),
        times,
        peak_rss_bytes: peak_memory(),
    })
}
