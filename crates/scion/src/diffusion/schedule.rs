//! The noise schedule: every table of the process in f64, and the choice of fewer steps from it.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Steps of the original process.
const TIMESTEPS: usize = 1000;

/// A discrete diffusion process of T steps. Every table has T entries, indexed by step; α = 1 − β, ᾱ its running product.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// The original process's timestep of each step, rising; what the network is given.
    pub timestep_map: Vec<usize>,
    /// β.
    pub betas: Vec<f64>,
    /// ln β, the upper end of the learned log-variance.
    pub log_betas: Vec<f64>,
    /// ᾱ.
    pub alphas_cumprod: Vec<f64>,
    /// ᾱ of the step before; 1 at step 0.
    pub alphas_cumprod_prev: Vec<f64>,
    /// ᾱ of the step after; 0 at the last step.
    pub alphas_cumprod_next: Vec<f64>,
    /// √ᾱ.
    pub sqrt_alphas_cumprod: Vec<f64>,
    /// √(1 − ᾱ).
    pub sqrt_one_minus_alphas_cumprod: Vec<f64>,
    /// ln(1 − ᾱ).
    pub log_one_minus_alphas_cumprod: Vec<f64>,
    /// √(1/ᾱ).
    pub sqrt_recip_alphas_cumprod: Vec<f64>,
    /// √(1/ᾱ − 1).
    pub sqrt_recipm1_alphas_cumprod: Vec<f64>,
    /// β̃ = β(1 − ᾱ₋)/(1 − ᾱ), the variance of q(x₋ | x, x0); 0 at step 0.
    pub posterior_variance: Vec<f64>,
    /// ln β̃ with entry 0, where β̃ is 0, replaced by entry 1: the lower end of the learned log-variance.
    pub posterior_log_variance_clipped: Vec<f64>,
    /// β√ᾱ₋/(1 − ᾱ), the weight of x0 in the posterior mean.
    pub posterior_mean_coef1: Vec<f64>,
    /// (1 − ᾱ₋)√α/(1 − ᾱ), the weight of x_t in the posterior mean.
    pub posterior_mean_coef2: Vec<f64>,
}

impl Schedule {
    /// DiT's process: T = 1000, β linear from 1e-4 to 0.02.
    pub fn linear() -> Self {
        let (start, end) = (1e-4, 0.02);
        let step = (end - start) / (TIMESTEPS - 1) as f64;
        let mut betas: Vec<f64> = (0..TIMESTEPS).map(|i| i as f64 * step + start).collect();
        betas[TIMESTEPS - 1] = end;
        Self::new(betas, (0..TIMESTEPS).collect())
    }

    /// The process restricted to fewer of its steps. β = 1 − ᾱ/ᾱ₋ over the steps kept, every table rebuilt from it;
    /// `timestep_map` still holds the original timesteps.
    ///
    /// # Errors
    /// A count that this process cannot be divided into; the message names counts that work.
    pub fn respaced(&self, respacing: &Respacing) -> Result<Self> {
        let kept = respacing.steps(self.len())?;
        let mut last = 1.0;
        let betas = kept
            .iter()
            .map(|&i| 1.0 - self.alphas_cumprod[i] / std::mem::replace(&mut last, self.alphas_cumprod[i]));
        Ok(Self::new(betas.collect(), kept.iter().map(|&i| self.timestep_map[i]).collect()))
    }

    /// The `n`-step process at an integer stride from step 0, as the DDIM paper takes it.
    ///
    /// # Errors
    /// As [`Schedule::respaced`].
    pub fn ddim(&self, n: usize) -> Result<Self> {
        self.respaced(&Respacing::Ddim(n))
    }

    /// The number of steps T.
    pub fn len(&self) -> usize {
        self.betas.len()
    }

    /// Never true: a schedule has steps.
    pub fn is_empty(&self) -> bool {
        self.betas.is_empty()
    }

