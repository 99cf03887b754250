use burn::Tensor;
use burn::tensor::activation::softmax;
use burn::tensor::{Bool, TensorData};

use super::Window;

/// [`attention`](super::attention) in plain tensor operations; keeps the T × T matrix.
pub fn attention_reference(qkv: Tensor<3>, heads: usize, window: Option<Window>) -> Tensor<3> {
    let [batch, tokens, width] = qkv.dims();
    let head = width / 3 / heads;
    let device = qkv.device();
    let part = |i: usize| {
        qkv.clone().narrow(2, i * width / 3, width / 3).reshape([batch, tokens, heads, head]).swap_dims(1, 2)
    };
    let mut scores = part(0).matmul(part(1).swap_dims(2, 3)) / (head as f32).sqrt();
    if let Some(window) = window {
        let mut outside = vec![true; tokens * tokens];
        let mut keys = Vec::new();
        for (i, row) in outside.chunks_exact_mut(tokens).enumerate() {
            window.keys(i, tokens, &mut keys);
            keys.iter().for_each(|&j| row[j] = false);
        }
        let mask = Tensor::<4, Bool>::from_data(TensorData::new(outside, [1, 1, tokens, tokens]), &device);
        scores = scores.mask_fill(mask.expand([batch, heads, tokens, tokens]), f32::NEG_INFINITY);
    }
    softmax(scores, 3).matmul(part(2)).swap_dims(1, 2).reshape([batch, tokens, width / 3])
}

/// [`cross_attention`](super::cross_attention) in plain tensor operations; keeps the T × L matrix.
pub fn cross_attention_reference(q: Tensor<3>, kv: Tensor<3>, bias: Tensor<2>, heads: usize) -> Tensor<3> {
    let ([batch, queries, width], [_, keys, _]) = (q.dims(), kv.dims());
    let head = width / heads;
    let by_head = |x: Tensor<3>, tokens: usize| x.reshape([batch, tokens, heads, head]).swap_dims(1, 2);
    let part = |i: usize| by_head(kv.clone().narrow(2, i * width, width), keys);
    let scores = by_head(q, queries).matmul(part(0).swap_dims(2, 3)) / (head as f32).sqrt();
    let scores = scores + bias.reshape([batch, 1, 1, keys]);
    softmax(scores, 3).matmul(part(1)).swap_dims(1, 2).reshape([batch, queries, width])
}
