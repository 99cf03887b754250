use serde::Serialize;

use crate::metrics::median;

/// How long runs of the same work took.
#[derive(Clone, Debug, Serialize)]
pub struct Times {
    /// Time of every run in milliseconds, in order.
    pub times_ms: Vec<f64>,
    /// Median time of a run in milliseconds.
    pub median_ms: f64,
    /// Shortest time of a run in milliseconds.
    pub min_ms: f64,
    /// Longest time of a run in milliseconds.
    pub max_ms: f64,
}

impl Times {
    /// Of at least one run's milliseconds.
    pub(super) fn of(times_ms: Vec<f64>) -> Self {
        Self {
            median_ms: median(times_ms.iter().copied()).expect("there is at least one run"),
            min_ms: times_ms.iter().copied().fold(f64::INFINITY, f64::min),
            max_ms: times_ms.iter().copied().fold(0.0, f64::max),
            times_ms,
        }
    }
}
