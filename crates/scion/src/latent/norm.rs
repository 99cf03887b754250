use rayon::prelude::*;
use scion_kernels::gemm::vmath::silu;

use crate::convolution::Map;

/// What every norm adds to the variance.
const EPSILON: f64 = 1e-6;

/// Group norm (Wu and He 2018): mean and variance over all places and the channels of a group.
pub(super) struct GroupNorm {
    pub(super) groups: usize,
    /// [channels] each.
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

/// A norm on one map: x·scale + shift, [channels] each, then SiLU if `silu`.
pub(super) struct Affine {
    scale: Vec<f32>,
    shift: Vec<f32>,
    silu: bool,
}

impl GroupNorm {
    /// What the norm is on `map`, with SiLU behind it if `silu`.
    pub(super) fn of(&self, map: &Map, silu: bool) -> Affine {
        let [_, columns, channels] = map.shape;
        let group = channels / self.groups;
        // Row by row, so that threads do not change the order of the sums.
        let rows: Vec<Vec<[f64; 2]>> =
            map.data.par_chunks(columns * channels).map(|row| sums(row, channels)).collect();
        let mut totals = vec![[0f64; 2]; self.groups];
        for (channel, [sum, square]) in rows.iter().flat_map(|row| row.iter().enumerate()) {
            totals[channel / group][0] += sum;
            totals[channel / group][1] += square;
        }
        let count = (map.data.len() / self.groups) as f64;
        let (mut scale, mut shift) = (Vec::with_capacity(channels), Vec::with_capacity(channels));
        for (channel, (&weight, &bias)) in self.weight.iter().zip(&self.bias).enumerate() {
            let [sum, square] = totals[channel / group];
            let mean = sum / count;
            let factor = f64::from(weight) / ((square / count - mean * mean).max(0.0) + EPSILON).sqrt();
            scale.push(factor as f32);
            shift.push((f64::from(bias) - mean * factor) as f32);
        }
        Affine { scale, shift, silu }
    }
}

/// Sum and sum of squares of each channel.
fn sums(row: &[f32], channels: usize) -> Vec<[f64; 2]> {
    let mut sums = vec![[0f64; 2]; channels];
    for place in row.chunks_exact(channels) {
        for ([sum, square], &value) in sums.iter_mut().zip(place) {
            let value = f64::from(value);
            *sum += value;
            *square += value * value;
        }
    }
    sums
}

impl Affine {
    /// The norm of some places.
    pub(super) fn apply(&self, places: &[f32]) -> Vec<f32> {
        let channels = self.scale.len();
        let mut out = vec![0.0; places.len()];
        for (from, to) in places.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
            for (((to, from), scale), shift) in to.iter_mut().zip(from).zip(&self.scale).zip(&self.shift) {
                *to = from * scale + shift;
            }
        }
        if !self.silu {
            return out;
        }
        let mut activated = vec![0.0; out.len()];
        silu(&out, &mut activated);
        activated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_normalised_together() {
        // Two places, four channels in two groups; the second group is constant.
        let map = Map { shape: [1, 2, 4], data: vec![1.0, 3.0, 5.0, 5.0, 5.0, 7.0, 5.0, 5.0] };
        let norm = GroupNorm { groups: 2, weight: vec![1.0, 2.0, 1.0, 1.0], bias: vec![0.0, 1.0, 0.5, -0.5] };
        let deviation = 5f32.sqrt();
        let plain = [
            -3.0 / deviation,
            -2.0 / deviation + 1.0,
            0.5,
            -0.5,
            1.0 / deviation,
            6.0 / deviation + 1.0,
            0.5,
            -0.5,
        ];
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        let found = norm.of(&map, false).apply(&map.data);
        assert!(close(&found, &plain), "{found:?}, not {plain:?}");
        let found = norm.of(&map, true).apply(&map.data);
        assert!(close(&found, &plain.map(|x| x / (1.0 + (-x).exp()))), "{found:?}");
    }
}
