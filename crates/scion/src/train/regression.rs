use rayon::prelude::*;

use super::config::RegressionLoss;

/// Element mean of the loss between `found` and `expected`; writes its gradient by `found` where asked.
pub fn regression_loss(
    kind: RegressionLoss,
    found: &[f32],
    expected: &[f32],
    gradient: Option<&mut [f32]>,
) -> f64 {
    let sum = match kind {
        RegressionLoss::L1 => {
            each(found, expected, gradient, f32::abs, |d| if d == 0.0 { 0.0 } else { d.signum() })
        }
        RegressionLoss::L2 => each(found, expected, gradient, |d| d * d, |d| 2.0 * d),
        RegressionLoss::Huber => each(
            found,
            expected,
            gradient,
            |d| if d.abs() <= 1.0 { 0.5 * d * d } else { d.abs() - 0.5 },
            |d| d.clamp(-1.0, 1.0),
        ),
    };
    sum / found.len() as f64
}

/// Elements that one task takes.
const BLOCK: usize = 1 << 14;

/// Sum of `value` over the differences; writes `slope` over the number of elements.
fn each(
    found: &[f32],
    expected: &[f32],
    gradient: Option<&mut [f32]>,
    value: impl Fn(f32) -> f32 + Sync,
    slope: impl Fn(f32) -> f32 + Sync,
) -> f64 {
    let scale = 1.0 / found.len() as f32;
    let pairs = found.par_chunks(BLOCK).zip(expected.par_chunks(BLOCK));
    let blocks: Vec<f64> = match gradient {
        Some(gradient) => pairs
            .zip(gradient.par_chunks_mut(BLOCK))
            .map(|((f, e), g)| {
                for ((g, f), e) in g.iter_mut().zip(f).zip(e) {
                    *g = slope(f - e) * scale;
                }
                block_sum(f, e, &value)
            })
            .collect(),
        None => pairs.map(|(f, e)| block_sum(f, e, &value)).collect(),
    };
    blocks.into_iter().sum()
}

/// In eight lanes: a running total would wait for each addition.
fn block_sum(found: &[f32], expected: &[f32], value: impl Fn(f32) -> f32) -> f64 {
    let mut lanes = [0f64; 8];
    let ((f_chunks, f_rest), (e_chunks, e_rest)) = (found.as_chunks::<8>(), expected.as_chunks::<8>());
    for (f, e) in f_chunks.iter().zip(e_chunks) {
        for ((lane, f), e) in lanes.iter_mut().zip(f).zip(e) {
            *lane += f64::from(value(f - e));
        }
    }
    let rest: f64 = f_rest.iter().zip(e_rest).map(|(f, e)| f64::from(value(f - e))).sum();
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_gradients_follow_the_definitions() {
        let (found, expected) = ([0.5f32, -3.0, 2.0, 1.0], [0.0f32, 0.0, 0.0, 1.0]);
        for (kind, value, slopes) in [
            (RegressionLoss::L1, 5.5, [1.0, -1.0, 1.0, 0.0]),
            (RegressionLoss::L2, 13.25, [1.0, -6.0, 4.0, 0.0]),
            (RegressionLoss::Huber, 0.125 + 2.5 + 1.5, [0.5, -1.0, 1.0, 0.0]),
        ] {
            let mut gradient = [0f32; 4];
            let loss = regression_loss(kind, &found, &expected, Some(&mut gradient));
            assert!((loss - value / 4.0).abs() < 1e-9, "{kind:?}");
            assert_eq!(gradient.map(|g| g * 4.0), slopes, "{kind:?}");
        }
    }
}
