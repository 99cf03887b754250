//! q(x_t | x0), q(x₋ | x_t, x0) and the model's p(x₋ | x_t).

use super::schedule::Schedule;
use crate::error::{Error, Result};

/// How p(x₋ | x_t) gets its variance, told by the number of channels that the network returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variance {
    /// The output is `[N, 2C, H, W]`, ε then v: ln σ² = f ln β + (1 − f) ln β̃ with f = (v + 1)/2, v not clamped.
    LearnedRange,
    /// The output is `[N, C, H, W]`, ε alone: σ² = β, with β̃ of step 1 at step 0.
    FixedLarge,
}

impl Variance {
    /// The kind that a network output of `output` values implies for latents of `latents` values.
    ///
    /// # Errors
    /// An output that is neither as large as the latents nor twice as large.
    pub fn of_output(latents: usize, output: usize) -> Result<Self> {
        match output {
            _ if output == latents => Ok(Self::FixedLarge),
            _ if output == 2 * latents => Ok(Self::LearnedRange),
            _ => Err(Error::Usage(format!(
                "diffusion: the model returned {output} values for latents of {latents}, expected {latents} (noise alone) or \
                 {} (noise and variance)",
                2 * latents
            ))),
        }
    }
}

/// The scalar coefficients of one step.
impl Schedule {
    /// x0 = √(1/ᾱ) x_t − √(1/ᾱ − 1) ε at step `index`.
    pub fn predict_x0(&self, index: usize, x_t: f64, eps: f64) -> f64 {
        self.sqrt_recip_alphas_cumprod[index] * x_t - self.sqrt_recipm1_alphas_cumprod[index] * eps
    }

    /// ε from x_t and x0: the inverse of [`Schedule::predict_x0`].
    pub fn predict_eps(&self, index: usize, x_t: f64, x0: f64) -> f64 {
        (self.sqrt_recip_alphas_cumprod[index] * x_t - x0) / self.sqrt_recipm1_alphas_cumprod[index]
    }

    /// The mean of q(x₋ | x_t, x0) at step `index`.
    pub fn posterior_mean(&self, index: usize, x0: f64, x_t: f64) -> f64 {
        self.posterior_mean_coef1[index] * x0 + self.posterior_mean_coef2[index] * x_t
    }

    /// ln σ² of p at step `index` from the network's v ([`Variance::LearnedRange`]).
    pub fn learned_log_variance(&self, index: usize, v: f64) -> f64 {
        let fraction = (v + 1.0) / 2.0;
        fraction * self.log_betas[index] + (1.0 - fraction) * self.posterior_log_variance_clipped[index]
    }

    /// ln σ² of p at step `index` where the network has no say ([`Variance::FixedLarge`]).
    pub fn fixed_log_variance(&self, index: usize) -> f64 {
        if index == 0 { self.posterior_log_variance_clipped[0] } else { self.log_betas[index] }
    }

    /// Refuses an index past the last step.
    pub(super) fn check_index(&self, index: usize) -> Result<()> {
        if index < self.len() {
            return Ok(());
        }
        Err(Error::Usage(format!("diffusion: step {index} of a schedule of {} steps", self.len())))
    }
}

/// x_t = √ᾱ x0 + √(1 − ᾱ) ε for N samples, flat `[N, …]`, each at its own step index `t[n]`.
///
/// # Errors
/// Slices that do not split into `t.len()` samples of one size, or an index past the schedule's last step.
pub fn q_sample(schedule: &Schedule, x0: &[f32], noise: &[f32], t: &[usize]) -> Result<Vec<f32>> {
    let size = sample_len(x0.len(), t.len())?;
    check_len("noise", noise.len(), x0.len())?;
    t.iter().try_for_each(|&index| schedule.check_index(index))?;
    let mut x_t = Vec::with_capacity(x0.len());
    for ((x0, noise), &index) in x0.chunks_exact(size).zip(noise.chunks_exact(size)).zip(t) {
        let (a, b) = (schedule.sqrt_alphas_cumprod[index], schedule.sqrt_one_minus_alphas_cumprod[index]);
        x_t.extend(x0.iter().zip(noise).map(|(&x0, &eps)| (a * f64::from(x0) + b * f64::from(eps)) as f32));
    }
    Ok(x_t)
}

