use burn::Tensor;
use burn::module::{Module, Param};
use scion_kernels::attention::cross_attention;
use scion_kernels::norm::modulated_norm;
use serde::{Deserialize, Serialize};

use super::{Init, Linear, Scheme};

/// LayerNorm's epsilon in PyTorch.
const EPS: f32 = 1e-5;

/// Softmax attention of all tokens to fewer keys and values, one for each square of the grid: key-value compression of
/// PixArt-Σ (Chen et al. 2024; PixArt-alpha/PixArt-sigma `diffusion/model/nets/PixArt_blocks.py`, `AttentionKVCompress` with
/// sampling "conv").
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvCompressionConfig {
    /// Number of heads; 0 takes the model's.
    #[serde(default)]
    pub heads: usize,
    /// Side in tokens of a square that makes one key and one value; the sides of the grid are multiples of it.
    #[serde(default = "two")]
    pub factor: usize,
}

fn two() -> usize {
    2
}

impl KvCompressionConfig {
    /// Draws the projections as PyTorch does by default; squares are averaged at first, as the original starts.
    pub fn init(&self, width: usize, init: &mut Init) -> KvCompression {
        let squared = self.factor * self.factor;
        KvCompression {
            qkv: Linear::new(width, 3 * width, Scheme::Torch, init),
            proj: Linear::new(width, width, Scheme::Torch, init),
            sr: SquareFilter {
                weight: init.constant([width, 1, self.factor, self.factor], 1.0 / squared as f32),
                bias: init.constant([width], 0.0),
            },
            norm: LayerNorm { weight: init.constant([width], 1.0), bias: init.constant([width], 0.0) },
            heads: self.heads,
        }
    }

    /// Keys among `tokens`.
    pub(super) fn keys(&self, tokens: usize) -> usize {
        tokens / (self.factor * self.factor)
    }

    /// Parameters of the filter and the norm at the given width.
    pub(super) fn compression_parameters(&self, width: usize) -> usize {
        width * (self.factor * self.factor + 1) + 2 * width
    }
}

/// Attention whose keys and values are each filtered to one a square, then normalised, with the same weights.
#[derive(Module, Debug)]
pub struct KvCompression {
    /// [3·D, D], rows q, k, v, head after head in each.
    pub qkv: Linear,
    /// [D, D]
    pub proj: Linear,
    /// The original's name: spatial reduction.
    pub sr: SquareFilter,
    /// Of filtered keys and values.
    pub norm: LayerNorm,
    heads: usize,
}

/// A depthwise convolution that makes one token of each square of the grid.
#[derive(Module, Debug)]
pub struct SquareFilter {
    /// [D, 1, factor, factor]
    pub weight: Param<Tensor<4>>,
    /// [D]
    pub bias: Param<Tensor<1>>,
}

/// Normalisation of each token with a scale and a shift of its own.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// [D]
    pub weight: Param<Tensor<1>>,
    /// [D]
    pub bias: Param<Tensor<1>>,
}

impl KvCompression {
    /// [N, T, D] → [N, T, D], the tokens on a grid of rows and columns.
    ///
    /// # Panics
    /// When the tokens do not fill the grid, or its sides are no multiples of the factor.
    pub fn forward(&self, x: Tensor<3>, grid: [usize; 2]) -> Tensor<3> {
        let width = x.dims()[2];
        let qkv = self.qkv.forward(x);
        let part = |index: usize| qkv.clone().narrow(2, index * width, width);
        let kv = [1, 2].map(|index| self.norm.forward(self.sr.forward(part(index), grid)));
        let kv = Tensor::cat(kv.into(), 2);
        let [n, keys, _] = kv.dims();
        let nothing_hidden = Tensor::zeros([n, keys], &kv.device());
        self.proj.forward(cross_attention(part(0), kv, nothing_hidden, self.heads))
    }
}

impl SquareFilter {
    /// [N, rows·columns, D] → [N, rows·columns / factor², D].
    fn forward(&self, x: Tensor<3>, [rows, columns]: [usize; 2]) -> Tensor<3> {
        let ([n, tokens, d], [.., side]) = (x.dims(), self.weight.dims());
        assert!(
            tokens == rows * columns && rows.is_multiple_of(side) && columns.is_multiple_of(side),
            "{tokens} tokens on a grid of {rows}×{columns} do not divide into squares of {side}×{side}"
        );
        let (down, across) = (rows / side, columns / side);
        let weight = self.weight.val().reshape([d, side, side]).permute([1, 2, 0]);
        let weighed = x.reshape([n, down, side, across, side, d]) * weight.reshape([1, 1, side, 1, side, d]);
        let sums = weighed.sum_dim(4).sum_dim(2).reshape([n, down * across, d]);
        sums + self.bias.val().reshape([1, 1, d])
    }
}

