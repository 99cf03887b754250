//! Convolutions on one image's maps, as products of patches and weights: for networks whose weights come in files.

use std::ops::Range;

use scion_kernels::Precision;
use scion_kernels::gemm::{Activation, Epilogue, MatRef, PackedB, matmul_packed};

/// Floats of a map laid out as patches at a time: 2 MB, which the second cache level holds.
const PATCH_FLOATS: usize = 1 << 19;

/// Rows, columns and channels of a map, which lies as [H, W, C].
pub(crate) type Shape = [usize; 3];

/// One image's activations, [H, W, C].
#[derive(Debug)]
pub(crate) struct Map {
    pub(crate) shape: Shape,
    pub(crate) data: Vec<f32>,
}

impl Map {
    /// All rows.
    pub(crate) fn rows(&self) -> Rows<'_> {
        Rows { map: self.shape, first: 0, data: &self.data }
    }
}

/// Consecutive rows of a map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    /// The whole map's shape.
    pub(crate) map: Shape,
    /// The row that `data` begins with.
    pub(crate) first: usize,
    pub(crate) data: &'a [f32],
}

/// Sizes of one convolution; kernels and paddings are rows, then columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) kernel: [usize; 2],
    stride: usize,
    /// Zeros above and left of the map.
    before: [usize; 2],
    /// Zeros below and right of it.
    after: [usize; 2],
    /// How often each row and column of the map is repeated before all else.
    repeat: usize,
}

impl Geometry {
    /// Stride 1, no padding.
    pub(crate) fn new(inputs: usize, outputs: usize, kernel: [usize; 2]) -> Self {
        Self { inputs, outputs, kernel, stride: 1, before: [0, 0], after: [0, 0], repeat: 1 }
    }

    /// The same with stride 2.
    pub(crate) fn halving(self) -> Self {
        Self { stride: 2, ..self }
    }

    /// The same with zeros around the map, so that stride 1 keeps its size.
    pub(crate) fn padded(self) -> Self {
        let padding = self.kernel.map(|taps| taps / 2);
        Self { before: padding, after: padding, ..self }
    }

    /// The same with one row of zeros below the map and one column right of it.
    pub(crate) fn padded_behind(self) -> Self {
        Self { before: [0, 0], after: [1, 1], ..self }
    }

    /// The same on a map of twice the size, each place of which is that of the nearest of the input.
    pub(crate) fn doubling(self) -> Self {
        Self { repeat: 2, ..self }
    }

    /// The output's shape.
    pub(crate) fn shape(&self, [rows, columns, _]: Shape) -> Shape {
        let side = |axis: usize, length| {
            let padded = length * self.repeat + self.before[axis] + self.after[axis];
            (padded - self.kernel[axis]) / self.stride + 1
        };
        [side(0, rows), side(1, columns), self.outputs]
    }

    /// The rows of a map of `rows` rows that some rows of the output are made of.
    pub(crate) fn reads(&self, output: Range<usize>, rows: usize) -> Range<usize> {
        let first = (output.start * self.stride).saturating_sub(self.before[0]);
        let last = (output.end - 1) * self.stride + self.kernel[0] - 1;
        first / self.repeat..(last.saturating_sub(self.before[0]) / self.repeat + 1).min(rows)
    }

    /// Values under the kernel.
    pub(crate) fn patch(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.inputs
    }

    /// Copies what the kernel sees at `row`, `column` of the output, [kernel rows, kernel columns, inputs].
    fn gather(&self, input: Rows, row: usize, column: usize, patch: &mut [f32]) {
        let [rows, columns, channels] = input.map;
        let (line, run) = (columns * channels, self.kernel[1] * channels);
        let (rows, columns) = (rows * self.repeat, columns * self.repeat);
        // Columns of the kernel that lie on the map; its first column is `left` columns before the map.
        let start = column * self.stride;
        let left = self.before[1].saturating_sub(start);
        let right = (columns + self.before[1] - start).min(self.kernel[1]);
        for (tap, slot) in patch.chunks_exact_mut(run).enumerate() {
            let Some(y) = (row * self.stride + tap).checked_sub(self.before[0]).filter(|&y| y < rows) else {
                slot.fill(0.0);
                continue;
            };
            slot[..left * channels].fill(0.0);
            slot[right * channels..].fill(0.0);
            let line = &input.data[(y / self.repeat - input.first) * line..][..line];
            let (x, slot) = (start + left - self.before[1], &mut slot[left * channels..right * channels]);
            if self.repeat == 1 {
                slot.copy_from_slice(&line[x * channels..][..slot.len()]);
            } else {
                for (i, slot) in slot.chunks_exact_mut(channels).enumerate() {
                    slot.copy_from_slice(&line[(x + i) / self.repeat * channels..][..channels]);
                }
            }
        }
    }
}

/// Where a convolution's output goes: a place's channels lie `stride` floats after those of the place before.
pub(crate) struct Target<'a> {
    pub(crate) out: &'a mut [f32],
    pub(crate) stride: usize,
    /// Whether the output is added to what is there.
    pub(crate) accumulate: bool,
    pub(crate) relu: bool,
}

