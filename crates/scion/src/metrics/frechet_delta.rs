//! The standard error of a Fréchet distance by the delta method, for spaces whose decompositions are too dear
//! to repeat.
//!
//! The derivative of the distance by Σ1 is I - T, where T is the optimal transport map between the Gaussians
//! (Dowson and Landau 1982; Peyré and Cuturi 2019, remark 2.31), and by μ1 it is 2(μ1 - μ2). To first order a
//! row x moves the distance by ψ(x)/n with c = x - μ1 and ψ = 2(μ1 - μ2)·c + |c|² - cᵀTc, and the variance
//! is var ψ / n.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, get_global_parallelism};

use super::Estimate;
use super::features::Features;
use super::frechet::{Gaussian, Sampled, no_singular_values};
use crate::error::{Error, Result};

/// Rows whose ψ is computed; their variance is known to a few percent by then.
const ROWS: usize = 4096;

/// Distance and standard error between sides of equal dimensions.
///
/// # Errors
/// `Usage` if a decomposition fails, or a side has fewer than 4 rows.
pub(super) fn estimate(a: Sampled<'_>, b: Sampled<'_>) -> Result<Estimate> {
    let product = a.gaussian.product(b.gaussian);
    if product.nrows().min(product.ncols()) == 0 {
        // One of the two is a point: there is no map, and the overlap is 0.
        let none = Mat::zeros(0, a.gaussian.dim());
        return assemble(a, b, &[], [none.as_ref(), none.as_ref()]);
    }
    let svd = product.thin_svd().map_err(|e| no_singular_values(&e))?;
    let values: Vec<f64> = svd.S().column_vector().iter().copied().collect();
    let [left, right] = [whitened(a.gaussian, svd.U()), whitened(b.gaussian, svd.V())];
    assemble(a, b, &values, [left.as_ref(), right.as_ref()])
}

/// The map's quadratic form is Σ values[k]·(maps[side][k]·c)².
fn assemble(a: Sampled<'_>, b: Sampled<'_>, values: &[f64], maps: [MatRef<'_, f64>; 2]) -> Result<Estimate> {
    let value = a.gaussian.distance_of(b.gaussian, values.iter().sum());
    let mut variance = 0.0;
    for ((side, other), map) in [(a, b), (b, a)].into_iter().zip(maps) {
        if let Some(rows) = side.rows {
            if rows.len() < 4 {
                let found = rows.len();
                return Err(Error::Usage(format!(
                    "Fréchet distance: {found} rows, too few for a standard error (4 rows)"
                )));
            }
            variance += influence_variance(rows, side.gaussian, other.gaussian, values, map);
        }
    }
    Ok(Estimate { value, stderr: variance.sqrt() })
}

/// Singular vectors [r, k] of the product, turned into directions [k, D] that act on deviations: Pᵀ Λ^-½ Uᵀ.
fn whitened(gaussian: &Gaussian, vectors: MatRef<'_, f64>) -> Mat<f64> {
    // The root is Λ^½ Uᵀ, so the squared length of its row i is Λ_i.
    let inverse: Vec<f64> =
        gaussian.root.as_ref().row_iter().map(|row| 1.0 / row.squared_norm_l2()).collect();
    let scaled = Mat::from_fn(vectors.nrows(), vectors.ncols(), |i, j| vectors[(i, j)] * inverse[i]);
    let mut directions = Mat::zeros(vectors.ncols(), gaussian.dim());
    let par = get_global_parallelism();
    matmul(directions.as_mut(), Accum::Replace, scaled.transpose(), &gaussian.root, 1.0, par);
    directions
}

/// var ψ / n, from at most [`ROWS`] rows spread over the set.
fn influence_variance(
    rows: &Features,
    own: &Gaussian,
    other: &Gaussian,
    values: &[f64],
    map: MatRef<'_, f64>,
) -> f64 {
    let kept = rows.len().min(ROWS);
    let centred: Vec<f64> = (0..kept)
        .flat_map(|i| rows.row(i * rows.len() / kept).iter().zip(&own.mean).map(|(&v, m)| f64::from(v) - m))
        .collect();
    let columns = MatRef::from_column_major_slice(&centred, own.dim(), kept);
    let mut mapped = Mat::zeros(map.nrows(), kept);
    matmul(mapped.as_mut(), Accum::Replace, map, columns, 1.0, get_global_parallelism());
    let psi: Vec<f64> = (0..kept)
        .map(|j| {
            let shift = own.mean.iter().zip(&other.mean).map(|(x, y)| x - y);
            let plain: f64 = columns.col(j).iter().zip(shift).map(|(c, shift)| c * (2.0 * shift + c)).sum();
            let form: f64 = mapped.col(j).iter().zip(values).map(|(m, s)| s * m * m).sum();
            plain - form
        })
        .collect();
    let mean = psi.iter().sum::<f64>() / kept as f64;
    let squares: f64 = psi.iter().map(|p| (p - mean) * (p - mean)).sum();
    squares / (kept - 1) as f64 / rows.len() as f64
}

#[cfg(test)]
mod tests {
    use super::super::frechet::{JackknifeOptions, frechet_with_error};
    use super::super::npz::tests::fixture_features;
    use super::*;

    #[test]
    fn error_is_near_the_jackknifes() {
        for name in ["random", "relu"] {
            let [x, y] = fixture_features(name);
            let [a, b] = [&x, &y].map(|rows| Gaussian::of(rows).unwrap());
            let sides = [Sampled { gaussian: &a, rows: Some(&x) }, Sampled { gaussian: &b, rows: Some(&y) }];
            let delta = estimate(sides[0], sides[1]).unwrap();
            let fine = JackknifeOptions { blocks: 80, seed: 0 };
            let jackknife = frechet_with_error(sides[0], sides[1], &fine).unwrap();
            assert!((delta.value / jackknife.value - 1.0).abs() < 1e-10, "{name}: {delta:?} {jackknife:?}");
            let ratio = delta.stderr / jackknife.stderr;
            assert!((0.75..1.25).contains(&ratio), "{name}: {delta:?} {jackknife:?}");
        }
    }

    #[test]
    fn points_and_thin_sets_have_an_answer() {
        let [x, y] = fixture_features("singular");
        let [a, b] = [&x, &y].map(|rows| Gaussian::of(rows).unwrap());
        let thin =
            estimate(Sampled { gaussian: &a, rows: Some(&x) }, Sampled { gaussian: &b, rows: Some(&y) });
        assert!(thin.unwrap().stderr.is_finite());
        let point = Features::new(32, vec![1.0; 32 * 5]).unwrap();
        let c = Gaussian::of(&point).unwrap();
        let found =
            estimate(Sampled { gaussian: &c, rows: Some(&point) }, Sampled { gaussian: &b, rows: None });
        let found = found.unwrap();
        assert!(
            (found.value / c.distance(&b).unwrap() - 1.0).abs() < 1e-12 && found.stderr == 0.0,
            "{found:?}"
        );
    }
}
