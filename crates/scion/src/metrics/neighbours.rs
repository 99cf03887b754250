//! Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020): how two sets lie
//! in each other's neighbourhoods.
//!
//! Each image's neighbourhood is the ball that reaches to its k-th nearest neighbour in its own set. Distances are
//! squared, as in ADM's evaluation; its half precision is not copied.

use rayon::prelude::*;

use super::features::Features;
use super::pairs::{BLOCK, Ball, Pairs, Points, mean};
use super::{Accuracy, Estimate};
use crate::error::{Error, Result};

/// Reference rows that one task looks at.
const CHUNK: usize = 256;

/// Which neighbour bounds a neighbourhood, not counting the image itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourOptions {
    /// For precision and recall; ADM's 3 by default.
    pub precision_recall: usize,
    /// For density and coverage; 5 by default, as the authors' program has it.
    pub density_coverage: usize,
}

impl Default for NeighbourOptions {
    fn default() -> Self {
        Self { precision_recall: 3, density_coverage: 5 }
    }
}

/// How samples and reference lie in each other's neighbourhoods. Standard errors take the other set as given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NeighbourScores {
    /// Share of samples in some reference image's neighbourhood (at most its radius away).
    pub precision: Estimate,
    /// Share of reference images in some sample's neighbourhood.
    pub recall: Estimate,
    /// Reference neighbourhoods around a sample (nearer than the radius), over k; may exceed 1.
    pub density: Estimate,
    /// Share of reference images with a sample nearer than their radius.
    pub coverage: Estimate,
}

/// A reference set and its radii, for comparison with many sample sets.
pub struct Neighbourhoods<'a> {
    points: Points<'a>,
    centre: Vec<f64>,
    precision_radii: Vec<f64>,
    density_radii: Vec<f64>,
    options: NeighbourOptions,
}

impl<'a> Neighbourhoods<'a> {
    /// Finds the radii of the reference; time grows with the square of its rows.
    ///
    /// # Errors
    /// `Usage` if a k is 0 or the reference has no k-th neighbour.
    pub fn new(reference: &'a Features, options: NeighbourOptions) -> Result<Self> {
        let NeighbourOptions { precision_recall, density_coverage } = options;
        let centre = mean(reference);
        let points = Points::new(reference, &centre);
        let nearest = points.radii(&[precision_recall, density_coverage])?;
        let [precision_radii, density_radii] = nearest.try_into().expect("one set of radii for each k");
        Ok(Self { points, centre, precision_radii, density_radii, options })
    }

