//! Distances between all rows of two sets. A pair is compared by an f32 matrix product where the product's error bound
//! decides, and otherwise, as for copies and ties, by the sum of squared differences in f64: the result is that of the
//! latter everywhere.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, get_global_parallelism};
use rayon::prelude::*;

use super::features::Features;
use crate::error::{Error, Result};

/// Rows whose distances to a whole set are held at a time.
pub(super) const BLOCK: usize = 256;

/// Whether a ball's surface belongs to it: to ADM's it does, to those of density and coverage not.
#[derive(Clone, Copy)]
pub(super) enum Ball {
    Closed,
    Open,
}

/// Rows, and what the quick comparison needs of them.
pub(super) struct Points<'a> {
    rows: &'a Features,
    /// Less a common centre, which keeps the products' errors small where all rows are far from 0.
    centred: Vec<f32>,
    /// Squared lengths of `centred`.
    norms: Vec<f64>,
}

impl<'a> Points<'a> {
    pub(super) fn new(rows: &'a Features, centre: &[f64]) -> Self {
        let d = rows.dim();
        let mut centred = rows.as_slice().to_vec();
        centred.par_chunks_exact_mut(d).for_each(|row| {
            row.iter_mut().zip(centre).for_each(|(v, c)| *v = (f64::from(*v) - c) as f32);
        });
        let square = |row: &[f32]| row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
        let norms = centred.par_chunks_exact(d).map(square).collect();
        Self { rows, centred, norms }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Products of a block's rows with all rows of `others`: [others, block].
    pub(super) fn products(&self, block: Range<usize>, others: &Points<'_>) -> Mat<f32> {
        let d = self.rows.dim();
        let matrix = |values, rows| MatRef::from_row_major_slice(values, rows, d);
        let mine = matrix(&self.centred[block.start * d..block.end * d], block.len());
        let all = matrix(&others.centred[..], others.len());
        let mut products = Mat::zeros(others.len(), block.len());
        let par = get_global_parallelism();
        matmul(products.as_mut(), Accum::Replace, all, mine.transpose(), 1.0, par);
        products
    }

    /// Squared distance of each row to its k-th nearest other row, for each of `ks`.
    pub(super) fn radii(&self, ks: &[usize]) -> Result<Vec<Vec<f64>>> {
        let n = self.len();
        if let Some(k) = ks.iter().find(|&&k| k == 0 || k >= n) {
            return Err(Error::Usage(format!(
                "neighbour {k} of {n} rows; expected at least 1, and more rows than neighbours"
            )));
        }
        let most = ks.iter().copied().max().unwrap_or(0);
        let mut nearest: Vec<Vec<(f64, usize)>> = Vec::with_capacity(n);
        for begin in (0..n).step_by(BLOCK) {
            let block = begin..n.min(begin + BLOCK);
            let products = self.products(block.clone(), self);
            nearest.par_extend(block.into_par_iter().map(|i| {
                Pairs::new(self, i, self, products.col_as_slice(i - begin)).nearest(most, |other| other != i)
            }));
        }
        Ok(ks.iter().map(|&k| nearest.iter().map(|distances| distances[k - 1].0).collect()).collect())
    }
}

/// One row against all rows of a set.
pub(super) struct Pairs<'a> {
    own: &'a Points<'a>,
    index: usize,
    others: &'a Points<'a>,
    /// Products with each of them.
    products: &'a [f32],
    /// Error of a quick distance, relative to the squared lengths, and what underflow adds.
    error: f64,
    underflow: f64,
}

impl<'a> Pairs<'a> {
    /// `products` is a column of [`Points::products`].
    pub(super) fn new(
        own: &'a Points<'a>,
        index: usize,
        others: &'a Points<'a>,
        products: &'a [f32],
    ) -> Self {
        // The product of D terms is off by at most D/2 · ε · (|x|² + |y|²), the centring by a few ε.
        let d = own.rows.dim() as f64;
        let (error, underflow) =
            ((d + 8.0) * f64::from(f32::EPSILON), 4.0 * d * f64::from(f32::MIN_POSITIVE));
        Self { own, index, others, products, error, underflow }
    }

    /// Bounds of the squared distance to row `i`. Not numbers where f32 overflows.
    fn bounds(&self, i: usize) -> (f64, f64) {
        let squares = self.own.norms[self.index] + self.others.norms[i];
        let product = f64::from(self.products[i]);
        let quick = if product.is_finite() { squares - 2.0 * product } else { f64::NAN };
        let error = self.error * squares + self.underflow;
        (quick - error, quick + error)
    }

    /// Squared distance to row `i`.
    fn exact(&self, i: usize) -> f64 {
        let (a, b) = (self.own.rows.row(self.index), self.others.rows.row(i));
        a.iter()
            .zip(b)
            .map(|(&x, &y)| {
                let difference = f64::from(x) - f64::from(y);
                difference * difference
            })
            .sum()
    }

    /// Whether row `i` is in a ball of a squared radius around this row.
    pub(super) fn within(&self, i: usize, radius: f64, ball: Ball) -> bool {
        let (low, high) = self.bounds(i);
        if high < radius {
            return true;
        }
        if low > radius {
            return false;
        }
        let distance = self.exact(i);
        match ball {
            Ball::Closed => distance <= radius,
            Ball::Open => distance < radius,
        }
    }

    /// The `k` nearest rows among those of `among`, nearest first, as squared distance and index; of equal ones the first.
    pub(super) fn nearest(&self, k: usize, among: impl Fn(usize) -> bool) -> Vec<(f64, usize)> {
        let others = || (0..self.others.len()).filter(|&i| among(i));
        let mut upper = vec![(f64::INFINITY, 0); k];
        others().for_each(|i| insert(&mut upper, (self.bounds(i).1, i)));
        let mut nearest = vec![(f64::INFINITY, 0); k];
        for i in others() {
            // Nothing is nearer than copies.
            if nearest[k - 1].0 == 0.0 {
                break;
            }
            // Where the bounds are no numbers, nothing is excluded.
            let excluded = self.bounds(i).0 > upper[k - 1].0;
            if !excluded {
                insert(&mut nearest, (self.exact(i), i));
            }
        }
        nearest
    }
}

/// Puts a row into a sorted list of the nearest ones.
fn insert(nearest: &mut [(f64, usize)], row: (f64, usize)) {
    let last = nearest.len() - 1;
    if row.0 < nearest[last].0 {
        let place = nearest.partition_point(|held| held.0 <= row.0);
        nearest.copy_within(place..last, place + 1);
        nearest[place] = row;
    }
}

/// The mean row.
pub(super) fn mean(rows: &Features) -> Vec<f64> {
    let mut mean = vec![0.0; rows.dim()];
    for i in 0..rows.len() {
        mean.iter_mut().zip(rows.row(i)).for_each(|(m, &v)| *m += f64::from(v));
    }
    mean.iter_mut().for_each(|m| *m /= rows.len() as f64);
    mean
}
