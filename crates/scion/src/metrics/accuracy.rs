//! The share of predictions that are right, with Wilson's score interval.

use serde::{Deserialize, Serialize};

use super::Estimate;
use crate::error::{Error, Result};

/// Correct predictions out of a total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accuracy {
    pub correct: usize,
    pub total: usize,
}

impl Accuracy {
    /// Compares class predictions with the true classes, both [N].
    ///
    /// # Errors
    /// `Usage` if the lengths differ or are 0.
    pub fn of(predicted: &[usize], labels: &[usize]) -> Result<Self> {
        if predicted.len() != labels.len() || labels.is_empty() {
            return Err(Error::Usage(format!(
                "accuracy: {} predictions for {} labels, expected equal counts above 0",
                predicted.len(),
                labels.len()
            )));
        }
        let correct = predicted.iter().zip(labels).filter(|(p, l)| p == l).count();
        Ok(Self { correct, total: labels.len() })
    }

    /// The share that is right, 0 to 1.
    pub fn fraction(&self) -> f64 {
        self.correct as f64 / self.total as f64
    }

    /// Wilson's score interval for `z` standard deviations (1.96: 95 %). Unlike p ± z·stderr it stays inside
    /// [0, 1] and keeps a width when every prediction is right.
    pub fn wilson(&self, z: f64) -> (f64, f64) {
        let (n, p) = (self.total as f64, self.fraction());
        let shrink = 1.0 + z * z / n;
        let center = (p + z * z / (2.0 * n)) / shrink;
        let half = z / shrink * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
        ((center - half).max(0.0), (center + half).min(1.0))
    }

    /// The fraction, and half the width of its one-sigma Wilson interval as standard error.
    pub fn estimate(&self) -> Estimate {
        let (low, high) = self.wilson(1.0);
        Estimate { value: self.fraction(), stderr: (high - low) / 2.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_interval() {
        let accuracy = Accuracy::of(&[1, 2, 3, 0], &[1, 2, 0, 0]).unwrap();
        assert_eq!(accuracy, Accuracy { correct: 3, total: 4 });
        // Wilson 1927, eq. for x = 8 of n = 10 at 95 %: 0.4902 to 0.9433.
        let (low, high) = Accuracy { correct: 8, total: 10 }.wilson(1.959964);
        assert!((low - 0.490162).abs() < 1e-6 && (high - 0.943318).abs() < 1e-6, "{low} {high}");
    }

    #[test]
    fn perfect_scores_keep_an_error() {
        let perfect = Accuracy { correct: 50, total: 50 };
        assert!(perfect.estimate().stderr > 0.005);
        assert_eq!(perfect.wilson(2.0).1, 1.0);
        assert_eq!(Accuracy { correct: 0, total: 50 }.wilson(2.0).0, 0.0);
    }

    #[test]
    fn unequal_or_empty_inputs_are_refused() {
        assert!(Accuracy::of(&[], &[]).is_err());
        assert!(Accuracy::of(&[1], &[1, 2]).unwrap_err().to_string().contains("1 predictions for 2 labels"));
    }
}
