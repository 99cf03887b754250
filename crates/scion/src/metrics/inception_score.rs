//! The Inception Score (Salimans et al. 2016): exp of the mean KL divergence from each image's class
//! probabilities to their mean.

use super::features::Features;
use crate::error::{Error, Result};

/// How the rows are split; the score is the mean over splits. Splits are contiguous, in file order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Splits {
    /// Splits of this many rows, the last one shorter: ADM's way, with 5,000.
    Rows(usize),
    /// This many splits, of sizes as even as possible: the original paper's way, with 10.
    Count(usize),
}

impl Splits {
    /// Rows of the last split, and of the others.
    pub fn last_and_others(self, rows: usize) -> (usize, usize) {
        match self {
            Self::Rows(size) if rows > size && !rows.is_multiple_of(size) => (rows % size, size),
            Self::Rows(size) => (size.min(rows), size.min(rows)),
            Self::Count(count) => (rows / count.max(1), rows / count.max(1)),
        }
    }
}

impl Default for Splits {
    fn default() -> Self {
        Self::Rows(5000)
    }
}

/// An Inception Score and two measures of its spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InceptionScore {
    /// Mean over splits; between 1 and the number of classes.
    pub value: f64,
    /// Standard error from the finite number of rows, to first order.
    pub stderr: f64,
    /// Standard deviation between splits, which other tools print; 0 with one split.
    pub split_std: f64,
}

/// Score of class probabilities, [N, C].
///
/// A probability of 0 adds nothing to a divergence (the limit of p·ln p), where ADM's program gives NaN.
///
/// # Errors
/// `Usage` if a row is no distribution, there are no rows, or more splits than rows.
pub fn inception_score(probabilities: &Features, splits: Splits) -> Result<InceptionScore> {
    check(probabilities)?;
    let n = probabilities.len();
    let bounds: Vec<usize> = match splits {
        Splits::Rows(size) if size > 0 && n > 0 => (0..n).step_by(size).chain([n]).collect(),
        Splits::Count(count) if (1..=n).contains(&count) => (0..=count).map(|i| i * n / count).collect(),
        _ => {
            return Err(Error::Usage(format!(
                "Inception Score: {splits:?} for {n} rows, expected at least one row in every split"
            )));
        }
    };
    let parts: Vec<(f64, f64)> = bounds.windows(2).map(|b| score(probabilities, b[0], b[1])).collect();
    let count = parts.len() as f64;
    let value = parts.iter().map(|(score, _)| score).sum::<f64>() / count;
    let spread = parts.iter().map(|(score, _)| (score - value) * (score - value)).sum::<f64>() / count;
    let variance = parts.iter().map(|(_, variance)| variance).sum::<f64>() / (count * count);
    Ok(InceptionScore { value, stderr: variance.sqrt(), split_std: spread.sqrt() })
}

/// Softmax of logits, row by row, [N, C].
pub fn softmax(logits: &Features) -> Features {
    let mut data = Vec::with_capacity(logits.as_slice().len());
    for i in 0..logits.len() {
        let row = logits.row(i);
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exps: Vec<f64> = row.iter().map(|&v| f64::from(v - largest).exp()).collect();
        let sum: f64 = exps.iter().sum();
        data.extend(exps.iter().map(|e| (e / sum) as f32));
    }
    Features::new(logits.dim(), data).expect("softmax of finite logits is finite")
}

/// Rounding to f16 may move the sum of a thousand classes this far from 1.
const SUM_TOLERANCE: f64 = 1e-2;

fn check(probabilities: &Features) -> Result<()> {
    for i in 0..probabilities.len() {
        let row = probabilities.row(i);
        let sum: f64 = row.iter().copied().map(f64::from).sum();
        if row.iter().any(|&p| p < 0.0) || (sum - 1.0).abs() > SUM_TOLERANCE {
            return Err(Error::Usage(format!(
                "Inception Score: row {i} has the sum {sum}, or a negative value; expected class probabilities"
            )));
        }
    }
    Ok(())
}

