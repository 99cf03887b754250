//! Fréchet distance between two Gaussians (Dowson and Landau 1982; "FID" when the features are Inception's):
//! |μ1 - μ2|² + tr Σ1 + tr Σ2 - 2 tr (Σ1 Σ2)^½.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Side, get_global_parallelism};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::Estimate;
use super::features::Features;
use super::frechet_delta;
use super::gaussian::{GaussianStats, Moments};
use crate::error::{Error, Result};

/// Up to this many dimensions a jackknife's decompositions are cheap.
const JACKKNIFE_DIMENSIONS: usize = 512;

/// Fréchet distance of two feature distributions; never negative.
///
/// tr (Σ1 Σ2)^½ is the sum of the singular values of Σ1^½ Σ2^½. Square roots are taken on each covariance's
/// range only, so singular ones (fewer rows than dimensions) need no `1e-6·I`, and the product is
/// never squared: accurate where a general matrix square root is not.
///
/// # Errors
/// `Usage` if the dimensions differ or a decomposition fails.
pub fn frechet_distance(a: &Moments, b: &Moments) -> Result<f64> {
    Gaussian::new(a)?.distance(&Gaussian::new(b)?)
}

/// One side of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Sampled<'a> {
    /// The Gaussian of the rows, or a stored one.
    pub gaussian: &'a Gaussian,
    /// The rows, whose sampling error counts; a stored Gaussian without them is taken as exact.
    pub rows: Option<&'a Features>,
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

/// Fréchet distance with its standard error, by the delete-a-block jackknife up to 512 dimensions and by
/// the delta method above.
///
/// Rows are dealt at random (rows in class order would make blocks of one class) into blocks; the distance
/// is taken again without each. With B blocks the variance is (B - 1)/B · Σ (θ₋ᵦ - mean)²; samples and
/// reference rows are independent, so their variances add. The delta method takes the distance's
/// derivative instead, at the cost of one decomposition. Either measures sampling noise, not the upward
/// bias of the distance at small N: compare models at equal N.
///
/// # Errors
/// As [`frechet_distance`]; `Usage` also for fewer than 2 blocks or fewer than 4 rows.
pub fn frechet_with_error(
    samples: Sampled<'_>,
    reference: Sampled<'_>,
    options: &JackknifeOptions,
) -> Result<Estimate> {
    let [a, b] = [samples, reference];
    if a.gaussian.dim() > JACKKNIFE_DIMENSIONS {
        a.gaussian.check_dim(b.gaussian)?;
        return frechet_delta::estimate(a, b);
    }
    let mut variance = 0.0;
    for (side, other) in [(a, b), (b, a)] {
        if let Some(rows) = side.rows {
            variance += jackknife(rows, other.gaussian, options)?;
        }
    }
    Ok(Estimate { value: a.gaussian.distance(b.gaussian)?, stderr: variance.sqrt() })
}

/// A Gaussian made ready for distances: mean, trace and a square root of the covariance.
#[derive(Clone, Debug)]
pub struct Gaussian {
    pub(super) mean: Vec<f64>,
    pub(super) trace: f64,
    /// [r, D], with rootᵀ·root = Σ and orthogonal rows; r is the covariance's rank.
    pub(super) root: Mat<f64>,
}

impl Gaussian {
    /// Decomposes a covariance.
    ///
    /// # Errors
    /// `Usage` if that fails.
    pub fn new(moments: &Moments) -> Result<Self> {
        let covariance = moments.covariance();
        let d = moments.dim();
        let trace = (0..d).map(|i| covariance[(i, i)]).sum();
        let eigen = covariance
            .self_adjoint_eigen(Side::Lower)
            .map_err(|e| Error::Usage(format!("Fréchet distance: covariance has no eigenvalues ({e:?})")))?;
        let values: Vec<f64> = eigen.S().column_vector().iter().copied().collect();
        let largest = values.last().copied().unwrap_or(0.0);
        // Rounding to f32 makes eigenvalues a little negative, and nothing else does.
        if let Some(&lowest) =
            values.first().filter(|lowest| **lowest < -1e-3 * largest.max(f64::MIN_POSITIVE))
        {
            return Err(Error::Usage(format!(
                "Fréchet distance: no covariance, an eigenvalue is {lowest} beside the largest of {largest}"
            )));
        }
        // Below the rounding of the decomposition an eigenvalue is noise around zero.
        let noise = d as f64 * f64::EPSILON * largest;
        let first = values.partition_point(|&value| value <= noise);
        let root = Mat::from_fn(d - first, d, |i, j| values[first + i].sqrt() * eigen.U()[(j, first + i)]);
        Ok(Self { mean: moments.mean().to_vec(), trace, root })
    }

    /// Of all rows of a set.
    ///
    /// # Errors
    /// `Usage` with fewer than two rows, or if the decomposition fails.
    pub fn of(features: &Features) -> Result<Self> {
        Self::new(&Moments::of(features)?)
    }

    /// Dimensions of a row.
    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    /// Fréchet distance to another.
    ///
    /// # Errors
    /// `Usage` if the dimensions differ or a decomposition fails.
    pub fn distance(&self, other: &Self) -> Result<f64> {
        self.check_dim(other)?;
        let product = self.product(other);
        let overlap: f64 = match product.nrows().min(product.ncols()) {
            0 => 0.0,
            _ => product.singular_values().map_err(|e| no_singular_values(&e))?.iter().sum(),
        };
        Ok(self.distance_of(other, overlap))
    }

