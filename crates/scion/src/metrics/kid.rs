//! Kernel distance (KID, Bińkowski et al. 2018): unbiased squared maximum mean discrepancy with the kernel
//! (x·y / D + 1)³.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;

use super::Estimate;
use super::features::Features;
use crate::error::{Error, Result};

/// Rows of the kernel matrix computed at a time: the piece stays in cache and is never stored whole.
const BLOCK: usize = 128;

/// How the distance is estimated; the defaults are clean-fid's, 100 subsets of at most 1,000.
#[derive(Clone, Copy, Debug)]
pub struct KidOptions {
    /// Random subsets averaged for the value.
    pub subsets: usize,
    /// Rows of each set in a subset; at most the smaller set.
    pub subset_size: usize,
    /// Rows of each set used for the standard error; time grows with the square.
    pub error_rows: usize,
    /// Chooses the rows.
    pub seed: u64,
}

impl Default for KidOptions {
    fn default() -> Self {
        Self { subsets: 100, subset_size: 1000, error_rows: 5000, seed: 0 }
    }
}

/// A kernel distance and two measures of its spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kid {
    /// Mean over subsets. May be slightly negative: the estimator is unbiased.
    pub value: f64,
    /// Standard error from the finite number of rows, by the delete-one jackknife.
    pub stderr: f64,
    /// Standard deviation between subsets, which other tools print. It is no error of the value: it falls
    /// to zero where subsets are the whole set.
    pub subset_std: f64,
}

impl Kid {
    /// Value and standard error.
    pub fn estimate(&self) -> Estimate {
        Estimate { value: self.value, stderr: self.stderr }
    }
}

/// Kernel distance between two sets of features.
///
/// # Errors
/// `Usage` if the dimensions differ, a set has fewer than 3 rows, `subsets` is 0 or a size is below 3.
pub fn kernel_distance(samples: &Features, reference: &Features, options: &KidOptions) -> Result<Kid> {
    let smaller = samples.len().min(reference.len());
    let size = options.subset_size.min(smaller);
    if samples.dim() != reference.dim() {
        let (a, b) = (samples.dim(), reference.dim());
        return Err(Error::Usage(format!("kernel distance between features of {a} and of {b} dimensions")));
    }
    if options.subsets == 0 || size.min(options.error_rows) < 3 {
        return Err(Error::Usage(format!(
            "kernel distance: {} subsets of {}, {} rows for the error, {smaller} rows at hand; expected at least \
             1 subset and 3 rows each",
            options.subsets, options.subset_size, options.error_rows
        )));
    }
    // Where a subset is everything, all are the same.
    let whole = size == samples.len() && size == reference.len();
    let count = if whole { 1 } else { options.subsets };
    let values: Vec<f64> = (0..count as u64)
        .into_par_iter()
        .map(|subset| {
            let mut rng = stream(options.seed, subset);
            let (x, y) = (draw(samples, size, &mut rng), draw(reference, size, &mut rng));
            Sums::new(x.as_ref(), y.as_ref(), false).mmd2()
        })
        .collect();
    let value = values.iter().sum::<f64>() / count as f64;
    let variance = values.iter().map(|v| (v - value) * (v - value)).sum::<f64>() / count as f64;
    // The rows that the subsets happened to take add to the noise of the rows themselves.
    let stderr = jackknife_error(samples, reference, options).hypot((variance / count as f64).sqrt());
    Ok(Kid { value, stderr, subset_std: variance.sqrt() })
}

/// Standard error by leaving out each row in turn, exact from row sums of the kernel matrices. Sets above
/// `error_rows` are thinned, and the variance scaled by the share kept (it falls as 1/n).
fn jackknife_error(samples: &Features, reference: &Features, options: &KidOptions) -> f64 {
    let mut rng = stream(options.seed, u64::MAX);
    let x = draw(samples, options.error_rows.min(samples.len()), &mut rng);
    let y = draw(reference, options.error_rows.min(reference.len()), &mut rng);
    let sums = Sums::new(x.as_ref(), y.as_ref(), true);
    let scale = |kept: usize, features: &Features| kept as f64 / features.len() as f64;
    let variance = sums.variance_of_x() * scale(x.ncols(), samples)
        + sums.swapped().variance_of_x() * scale(y.ncols(), reference);
    variance.sqrt()
}

