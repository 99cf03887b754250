//! Mean and covariance of feature rows, accumulated in f64 block by block.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, get_global_parallelism};

use super::features::Features;
use crate::error::{Error, Result};

/// Rows centred and multiplied at a time; bounds the f64 copy of the input.
const BLOCK: usize = 1024;

/// Number of rows, their mean [D] and their scatter [D, D] (the sum of outer products of deviations).
#[derive(Clone, Debug)]
pub struct GaussianStats {
    n: usize,
    mean: Vec<f64>,
    scatter: Mat<f64>,
}

/// Mean [D] and unbiased covariance [D, D] of feature rows: what reference files hold.
#[derive(Clone, Debug)]
pub struct Moments {
    count: Option<usize>,
    mean: Vec<f64>,
    covariance: Mat<f64>,
}

impl Moments {
    /// From stored values: mean [D], covariance [D, D], and the number of rows behind them where the file
    /// tells it.
    ///
    /// # Errors
    /// `Usage` if the lengths disagree, a value is not finite, or the covariance is not symmetric.
    pub fn new(count: Option<usize>, mean: Vec<f64>, covariance: &[f64]) -> Result<Self> {
        let d = mean.len();
        if d == 0 || covariance.len() != d * d {
            let found = covariance.len();
            return Err(Error::Usage(format!(
                "stored statistics: a mean of {d} values and a covariance of {found}, expected {}",
                d * d
            )));
        }
        if mean.iter().chain(covariance).any(|v| !v.is_finite()) {
            return Err(Error::Usage("stored statistics: a value is not finite".into()));
        }
        let rows = MatRef::from_row_major_slice(covariance, d, d);
        if let Some(i) = (0..d).find(|&i| rows[(i, i)] < 0.0) {
            let found = rows[(i, i)];
            return Err(Error::Usage(format!(
                "stored statistics: no covariance, the variance of {i} is {found}"
            )));
        }
        let largest = (0..d).map(|i| rows[(i, i)]).fold(0.0, f64::max);
        for (i, j) in (0..d).flat_map(|i| (0..i).map(move |j| (i, j))) {
            // Some programs store f32, whose rounding is forgiven; another matrix is not.
            if (rows[(i, j)] - rows[(j, i)]).abs() > 1e-3 * largest {
                let (a, b) = (rows[(i, j)], rows[(j, i)]);
                return Err(Error::Usage(format!(
                    "stored statistics: no covariance, element ({i}, {j}) is {a} and ({j}, {i}) is {b}"
                )));
            }
        }
        // Halving with the transpose evens out the rounding of whoever stored it.
        let covariance = Mat::from_fn(d, d, |i, j| 0.5 * (rows[(i, j)] + rows[(j, i)]));
        Ok(Self { count, mean, covariance })
    }

    /// Of all rows of a set.
    ///
    /// # Errors
    /// `Usage` with fewer than two rows.
    pub fn of(features: &Features) -> Result<Self> {
        GaussianStats::of(features).moments()
    }

    /// Number of rows behind the moments, where it is known.
    pub fn count(&self) -> Option<usize> {
        self.count
    }

    /// Dimensions of a row.
    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    /// Mean, [D].
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Covariance, [D, D], symmetric.
    pub fn covariance(&self) -> MatRef<'_, f64> {
        self.covariance.as_ref()
    }
}

impl GaussianStats {
    /// Of no rows yet, in `d` dimensions.
    pub fn new(d: usize) -> Self {
        Self { n: 0, mean: vec![0.0; d], scatter: Mat::zeros(d, d) }
    }

    /// Of all rows.
    pub fn of(features: &Features) -> Self {
        let mut stats = Self::new(features.dim());
        stats.accumulate(features.as_slice());
        stats
    }

