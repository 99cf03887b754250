use burn::Tensor;
use rayon::prelude::*;
use scion_kernels::with_values;

use super::Attention;
use super::neighborhood::columns;

/// Where an image's attention falls, as the mean over heads and queries.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    /// Share of the attention at each distance |i − j| in raster order, [T]; they add up to 1.
    pub by_distance: Vec<f64>,
    /// Mean distance from query to key on the square grid of tokens, in tokens: Σ_j A_ij·‖p_i − p_j‖. Nothing where the tokens
    /// are no square.
    pub grid_distance: Option<f64>,
}

impl Spread {
    /// L_k of every k from 0 to T − 1 (paper §3): the share of attention at most k tokens away in raster order.
    pub fn curve(&self) -> Vec<f64> {
        let add = |sum: &mut f64, share: &f64| {
            *sum += share;
            Some(*sum)
        };
        self.by_distance.iter().scan(0.0, add).collect()
    }
}

impl Attention {
    /// How local the attention is: (1/T) Σ_ij A_ij·[|i − j| ≤ `reach`] in raster order, with A the softmax averaged over
    /// heads. 1 is attention to near tokens alone (paper §3, L_k).
    ///
    /// `x` [N, T, D], the operator's input → N values in [0, 1]. A is not kept: memory beside q, k and v is one head's keys
    /// and one row of scores a thread.
    pub fn locality(&self, x: Tensor<3>, reach: usize) -> Vec<f64> {
        let rows = x.dims()[1] * self.heads();
        let near = self.each_head(x, |head| head.near(reach));
        near.chunks(self.heads()).map(|near| near.iter().sum::<f64>() / rows as f64).collect()
    }

    /// [`Attention::locality`] for every reach at once, and how far the attention looks on the grid. `x` [N, T, D] → N.
    pub fn spread(&self, x: Tensor<3>) -> Vec<Spread> {
        let tokens = x.dims()[1];
        let columns = columns(tokens);
        let square = columns * columns == tokens;
        let found = self.each_head(x, |head| head.spread(columns));
        let mean = |heads: &[(Vec<f64>, f64)]| {
            let rows = (tokens * heads.len()) as f64;
            let at = |distance: usize| heads.iter().map(|head| head.0[distance]).sum::<f64>() / rows;
            let grid_distance = square.then(|| heads.iter().map(|head| head.1).sum::<f64>() / rows);
            Spread { by_distance: (0..tokens).map(at).collect(), grid_distance }
        };
        found.chunks(self.heads()).map(mean).collect()
    }

    /// The softmax itself: `x` [N, T, D] → [N, H, T, T], row-major, queries before keys.
    pub fn weights(&self, x: Tensor<3>) -> Vec<f32> {
        self.each_head(x, |head| head.weights()).concat()
    }

    /// What `look` finds at every head of every image, N·H values.
    fn each_head<R: Send>(&self, x: Tensor<3>, look: impl Fn(&Head) -> R + Sync) -> Vec<R> {
        let [n, tokens, width] = x.dims();
        let (heads, size) = (self.heads(), width / self.heads());
        with_values(&self.qkv.forward(x), |qkv| {
            let head = |task: usize| {
                let image = &qkv[task / heads * tokens * 3 * width..][..tokens * 3 * width];
                look(&Head { image, tokens, width, size, first: task % heads * size })
            };
            (0..n * heads).into_par_iter().map(head).collect()
        })
    }
}

/// One head of one image.
struct Head<'a> {
    /// [T, 3·D]
    image: &'a [f32],
    tokens: usize,
    width: usize,
    /// Width of the head.
    size: usize,
    /// The head's first column in q and in k.
    first: usize,
}