    /// Compares samples with the reference.
    ///
    /// # Errors
    /// `Usage` if the dimensions differ or the samples have no k-th neighbour.
    pub fn compare(&self, samples: &Features) -> Result<NeighbourScores> {
        if samples.dim() != self.centre.len() {
            let (a, b) = (samples.dim(), self.centre.len());
            return Err(Error::Usage(format!("neighbours between features of {a} and of {b} dimensions")));
        }
        let points = Points::new(samples, &self.centre);
        let sample_radii = points.radii(&[self.options.precision_recall])?.remove(0);
        let mut around = Vec::with_capacity(samples.len());
        let mut reached = vec![Reached::default(); self.points.len()];
        for begin in (0..samples.len()).step_by(BLOCK) {
            let block = begin..samples.len().min(begin + BLOCK);
            let products = points.products(block.clone(), &self.points);
            around.par_extend(block.clone().into_par_iter().map(|j| {
                let pairs = Pairs::new(&points, j, &self.points, products.col_as_slice(j - begin));
                self.around(&pairs)
            }));
            reached.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, reached)| {
                for j in block.clone() {
                    let column = products.col_as_slice(j - begin);
                    let pairs = Pairs::new(&points, j, &self.points, column);
                    self.reach(&pairs, sample_radii[j], chunk * CHUNK, reached);
                }
            });
        }
        Ok(self.scores(&around, &reached))
    }

    /// What surrounds one sample.
    fn around(&self, pairs: &Pairs<'_>) -> Around {
        let mut found = Around::default();
        for i in 0..self.points.len() {
            found.precise |= !found.precise && pairs.within(i, self.precision_radii[i], Ball::Closed);
            found.balls += u32::from(pairs.within(i, self.density_radii[i], Ball::Open));
        }
        found
    }

    /// Notes which reference images, from `first` on, one sample reaches.
    fn reach(&self, pairs: &Pairs<'_>, sample_radius: f64, first: usize, reached: &mut [Reached]) {
        for (i, reached) in (first..).zip(reached) {
            reached.recalled = reached.recalled || pairs.within(i, sample_radius, Ball::Closed);
            reached.covered = reached.covered || pairs.within(i, self.density_radii[i], Ball::Open);
        }
    }

    fn scores(&self, around: &[Around], reached: &[Reached]) -> NeighbourScores {
        let share = |correct: usize, total| Accuracy { correct, total }.estimate();
        let k = self.options.density_coverage as f64;
        let n = around.len() as f64;
        let densities = || around.iter().map(|a| f64::from(a.balls) / k);
        let density = densities().sum::<f64>() / n;
        let squares: f64 = densities().map(|d| (d - density) * (d - density)).sum();
        NeighbourScores {
            precision: share(around.iter().filter(|a| a.precise).count(), around.len()),
            recall: share(reached.iter().filter(|r| r.recalled).count(), reached.len()),
            density: Estimate { value: density, stderr: (squares / (n * (n - 1.0))).sqrt() },
            coverage: share(reached.iter().filter(|r| r.covered).count(), reached.len()),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Around {
    precise: bool,
    /// Reference neighbourhoods that the sample lies in.
    balls: u32,
}

#[derive(Clone, Copy, Default)]
struct Reached {
    recalled: bool,
    covered: bool,
}

#[cfg(test)]
mod tests {
    use super::super::npz::tests::{expected, fixture_features};
    use super::*;

    fn compare(samples: &Features, reference: &Features) -> NeighbourScores {
        Neighbourhoods::new(reference, NeighbourOptions::default()).unwrap().compare(samples).unwrap()
    }

    fn values(scores: &NeighbourScores) -> [f64; 4] {
        [scores.precision, scores.recall, scores.density, scores.coverage].map(|e| e.value)
    }

    #[track_caller]
    fn assert_close(found: [f64; 4], expected: [f64; 4]) {
        let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(close, "{found:?} {expected:?}");
    }

    /// The same by the definition: all distances in f64.
    fn plainly(samples: &Features, reference: &Features) -> [f64; 4] {
        let distance = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2)).sum()
        };
        let radius = |set: &Features, i: usize, k: usize| {
            let mut all: Vec<f64> =
                (0..set.len()).filter(|&j| j != i).map(|j| distance(set.row(i), set.row(j))).collect();
            all.sort_by(f64::total_cmp);
            all[k - 1]
        };
        let (n, m) = (samples.len(), reference.len());
        let d = |j: usize, i: usize| distance(samples.row(j), reference.row(i));
        let (r3, r5): (Vec<f64>, Vec<f64>) =
            (0..m).map(|i| (radius(reference, i, 3), radius(reference, i, 5))).unzip();
        let s3: Vec<f64> = (0..n).map(|j| radius(samples, j, 3)).collect();
        let share = |count: usize, of: usize| count as f64 / of as f64;
        [
            share((0..n).filter(|&j| (0..m).any(|i| d(j, i) <= r3[i])).count(), n),
            share((0..m).filter(|&i| (0..n).any(|j| d(j, i) <= s3[j])).count(), m),
            share((0..n).map(|j| (0..m).filter(|&i| d(j, i) < r5[i]).count()).sum(), n) / 5.0,
            share((0..m).filter(|&i| (0..n).any(|j| d(j, i) < r5[i])).count(), m),
        ]
    }

    /// Golden values by NumPy, density and coverage by the `prdc` package (`scripts/fixtures/metrics.py`).
    #[test]
    fn scores_equal_the_reference() {
        for name in ["random", "nearly-singular", "singular", "relu"] {
            let [x, y] = fixture_features(name);
            let found = values(&compare(&x, &y));
            for (found, quantity) in found.into_iter().zip(["precision", "recall", "density", "coverage"]) {
                let exact = expected(name, quantity);
                assert!((found - exact).abs() < 1e-9, "{name} {quantity}: {found}, NumPy {exact}");
            }
        }
    }

    /// Far from 0, products lose what tells neighbours apart; whole numbers make ties and copies.
    #[test]
    fn far_and_tied_rows_follow_the_definition() {
        let rows = |n: usize, step: usize, offset: f32, scale: f32| {
            let data = (0..n * 3).map(|i| offset + scale * ((i * i * step) % 211) as f32).collect();
            Features::new(3, data).unwrap()
        };
        for (offset, scale) in [(0.0, 1.0), (1e4, 1.0), (1e6, 0.125), (0.0, 1e25), (0.0, 1e-25)] {
            let (x, y) = (rows(300, 37, offset, scale), rows(280, 53, offset, scale));
            assert_close(values(&compare(&x, &y)), plainly(&x, &y));
        }
    }

    #[test]
    fn a_set_lies_in_itself_in_any_order() {
        let [x, y] = fixture_features("relu");
        let own = compare(&x, &x);
        assert_eq!((own.precision.value, own.recall.value, own.coverage.value), (1.0, 1.0, 1.0));
        let backwards = x.select(&(0..x.len()).rev().collect::<Vec<_>>());
        assert_close(values(&compare(&backwards, &y)), values(&compare(&x, &y)));
    }

    #[test]
    fn identical_images_are_inside_at_distance_zero() {
        let same = Features::new(4, [0.1, 0.7, 1e3, -2.0].repeat(50)).unwrap();
        assert_eq!(values(&compare(&same, &same)), [1.0, 1.0, 0.0, 0.0]);
        let elsewhere = Features::new(4, vec![5.0; 4 * 50]).unwrap();
        assert_eq!(values(&compare(&elsewhere, &same)), [0.0; 4]);
    }

    #[test]
    fn impossible_comparisons_are_refused() {
        let [x, _] = fixture_features("random");
        let rows = |n: usize| Features::new(12, vec![0.0; 12 * n]).unwrap();
        let new = |rows: &Features, options| Neighbourhoods::new(rows, options).err().unwrap().to_string();
        assert!(new(&rows(5), NeighbourOptions::default()).contains("neighbour 5 of 5 rows"));
        let zero = NeighbourOptions { precision_recall: 0, density_coverage: 5 };
        assert!(new(&x, zero).contains("neighbour 0"));
        let reference = Neighbourhoods::new(&x, NeighbourOptions::default()).unwrap();
        assert!(reference.compare(&rows(3)).unwrap_err().to_string().contains("neighbour 3 of 3 rows"));
        let narrow = Features::new(1, vec![0.0; 9]).unwrap();
        assert!(reference.compare(&narrow).unwrap_err().to_string().contains("of 1 and of 12 dimensions"));
    }
}
