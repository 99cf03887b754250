//! Fréchet distance between two Gaussians (Dowson and Landau 1982; "FID" when the features are Inception's):
//! |μ1 - μ2|² + tr Σ1 + tr Σ2 - 2 tr (Σ1 Σ2)^½.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Side, get_global_parallelism};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::Estimate;
use super::features::Features;
use super::gaussian::GaussianStats;
use crate::error::{Error, Result};

/// Fréchet distance of two feature distributions; never negative.
///
/// tr (Σ1 Σ2)^½ is the sum of the singular values of Σ1^½ Σ2^½. Square roots are taken on each covariance's
/// range only, so singular ones (fewer rows than dimensions) need no `1e-6·I`, and the product is
/// never squared: accurate where a general matrix square root is not.
///
/// # Errors
/// `Usage` if the dimensions differ, either has fewer than two rows, or a decomposition fails.
pub fn frechet_distance(a: &GaussianStats, b: &GaussianStats) -> Result<f64> {
    distance(&Gaussian::new(a)?, &Gaussian::new(b)?)
}

/// What samples are compared with.
#[derive(Clone, Copy, Debug)]
pub enum Reference<'a> {
    /// Rows: their sampling error counts too.
    Features(&'a Features),
    /// Stored statistics, taken as exact.
    Stats(&'a GaussianStats),
}

/// How the standard error is estimated.
#[derive(Clone, Copy, Debug)]
pub struct JackknifeOptions {
    /// Blocks of rows left out in turn; costs one decomposition each.
    pub blocks: usize,
    /// Chooses which rows form a block.
    pub seed: u64,
}

impl Default for JackknifeOptions {
    fn default() -> Self {
        Self { blocks: 20, seed: 0 }
    }
}

/// Fréchet distance with its standard error by the delete-a-block jackknife.
///
/// Rows are dealt at random (rows in class order would make blocks of one class) into blocks; the distance
/// is taken again without each. With B blocks the variance is (B - 1)/B · Σ (θ₋ᵦ - mean)²; samples and
/// reference rows are independent, so their variances add. It measures sampling noise, not the upward
/// bias of the distance at small N: compare models at equal N.
///
/// # Errors
/// As [`frechet_distance`]; `Usage` also for fewer than 2 blocks or fewer than 4 rows.
pub fn frechet_with_error(
    samples: &Features,
    reference: Reference<'_>,
    options: &JackknifeOptions,
) -> Result<Estimate> {
    let sample_stats = Gaussian::new(&GaussianStats::of(samples))?;
    let reference_stats = match reference {
        Reference::Features(rows) => Gaussian::new(&GaussianStats::of(rows))?,
        Reference::Stats(stats) => Gaussian::new(stats)?,
    };
    let mut variance = jackknife(samples, &reference_stats, options)?;
    if let Reference::Features(rows) = reference {
        variance += jackknife(rows, &sample_stats, options)?;
    }
    Ok(Estimate { value: distance(&sample_stats, &reference_stats)?, stderr: variance.sqrt() })
}

/// Mean, trace and a square root of the covariance: `root` is [r, D] with rootᵀ·root = Σ.
struct Gaussian {
    mean: Vec<f64>,
    trace: f64,
    root: Mat<f64>,
}

impl Gaussian {
    fn new(stats: &GaussianStats) -> Result<Self> {
        let covariance = stats.covariance()?;
        let d = stats.dim();
        let trace = (0..d).map(|i| covariance[(i, i)]).sum();
        let eigen = covariance
            .self_adjoint_eigen(Side::Lower)
            .map_err(|e| Error::Usage(format!("Fréchet distance: covariance has no eigenvalues ({e:?})")))?;
        let values: Vec<f64> = eigen.S().column_vector().iter().copied().collect();
        let largest = values.last().copied().unwrap_or(0.0);
        // Below the rounding of the decomposition an eigenvalue is noise around zero.
        let noise = d as f64 * f64::EPSILON * largest;
        let first = values.partition_point(|&value| value <= noise);
        let root = Mat::from_fn(d - first, d, |i, j| values[first + i].sqrt() * eigen.U()[(j, first + i)]);
        Ok(Self { mean: stats.mean().to_vec(), trace, root })
    }
}

fn distance(a: &Gaussian, b: &Gaussian) -> Result<f64> {
    if a.mean.len() != b.mean.len() {
        return Err(Error::Usage(format!(
            "Fréchet distance between features of {} and of {} dimensions",
            a.mean.len(),
            b.mean.len()
        )));
    }
    let shift: f64 = a.mean.iter().zip(&b.mean).map(|(x, y)| (x - y) * (x - y)).sum();
    let mut product = Mat::zeros(a.root.nrows(), b.root.nrows());
    matmul(product.as_mut(), Accum::Replace, &a.root, b.root.transpose(), 1.0, get_global_parallelism());
    let overlap: f64 = match product.nrows().min(product.ncols()) {
        0 => 0.0,
        _ => product
            .singular_values()
            .map_err(|e| Error::Usage(format!("Fréchet distance: no singular values ({e:?})")))?
            .iter()
            .sum(),
    };
    Ok((shift + a.trace + b.trace - 2.0 * overlap).max(0.0))
}

/// Variance of the distance from `rows` to `other`, as far as the choice of rows goes.
fn jackknife(rows: &Features, other: &Gaussian, options: &JackknifeOptions) -> Result<f64> {
    let blocks = options.blocks.min(rows.len());
    if blocks < 2 || rows.len() < 4 {
        return Err(Error::Usage(format!(
            "Fréchet distance: {} rows in {} blocks, too few for a standard error (4 rows, 2 blocks)",
            rows.len(),
            options.blocks
        )));
    }
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(options.seed));
    let parts = (0..blocks)
        .map(|block| {
            let members = order.iter().skip(block).step_by(blocks);
            let data = members.flat_map(|&i| rows.row(i)).copied().collect();
            Ok(GaussianStats::of(&Features::new(rows.dim(), data)?))
        })
        .collect::<Result<Vec<_>>>()?;
    let replicates = (0..blocks)
        .map(|left_out| {
            let mut rest = GaussianStats::new(rows.dim());
            for (_, part) in parts.iter().enumerate().filter(|(block, _)| *block != left_out) {
                rest.merge(part)?;
            }
            distance(&Gaussian::new(&rest)?, other)
        })
        .collect::<Result<Vec<f64>>>()?;
    let mean = replicates.iter().sum::<f64>() / blocks as f64;
    let squares: f64 = replicates.iter().map(|theta| (theta - mean) * (theta - mean)).sum();
    Ok(squares * (blocks - 1) as f64 / blocks as f64)
}

