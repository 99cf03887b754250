//! Moments of activations, streamed in f64.

use rayon::prelude::*;

use crate::metrics::median;

/// A channel stands out where its standard deviation or its largest magnitude is more than this many times that of the median
/// channel.
pub const OUTLIER: f64 = 5.0;

/// Rows that are summed as one, whatever the number of threads.
const ROWS: usize = 512;

/// Count, mean, central moments and largest magnitude of values that come piece by piece.
///
/// Pieces are merged by the formulas of Pébay (2008, Sandia report SAND2008-6212), which do not cancel where the mean is
/// large.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    count: f64,
    mean: f64,
    /// Σ (x − mean)², and the third and fourth powers.
    sums: [f64; 3],
    max_abs: f64,
}

impl Moments {
    /// Number of values.
    pub fn count(&self) -> u64 {
        self.count as u64
    }

    /// Mean.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Standard deviation, divided by the count.
    pub fn std(&self) -> f64 {
        (self.sums[0] / self.count).sqrt()
    }

    /// Largest magnitude.
    pub fn max_abs(&self) -> f64 {
        self.max_abs
    }

    /// Fourth central moment over the squared variance: 3 for a normal distribution. NaN where the values do not vary.
    pub fn kurtosis(&self) -> f64 {
        self.count * self.sums[2] / (self.sums[0] * self.sums[0])
    }

    /// Adds the values that another has seen.
    pub fn merge(&mut self, other: &Self) {
        let (a, b) = (self.count, other.count);
        if b == 0.0 {
            return;
        }
        let n = a + b;
        let [a2, a3, a4] = self.sums;
        let [b2, b3, b4] = other.sums;
        let d = other.mean - self.mean;
        let fourth = d.powi(4) * a * b * (a * a - a * b + b * b) / n.powi(3)
            + 6.0 * d * d * (a * a * b2 + b * b * a2) / (n * n)
            + 4.0 * d * (a * b3 - b * a3) / n;
        let third = d.powi(3) * a * b * (a - b) / (n * n) + 3.0 * d * (a * b2 - b * a2) / n;
        let second = d * d * a * b / n;
        self.sums = [a2 + b2 + second, a3 + b3 + third, a4 + b4 + fourth];
        self.mean += d * b / n;
        self.count = n;
        self.max_abs = larger(self.max_abs, other.max_abs);
    }
}

/// The larger of two, NaN where either is: a diverged model shall not look tame.
fn larger(a: f64, b: f64) -> f64 {
    if a > b || a.is_nan() { a } else { b }
}

/// The moments of every channel of rows of activations.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelMoments(Vec<Moments>);

impl ChannelMoments {
    /// Of no rows yet.
    pub fn new(channels: usize) -> Self {
        Self(vec![Moments::default(); channels])
    }

    /// Number of channels D.
    pub fn channels(&self) -> usize {
        self.0.len()
    }

    /// Adds rows [R, D].
    pub fn push(&mut self, rows: &[f32]) {
        let channels = self.0.len();
        let blocks: Vec<Self> =
            rows.par_chunks(ROWS * channels).map(|rows| Self::of(rows, channels)).collect();
        blocks.iter().for_each(|block| self.merge(block));
    }

