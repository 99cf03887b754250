//! Sampling along a schedule: ancestral (DDPM), DDIM and DPM-Solver++.

use super::dpm_solver::dpm_solver_step;
use super::gaussian::{check_len, moments, sample_len};
use super::schedule::Schedule;
use crate::error::{Error, Result};

/// The rule that takes x_t to x₋.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampler {
    /// A draw from the model's p(x₋ | x_t), learned variance included (Ho et al. 2020).
    Ddpm,
    /// Song et al. 2021, eq. 12: η = 0 is deterministic, η = 1 ancestral with the posterior's variance. Variance channels
    /// are ignored.
    Ddim { eta: f64 },
    /// Lu et al. 2022, DPM-Solver++(2M): deterministic, of second order by the prediction before. Variance channels are
    /// ignored.
    DpmSolverPlusPlus,
}

impl Sampler {
    /// Whether the step at `index` adds noise.
    pub fn draws_noise(&self, index: usize) -> bool {
        index > 0 && !matches!(self, Self::Ddim { eta: 0.0 } | Self::DpmSolverPlusPlus)
    }
}

/// How to sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    pub sampler: Sampler,
    /// Clamp each predicted x0 to [-1, 1]. Latents are not so bounded: DiT never clips.
    pub clip_denoised: bool,
}

impl From<Sampler> for Sampling {
    fn from(sampler: Sampler) -> Self {
        Self { sampler, clip_denoised: false }
    }
}

/// A finished step, as the progress callback sees it.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// The schedule's step index; the last step is 0.
    pub index: usize,
    /// The timestep that the network was given.
    pub timestep: usize,
    /// The batch after the step, `[N, C, H, W]`.
    pub x: &'a [f32],
    /// The step's prediction of x0, `[N, C, H, W]`.
    pub pred_x0: &'a [f32],
}

/// Samples a batch: every step of `schedule` from the last to the first, starting at `x` = x_T of `shape` \[N, C, H, W\].
///
/// - `model(x, timestep)` returns the network's output, `[N, C, H, W]` or `[N, 2C, H, W]`, at an original timestep that all
///   images share; guidance happens inside ([`super::Guidance`]).
/// - `noise(n, z)` fills image n's step noise, called once per image and step that needs noise, so that each image can
///   draw from a stream of its own.
/// - `on_step` sees each step; its error ends the run.
///
/// # Errors
/// Sizes that do not fit `shape`, an η outside [0, 1], or whatever `model` or `on_step` returns.
pub fn sample_loop(
    schedule: &Schedule,
    sampling: Sampling,
    shape: [usize; 4],
    mut x: Vec<f32>,
    mut noise: impl FnMut(usize, &mut [f32]),
    mut model: impl FnMut(&[f32], usize) -> Result<Vec<f32>>,
    mut on_step: impl FnMut(Step<'_>) -> Result<()>,
) -> Result<Vec<f32>> {
    let images = shape[0];
    check_len("x_T", x.len(), shape.iter().product())?;
    let size = sample_len(x.len(), images)?;
    let mut z = vec![0.0; x.len()];
    let mut previous = None;
    for index in (0..schedule.len()).rev() {
        let timestep = schedule.timestep_map[index];
        let output = model(&x, timestep)?;
        if sampling.sampler.draws_noise(index) {
            z.chunks_exact_mut(size).enumerate().for_each(|(n, z)| noise(n, z));
        }
        let clip = sampling.clip_denoised;
        let (next, pred_x0) = match sampling.sampler {
            Sampler::Ddpm => ddpm_step(schedule, index, &x, &output, &z, images, clip)?,
            Sampler::Ddim { eta } => ddim_step(schedule, index, eta, &x, &output, &z, images, clip)?,
            Sampler::DpmSolverPlusPlus => {
                let before = previous.as_deref();
                let (next, pred_x0) = dpm_solver_step(schedule, index, &x, &output, before, images, clip)?;
                let shown = to_f32(&pred_x0);
                previous = Some(pred_x0);
                (next, shown)
            }
        };
        x = next;
        on_step(Step { index, timestep, x: &x, pred_x0: &pred_x0 })?;
    }
    Ok(x)
}

/// One ancestral step for N = `images` samples at step `index`: x₋ = mean + exp(½ ln σ²) z, without noise at step 0. `x_t`
/// and `z` are `[N, C, H, W]`, `output` that or `[N, 2C, H, W]`. Returns x₋ and the predicted x0.
///
/// # Errors
/// Sizes that do not fit each other, or an index past the schedule's last step.
pub fn ddpm_step(
    schedule: &Schedule,
    index: usize,
    x_t: &[f32],
    output: &[f32],
    z: &[f32],
    images: usize,
    clip: bool,
) -> Result<(Vec<f32>, Vec<f32>)> {
    check_len("z", z.len(), x_t.len())?;
    let p = moments(schedule, index, x_t, output, images, clip)?;
    let noisy = |((&mean, &log_variance), &z): ((&f64, &f64), &f32)| {
        let noise = if index == 0 { 0.0 } else { (0.5 * log_variance).exp() * f64::from(z) };
        (mean + noise) as f32
    };
    let next = p.mean.iter().zip(&p.log_variance).zip(z).map(noisy).collect();
    Ok((next, to_f32(&p.pred_x0)))
}

/// One DDIM step for N = `images` samples at step `index`: x₋ = √ᾱ₋ x0 + √(1 − ᾱ₋ − σ²) ε + σ z with
/// σ = η √((1 − ᾱ₋)/(1 − ᾱ)) √(1 − ᾱ/ᾱ₋). ε is derived again from x0, which differs from the network's where x0 was
/// clipped. Arguments and result as [`ddpm_step`].
///
/// # Errors
/// As [`ddpm_step`]; also an η outside [0, 1].
#[expect(
    clippy::too_many_arguments,
    reason = "the step's formula has this many inputs, all of different types or roles"
)]
pub fn ddim_step(
    schedule: &Schedule,
    index: usize,
    eta: f64,
    x_t: &[f32],
    output: &[f32],
    z: &[f32],
    images: usize,
    clip: bool,
) -> Result<(Vec<f32>, Vec<f32>)> {
    if !(0.0..=1.0).contains(&eta) {
        return Err(Error::Usage(format!("DDIM: eta is {eta}, expected 0 (deterministic) to 1 (ancestral)")));
    }
    check_len("z", z.len(), x_t.len())?;
    let p = moments(schedule, index, x_t, output, images, clip)?;
    let (bar, prev) = (schedule.alphas_cumprod[index], schedule.alphas_cumprod_prev[index]);
    let sigma = eta * ((1.0 - prev) / (1.0 - bar)).sqrt() * (1.0 - bar / prev).sqrt();
    // With η ≤ 1 the radicand is never negative: σ² ≤ 1 − ᾱ₋, with equality at step 0 only, where both are 0.
    let (keep, direction) = (prev.sqrt(), (1.0 - prev - sigma * sigma).sqrt());
    let step = |((&x, &x0), &z): ((&f32, &f64), &f32)| {
        let eps = schedule.predict_eps(index, f64::from(x), x0);
        (x0 * keep + direction * eps + sigma * f64::from(z)) as f32
    };
    let next = x_t.iter().zip(&p.pred_x0).zip(z).map(step).collect();
    Ok((next, to_f32(&p.pred_x0)))
}

