use rayon::prelude::*;

use super::config::RegressionLoss;

/// Element mean of the loss between `found` and `expected`; writes its gradient by `found` where asked.
pub fn regression_loss(
    kind: RegressionLoss,
    found: &[f32],
    expected: &[f32],
    gradient: Option<&mut [f32]>,
) -> f64 {
    const BLOCK: usize = 1 << 14;
    let scale = 1.0 / found.len() as f32;
    let value = |d: f32| match kind {
        RegressionLoss::L1 => d.abs(),
        RegressionLoss::L2 => d * d,
        RegressionLoss::Huber if d.abs() <= 1.0 => 0.5 * d * d,
        RegressionLoss::Huber => d.abs() - 0.5,
    };
    let slope = |d: f32| match kind {
        RegressionLoss::L1 if d == 0.0 => 0.0,
        RegressionLoss::L1 => d.signum(),
        RegressionLoss::L2 => 2.0 * d,
        RegressionLoss::Huber => d.clamp(-1.0, 1.0),
    };
    if let Some(gradient) = gradient {
        gradient.par_chunks_mut(BLOCK).zip(found.par_chunks(BLOCK)).zip(expected.par_chunks(BLOCK)).for_each(
            |((g, f), e)| {
                for ((g, f), e) in g.iter_mut().zip(f).zip(e) {
                    *g = slope(f - e) * scale;
                }
            },
        );
    }
    let blocks: Vec<f64> = found
        .par_chunks(BLOCK)
        .zip(expected.par_chunks(BLOCK))
        .map(|(f, e)| f.iter().zip(e).map(|(f, e)| f64::from(value(f - e))).sum())
        .collect();
    blocks.into_iter().sum::<f64>() / found.len() as f64
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