    /// Adds the rows that another has seen.
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(own, other)| own.merge(other));
    }

    /// In two passes over values that are at hand.
    fn of(rows: &[f32], channels: usize) -> Self {
        let count = (rows.len() / channels) as f64;
        let mut means = vec![0f64; channels];
        for row in rows.chunks_exact(channels) {
            means.iter_mut().zip(row).for_each(|(mean, &x)| *mean += f64::from(x));
        }
        means.iter_mut().for_each(|mean| *mean /= count);
        let mut found: Vec<Moments> =
            means.iter().map(|&mean| Moments { count, mean, ..Moments::default() }).collect();
        for row in rows.chunks_exact(channels) {
            for (moments, &x) in found.iter_mut().zip(row) {
                let x = f64::from(x);
                let d = x - moments.mean;
                let square = d * d;
                moments.sums[0] += square;
                moments.sums[1] += square * d;
                moments.sums[2] += square * square;
                moments.max_abs = larger(moments.max_abs, x.abs());
            }
        }
        Self(found)
    }

    /// Of all values, whatever their channel.
    pub fn pooled(&self) -> Moments {
        let mut all = Moments::default();
        self.0.iter().for_each(|channel| all.merge(channel));
        all
    }

    /// The channels, ascending, that stand out from the others: see [`OUTLIER`].
    pub fn outliers(&self) -> Vec<usize> {
        let limit =
            |of: fn(&Moments) -> f64| median(self.0.iter().map(of)).map_or(0.0, |median| OUTLIER * median);
        let (std, max) = (limit(Moments::std), limit(Moments::max_abs));
        let stands_out = |channel: &Moments| channel.std() > std || channel.max_abs() > max;
        (0..self.0.len()).filter(|&channel| stands_out(&self.0[channel])).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::checkpoint::Checkpoint;

    fn golden(name: &str) -> Vec<f32> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/analysis");
        Checkpoint::open(&folder.join("moments.safetensors")).unwrap().read_f32(name).unwrap()
    }

    type NumberOf = fn(&Moments) -> f64;

    const OF: [(&str, NumberOf); 4] = [
        ("mean", Moments::mean),
        ("std", Moments::std),
        ("max", Moments::max_abs),
        ("kurtosis", Moments::kurtosis),
    ];

    #[track_caller]
    fn close(found: f64, expected: f32, what: &str) {
        let expected = f64::from(expected);
        assert!((found - expected).abs() < 3e-7 * expected.abs().max(1.0), "{what}: {found} for {expected}");
    }

    #[test]
    fn moments_are_numpys_however_the_rows_come() {
        let (x, channels) = (golden("x"), golden("mean").len());
        for rows_a_piece in [1, 7, 300] {
            let mut moments = ChannelMoments::new(channels);
            x.chunks(rows_a_piece * channels).for_each(|rows| moments.push(rows));
            assert_eq!(moments.pooled().count(), x.len() as u64);
            for (name, of) in OF {
                for (channel, expected) in golden(name).into_iter().enumerate() {
                    close(of(&moments.0[channel]), expected, &format!("{name} of channel {channel}"));
                }
                close(of(&moments.pooled()), golden(&format!("pooled.{name}"))[0], &format!("{name} of all"));
            }
            // Channel 3 was made twelve times as wide.
            assert_eq!(moments.outliers(), [3]);
        }
    }

    #[test]
    fn a_large_mean_does_not_drown_the_rest() {
        // Around 10⁶, plain sums of fourth powers have no digit left for a spread of 1.
        let values: Vec<f32> = (0..10_000).map(|i| 1e6 + if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let mut moments = ChannelMoments::new(1);
        values.chunks(3).for_each(|rows| moments.push(rows));
        let found = moments.pooled();
        assert!((found.std() - 1.0).abs() < 1e-9 && (found.kurtosis() - 1.0).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn nan_and_constants_are_told() {
        let mut moments = ChannelMoments::new(2);
        moments.push(&[1.0, f32::NAN, 1.0, 2.0]);
        assert!(moments.pooled().mean().is_nan() && moments.pooled().max_abs().is_nan());
        let constant = moments.0[0];
        assert_eq!((constant.std(), constant.max_abs()), (0.0, 1.0));
        assert!(constant.kurtosis().is_nan());
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let x: Vec<f32> = (0..40_000).map(|i| ((i * 7919) % 1000) as f32 / 100.0).collect();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut moments = ChannelMoments::new(8);
            pool.install(|| moments.push(&x));
            moments
        };
        assert_eq!(run(1), run(3));
    }
}