fn stream(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// `size` distinct rows as columns in f64, [D, size]; all rows in order if `size` is their number.
fn draw(features: &Features, size: usize, rng: &mut ChaCha8Rng) -> Mat<f64> {
    let chosen = match size == features.len() {
        true => (0..size).collect(),
        false => index::sample(rng, features.len(), size).into_vec(),
    };
    Mat::from_fn(features.dim(), size, |i, j| f64::from(features.row(chosen[j])[i]))
}

/// Row sums of the three kernel matrices; those within a set leave the diagonal out.
struct Sums {
    xx: Vec<f64>,
    yy: Vec<f64>,
    /// Σ over y of k(x, y), for each x.
    xy: Vec<f64>,
    /// Σ over x of k(x, y), for each y.
    yx: Vec<f64>,
}

impl Sums {
    fn new(x: MatRef<'_, f64>, y: MatRef<'_, f64>, parallel: bool) -> Self {
        let within = |z: MatRef<'_, f64>| {
            let (mut rows, _) = kernel_sums(z, z, parallel);
            let d = z.nrows() as f64;
            for (sum, column) in rows.iter_mut().zip(z.col_iter()) {
                *sum -= kernel(column.iter().map(|v| v * v).sum::<f64>() / d);
            }
            rows
        };
        let (xy, yx) = kernel_sums(x, y, parallel);
        Self { xx: within(x), yy: within(y), xy, yx }
    }

    fn swapped(&self) -> Self {
        Self { xx: self.yy.clone(), yy: self.xx.clone(), xy: self.yx.clone(), yx: self.xy.clone() }
    }

    /// Unbiased MMD² (Gretton et al. 2012, eq. 3).
    fn mmd2(&self) -> f64 {
        let (m, n) = (self.xx.len() as f64, self.yy.len() as f64);
        let total = |sums: &[f64]| sums.iter().sum::<f64>();
        total(&self.xx) / (m * (m - 1.0)) + total(&self.yy) / (n * (n - 1.0))
            - 2.0 * total(&self.xy) / (m * n)
    }

    /// Jackknife variance over the rows of x.
    fn variance_of_x(&self) -> f64 {
        let (m, n) = (self.xx.len() as f64, self.yy.len() as f64);
        let (xx, xy): (f64, f64) = (self.xx.iter().sum(), self.xy.iter().sum());
        // The y term is the same in every replicate and drops out of the deviations.
        let without = |i: usize| {
            (xx - 2.0 * self.xx[i]) / ((m - 1.0) * (m - 2.0)) - 2.0 * (xy - self.xy[i]) / ((m - 1.0) * n)
        };
        let replicates: Vec<f64> = (0..self.xx.len()).map(without).collect();
        let mean = replicates.iter().sum::<f64>() / m;
        (m - 1.0) / m * replicates.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>()
    }
}

/// Row and column sums of the kernel matrix between the columns of x [D, m] and of y [D, n].
fn kernel_sums(x: MatRef<'_, f64>, y: MatRef<'_, f64>, parallel: bool) -> (Vec<f64>, Vec<f64>) {
    let starts: Vec<usize> = (0..y.ncols()).step_by(BLOCK).collect();
    let piece = |start: usize| {
        let columns = y.subcols(start, BLOCK.min(y.ncols() - start));
        let mut products = Mat::zeros(x.ncols(), columns.ncols());
        let scale = 1.0 / x.nrows() as f64;
        matmul(products.as_mut(), Accum::Replace, x.transpose(), columns, scale, Par::Seq);
        let mut rows = vec![0.0; x.ncols()];
        let by_column: Vec<f64> = products
            .col_iter()
            .map(|column| {
                let mut sum = 0.0;
                for (row, &product) in rows.iter_mut().zip(column.iter()) {
                    let value = kernel(product);
                    *row += value;
                    sum += value;
                }
                sum
            })
            .collect();
        (rows, by_column)
    };
    let pieces: Vec<_> = match parallel {
        true => starts.par_iter().map(|&start| piece(start)).collect(),
        false => starts.iter().map(|&start| piece(start)).collect(),
    };
    let mut rows = vec![0.0; x.ncols()];
    let mut columns = Vec::with_capacity(y.ncols());
    for (piece_rows, piece_columns) in pieces {
        rows.iter_mut().zip(piece_rows).for_each(|(sum, value)| *sum += value);
        columns.extend(piece_columns);
    }
    (rows, columns)
}