    /// Adds the rows that another accumulator has seen.
    ///
    /// # Errors
    /// `Usage` if the dimensions differ.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        self.check_dim(other.dim())?;
        self.combine(other);
        Ok(())
    }

    /// Number of rows seen.
    pub fn count(&self) -> usize {
        self.n
    }

    /// Dimensions of a row.
    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    /// Mean, [D].
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Mean and unbiased covariance (divided by n - 1).
    ///
    /// # Errors
    /// `Usage` with fewer than two rows.
    pub fn moments(&self) -> Result<Moments> {
        if self.n < 2 {
            return Err(Error::Usage(format!(
                "covariance of {} feature row(s); at least 2 are needed",
                self.n
            )));
        }
        let scale = 1.0 / (self.n - 1) as f64;
        // One triangle is taken for both, lest rounding make them differ.
        let entry = |i: usize, j: usize| self.scatter[(i.max(j), i.min(j))] * scale;
        let covariance = Mat::from_fn(self.dim(), self.dim(), entry);
        Ok(Moments { count: Some(self.n), mean: self.mean.clone(), covariance })
    }

    fn check_dim(&self, d: usize) -> Result<()> {
        if d == self.dim() {
            return Ok(());
        }
        Err(Error::Usage(format!("features of {d} dimensions added to statistics of {}", self.dim())))
    }

    fn accumulate(&mut self, rows: &[f32]) {
        for block in rows.chunks(BLOCK * self.dim()) {
            let stats = Self::of_block(block, self.dim());
            self.combine(&stats);
        }
    }

    /// Two passes over one block: centring first keeps the digits that sums of squares would lose.
    fn of_block(rows: &[f32], d: usize) -> Self {
        let n = rows.len() / d;
        let mut mean = vec![0.0; d];
        for row in rows.chunks_exact(d) {
            mean.iter_mut().zip(row).for_each(|(m, &v)| *m += f64::from(v));
        }
        mean.iter_mut().for_each(|m| *m /= n as f64);
        let centered: Vec<f64> = rows
            .chunks_exact(d)
            .flat_map(|row| row.iter().zip(&mean).map(|(&v, m)| f64::from(v) - m))
            .collect();
        let columns = MatRef::from_column_major_slice(&centered, d, n);
        let mut scatter = Mat::zeros(d, d);
        let par = get_global_parallelism();
        matmul(scatter.as_mut(), Accum::Replace, columns, columns.transpose(), 1.0, par);
        Self { n, mean, scatter }
    }

    /// Chan, Golub and LeVeque 1983, for means and scatters.
    fn combine(&mut self, other: &Self) {
        if other.n == 0 {
            return;
        }
        let total = self.n + other.n;
        let share = other.n as f64 / total as f64;
        let weight = self.n as f64 * share;
        let delta: Vec<f64> = other.mean.iter().zip(&self.mean).map(|(b, a)| b - a).collect();
        for j in 0..self.dim() {
            for i in 0..self.dim() {
                self.scatter[(i, j)] += other.scatter[(i, j)] + weight * delta[i] * delta[j];
            }
        }
        self.mean.iter_mut().zip(&delta).for_each(|(m, d)| *m += share * d);
        self.n = total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(rows: std::ops::Range<u32>) -> Features {
        // Far from the origin, where one-pass sums of squares would lose their digits.
        let data = rows.flat_map(|i| [5000.0 + (i * 37 % 101) as f32 / 64.0, (i * 53 % 89) as f32]).collect();
        Features::new(2, data).unwrap()
    }

    fn naive_covariance(features: &Features) -> [f64; 3] {
        let n = features.len() as f64;
        let column = |j: usize| (0..features.len()).map(move |i| f64::from(features.row(i)[j]));
        let mean = [column(0).sum::<f64>() / n, column(1).sum::<f64>() / n];
        let product = |a: usize, b: usize| {
            column(a).zip(column(b)).map(|(x, y)| (x - mean[a]) * (y - mean[b])).sum::<f64>() / (n - 1.0)
        };
        [product(0, 0), product(0, 1), product(1, 1)]
    }

    #[test]
    fn streaming_and_merging_equal_the_definition() {
        let all = features(0..3000);
        let mut streamed = GaussianStats::new(2);
        streamed.merge(&GaussianStats::of(&features(0..7))).unwrap();
        streamed.merge(&GaussianStats::of(&features(7..1900))).unwrap();
        streamed.merge(&GaussianStats::of(&features(1900..3000))).unwrap();
        let expected = naive_covariance(&all);
        for stats in [GaussianStats::of(&all), streamed] {
            let moments = stats.moments().unwrap();
            let covariance = moments.covariance();
            assert_eq!(stats.count(), 3000);
            for (found, expected) in
                [covariance[(0, 0)], covariance[(1, 0)], covariance[(1, 1)]].into_iter().zip(expected)
            {
                assert!((found - expected).abs() < 1e-10 * expected.abs().max(1.0), "{found} {expected}");
            }
        }
    }

    #[test]
    fn stored_moments_come_back() {
        let moments = Moments::of(&features(0..50)).unwrap();
        let covariance = moments.covariance();
        let flat: Vec<f64> = (0..4).map(|i| covariance[(i / 2, i % 2)]).collect();
        let restored = Moments::new(Some(50), moments.mean().to_vec(), &flat).unwrap();
        assert!((restored.covariance()[(0, 1)] - flat[1]).abs() < 1e-12);
        assert!(Moments::new(None, vec![0.0], &flat).is_err());
        let negative = Moments::new(None, vec![0.0; 2], &[-5.0, 0.0, 0.0, -5.0]).unwrap_err().to_string();
        assert!(negative.contains("the variance of 0 is -5"), "{negative}");
        assert!(Moments::new(None, vec![0.0, f64::NAN], &flat).is_err());
        let lopsided = Moments::new(None, vec![0.0; 2], &[1.0, 0.5, 0.2, 1.0]).unwrap_err().to_string();
        assert!(lopsided.contains("element (1, 0) is 0.2 and (0, 1) is 0.5"), "{lopsided}");
    }

    #[test]
    fn too_little_or_mismatched_data_is_refused() {
        assert!(GaussianStats::of(&features(0..1)).moments().is_err());
        let three = Features::new(3, vec![0.0; 3]).unwrap();
        assert!(
            GaussianStats::new(2)
                .merge(&GaussianStats::of(&three))
                .unwrap_err()
                .to_string()
                .contains("3 dimensions")
        );
    }
}