    /// All tables from β, which must have entries.
    fn new(betas: Vec<f64>, timestep_map: Vec<usize>) -> Self {
        let bars: Vec<f64> = betas
            .iter()
            .scan(1.0, |product, beta| {
                *product *= 1.0 - beta;
                Some(*product)
            })
            .collect();
        let prev: Vec<f64> = std::iter::once(1.0).chain(bars.iter().copied()).take(bars.len()).collect();
        let table = |f: &dyn Fn(f64, f64, f64) -> f64| -> Vec<f64> {
            betas.iter().zip(&bars).zip(&prev).map(|((&beta, &bar), &prev)| f(beta, bar, prev)).collect()
        };
        let posterior_variance = table(&|beta, bar, prev| beta * (1.0 - prev) / (1.0 - bar));
        let mut clipped = posterior_variance.clone();
        // A process of one step has no entry to stand in for it, and no use for one.
        clipped[0] = clipped.get(1).copied().unwrap_or(betas[0]);
        Self {
            log_betas: table(&|beta, _, _| beta.ln()),
            alphas_cumprod_next: bars[1..].iter().copied().chain([0.0]).collect(),
            sqrt_alphas_cumprod: table(&|_, bar, _| bar.sqrt()),
            sqrt_one_minus_alphas_cumprod: table(&|_, bar, _| (1.0 - bar).sqrt()),
            log_one_minus_alphas_cumprod: table(&|_, bar, _| (1.0 - bar).ln()),
            sqrt_recip_alphas_cumprod: table(&|_, bar, _| (1.0 / bar).sqrt()),
            sqrt_recipm1_alphas_cumprod: table(&|_, bar, _| (1.0 / bar - 1.0).sqrt()),
            posterior_log_variance_clipped: clipped.iter().map(|v| v.ln()).collect(),
            posterior_mean_coef1: table(&|beta, bar, prev| beta * prev.sqrt() / (1.0 - bar)),
            posterior_mean_coef2: table(&|beta, bar, prev| (1.0 - prev) * (1.0 - beta).sqrt() / (1.0 - bar)),
            posterior_variance,
            timestep_map,
            alphas_cumprod_prev: prev,
            alphas_cumprod: bars,
            betas,
        }
    }
}

/// Which steps of a process to keep. Parsed from and shown as the original's strings: `250`, `10,15,20`, `ddim50`; and
/// `dpm20`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Respacing {
    /// `n` steps from the first to the last at a fractional stride, rounded half to even.
    Stride(usize),
    /// The process cut into equal sections, with this many steps of each at a fractional stride.
    Sections(Vec<usize>),
    /// `n` steps from the first at the integer stride that gives exactly `n`.
    Ddim(usize),
    /// `n` steps from the last, evenly down to the first, which is left out, rounded half to even: DPM-Solver's.
    Dpm(usize),
}

impl Respacing {
    /// The steps kept of a process of `total` steps, rising.
    ///
    /// # Errors
    /// A count of steps that cannot be had; the message names counts that work.
    pub fn steps(&self, total: usize) -> Result<Vec<usize>> {
        let steps = match self {
            Self::Stride(n) => sections(total, &[*n])?,
            Self::Sections(counts) => sections(total, counts)?,
            Self::Ddim(n) => return integer_stride(total, *n),
            Self::Dpm(n) => return without_the_first(total, *n),
        };
        // One step leaves no entry to stand in for ln β̃ at step 0, which is ln 0.
        if steps.len() < 2 {
            let found = steps.len();
            return Err(Error::Usage(format!(
                "sampling steps `{self}`: {found} of the {total} steps would be kept, expected 2 to {total}"
            )));
        }
        Ok(steps)
    }
}

impl FromStr for Respacing {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |digits: &str| {
            digits.trim().parse::<usize>().map_err(|_| {
                Error::Usage(format!(
                    "sampling steps `{text}`: expected a count such as `250`, counts per section such as `10,15,20`, or \
                     `ddim` and a count such as `ddim50`; `{digits}` is not a count"
                ))
            })
        };
        if let Some(count) = text.strip_prefix("ddim") {
            return Ok(Self::Ddim(number(count)?));
        }
        if let Some(count) = text.strip_prefix("dpm") {
            return Ok(Self::Dpm(number(count)?));
        }
        let counts = text.split(',').map(number).collect::<Result<Vec<usize>>>()?;
        Ok(if let [count] = counts[..] { Self::Stride(count) } else { Self::Sections(counts) })
    }
}

impl fmt::Display for Respacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stride(n) => write!(f, "{n}"),
            Self::Sections(counts) => {
                f.write_str(&counts.iter().map(usize::to_string).collect::<Vec<_>>().join(","))
            }
            Self::Ddim(n) => write!(f, "ddim{n}"),
            Self::Dpm(n) => write!(f, "dpm{n}"),
        }
    }
}

fn without_the_first(total: usize, n: usize) -> Result<Vec<usize>> {
    if !(1..total).contains(&n) {
        return Err(Error::Usage(format!(
            "sampling steps: {n} steps asked of a process of {total} without its first, expected 1 to {}",
            total - 1
        )));
    }
    let stride = (total - 1) as f64 / n as f64;
    Ok((1..=n).map(|i| (i as f64 * stride).round_ties_even() as usize).collect())
}