fn to_f32(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::NoiseStream;

    /// Samples images `first..first + count` of seed 4 with an elementwise model of C = 2.
    fn sample(first: u64, count: usize) -> Vec<f32> {
        let schedule = Schedule::linear().ddim(5).unwrap();
        let mut streams: Vec<_> = (0..count as u64).map(|n| NoiseStream::new(4, first + n)).collect();
        let mut x = vec![0.0; count * 8];
        x.chunks_exact_mut(8).zip(&mut streams).for_each(|(x, stream)| stream.fill_normal(x));
        let model = |x: &[f32], _| Ok(x.chunks_exact(8).flat_map(|x| [x, &[0.3; 8]].concat()).collect());
        let noise = |n: usize, z: &mut [f32]| streams[n].fill_normal(z);
        sample_loop(&schedule, Sampler::Ddpm.into(), [count, 2, 2, 2], x, noise, model, |_| Ok(())).unwrap()
    }

    #[test]
    fn batch_size_never_changes_a_sample() {
        let whole = sample(0, 5);
        assert_eq!(whole, [sample(0, 2), sample(2, 3)].concat());
        assert_ne!(whole[..8], whole[8..16]);
    }

    #[test]
    fn a_perfect_model_recovers_x0() {
        // A data set of one point: ε = (x_t − √ᾱ x0)/√(1 − ᾱ) exactly, so DDIM must land on it.
        let schedule = Schedule::linear().respaced(&super::super::Respacing::Stride(7)).unwrap();
        let full = Schedule::linear();
        let x0 = [0.5_f32, -2.0, 1.25, 0.0];
        let model = |x: &[f32], t: usize| {
            let eps = |(&x, &x0): (&f32, &f32)| full.predict_eps(t, f64::from(x), f64::from(x0)) as f32;
            Ok(x.iter().zip(&x0).map(eps).collect())
        };
        let mut timesteps = Vec::new();
        let on_step = |step: Step<'_>| {
            timesteps.push(step.timestep);
            Ok(())
        };
        let sampling = Sampler::Ddim { eta: 0.0 }.into();
        let no_noise = |_: usize, _: &mut [f32]| panic!("deterministic sampling draws no noise");
        let found =
            sample_loop(&schedule, sampling, [1, 4, 1, 1], vec![1.0; 4], no_noise, model, on_step).unwrap();
        assert!(found.iter().zip(&x0).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}");
        assert_eq!(timesteps, [999, 832, 666, 500, 333, 166, 0]);
    }

    #[test]
    fn errors_from_outside_end_the_run_and_bad_input_is_refused() {
        let schedule = Schedule::linear().ddim(5).unwrap();
        let run = |sampler: Sampler, shape: [usize; 4], out: usize, stop: bool| {
            let model = |_: &[f32], _: usize| Ok(vec![0.0; out]);
            let on_step = |_: Step<'_>| if stop { Err(Error::Usage("stopped".into())) } else { Ok(()) };
            sample_loop(&schedule, sampler.into(), shape, vec![0.0; 8], |_, _| (), model, on_step)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(run(Sampler::Ddpm, [2, 4, 1, 1], 16, true), "stopped");
        assert!(run(Sampler::Ddpm, [2, 4, 1, 1], 12, false).contains("12 values for latents of 8"));
        assert!(run(Sampler::Ddpm, [3, 4, 1, 1], 16, false).contains("holds 8 values, expected 12"));
        assert!(run(Sampler::Ddim { eta: 1.5 }, [2, 4, 1, 1], 16, false).contains("eta is 1.5"));
        assert!(run(Sampler::Ddim { eta: f64::NAN }, [2, 4, 1, 1], 16, false).contains("eta is NaN"));
    }
}