    fn check_dim(&self, other: &Self) -> Result<()> {
        if self.dim() == other.dim() {
            return Ok(());
        }
        let (a, b) = (self.dim(), other.dim());
        Err(Error::Usage(format!("Fréchet distance between features of {a} and of {b} dimensions")))
    }

    /// Σ1^½ Σ2^½ between the two ranges, [r1, r2].
    pub(super) fn product(&self, other: &Self) -> Mat<f64> {
        let mut product = Mat::zeros(self.root.nrows(), other.root.nrows());
        let par = get_global_parallelism();
        matmul(product.as_mut(), Accum::Replace, &self.root, other.root.transpose(), 1.0, par);
        product
    }

    /// The distance, from tr (Σ1 Σ2)^½.
    pub(super) fn distance_of(&self, other: &Self, overlap: f64) -> f64 {
        let shift: f64 = self.mean.iter().zip(&other.mean).map(|(x, y)| (x - y) * (x - y)).sum();
        (shift + self.trace + other.trace - 2.0 * overlap).max(0.0)
    }
}

pub(super) fn no_singular_values(error: &impl std::fmt::Debug) -> Error {
    Error::Usage(format!("Fréchet distance: no singular values ({error:?})"))
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
            Gaussian::new(&rest.moments()?)?.distance(other)
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

    fn with_error(x: &Features, y: &Features) -> Estimate {
        let [a, b] = [x, y].map(|rows| Gaussian::of(rows).unwrap());
        let samples = Sampled { gaussian: &a, rows: Some(x) };
        frechet_with_error(samples, Sampled { gaussian: &b, rows: Some(y) }, &JackknifeOptions::default())
            .unwrap()
    }

    /// Golden values in 60 digits, and by SciPy's `sqrtm` where that is accurate (`scripts/fixtures/metrics.py`).
    #[test]
    fn distance_equals_the_reference() {
        for (name, tolerance) in
            [("random", 1e-12), ("nearly-singular", 1e-9), ("singular", 1e-12), ("relu", 1e-10)]
        {
            let [x, y] = fixture_features(name);
            let found = frechet_distance(&Moments::of(&x).unwrap(), &Moments::of(&y).unwrap()).unwrap();
            let exact = expected(name, "frechet");
            assert!((found / exact - 1.0).abs() < tolerance, "{name}: {found}, exactly {exact}");
            let scipy = expected(name, "frechet_scipy");
            assert!((found / scipy - 1.0).abs() < 1e-6, "{name}: {found}, SciPy {scipy}");
        }
    }

    #[test]
    fn same_distribution_is_at_zero() {
        for name in ["random", "singular"] {
            let moments = Moments::of(&fixture_features(name)[0]).unwrap();
            let found = frechet_distance(&moments, &moments).unwrap();
            assert!((0.0..1e-10).contains(&found), "{name}: {found}");
        }
        let [constant, shifted] =
            [1.0, 4.0].map(|value| Moments::of(&Features::new(2, vec![value; 8]).unwrap()).unwrap());
        assert_eq!(frechet_distance(&constant, &shifted).unwrap(), 18.0);
    }

    #[test]
    fn error_bar_matches_the_spread_of_fresh_draws() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let estimates: Vec<Estimate> = (0..60)
            .map(|_| {
                let (x, y) = (normal(300, 6, 0.3, &mut rng), normal(300, 6, 0.0, &mut rng));
                with_error(&x, &y)
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
        let [a, b] = [&x, &y].map(|rows| Gaussian::of(rows).unwrap());
        let samples = Sampled { gaussian: &a, rows: Some(&x) };
        let both = with_error(&x, &y);
        let exact = Sampled { gaussian: &b, rows: None };
        let one = frechet_with_error(samples, exact, &JackknifeOptions::default()).unwrap();
        assert_eq!(both.value, one.value);
        assert!(0.0 < one.stderr && one.stderr < both.stderr);
    }

    #[test]
    fn order_of_rows_and_of_dimensions_does_not_matter() {
        let [x, y] = fixture_features("random");
        let straight = frechet_distance(&Moments::of(&x).unwrap(), &Moments::of(&y).unwrap()).unwrap();
        let backwards = |rows: &Features| {
            let mut data = rows.as_slice().to_vec();
            data.reverse();
            Moments::of(&Features::new(rows.dim(), data).unwrap()).unwrap()
        };
        let turned = frechet_distance(&backwards(&x), &backwards(&y)).unwrap();
        assert!((turned / straight - 1.0).abs() < 1e-12, "{turned} {straight}");
        let swapped = frechet_distance(&backwards(&y), &backwards(&x)).unwrap();
        assert!((swapped / straight - 1.0).abs() < 1e-12, "{swapped} {straight}");
    }

    #[test]
    fn impossible_comparisons_are_refused() {
        let [x, _] = fixture_features("random");
        let moments = Moments::of(&x).unwrap();
        let other = Moments::of(&Features::new(1, vec![0.0, 1.0]).unwrap()).unwrap();
        assert!(
            frechet_distance(&moments, &other).unwrap_err().to_string().contains("of 12 and of 1 dimensions")
        );
        assert!(Gaussian::of(&Features::new(12, vec![0.0; 12]).unwrap()).is_err());
        let gaussian = Gaussian::of(&x).unwrap();
        let side = Sampled { gaussian: &gaussian, rows: Some(&x) };
        assert!(frechet_with_error(side, side, &JackknifeOptions { blocks: 1, seed: 0 }).is_err());
    }
}