fn sections(total: usize, counts: &[usize]) -> Result<Vec<usize>> {
    if counts.is_empty() {
        return Err(Error::Usage(format!(
            "sampling steps: no sections given for a process of {total} steps"
        )));
    }
    let (size_per, extra) = (total / counts.len(), total % counts.len());
    let (mut start, mut steps) = (0, Vec::new());
    for (i, &count) in counts.iter().enumerate() {
        let size = size_per + usize::from(i < extra);
        if count > size {
            return Err(Error::Usage(format!(
                "sampling steps: {count} steps asked of a section of {size} (section {} of {}, process of {total} steps), \
                 expected at most {size}",
                i + 1,
                counts.len()
            )));
        }
        let stride = if count <= 1 { 1.0 } else { (size - 1) as f64 / (count - 1) as f64 };
        // Summed, not multiplied: the rounding of near-halves then falls as in the original.
        let mut position = 0.0_f64;
        for _ in 0..count {
            steps.push(start + position.round_ties_even() as usize);
            position += stride;
        }
        start += size;
    }
    Ok(steps)
}

fn integer_stride(total: usize, n: usize) -> Result<Vec<usize>> {
    // Strides 1..total give ceil(total / stride) steps, falling from `total` to 2.
    let counts = || (1..total).map(|stride| total.div_ceil(stride));
    if let Some(i) = counts().position(|count| count == n) {
        return Ok((0..total).step_by(i + 1).collect());
    }
    let below = counts().find(|&count| count < n).map(|count| format!("ddim{count}"));
    let above = counts().rfind(|&count| count > n).map(|count| format!("ddim{count}"));
    let near: Vec<String> = below.into_iter().chain(above).collect();
    Err(Error::Usage(format!(
        "sampling steps `ddim{n}`: no integer stride through {total} steps gives exactly {n}; the nearest that work: {}",
        near.join(" and ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_reach_both_ends_with_the_count_asked() {
        for n in 2..=1000 {
            let steps = Respacing::Stride(n).steps(1000).unwrap();
            assert_eq!((steps.len(), steps[0], steps[n - 1]), (n, 0, 999));
            assert!(steps.windows(2).all(|pair| pair[0] < pair[1]), "{n}");
        }
        let steps = Respacing::Stride(250).steps(1000).unwrap();
        assert_eq!((&steps[..3], &steps[247..]), (&[0, 4, 8][..], &[991, 995, 999][..]));
    }

    #[test]
    fn ddim_counts_are_exact_and_errors_name_neighbours() {
        let steps = Respacing::Ddim(50).steps(1000).unwrap();
        assert_eq!((steps.len(), steps[1], steps[49]), (50, 20, 980));
        for (n, near) in [(60, "ddim59 and ddim63"), (0, "ddim2"), (1, "ddim2"), (1001, "ddim1000")] {
            let message = Schedule::linear().ddim(n).unwrap_err().to_string();
            assert!(message.ends_with(&format!("work: {near}")), "{message}");
        }
    }

    #[test]
    fn impossible_counts_are_refused() {
        for n in [0, 1, 1001] {
            let message = Schedule::linear().respaced(&Respacing::Stride(n)).unwrap_err().to_string();
            assert!(message.contains("1000"), "{message}");
        }
        assert!(
            Respacing::Sections(vec![10, 501]).steps(1000).unwrap_err().to_string().contains("at most 500")
        );
        assert!(Respacing::Sections(vec![]).steps(1000).is_err());
    }

    #[test]
    fn text_form_round_trips() {
        for text in ["250", "ddim50", "10,15,20"] {
            assert_eq!(text.parse::<Respacing>().unwrap().to_string(), text);
        }
        assert_eq!("250".parse::<Respacing>().unwrap(), Respacing::Stride(250));
        for text in ["", "fast", "ddim", "10,", "-3", "2.5"] {
            assert!(text.parse::<Respacing>().unwrap_err().to_string().contains("ddim50"), "{text}");
        }
    }

    #[test]
    fn respacing_a_respaced_schedule_keeps_original_timesteps() {
        let twice = Schedule::linear().ddim(50).unwrap().ddim(5).unwrap();
        assert_eq!(twice.timestep_map, [0, 200, 400, 600, 800]);
        let once = Schedule::linear();
        let bars: Vec<f64> = twice.timestep_map.iter().map(|&t| once.alphas_cumprod[t]).collect();
        assert!(twice.alphas_cumprod.iter().zip(&bars).all(|(a, b)| (a / b - 1.0).abs() < 1e-12));
    }
}
