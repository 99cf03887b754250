//! DiT's training loss: the noise's squared error plus the variational bound, with its gradient in closed form.

use std::f64::consts::{FRAC_2_PI, LN_2};

use rayon::prelude::*;

use super::gaussian::{Variance, check_len, sample_len};
use super::schedule::Schedule;
use crate::error::Result;

/// Half the width of a bin of 8-bit values scaled to [-1, 1].
const HALF_BIN: f64 = 1.0 / 255.0;
/// Beyond ±this, a bin reaches to infinity.
const OPEN_TAIL: f64 = 0.999;
/// Probabilities are not taken below this.
const MIN_PROBABILITY: f64 = 1e-12;

/// The loss of a batch and its terms.
#[derive(Debug, Clone, PartialEq)]
pub struct HybridLoss {
    /// `mse` + `vb`.
    pub total: f64,
    /// The batch mean of the noise's mean squared error.
    pub mse: f64,
    /// The batch mean of the variational bound, in bits per latent value; 0 where the network has no variance channels.
    pub vb: f64,
    /// Per sample.
    pub mse_per_sample: Vec<f64>,
    /// Per sample.
    pub vb_per_sample: Vec<f64>,
}

/// Mean over the batch of mean((ε − ε̂)²) + vb (Nichol & Dhariwal 2021, eq. 16, with weight 1). `x0`, `noise` and `x_t` are
/// flat `[N, C, H, W]`, `t` the step index of each sample. `model_out` is `[N, 2C, H, W]` (ε̂ then v), or `[N, C, H, W]`
/// for a network without variance channels, whose loss is the squared error alone.
///
/// The bound of step t > 0 is KL(q(x₋ | x_t, x0) ‖ p(x₋ | x_t)); of step 0 minus the log-likelihood of x0's bin under p.
/// It treats ε̂ as constant, so that it teaches v only. With `grad`, sized as `model_out`, the derivative of
/// [`HybridLoss::total`] overwrites it. Arithmetic is f64 throughout, sums run in sample order: the same bits on any
/// number of threads, and finite tails where f32 would already have rounded a bin's probability to 0.
///
/// # Errors
/// Sizes that do not fit each other, or an index past the schedule's last step.
pub fn hybrid_loss(
    schedule: &Schedule,
    model_out: &[f32],
    x0: &[f32],
    noise: &[f32],
    x_t: &[f32],
    t: &[usize],
    grad: Option<&mut [f32]>,
) -> Result<HybridLoss> {
    let size = sample_len(x0.len(), t.len())?;
    check_len("noise", noise.len(), x0.len())?;
    check_len("x_t", x_t.len(), x0.len())?;
    t.iter().try_for_each(|&index| schedule.check_index(index))?;
    let variance = Variance::of_output(x0.len(), model_out.len())?;
    let out_size = model_out.len() / t.len();
    let sample = |n: usize, grad: Option<&mut [f32]>| {
        let range = n * size..(n + 1) * size;
        let sample = Sample {
            schedule,
            index: t[n],
            x0: &x0[range.clone()],
            noise: &noise[range.clone()],
            x_t: &x_t[range],
        };
        let out = &model_out[n * out_size..(n + 1) * out_size];
        sample.terms(out, variance, grad, 1.0 / (t.len() * size) as f64)
    };
    let terms: Vec<(f64, f64)> = match grad {
        Some(grad) => {
            check_len("grad", grad.len(), model_out.len())?;
            grad.par_chunks_mut(out_size).enumerate().map(|(n, grad)| sample(n, Some(grad))).collect()
        }
        None => (0..t.len()).into_par_iter().map(|n| sample(n, None)).collect(),
    };
    let (mse_per_sample, vb_per_sample): (Vec<f64>, Vec<f64>) = terms.into_iter().unzip();
    let mean = |terms: &[f64]| terms.iter().sum::<f64>() / terms.len() as f64;
    let (mse, vb) = (mean(&mse_per_sample), mean(&vb_per_sample));
    Ok(HybridLoss { total: mse + vb, mse, vb, mse_per_sample, vb_per_sample })
}

/// One sample's inputs.
struct Sample<'a> {
    schedule: &'a Schedule,
    index: usize,
    x0: &'a [f32],
    noise: &'a [f32],
    x_t: &'a [f32],
}

