use scion_kernels::Precision;
use scion_kernels::gemm::{Activation, Epilogue, MatRef, PackedB, matmul_packed};

use super::layer::{Map, Shape};

/// What a batch norm adds to the variance.
const EPSILON: f64 = 1e-3;
/// Floats of a map laid out as patches at a time: 2 MB, which the second cache level holds.
const PATCH_FLOATS: usize = 1 << 19;

/// Sizes of one convolution; kernels and paddings are rows, then columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) kernel: [usize; 2],
    stride: usize,
    padding: [usize; 2],
}

impl Geometry {
    /// Stride 1, no padding.
    pub(super) fn new(inputs: usize, outputs: usize, kernel: [usize; 2]) -> Self {
        Self { inputs, outputs, kernel, stride: 1, padding: [0, 0] }
    }

    /// The same with stride 2.
    pub(super) fn halving(self) -> Self {
        Self { stride: 2, ..self }
    }

    /// The same with zeros around the map, so that stride 1 keeps its size.
    pub(super) fn padded(self) -> Self {
        Self { padding: self.kernel.map(|taps| taps / 2), ..self }
    }

    /// The output's shape.
    pub(super) fn shape(&self, [rows, columns, _]: Shape) -> Shape {
        let side =
            |axis: usize, length| (length + 2 * self.padding[axis] - self.kernel[axis]) / self.stride + 1;
        [side(0, rows), side(1, columns), self.outputs]
    }

    /// Values under the kernel.
    fn patch(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.inputs
    }

    /// Copies what the kernel sees at `row`, `column` of the output, [kernel rows, kernel columns, inputs].
    fn gather(&self, input: &Map, row: usize, column: usize, patch: &mut [f32]) {
        let [rows, columns, channels] = input.shape;
        let run = self.kernel[1] * channels;
        // Columns of the kernel that lie on the map; its first column is `left` columns before the map.
        let start = column * self.stride;
        let left = self.padding[1].saturating_sub(start);
        let right = (columns + self.padding[1] - start).min(self.kernel[1]);
        for (tap, slot) in patch.chunks_exact_mut(run).enumerate() {
            let Some(y) = (row * self.stride + tap).checked_sub(self.padding[0]).filter(|&y| y < rows) else {
                slot.fill(0.0);
                continue;
            };
            slot[..left * channels].fill(0.0);
            slot[right * channels..].fill(0.0);
            let from = (y * columns + start + left - self.padding[1]) * channels;
            slot[left * channels..right * channels]
                .copy_from_slice(&input.data[from..][..(right - left) * channels]);
        }
    }
}

/// A batch norm's parameters and statistics, [outputs] each.
#[derive(Debug)]
pub(super) struct Norm {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) mean: Vec<f32>,
    pub(super) variance: Vec<f32>,
}

/// Convolution, batch norm and ReLU in one.
pub(super) struct Convolution {
    geometry: Geometry,
    weight: PackedB,
    bias: Vec<f32>,
}

impl AsRef<Geometry> for Convolution {
    fn as_ref(&self) -> &Geometry {
        &self.geometry
    }
}

impl Convolution {
    /// Folds the norm into the weight, [outputs, inputs, kernel rows, kernel columns]:
    /// γ(Wx − μ)/√(σ² + ε) + β is (γ/√(σ² + ε))·Wx + (β − γμ/√(σ² + ε)).
    pub(super) fn new(geometry: Geometry, weight: &[f32], norm: &Norm) -> Self {
        let (taps, patch) = (geometry.kernel[0] * geometry.kernel[1], geometry.patch());
        let mut folded = vec![0.0; weight.len()];
        let mut bias = Vec::with_capacity(geometry.outputs);
        for (output, (from, to)) in weight.chunks_exact(patch).zip(folded.chunks_exact_mut(patch)).enumerate()
        {
            let scale = f64::from(norm.weight[output]) / (f64::from(norm.variance[output]) + EPSILON).sqrt();
            for (i, &value) in from.iter().enumerate() {
                // The channel becomes the fastest index, as it is in maps.
                to[i % taps * geometry.inputs + i / taps] = (scale * f64::from(value)) as f32;
            }
            bias.push((f64::from(norm.bias[output]) - scale * f64::from(norm.mean[output])) as f32);
        }
        let weight = PackedB::pack(Precision::F32, MatRef::new(&folded, geometry.outputs, patch).t());
        Self { geometry, weight, bias }
    }