impl Head<'_> {
    /// Σ_ij A_ij·[|i − j| ≤ reach].
    fn near(&self, reach: usize) -> f64 {
        let mut sum = 0.0;
        self.each_query(|i, scores| {
            let near = i.saturating_sub(reach)..self.tokens.min(i + reach + 1);
            sum += total(&scores[near]) / total(scores);
        });
        sum
    }

    /// Σ A_ij over the pairs at each distance in raster order, [T], and Σ_ij A_ij·‖p_i − p_j‖ on a grid of so many columns.
    fn spread(&self, columns: usize) -> (Vec<f64>, f64) {
        let steps: Vec<f64> = (0..columns * columns)
            .map(|step| ((step / columns) as f64).hypot((step % columns) as f64))
            .collect();
        let (mut by_distance, mut far) = (vec![0.0; self.tokens], 0.0);
        self.each_query(|i, scores| {
            let total = total(scores);
            let (row, column) = (i / columns, i % columns);
            // Beyond the last whole row there are tokens only where the grid is no square.
            for (j, &score) in scores.iter().enumerate() {
                let share = f64::from(score) / total;
                by_distance[i.abs_diff(j)] += share;
                let step = row.abs_diff(j / columns) * columns + column.abs_diff(j % columns);
                far += share * steps.get(step).copied().unwrap_or_default();
            }
        });
        (by_distance, far)
    }

    /// A, [T, T].
    fn weights(&self) -> Vec<f32> {
        let mut weights = Vec::with_capacity(self.tokens * self.tokens);
        self.each_query(|_, scores| {
            let total = total(scores);
            weights.extend(scores.iter().map(|&score| (f64::from(score) / total) as f32));
        });
        weights
    }

    /// Shows every query's number and its row of A, [T], short of the division by the row's sum.
    fn each_query(&self, mut look: impl FnMut(usize, &[f32])) {
        let scale = 1.0 / (self.size as f32).sqrt();
        // [head's width, T]: rows that add up to scores of all keys at once.
        let mut keys = vec![0f32; self.size * self.tokens];
        for (j, row) in self.image.chunks_exact(3 * self.width).enumerate() {
            let key = &row[self.width + self.first..][..self.size];
            key.iter().enumerate().for_each(|(c, &k)| keys[c * self.tokens + j] = k * scale);
        }
        let mut scores = vec![0f32; self.tokens];
        for (i, row) in self.image.chunks_exact(3 * self.width).enumerate() {
            scores.fill(0.0);
            for (&q, keys) in row[self.first..][..self.size].iter().zip(keys.chunks_exact(self.tokens)) {
                scores.iter_mut().zip(keys).for_each(|(score, &k)| *score += q * k);
            }
            let top = scores.iter().fold(f32::NEG_INFINITY, |top, &score| top.max(score));
            scores.iter_mut().for_each(|score| *score = (*score - top).exp());
            look(i, &scores);
        }
    }
}

fn total(scores: &[f32]) -> f64 {
    scores.iter().map(|&score| f64::from(score)).sum()
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

    /// What NumPy makes of attention matrices that PyTorch computed: 4 × 4 tokens.
    #[test]
    fn the_spread_is_numpys() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/analysis");
        let golden = Checkpoint::open(&folder.join("attention.safetensors")).unwrap();
        let read = |name: &str| golden.read_f32(name).unwrap();
        let shape = golden.entry("x").unwrap().shape.clone();
        let attention = AttentionConfig { heads: 3 }.init(shape[2], &mut Init::empty(&Device::flex()));
        let attention = apply_weights(attention, |name| golden.read_f32(name).map(Some)).unwrap();
        let x = Tensor::<3>::from_data(TensorData::new(read("x"), shape.clone()), &Device::flex());
        let (curves, distances) = (read("locality"), read("distance"));
        let close =
            |found: f64, golden: f32, what: &str| assert!((found - f64::from(golden)).abs() < 1e-6, "{what}");
        for (image, spread) in attention.spread(x.clone()).iter().enumerate() {
            let curve = spread.curve();
            assert_eq!(curve.len(), shape[1]);
            for (k, &found) in curve.iter().enumerate() {
                close(found, curves[image * shape[1] + k], &format!("image {image}, L_{k}"));
                let alone = attention.locality(x.clone(), k)[image];
                assert!((found - alone).abs() < 1e-12, "L_{k}: {found} in the curve, {alone} alone");
            }
            close(spread.grid_distance.unwrap(), distances[image], "distance");
        }
        let (found, golden) = (attention.weights(x), read("attention"));
        assert_eq!(found.len(), golden.len());
        found.iter().zip(golden).for_each(|(&found, golden)| close(f64::from(found), golden, "weights"));
    }

    #[test]
    fn only_square_grids_have_distances() {
        let attention = AttentionConfig { heads: 2 }.init(8, &mut Init::empty(&Device::flex()));
        let spread = |tokens: usize| attention.spread(Tensor::<3>::ones([1, tokens, 8], &Device::flex()));
        assert_eq!(spread(10)[0].grid_distance, None);
        // Uniform over 2 × 2 tokens: distances 0, 1, 1 and √2.
        let found = spread(4)[0].grid_distance.unwrap();
        assert!((found - (2.0 + 2f64.sqrt()) / 4.0).abs() < 1e-12, "{found}");
    }
}
