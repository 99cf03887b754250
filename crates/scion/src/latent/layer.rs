use std::ops::Range;

use rayon::prelude::*;
use scion_kernels::Precision;
use scion_kernels::gemm::vmath::exp;
use scion_kernels::gemm::{Epilogue, MatRef, PackedB, matmul_packed};

use super::norm::{Affine, GroupNorm};
use crate::convolution::{Convolution, Map, Rows, Target};

/// Most rows of a map that one thread works on at a time: few beside a large map, many beside those that its
/// neighbours normalise as well.
const BAND: usize = 16;
/// Queries handled together.
const QUERIES: usize = 64;

/// A layer with its weights.
pub(super) enum Layer {
    Convolution(Convolution),
    Residual(Box<Residual>),
    Attention(Attention),
    /// A convolution of the norm's SiLU.
    Output(GroupNorm, Convolution),
}

pub(super) struct Residual {
    pub(super) norm1: GroupNorm,
    pub(super) conv1: Convolution,
    pub(super) norm2: GroupNorm,
    pub(super) conv2: Convolution,
    /// 1×1, where the channels change.
    pub(super) shortcut: Option<Convolution>,
}

pub(super) struct Attention {
    pub(super) norm: GroupNorm,
    /// 1×1, from C to 3·C channels: q, k, v.
    pub(super) qkv: Convolution,
    /// 1×1.
    pub(super) out: Convolution,
    /// Of the products between places.
    pub(super) precision: Precision,
}

/// Runs layers one after the other; at most two maps are held besides the input of the layer.
pub(super) fn run(layers: &[Layer], input: Map) -> Map {
    layers.iter().fold(input, |map, layer| layer.apply(map))
}

impl Layer {
    fn apply(&self, input: Map) -> Map {
        match self {
            Self::Convolution(convolution) => convolve(convolution, &input, None, None),
            Self::Residual(residual) => residual.apply(input),
            Self::Attention(attention) => attention.apply(input),
            Self::Output(norm, convolution) => {
                convolve(convolution, &input, Some(&norm.of(&input, true)), None)
            }
        }
    }
}

impl Residual {
    fn apply(&self, input: Map) -> Map {
        let hidden = convolve(&self.conv1, &input, Some(&self.norm1.of(&input, true)), None);
        let skipped = match &self.shortcut {
            Some(shortcut) => convolve(shortcut, &input, None, None),
            None => input,
        };
        let norm = self.norm2.of(&hidden, true);
        convolve(&self.conv2, &hidden, Some(&norm), Some(skipped))
    }
}

impl Attention {
    fn apply(&self, input: Map) -> Map {
        let qkv = convolve(&self.qkv, &input, Some(&self.norm.of(&input, false)), None);
        let mixed = self.mix(&qkv);
        convolve(&self.out, &mixed, None, Some(input))
    }

    /// softmax(q·kᵀ/√C)·v over all places; memory grows with their number, not with its square.
    fn mix(&self, qkv: &Map) -> Map {
        let [rows, columns, triple] = qkv.shape;
        let (places, width) = (rows * columns, triple / 3);
        let part = |i: usize| MatRef::strided(&qkv.data[i * width..], places, width, triple);
        let [keys, values] = [part(1).t(), part(2)].map(|matrix| PackedB::pack(self.precision, matrix));
        let scale = 1.0 / (width as f32).sqrt();
        let mut data = vec![0.0; places * width];
        data.par_chunks_mut(QUERIES * width).enumerate().for_each(|(block, out)| {
            let count = out.len() / width;
            let queries = MatRef::strided(&qkv.data[block * QUERIES * triple..], count, width, triple);
            let mut weights = vec![0.0; count * places];
            matmul_packed(queries, &keys, &mut weights, places, false, Epilogue::default());
            let mut scores = vec![0.0; places];
            weights.chunks_exact_mut(places).for_each(|row| softmax(row, scale, &mut scores));
            let weights = MatRef::new(&weights, count, places);
            matmul_packed(weights, &values, out, width, false, Epilogue::default());
        });
        Map { shape: [rows, columns, width], data }
    }
}

