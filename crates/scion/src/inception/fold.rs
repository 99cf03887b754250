use scion_kernels::Precision;

use crate::convolution::{Convolution, Geometry};

/// What a batch norm adds to the variance.
const EPSILON: f64 = 1e-3;

/// A batch norm's parameters and statistics, [outputs] each.
#[derive(Debug)]
pub(super) struct Norm {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) mean: Vec<f32>,
    pub(super) variance: Vec<f32>,
}

/// Folds the norm into the weight, [outputs, inputs, kernel rows, kernel columns]:
/// γ(Wx − μ)/√(σ² + ε) + β is (γ/√(σ² + ε))·Wx + (β − γμ/√(σ² + ε)).
pub(super) fn folded(geometry: Geometry, mut weight: Vec<f32>, norm: &Norm) -> Convolution {
    let mut bias = Vec::with_capacity(geometry.outputs);
    for (output, weights) in weight.chunks_exact_mut(geometry.patch()).enumerate() {
        let scale = f64::from(norm.weight[output]) / (f64::from(norm.variance[output]) + EPSILON).sqrt();
        weights.iter_mut().for_each(|weight| *weight = (scale * f64::from(*weight)) as f32);
        bias.push((f64::from(norm.bias[output]) - scale * f64::from(norm.mean[output])) as f32);
    }
    Convolution::new(Precision::F32, geometry, &weight, bias)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convolution::{Map, Target};

    /// One place, one input: γ(wx − μ)/√(σ² + ε) + β, then ReLU.
    #[test]
    fn norms_are_folded_into_the_weight() {
        let norm = Norm {
            weight: vec![2.0, 3.0],
            bias: vec![0.5, -9.0],
            mean: vec![1.0, 2.0],
            variance: vec![0.249, 0.999],
        };
        let convolution = folded(Geometry::new(1, 2, [1, 1]), vec![4.0, 5.0], &norm);
        let map = Map { shape: [1, 1, 1], data: vec![0.75] };
        let mut out = [0.0; 2];
        let target = Target { out: &mut out, stride: 2, accumulate: false, relu: true };
        convolution.write(map.rows(), 0..1, target, &mut Vec::new());
        let expected = [2.0 * (4.0 * 0.75 - 1.0) / 0.5 + 0.5, 0.0];
        assert!(out.iter().zip(expected).all(|(o, e): (&f32, f32)| (o - e).abs() < 1e-5), "{out:?}");
    }
}