    /// Writes the output as [`Layer::write`](super::layer::Layer) does.
    pub(super) fn write(&self, input: &Map, out: &mut [f32], stride: usize, patches: &mut Vec<f32>) {
        let multiply = |matrix: &[f32], out: &mut [f32]| {
            let patch = self.geometry.patch();
            let matrix = MatRef::new(matrix, matrix.len() / patch, patch);
            let epilogue = Epilogue { bias: Some(&self.bias), activation: Activation::Relu };
            matmul_packed(matrix, &self.weight, out, stride, false, epilogue);
        };
        if self.geometry.kernel == [1, 1] && self.geometry.stride == 1 {
            return multiply(&input.data, out); // a map is its own patches
        }
        let [rows, columns, _] = self.geometry.shape(input.shape);
        let (row_floats, patch) = (columns * self.geometry.patch(), self.geometry.patch());
        let rows_at_once = (PATCH_FLOATS / row_floats).clamp(1, rows);
        // Every float is written before it is read, so that the memory need not be cleared.
        if patches.len() < rows_at_once * row_floats {
            patches.resize(rows_at_once * row_floats, 0.0);
        }
        for first in (0..rows).step_by(rows_at_once) {
            let count = rows_at_once.min(rows - first);
            let matrix = &mut patches[..count * row_floats];
            for (place, slot) in matrix.chunks_exact_mut(patch).enumerate() {
                self.geometry.gather(input, first + place / columns, place % columns, slot);
            }
            multiply(matrix, &mut out[first * columns * stride..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * step).sin()).collect()
    }

    /// The definition, in f64: convolution, batch norm, ReLU.
    fn naive(
        g: Geometry,
        input: &Map,
        weight: &[f32],
        norm: &Norm,
        [row, column, output]: [usize; 3],
    ) -> f64 {
        let [rows, columns, channels] = input.shape;
        let [kernel_rows, kernel_columns] = g.kernel;
        let mut sum = 0.0;
        for c in 0..channels {
            for i in 0..kernel_rows {
                for j in 0..kernel_columns {
                    let y = (row * g.stride + i).wrapping_sub(g.padding[0]);
                    let x = (column * g.stride + j).wrapping_sub(g.padding[1]);
                    if y < rows && x < columns {
                        let w = weight[((output * channels + c) * kernel_rows + i) * kernel_columns + j];
                        sum += f64::from(w) * f64::from(input.data[(y * columns + x) * channels + c]);
                    }
                }
            }
        }
        let [weight, bias, mean, variance] =
            [&norm.weight, &norm.bias, &norm.mean, &norm.variance].map(|values| f64::from(values[output]));
        ((sum - mean) / (variance + 1e-3).sqrt() * weight + bias).max(0.0)
    }

    #[test]
    fn convolution_equals_its_definition() {
        let kernels = [[1, 1], [3, 3], [5, 5], [1, 7], [7, 1]];
        let geometries = kernels.iter().flat_map(|&kernel| {
            let plain = Geometry::new(5, 6, kernel);
            [plain, plain.padded(), plain.halving(), plain.padded().halving()]
        });
        for g in geometries {
            let input = Map { shape: [9, 8, 5], data: wave(9 * 8 * 5, 0.7) };
            let weight = wave(g.outputs * g.patch(), 1.3);
            let positive = |values: Vec<f32>| values.into_iter().map(|v| v + 1.1).collect();
            let norm = Norm {
                weight: wave(6, 2.1),
                bias: wave(6, 0.9),
                mean: wave(6, 1.7),
                variance: positive(wave(6, 0.4)),
            };
            let [rows, columns, _] = g.shape(input.shape);
            let convolution = Convolution::new(g, &weight, &norm);
            // Among other channels, two before and one behind, and through memory that was used before.
            let stride = 2 + g.outputs + 1;
            let mut out = vec![0.5; rows * columns * stride];
            convolution.write(&input, &mut out[2..], stride, &mut vec![f32::NAN; 100_000]);
            for (i, &found) in out.iter().enumerate() {
                let (place, channel) = (i / stride, i % stride);
                let expected = match channel.checked_sub(2).filter(|&output| output < g.outputs) {
                    Some(output) => {
                        naive(g, &input, &weight, &norm, [place / columns, place % columns, output])
                    }
                    None => 0.5,
                };
                assert!((f64::from(found) - expected).abs() < 1e-5, "{g:?} at {i}: {found}, not {expected}");
            }
        }
    }
}