/// Replaces x by softmax(scale·x); `scores` is memory to work in.
fn softmax(row: &mut [f32], scale: f32, scores: &mut [f32]) {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().zip(&*row).for_each(|(score, x)| *score = scale * (x - top));
    exp(scores, row);
    let sum: f64 = row.iter().copied().map(f64::from).sum();
    let share = (1.0 / sum) as f32;
    row.iter_mut().for_each(|weight| *weight *= share);
}

/// A convolution of a map, or of its norm, added to the map `onto` where there is one. The normalised map is made band by
/// band and never as a whole.
fn convolve(convolution: &Convolution, input: &Map, norm: Option<&Affine>, onto: Option<Map>) -> Map {
    let geometry = convolution.as_ref();
    let shape = geometry.shape(input.shape);
    let accumulate = onto.is_some();
    let mut out = onto.unwrap_or_else(|| Map { shape, data: vec![0.0; shape.iter().product()] });
    let [rows, columns, channels] = shape;
    let band = rows.div_ceil(4 * rayon::current_num_threads()).clamp(1, BAND);
    let line = input.shape[1] * input.shape[2];
    let write = |patches: &mut Vec<f32>, (i, out): (usize, &mut [f32])| {
        let wanted = i * band..rows.min((i + 1) * band);
        let reads: Range<usize> = geometry.reads(wanted.clone(), input.shape[0]);
        let data = &input.data[reads.start * line..reads.end * line];
        let normalised = norm.map(|norm| norm.apply(data));
        let input =
            Rows { map: input.shape, first: reads.start, data: normalised.as_deref().unwrap_or(data) };
        let target = Target { out, stride: channels, accumulate, relu: false };
        convolution.write(input, wanted, target, patches);
    };
    out.data.par_chunks_mut(band * columns * channels).enumerate().for_each_init(Vec::new, write);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convolution::Geometry;

    fn wave(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * step).sin()).collect()
    }

    /// Large scores overflow where the greatest is not subtracted first.
    #[test]
    fn softmax_sums_to_one() {
        let mut row = [1000.0, 1002.0, 998.0];
        softmax(&mut row, 0.5, &mut [0.0; 3]);
        let total = 1.0 + 1f32.exp() + (-1f32).exp();
        let expected = [1.0 / total, 1f32.exp() / total, (-1f32).exp() / total];
        assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{row:?}");
    }

    /// More places than a block of queries holds, against the definition.
    #[test]
    fn attention_equals_its_definition() {
        let (rows, columns, width) = (9, 10, 4);
        let identity = |outputs: usize| {
            let mut weight = vec![0.0; outputs * width];
            (0..outputs).for_each(|i| weight[i * width + i % width] = 1.0 + (i / width) as f32);
            Convolution::new(
                Precision::F32,
                Geometry::new(width, outputs, [1, 1]),
                &weight,
                vec![0.1; outputs],
            )
        };
        let norm = GroupNorm { groups: 2, weight: vec![1.0; width], bias: vec![0.0; width] };
        let attention =
            Attention { norm, qkv: identity(3 * width), out: identity(width), precision: Precision::F32 };
        let data = wave(rows * columns * width, 0.7);
        let input = Map { shape: [rows, columns, width], data: data.clone() };
        let normalised = attention.norm.of(&input, false).apply(&data);
        let found = attention.apply(input).data;
        let part = |i: usize, factor: f32| -> Vec<f32> {
            normalised[i * width..(i + 1) * width].iter().map(|x| x * factor + 0.1).collect()
        };
        for i in 0..rows * columns {
            let query = part(i, 1.0);
            let score = |key: &[f32]| query.iter().zip(key).map(|(q, k)| q * k).sum::<f32>() / 2.0;
            let weights: Vec<f32> = (0..rows * columns).map(|j| score(&part(j, 2.0)).exp()).collect();
            let total: f32 = weights.iter().sum();
            for c in 0..width {
                let mixed: f32 = weights.iter().enumerate().map(|(j, w)| w / total * part(j, 3.0)[c]).sum();
                let expected = data[i * width + c] + mixed + 0.1;
                let found = found[i * width + c];
                assert!((found - expected).abs() < 1e-5, "{i}, {c}: {found}, not {expected}");
            }
        }
    }
}