impl Sample<'_> {
    /// The sample's (mse, vb); the gradient of their sum times `weight` per value goes to `grad`.
    fn terms(&self, out: &[f32], variance: Variance, grad: Option<&mut [f32]>, weight: f64) -> (f64, f64) {
        let size = self.x0.len();
        let (eps, v) = out.split_at(size);
        let (eps_grad, v_grad) = grad.map(|grad| grad.split_at_mut(size)).unzip();
        let mse = self.squared_error(eps, eps_grad, weight);
        let vb = match variance {
            Variance::LearnedRange => self.bound(eps, v, v_grad, weight),
            Variance::FixedLarge => 0.0,
        };
        (mse / size as f64, vb / size as f64)
    }

    fn squared_error(&self, eps: &[f32], mut grad: Option<&mut [f32]>, weight: f64) -> f64 {
        let mut sum = 0.0;
        for (i, (&eps, &noise)) in eps.iter().zip(self.noise).enumerate() {
            let error = f64::from(eps) - f64::from(noise);
            sum += error * error;
            if let Some(grad) = &mut grad {
                grad[i] = (2.0 * error * weight) as f32;
            }
        }
        sum
    }

    fn bound(&self, eps: &[f32], v: &[f32], mut grad: Option<&mut [f32]>, weight: f64) -> f64 {
        let (schedule, index) = (self.schedule, self.index);
        let posterior_log_variance = schedule.posterior_log_variance_clipped[index];
        let log_variance_per_v = 0.5 * (schedule.log_betas[index] - posterior_log_variance);
        let mut sum = 0.0;
        for i in 0..v.len() {
            let (x0, x_t) = (f64::from(self.x0[i]), f64::from(self.x_t[i]));
            let log_variance = schedule.learned_log_variance(index, f64::from(v[i]));
            let pred_x0 = schedule.predict_x0(index, x_t, f64::from(eps[i]));
            let (nats, slope) = if index == 0 {
                let mean = schedule.posterior_mean(index, pred_x0, x_t);
                bin_nll(x0, mean, log_variance)
            } else {
                // Both means weigh x_t alike, so their distance is that of the x0s.
                let distance = schedule.posterior_mean_coef1[index] * (x0 - pred_x0);
                gaussian_kl(distance, posterior_log_variance, log_variance)
            };
            sum += nats;
            if let Some(grad) = &mut grad {
                grad[i] = (slope * log_variance_per_v * weight / LN_2) as f32;
            }
        }
        sum / LN_2
    }
}

/// KL(N(m, e^a) ‖ N(m − distance, e^b)) in nats, and its derivative by b.
fn gaussian_kl(distance: f64, a: f64, b: f64) -> (f64, f64) {
    let (ratio, square) = ((a - b).exp(), distance * distance * (-b).exp());
    (0.5 * (-1.0 + b - a + ratio + square), 0.5 * (1.0 - ratio - square))
}

/// Minus the log-probability, in nats, of the bin of width 2/255 around `x` under N(mean, e^log_variance), and its
/// derivative by `log_variance`. Bins outside ±0.999 are open. Latents are not 8-bit values; the original scores them so.
fn bin_nll(x: f64, mean: f64, log_variance: f64) -> (f64, f64) {
    let inverse_sigma = (-0.5 * log_variance).exp();
    let edge = |offset: f64| {
        let z = inverse_sigma * (x - mean + offset);
        let (cdf, density) = approximate_normal_cdf(z);
        // An edge at infinity (sigma rounded to 0) no longer moves.
        (cdf, if density == 0.0 { 0.0 } else { density * -0.5 * z })
    };
    let (lower, lower_slope) = edge(-HALF_BIN);
    let (upper, upper_slope) = edge(HALF_BIN);
    let (probability, slope) = if x < -OPEN_TAIL {
        (upper, upper_slope)
    } else if x > OPEN_TAIL {
        (1.0 - lower, -lower_slope)
    } else {
        (upper - lower, upper_slope - lower_slope)
    };
    if probability < MIN_PROBABILITY {
        return (-MIN_PROBABILITY.ln(), 0.0);
    }
    (-probability.ln(), -slope / probability)
}

