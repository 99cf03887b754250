use burn::Tensor;
use rayon::prelude::*;
use scion_kernels::with_values;

use super::Attention;

impl Attention {
    /// How local the attention is: (1/T) Σ_ij A_ij·[|i − j| ≤ `reach`] in raster order, with A the softmax averaged over
    /// heads. 1 is attention to near tokens alone (paper §3, L_k).
    ///
    /// `x` [N, T, D], the operator's input → N values in [0, 1]. A is not kept: memory beside q, k and v is one head's keys
    /// and one row of scores a thread.
    pub fn locality(&self, x: Tensor<3>, reach: usize) -> Vec<f64> {
        let [n, tokens, width] = x.dims();
        let (heads, size) = (self.heads(), width / self.heads());
        with_values(&self.qkv.forward(x), |qkv| {
            let head = |task: usize| {
                let image = &qkv[task / heads * tokens * 3 * width..][..tokens * 3 * width];
                Head { image, width, size, first: task % heads * size }.near(tokens, reach)
            };
            let near: Vec<f64> = (0..n * heads).into_par_iter().map(head).collect();
            near.chunks(heads).map(|near| near.iter().sum::<f64>() / (heads * tokens) as f64).collect()
        })
    }
}

/// One head of one image.
struct Head<'a> {
    /// [T, 3·D]
    image: &'a [f32],
    width: usize,
    /// Width of the head.
    size: usize,
    /// The head's first column in q and in k.
    first: usize,
}

impl Head<'_> {
    /// Σ_ij A_ij·[|i − j| ≤ reach].
    fn near(&self, tokens: usize, reach: usize) -> f64 {
        let scale = 1.0 / (self.size as f32).sqrt();
        // [head's width, T]: rows that add up to scores of all keys at once.
        let mut keys = vec![0f32; self.size * tokens];
        for (j, row) in self.image.chunks_exact(3 * self.width).enumerate() {
            let key = &row[self.width + self.first..][..self.size];
            key.iter().enumerate().for_each(|(c, &k)| keys[c * tokens + j] = k * scale);
        }
        let mut scores = vec![0f32; tokens];
        let mut sum = 0.0;
        for (i, row) in self.image.chunks_exact(3 * self.width).enumerate() {
            scores.fill(0.0);
            for (&q, keys) in row[self.first..][..self.size].iter().zip(keys.chunks_exact(tokens)) {
                scores.iter_mut().zip(keys).for_each(|(score, &k)| *score += q * k);
            }
            let top = scores.iter().fold(f32::NEG_INFINITY, |top, &score| top.max(score));
            scores.iter_mut().for_each(|score| *score = (*score - top).exp());
            let total = |scores: &[f32]| scores.iter().map(|&score| f64::from(score)).sum::<f64>();
            let near = i.saturating_sub(reach)..tokens.min(i + reach + 1);
            sum += total(&scores[near]) / total(&scores);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::model::apply_weights;
    use crate::operator::{AttentionConfig, Init};

    #[test]
    fn values_are_pytorchs() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/operators");
        let golden = Checkpoint::open(&folder.join("attention-locality.safetensors")).unwrap();
        let shape = golden.entry("x").unwrap().shape.clone();
        let attention = AttentionConfig { heads: 3 }.init(shape[2], &mut Init::empty(&Device::flex()));
        let attention = apply_weights(attention, |name| golden.read_f32(name).map(Some)).unwrap();
        let x =
            Tensor::<3>::from_data(TensorData::new(golden.read_f32("x").unwrap(), shape), &Device::flex());
        for reach in [0, 1, 4, 30] {
            let expected = golden.read_f32(&format!("locality.{reach}")).unwrap();
            let found = attention.locality(x.clone(), reach);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - f64::from(expected)).abs() < 1e-6, "reach {reach}: {found} for {expected}");
            }
        }
    }

    #[test]
    fn uniform_attention_counts_neighbours() {
        // Without weights every score is 0.
        let attention = AttentionConfig { heads: 2 }.init(8, &mut Init::empty(&Device::flex()));
        let x = Tensor::<3>::ones([2, 10, 8], &Device::flex());
        for reach in [0, 3, 9] {
            // Pairs at distance at most k among T in a row: T + 2 Σ_{d=1..k} (T − d).
            let pairs = 10 + 2 * (1..=reach).map(|d| 10 - d).sum::<usize>();
            for found in attention.locality(x.clone(), reach) {
                assert!((found - pairs as f64 / 100.0).abs() < 1e-12, "reach {reach}: {found}");
            }
        }
    }
}
