//! The rows of a set that are nearest to other rows.

use rayon::prelude::*;

use super::features::Features;
use super::pairs::{BLOCK, Pairs, Points, mean};
use crate::error::{Error, Result};

/// A row of the other set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    pub index: usize,
    /// Euclidean distance.
    pub distance: f64,
}

/// The `k` rows of `others` nearest to each row, nearest first. Time grows with the product of both sets' sizes.
///
/// # Errors
/// `Usage` if the dimensions differ, or `others` has not so many rows.
pub fn nearest(rows: &Features, others: &Features, k: usize) -> Result<Vec<Vec<Neighbour>>> {
    if rows.dim() != others.dim() {
        let (a, b) = (rows.dim(), others.dim());
        return Err(Error::Usage(format!("neighbours between features of {a} and of {b} dimensions")));
    }
    if k == 0 || k > others.len() {
        let n = others.len();
        return Err(Error::Usage(format!(
            "{k} neighbours among {n} rows; expected at least 1, and as many rows"
        )));
    }
    let centre = mean(others);
    let (own, others) = (Points::new(rows, &centre), Points::new(others, &centre));
    let mut found = Vec::with_capacity(own.len());
    for begin in (0..own.len()).step_by(BLOCK) {
        let block = begin..own.len().min(begin + BLOCK);
        let products = own.products(block.clone(), &others);
        found.par_extend(block.into_par_iter().map(|row| {
            let pairs = Pairs::new(&own, row, &others, products.col_as_slice(row - begin));
            let nearest = pairs.nearest(k, |_| true).into_iter();
            nearest.map(|(square, index)| Neighbour { index, distance: square.sqrt() }).collect()
        }));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_are_found_in_order() {
        let dim = 7;
        let row = |i: usize| (0..dim).map(move |d| ((i * 31 + d * 17) % 23) as f32 - 11.0);
        let set =
            |from: usize, n: usize| Features::new(dim, (from..from + n).flat_map(row).collect()).unwrap();
        let (rows, others) = (set(5, 300), set(40, 11));
        let square = |i: usize, j: usize| -> f64 {
            rows.row(i).iter().zip(others.row(j)).map(|(a, b)| f64::from(a - b).powi(2)).sum()
        };
        for (i, found) in nearest(&rows, &others, 3).unwrap().iter().enumerate() {
            let mut expected: Vec<(f64, usize)> = (0..others.len()).map(|j| (square(i, j), j)).collect();
            expected.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let expected =
                expected[..3].iter().map(|&(square, index)| Neighbour { index, distance: square.sqrt() });
            assert_eq!(*found, expected.collect::<Vec<_>>(), "row {i}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let set = |dim: usize, n: usize| Features::new(dim, vec![1.0; dim * n]).unwrap();
        assert!(nearest(&set(2, 3), &set(3, 3), 1).unwrap_err().to_string().contains("2 and of 3"));
        assert!(nearest(&set(2, 3), &set(2, 3), 4).unwrap_err().to_string().contains("4 neighbours among 3"));
        assert_eq!(nearest(&set(2, 3), &set(2, 3), 3).unwrap()[1][0].distance, 0.0);
    }
}
