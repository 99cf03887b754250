//! DPM-Solver++(2M), the multistep solver of second order (Lu et al. 2022, arXiv:2211.01095, algorithm 2), as diffusers'
//! `DPMSolverMultistepScheduler` runs it by default: midpoint form, a last step of first order to no noise at all.

use super::gaussian::{check_len, moments};
use super::schedule::Schedule;
use crate::error::Result;

/// One step for N = `images` samples at step `index`, with σ = √(1 − ᾱ), α = √ᾱ and h the growth of ln(α/σ):
/// x₋ = (σ₋/σ)x − α₋(e^(−h) − 1)(x0 + ½(x0 − x0₊)·h/h₊), where x0₊ and h₊ are of the step before this one. Without
/// `previous` = x0₊, and at step 0, x0 stands alone.
///
/// `x_t` is `[N, C, H, W]`, `output` that or `[N, 2C, H, W]`. Returns x₋ and the predicted x0.
///
/// # Errors
/// Sizes that do not fit each other, or an index past the schedule's last step.
pub fn dpm_solver_step(
    schedule: &Schedule,
    index: usize,
    x_t: &[f32],
    output: &[f32],
    previous: Option<&[f64]>,
    images: usize,
    clip: bool,
) -> Result<(Vec<f32>, Vec<f64>)> {
    let pred_x0 = moments(schedule, index, x_t, output, images, clip)?.pred_x0;
    let (bar, next_bar) = (schedule.alphas_cumprod[index], schedule.alphas_cumprod_prev[index]);
    let half_log_ratio = |bar: f64| 0.5 * (bar / (1.0 - bar)).ln();
    let h = half_log_ratio(next_bar) - half_log_ratio(bar); // infinite at step 0
    let keep = ((1.0 - next_bar) / (1.0 - bar)).sqrt();
    let gain = -next_bar.sqrt() * (-h).exp_m1();
    let mixed = match previous.filter(|_| index > 0) {
        Some(previous) => {
            check_len("the previous x0", previous.len(), pred_x0.len())?;
            let before = schedule.alphas_cumprod_next[index];
            let trend = 0.5 * h / (half_log_ratio(bar) - half_log_ratio(before));
            pred_x0.iter().zip(previous).map(|(x0, previous)| x0 + trend * (x0 - previous)).collect()
        }
        None => pred_x0.clone(),
    };
    let step = |(&x, x0): (&f32, &f64)| (keep * f64::from(x) + gain * x0) as f32;
    Ok((x_t.iter().zip(&mixed).map(step).collect(), pred_x0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::Respacing;

    #[test]
    fn the_last_step_is_the_prediction_and_sizes_must_fit() {
        let schedule = Schedule::linear().respaced(&Respacing::Dpm(3)).unwrap();
        let (x, eps) = ([0.5f32, -1.0], [0.25f32, 2.0]);
        let (next, x0) = dpm_solver_step(&schedule, 0, &x, &eps, Some(&[9.0, 9.0]), 1, false).unwrap();
        assert_eq!(next, [x0[0] as f32, x0[1] as f32]);
        assert!(dpm_solver_step(&schedule, 1, &x, &eps, Some(&[9.0]), 1, false).is_err());
        assert!(dpm_solver_step(&schedule, 3, &x, &eps, None, 1, false).is_err());
    }

    #[test]
    fn timesteps_begin_at_the_last_and_leave_the_first_out() {
        let steps = |n| Schedule::linear().respaced(&Respacing::Dpm(n)).map(|schedule| schedule.timestep_map);
        assert_eq!(steps(1).unwrap(), [999]);
        assert_eq!(steps(20).unwrap()[..3], [50, 100, 150]);
        assert_eq!(steps(999).unwrap(), (1..1000).collect::<Vec<_>>());
        assert!(steps(0).is_err() && steps(1000).unwrap_err().to_string().contains("1 to 999"));
        let named: Respacing = "dpm20".parse().unwrap();
        assert_eq!((named.clone(), named.to_string()), (Respacing::Dpm(20), "dpm20".into()));
    }
}