/// p(x₋ | x_t) of a batch, each field as large as x_t and in its order.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    pub mean: Vec<f64>,
    pub log_variance: Vec<f64>,
    /// The prediction of x0.
    pub pred_x0: Vec<f64>,
}

/// The mean and variance that the network's output gives p(x₋ | x_t), all samples at step `index`. `x_t` is
/// `[N, C, H, W]` with N = `images`; `output` is that or `[N, 2C, H, W]` (see [`Variance`]). With `clip` the predicted x0
/// is clamped to [-1, 1], right for pixels and wrong for latents.
///
/// # Errors
/// Sizes that do not fit each other, or an index past the schedule's last step.
pub fn moments(
    schedule: &Schedule,
    index: usize,
    x_t: &[f32],
    output: &[f32],
    images: usize,
    clip: bool,
) -> Result<Moments> {
    let size = sample_len(x_t.len(), images)?;
    schedule.check_index(index)?;
    let (stride, learned) = match Variance::of_output(x_t.len(), output.len())? {
        Variance::LearnedRange => (2 * size, true),
        Variance::FixedLarge => (size, false),
    };
    let empty = || Vec::with_capacity(x_t.len());
    let mut found = Moments { mean: empty(), log_variance: empty(), pred_x0: empty() };
    for (x_t, output) in x_t.chunks_exact(size).zip(output.chunks_exact(stride)) {
        let (eps, v) = output.split_at(size);
        for (&x, &eps) in x_t.iter().zip(eps) {
            let x = f64::from(x);
            let x0 = schedule.predict_x0(index, x, f64::from(eps));
            let x0 = if clip { x0.clamp(-1.0, 1.0) } else { x0 };
            found.pred_x0.push(x0);
            found.mean.push(schedule.posterior_mean(index, x0, x));
        }
        if learned {
            found.log_variance.extend(v.iter().map(|&v| schedule.learned_log_variance(index, f64::from(v))));
        } else {
            found.log_variance.extend(std::iter::repeat_n(schedule.fixed_log_variance(index), size));
        }
    }
    Ok(found)
}

/// The values of one sample in a batch of `samples`.
pub(super) fn sample_len(values: usize, samples: usize) -> Result<usize> {
    if samples == 0 || values == 0 || !values.is_multiple_of(samples) {
        return Err(Error::Usage(format!("diffusion: {values} values do not divide into {samples} samples")));
    }
    Ok(values / samples)
}

/// Refuses a slice of another size than its fellows.
pub(super) fn check_len(name: &str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Usage(format!("diffusion: `{name}` holds {found} values, expected {expected}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x0_and_eps_invert_each_other() {
        let schedule = Schedule::linear();
        for index in [0, 500, 999] {
            let x0 = schedule.predict_x0(index, 0.7, -1.3);
            assert!((schedule.predict_eps(index, 0.7, x0) + 1.3).abs() < 1e-9);
        }
    }

    #[test]
    fn bad_sizes_and_indices_are_refused() {
        let schedule = Schedule::linear();
        assert!(q_sample(&schedule, &[0.0; 4], &[0.0; 4], &[0, 1, 2]).is_err());
        assert!(q_sample(&schedule, &[0.0; 4], &[0.0; 3], &[0, 1]).is_err());
        assert!(q_sample(&schedule, &[], &[], &[]).is_err());
        let message = q_sample(&schedule, &[0.0; 4], &[0.0; 4], &[0, 1000]).unwrap_err().to_string();
        assert!(message.contains("step 1000 of a schedule of 1000"), "{message}");
        let message = moments(&schedule, 0, &[0.0; 4], &[0.0; 6], 2, false).unwrap_err().to_string();
        assert!(message.contains("6 values for latents of 4"), "{message}");
    }
}