#[cfg(test)]
mod tests {
    use rand_distr::{Distribution, StandardNormal};

    use super::super::npz::tests::{expected, fixture_features};
    use super::*;

    fn normal(n: usize, d: usize, shift: f32, rng: &mut ChaCha8Rng) -> Features {
        let mut value = || -> f32 { StandardNormal.sample(rng) };
        Features::new(d, (0..n * d).map(|_| value() + shift).collect()).unwrap()
    }

    /// Golden values in 60 digits, and by SciPy's `sqrtm` where that is accurate (`scripts/fixtures/metrics.py`).
    #[test]
    fn distance_equals_the_reference() {
        for (name, tolerance) in
            [("random", 1e-12), ("nearly-singular", 1e-9), ("singular", 1e-12), ("relu", 1e-10)]
        {
            let [x, y] = fixture_features(name);
            let found = frechet_distance(&GaussianStats::of(&x), &GaussianStats::of(&y)).unwrap();
            let exact = expected(name, "frechet");
            assert!((found / exact - 1.0).abs() < tolerance, "{name}: {found}, exactly {exact}");
            let scipy = expected(name, "frechet_scipy");
            assert!((found / scipy - 1.0).abs() < 1e-6, "{name}: {found}, SciPy {scipy}");
        }
    }

    #[test]
    fn same_distribution_is_at_zero() {
        for name in ["random", "singular"] {
            let stats = GaussianStats::of(&fixture_features(name)[0]);
            let found = frechet_distance(&stats, &stats).unwrap();
            assert!((0.0..1e-10).contains(&found), "{name}: {found}");
        }
        let constant = GaussianStats::of(&Features::new(2, vec![1.0; 8]).unwrap());
        let shifted = GaussianStats::of(&Features::new(2, vec![4.0; 8]).unwrap());
        assert_eq!(frechet_distance(&constant, &shifted).unwrap(), 18.0);
    }

    #[test]
    fn error_bar_matches_the_spread_of_fresh_draws() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let estimates: Vec<Estimate> = (0..60)
            .map(|_| {
                let (x, y) = (normal(300, 6, 0.3, &mut rng), normal(300, 6, 0.0, &mut rng));
                frechet_with_error(&x, Reference::Features(&y), &JackknifeOptions::default()).unwrap()
            })
            .collect();
        let count = estimates.len() as f64;
        let mean = estimates.iter().map(|e| e.value).sum::<f64>() / count;
        let spread = (estimates.iter().map(|e| (e.value - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt();
        let claimed = estimates.iter().map(|e| e.stderr).sum::<f64>() / count;
        assert!((0.75..1.35).contains(&(claimed / spread)), "claimed {claimed}, true {spread}");
    }

    #[test]
    fn exact_statistics_leave_only_the_samples_error() {
        let [x, y] = fixture_features("relu");
        let stats = GaussianStats::of(&y);
        let options = JackknifeOptions::default();
        let both = frechet_with_error(&x, Reference::Features(&y), &options).unwrap();
        let one = frechet_with_error(&x, Reference::Stats(&stats), &options).unwrap();
        assert_eq!(both.value, one.value);
        assert!(0.0 < one.stderr && one.stderr < both.stderr);
    }

    #[test]
    fn impossible_comparisons_are_refused() {
        let [x, _] = fixture_features("random");
        let stats = GaussianStats::of(&x);
        let other = GaussianStats::of(&Features::new(1, vec![0.0, 1.0]).unwrap());
        assert!(
            frechet_distance(&stats, &other).unwrap_err().to_string().contains("of 12 and of 1 dimensions")
        );
        let one_row = GaussianStats::of(&Features::new(12, vec![0.0; 12]).unwrap());
        assert!(frechet_distance(&stats, &one_row).is_err());
        let one_block = JackknifeOptions { blocks: 1, seed: 0 };
        assert!(frechet_with_error(&x, Reference::Stats(&stats), &one_block).is_err());
    }
}