/// The standard normal's distribution function by the tanh approximation, and its derivative.
fn approximate_normal_cdf(z: f64) -> (f64, f64) {
    let scale = FRAC_2_PI.sqrt();
    let tanh = (scale * (z + 0.044715 * z * z * z)).tanh();
    let density = 0.5 * (1.0 - tanh * tanh);
    (0.5 * (1.0 + tanh), if density == 0.0 { 0.0 } else { density * scale * (1.0 + 3.0 * 0.044715 * z * z) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{NoiseStream, q_sample};

    /// x0 (with values in the open tails), noise, x_t, a close prediction of the noise, and v, 24 values a sample.
    fn batch(schedule: &Schedule, t: &[usize]) -> [Vec<f32>; 4] {
        let size = 24 * t.len();
        let normal = |index| {
            let mut out = vec![0.0; size];
            NoiseStream::new(9, index).fill_normal(&mut out);
            out
        };
        let (x0, noise, error, v) = (normal(0), normal(1), normal(2), normal(3));
        let x_t = q_sample(schedule, &x0, &noise, t).unwrap();
        let out = (0..t.len())
            .flat_map(|n| {
                let eps = (0..24).map(move |i| n * 24 + i).map(|i| noise[i] + 0.5 * error[i]);
                eps.chain(v[n * 24..(n + 1) * 24].iter().copied()).collect::<Vec<f32>>()
            })
            .collect();
        [x0, normal(1), x_t, out]
    }

    #[test]
    fn gradient_matches_finite_differences() {
        let schedule = Schedule::linear();
        let t = [0, 0, 1, 2, 500, 999];
        let [x0, noise, x_t, out] = batch(&schedule, &t);
        let mut grad = vec![0.0; out.len()];
        hybrid_loss(&schedule, &out, &x0, &noise, &x_t, &t, Some(&mut grad)).unwrap();
        for i in 0..out.len() {
            let sample = i / 48;
            let at = |step: f32| {
                let mut out = out.clone();
                out[i] += step;
                let loss = hybrid_loss(&schedule, &out, &x0, &noise, &x_t, &t, None).unwrap();
                // The bound's dependence on the noise prediction is detached.
                let term = if i % 48 < 24 { loss.mse_per_sample[sample] } else { loss.vb_per_sample[sample] };
                (term / t.len() as f64, out[i])
            };
            let ((above, high), (below, low)) = (at(0.01), at(-0.01));
            let slope = (above - below) / (f64::from(high) - f64::from(low));
            assert!(
                (slope - f64::from(grad[i])).abs() < 2e-4 * slope.abs() + 1e-7,
                "{i}: {slope} {}",
                grad[i]
            );
        }
    }

    #[test]
    fn the_bound_vanishes_where_model_and_posterior_agree() {
        let schedule = Schedule::linear();
        let t = [300];
        let [x0, noise, x_t, _] = batch(&schedule, &t);
        // ε̂ = ε and v = −1 give p the posterior's mean and variance; x_t is rounded to f32.
        let out: Vec<f32> = noise.iter().copied().chain(vec![-1.0; 24]).collect();
        let loss = hybrid_loss(&schedule, &out, &x0, &noise, &x_t, &t, None).unwrap();
        assert_eq!(loss.mse, 0.0);
        assert!(loss.vb.abs() < 1e-9, "{}", loss.vb);
    }

    #[test]
    fn bins_partition_the_line() {
        // Bins centred on the 256 byte values, the outer two open, cover every outcome once.
        for (mean, log_variance) in [(0.1, -9.0), (0.9, -3.0), (-2.0, 0.5)] {
            let total: f64 =
                (0..256).map(|k| (-bin_nll(f64::from(k) / 127.5 - 1.0, mean, log_variance).0).exp()).sum();
            assert!((total - 1.0).abs() < 1e-9, "{total}");
        }
    }

    #[test]
    fn hopeless_bins_are_clamped_with_no_gradient() {
        for log_variance in [-16.0, -60.0, -2000.0] {
            for x in [0.5, 1.5, -1.5] {
                let (nats, slope) = bin_nll(x, -x, log_variance);
                assert_eq!((nats, slope), (-MIN_PROBABILITY.ln(), 0.0), "{x} {log_variance}");
            }
        }
    }

    #[test]
    fn thread_count_does_not_change_a_bit() {
        let schedule = Schedule::linear();
        let t: Vec<usize> = (0..37).map(|n| n * 27).collect();
        let [x0, noise, x_t, out] = batch(&schedule, &t);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut grad = vec![0.0; out.len()];
            let loss = pool
                .install(|| hybrid_loss(&schedule, &out, &x0, &noise, &x_t, &t, Some(&mut grad)).unwrap());
            (loss, grad)
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn mismatched_sizes_are_refused() {
        let schedule = Schedule::linear();
        let loss = |out: &[f32], noise: &[f32], t: &[usize], grad: Option<&mut [f32]>| {
            hybrid_loss(&schedule, out, &[0.0; 4], noise, &[0.0; 4], t, grad).unwrap_err().to_string()
        };
        assert!(loss(&[0.0; 5], &[0.0; 4], &[0, 1], None).contains("5 values"));
        assert!(loss(&[0.0; 8], &[0.0; 3], &[0, 1], None).contains("`noise` holds 3"));
        assert!(loss(&[0.0; 8], &[0.0; 4], &[0, 1000], None).contains("step 1000"));
        assert!(loss(&[0.0; 8], &[0.0; 4], &[], None).contains("0 samples"));
        assert!(loss(&[0.0; 8], &[0.0; 4], &[0, 1], Some(&mut [0.0; 4])).contains("`grad` holds 4"));
    }
}