impl LayerNorm {
    /// [N, T, D] → [N, T, D].
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [n, _, d] = x.dims();
        // The kernel multiplies by one more than the scale of a row that each image has.
        let row = Tensor::cat(vec![self.bias.val(), self.weight.val() - 1.0], 0);
        modulated_norm(x, row.reshape([1, 2 * d]).expand([n, 2 * d]), 0, 1, EPS)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::model::{apply_weights, parameters};
    use crate::operator::AttentionConfig;

    const WIDTH: usize = 8;
    const HEADS: usize = 2;

    /// Tokens of ±1 with as many of each, which a norm leaves as they are, the same all over each square of the grid.
    fn tokens([rows, columns]: [usize; 2], side: usize) -> Tensor<3> {
        let value = |row: usize, column: usize, channel: usize| {
            let turned = (row / side * 5 + column / side * 3) % WIDTH;
            if (channel + turned) % WIDTH < WIDTH / 2 { 1.0 } else { -1.0 }
        };
        let places = (0..rows * columns).map(|at| (at / columns, at % columns));
        let values: Vec<f32> = places
            .flat_map(|(row, column)| (0..WIDTH).map(move |channel| value(row, column, channel)))
            .collect();
        Tensor::from_data(TensorData::new(values, [1, rows * columns, WIDTH]), &Device::flex())
    }

    fn values(tensor: Tensor<3>) -> Vec<f32> {
        tensor.into_data().try_into_vec().unwrap()
    }

    #[test]
    fn squares_of_equal_tokens_are_attended_to_as_attention_does() {
        let device = Device::flex();
        let attention = AttentionConfig { heads: HEADS }.init(WIDTH, &mut Init::new(1, 0, &device));
        // Keys and values are the tokens themselves.
        let weight = |at: usize| match at / WIDTH {
            query if query < WIDTH => (at * 7 % 13) as f32 / 6.0 - 1.0,
            other => f32::from(other % WIDTH == at % WIDTH),
        };
        let attention = apply_weights(attention, |name| {
            Ok(match name {
                "qkv.weight" => Some((0..3 * WIDTH * WIDTH).map(weight).collect()),
                "qkv.bias" => Some(vec![0.0; 3 * WIDTH]),
                _ => None,
            })
        })
        .unwrap();
        let mut weights = HashMap::new();
        parameters(&attention, |name, data| drop(weights.insert(name, data.try_into_vec::<f32>().unwrap())));
        // At factor 1, of which recipes are refused for want of a use, every grid will do.
        for (factor, grid) in [(1, [3, 5]), (2, [4, 4]), (2, [2, 8]), (3, [6, 9])] {
            let x = tokens(grid, factor);
            let compressed =
                KvCompressionConfig { heads: HEADS, factor }.init(WIDTH, &mut Init::new(2, 0, &device));
            let compressed = apply_weights(compressed, |name| Ok(weights.get(name).cloned())).unwrap();
            let (found, expected) =
                (values(compressed.forward(x.clone(), grid)), values(attention.forward(x)));
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-4, "factor {factor}: {found} instead of {expected}");
            }
            assert!(expected.iter().any(|value| (value - expected[0]).abs() > 0.1), "tokens differ");
        }
    }

    #[test]
    fn squares_are_those_of_the_grid() {
        let device = Device::flex();
        let filter = SquareFilter {
            weight: Param::from_tensor(Tensor::from_data([[[[1.0, 10.0], [100.0, 1000.0]]]], &device)),
            bias: Param::from_tensor(Tensor::from_data([0.5], &device)),
        };
        let x = Tensor::from_data(TensorData::new((1..=8).map(|v| v as f32).collect(), [1, 8, 1]), &device);
        assert_eq!(values(filter.forward(x.clone(), [2, 4])), [6521.5, 8743.5]);
        assert_eq!(values(filter.forward(x, [4, 2])), [4321.5, 8765.5]);
    }
}