/// The cubic kernel of a scaled product x·y / D.
fn kernel(product: f64) -> f64 {
    let base = product + 1.0;
    base * base * base
}

#[cfg(test)]
mod tests {
    use super::super::npz::tests::{expected, fixture_features};
    use super::*;

    /// Golden values by NumPy, the error by brute-force jackknife (`scripts/fixtures/metrics.py`).
    #[test]
    fn whole_set_equals_the_reference() {
        for name in ["random", "nearly-singular", "singular", "relu"] {
            let [x, y] = fixture_features(name);
            let sums = Sums::new(
                draw(&x, x.len(), &mut stream(0, 0)).as_ref(),
                draw(&y, y.len(), &mut stream(0, 0)).as_ref(),
                true,
            );
            let (found, exact) = (sums.mmd2(), expected(name, "mmd2"));
            assert!((found / exact - 1.0).abs() < 1e-9, "{name}: {found}, NumPy {exact}");
            let (found, exact) =
                (jackknife_error(&x, &y, &KidOptions::default()), expected(name, "mmd2_error"));
            assert!((found / exact - 1.0).abs() < 1e-9, "{name} error: {found}, NumPy {exact}");
        }
    }

    #[test]
    fn subsets_average_to_the_whole() {
        let [x, y] = fixture_features("relu");
        let options = KidOptions { subsets: 2000, subset_size: 30, ..KidOptions::default() };
        let kid = kernel_distance(&x, &y, &options).unwrap();
        let whole = expected("relu", "mmd2");
        let tolerance = 4.0 * kid.subset_std / (options.subsets as f64).sqrt();
        assert!((kid.value - whole).abs() < tolerance, "{} against {whole} ± {tolerance}", kid.value);
        assert_eq!(kid, kernel_distance(&x, &y, &options).unwrap(), "seeded");
        assert_ne!(kid, kernel_distance(&x, &y, &KidOptions { seed: 1, ..options }).unwrap());
    }

    #[test]
    fn a_whole_subset_keeps_its_error_bar() {
        let [x, _] = fixture_features("random");
        let (head, tail) = x.as_slice().split_at(100 * x.dim());
        let half = |values: &[f32]| Features::new(x.dim(), values.to_vec()).unwrap();
        let kid = kernel_distance(&half(head), &half(tail), &KidOptions::default()).unwrap();
        assert_eq!(kid.subset_std, 0.0);
        assert!(kid.stderr > 0.0);
    }

    #[test]
    fn thinned_error_is_close_to_the_full_one() {
        let [x, y] = fixture_features("relu");
        let full = jackknife_error(&x, &y, &KidOptions::default());
        let thinned = jackknife_error(&x, &y, &KidOptions { error_rows: 60, ..KidOptions::default() });
        assert!((0.6..1.6).contains(&(thinned / full)), "{thinned} against {full}");
    }

    #[test]
    fn impossible_comparisons_are_refused() {
        let [x, _] = fixture_features("random");
        let refused =
            |y: &Features, options: KidOptions| kernel_distance(&x, y, &options).unwrap_err().to_string();
        let narrow = Features::new(1, vec![0.0; 10]).unwrap();
        assert!(refused(&narrow, KidOptions::default()).contains("of 12 and of 1 dimensions"));
        let two = Features::new(12, vec![0.0; 24]).unwrap();
        assert!(refused(&two, KidOptions::default()).contains("2 rows at hand"));
        assert!(refused(&x, KidOptions { subsets: 0, ..KidOptions::default() }).contains("0 subsets"));
    }
}
