use crate::convolution::{Map, Shape};

/// The pools of the network, all 3×3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    /// Maximum, stride 2, without padding.
    HalvingMaximum,
    /// Maximum, stride 1; the map keeps its size.
    Maximum,
    /// Mean, stride 1, over the places that lie on the map.
    Average,
}

impl Pool {
    /// The output's shape.
    pub(super) fn shape(self, [rows, columns, channels]: Shape) -> Shape {
        match self {
            Self::HalvingMaximum => [(rows - 3) / 2 + 1, (columns - 3) / 2 + 1, channels],
            Self::Maximum | Self::Average => [rows, columns, channels],
        }
    }

    /// Writes the output as [`Layer::write`](super::layer::Layer) does.
    pub(super) fn write(self, input: &Map, out: &mut [f32], stride: usize) {
        let [rows, columns, channels] = input.shape;
        let [_, out_columns, _] = self.shape(input.shape);
        // The places under the kernel at position `at` of the output, along one side.
        let under = |at: usize, side: usize| match self {
            Self::HalvingMaximum => 2 * at..2 * at + 3,
            Self::Maximum | Self::Average => at.saturating_sub(1)..(at + 2).min(side),
        };
        for (place, slot) in out.chunks_mut(stride).enumerate() {
            let slot = &mut slot[..channels];
            let (ys, xs) = (under(place / out_columns, rows), under(place % out_columns, columns));
            slot.fill(if self == Self::Average { 0.0 } else { f32::NEG_INFINITY });
            for y in ys.clone() {
                for x in xs.clone() {
                    let values = &input.data[(y * columns + x) * channels..][..channels];
                    let slots = slot.iter_mut().zip(values);
                    match self {
                        Self::Average => slots.for_each(|(sum, value)| *sum += value),
                        // A NaN stays: it must not be lost on the way to the features.
                        _ => slots.for_each(|(most, &value)| {
                            *most = if value > *most || value.is_nan() { value } else { *most };
                        }),
                    }
                }
            }
            if self == Self::Average {
                let count = (ys.len() * xs.len()) as f32;
                slot.iter_mut().for_each(|sum| *sum /= count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(pool: Pool, input: &Map) -> Vec<f32> {
        let shape = pool.shape(input.shape);
        let mut out = vec![0.0; shape.iter().product()];
        pool.write(input, &mut out, shape[2]);
        out
    }

    #[test]
    fn borders_do_not_count() {
        // Two channels, the second the negative of the first.
        let data = (1..=9).flat_map(|v| [v as f32, -(v as f32)]).collect();
        let input = Map { shape: [3, 3, 2], data };
        let first = |values: Vec<f32>| values.into_iter().step_by(2).collect::<Vec<_>>();
        assert_eq!(first(pool(Pool::Average, &input)), [3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0]);
        assert_eq!(first(pool(Pool::Maximum, &input)), [5.0, 6.0, 6.0, 8.0, 9.0, 9.0, 8.0, 9.0, 9.0]);
        assert_eq!(pool(Pool::Maximum, &input)[1], -1.0);
        assert_eq!(pool(Pool::HalvingMaximum, &input), [9.0, -1.0]);
        let wide = Map { shape: [3, 5, 1], data: (0..15).map(|v| v as f32).collect() };
        assert_eq!(pool(Pool::HalvingMaximum, &wide), [12.0, 14.0]);
    }

    #[test]
    fn a_nan_is_not_lost() {
        for at in [0, 4, 8] {
            let mut input = Map { shape: [3, 3, 1], data: vec![1.0; 9] };
            input.data[at] = f32::NAN;
            assert!(pool(Pool::HalvingMaximum, &input)[0].is_nan());
        }
    }
}