/// Score of rows `begin..end` and the variance of its sampling error.
///
/// The mean distribution enters a divergence's mean with slope 0, so to first order only the spread of the
/// rows' own divergences counts.
fn score(probabilities: &Features, begin: usize, end: usize) -> (f64, f64) {
    let n = (end - begin) as f64;
    let mut mean = vec![0.0; probabilities.dim()];
    for i in begin..end {
        mean.iter_mut().zip(probabilities.row(i)).for_each(|(m, &p)| *m += f64::from(p) / n);
    }
    let logs: Vec<f64> = mean.iter().map(|m| m.ln()).collect();
    let divergence = |i: usize| -> f64 {
        let terms = probabilities.row(i).iter().zip(&logs).filter(|(p, _)| **p > 0.0);
        terms.map(|(&p, log)| f64::from(p) * (f64::from(p).ln() - log)).sum()
    };
    let divergences: Vec<f64> = (begin..end).map(divergence).collect();
    let average = divergences.iter().sum::<f64>() / n;
    let squares: f64 = divergences.iter().map(|d| (d - average) * (d - average)).sum();
    let score = average.exp();
    // Of one row, nothing tells the spread.
    let variance = if n < 2.0 { f64::INFINITY } else { squares / (n * (n - 1.0)) };
    (score, score * score * variance)
}

#[cfg(test)]
mod tests {
    use super::super::npz::tests::{expected, fixture_features};
    use super::*;

    /// Golden values by NumPy, of the softmax of a fixture's rows (`scripts/fixtures/metrics.py`).
    #[test]
    fn score_equals_the_reference() {
        for name in ["random", "relu"] {
            let probabilities = softmax(&fixture_features(name)[0]);
            for (splits, quantity) in [
                (Splits::default(), "inception_score"),
                (Splits::Rows(40), "inception_score_rows_40"),
                (Splits::Count(4), "inception_score_count_4"),
            ] {
                let found = inception_score(&probabilities, splits).unwrap();
                let exact = expected(name, quantity);
                assert!(
                    (found.value / exact - 1.0).abs() < 1e-6,
                    "{name} {quantity}: {found:?}, NumPy {exact}"
                );
            }
            let spread = inception_score(&probabilities, Splits::Count(4)).unwrap().split_std;
            let exact = expected(name, "inception_score_count_4_std");
            assert!((spread / exact - 1.0).abs() < 1e-5, "{name}: {spread}, NumPy {exact}");
        }
    }

    #[test]
    fn extremes_are_one_and_the_number_of_classes() {
        let certain: Vec<f32> = (0..12).map(|i| if i % 4 == i / 4 { 1.0 } else { 0.0 }).collect();
        let score = |data: &[f32]| {
            inception_score(&Features::new(4, data.to_vec()).unwrap(), Splits::default()).unwrap()
        };
        let perfect = score(&certain);
        assert!((perfect.value - 3.0).abs() < 1e-12 && perfect.stderr < 1e-12, "{perfect:?}");
        assert_eq!(score(&[0.25; 8]).value, 1.0);
        assert_eq!(score(&certain[..4]).value, 1.0, "one image");
    }

    #[test]
    fn error_matches_the_spread_between_splits() {
        let probabilities = softmax(&fixture_features("relu")[0]);
        let found = inception_score(&probabilities, Splits::Count(9)).unwrap();
        let between = found.split_std / 3.0;
        assert!((0.5..2.0).contains(&(found.stderr / between)), "{found:?}");
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        let score = |data: Vec<f32>, splits| inception_score(&Features::new(2, data).unwrap(), splits);
        let message = |data| score(data, Splits::default()).unwrap_err().to_string();
        assert!(message(vec![0.5, 0.5, 2.0, 0.5]).contains("row 1 has the sum 2.5"));
        assert!(message(vec![1.5, -0.5]).contains("negative"));
        assert!(message(vec![]).contains("0 rows"));
        assert!(score(vec![0.5, 0.5], Splits::Count(2)).is_err());
        assert!(score(vec![0.5, 0.5], Splits::Rows(0)).is_err());
    }
}