/// A convolution with its weights.
pub(crate) struct Convolution {
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
    /// `weight` is [outputs, inputs, kernel rows, kernel columns], `bias` [outputs].
    pub(crate) fn new(precision: Precision, geometry: Geometry, weight: &[f32], bias: Vec<f32>) -> Self {
        let (taps, patch) = (geometry.kernel[0] * geometry.kernel[1], geometry.patch());
        let mut turned = vec![0.0; weight.len()];
        for (from, to) in weight.chunks_exact(patch).zip(turned.chunks_exact_mut(patch)) {
            for (i, &value) in from.iter().enumerate() {
                // The channel becomes the fastest index, as it is in maps.
                to[i % taps * geometry.inputs + i / taps] = value;
            }
        }
        let weight = PackedB::pack(precision, MatRef::new(&turned, geometry.outputs, patch).t());
        Self { geometry, weight, bias }
    }

    /// Writes the given rows of the output, the first of them to the target's beginning. `input` holds at least the rows
    /// that they are made of, `patches` is memory to work in.
    pub(crate) fn write(&self, input: Rows, rows: Range<usize>, target: Target, patches: &mut Vec<f32>) {
        let Target { out, stride, accumulate, relu } = target;
        let patch = self.geometry.patch();
        let multiply = |matrix: &[f32], out: &mut [f32]| {
            let matrix = MatRef::new(matrix, matrix.len() / patch, patch);
            let activation = if relu { Activation::Relu } else { Activation::None };
            let epilogue = Epilogue { bias: Some(&self.bias), activation };
            matmul_packed(matrix, &self.weight, out, stride, accumulate, epilogue);
        };
        let columns = self.geometry.shape(input.map)[1];
        let row_floats = columns * patch;
        if self.geometry.kernel == [1, 1] && self.geometry.stride == 1 && self.geometry.repeat == 1 {
            // A map is its own patches.
            return multiply(
                &input.data[(rows.start - input.first) * row_floats..][..rows.len() * row_floats],
                out,
            );
        }
        let rows_at_once = (PATCH_FLOATS / row_floats).clamp(1, rows.len());
        // Every float is written before it is read, so that the memory need not be cleared.
        if patches.len() < rows_at_once * row_floats {
            patches.resize(rows_at_once * row_floats, 0.0);
        }
        for first in rows.clone().step_by(rows_at_once) {
            let count = rows_at_once.min(rows.end - first);
            let matrix = &mut patches[..count * row_floats];
            for (place, slot) in matrix.chunks_exact_mut(patch).enumerate() {
                self.geometry.gather(input, first + place / columns, place % columns, slot);
            }
            multiply(matrix, &mut out[(first - rows.start) * columns * stride..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * step).sin()).collect()
    }

    /// The definition, in f64.
    fn naive(
        g: Geometry,
        input: &Map,
        weight: &[f32],
        bias: &[f32],
        [row, column, output]: [usize; 3],
    ) -> f64 {
        let [rows, columns, channels] = input.shape;
        let [kernel_rows, kernel_columns] = g.kernel;
        let mut sum = f64::from(bias[output]);
        for c in 0..channels {
            for i in 0..kernel_rows {
                for j in 0..kernel_columns {
                    let y = (row * g.stride + i).wrapping_sub(g.before[0]);
                    let x = (column * g.stride + j).wrapping_sub(g.before[1]);
                    if y < rows * g.repeat && x < columns * g.repeat {
                        let w = weight[((output * channels + c) * kernel_rows + i) * kernel_columns + j];
                        let place = y / g.repeat * columns + x / g.repeat;
                        sum += f64::from(w) * f64::from(input.data[place * channels + c]);
                    }
                }
            }
        }
        sum
    }

    #[test]
    fn convolution_equals_its_definition() {
        let kernels = [[1, 1], [3, 3], [5, 5], [1, 7], [7, 1]];
        let geometries = kernels.iter().flat_map(|&kernel| {
            let plain = Geometry::new(5, 6, kernel);
            [
                plain,
                plain.padded(),
                plain.halving(),
                plain.padded().halving(),
                plain.padded_behind().halving(),
                plain.padded().doubling(),
            ]
        });
        for g in geometries {
            let input = Map { shape: [9, 8, 5], data: wave(9 * 8 * 5, 0.7) };
            let (weight, bias) = (wave(g.outputs * g.patch(), 1.3), wave(6, 0.9));
            let [rows, columns, _] = g.shape(input.shape);
            let convolution = Convolution::new(Precision::F32, g, &weight, bias.clone());
            // Among other channels, two before and one behind, and through memory that was used before; in two bands, each
            // of which sees no more rows than it needs.
            let stride = 2 + g.outputs + 1;
            let mut out = vec![0.5; rows * columns * stride];
            for band in [0..rows / 2, rows / 2..rows] {
                let reads = g.reads(band.clone(), 9);
                let data = &input.data[reads.start * 8 * 5..reads.end * 8 * 5];
                let some = Rows { map: input.shape, first: reads.start, data };
                let out = &mut out[band.start * columns * stride + 2..];
                let target = Target { out, stride, accumulate: true, relu: true };
                convolution.write(some, band, target, &mut vec![f32::NAN; 100_000]);
            }
            for (i, &found) in out.iter().enumerate() {
                let (place, channel) = (i / stride, i % stride);
                let expected = match channel.checked_sub(2).filter(|&output| output < g.outputs) {
                    Some(output) => {
                        let at = [place / columns, place % columns, output];
                        (naive(g, &input, &weight, &bias, at) + 0.5).max(0.0)
                    }
                    None => 0.5,
                };
                assert!((f64::from(found) - expected).abs() < 1e-5, "{g:?} at {i}: {found}, not {expected}");
            }
        }
    }
}
