use burn::Tensor;
use burn::tensor::activation::relu;

use super::{EPS, FeatureMap};

/// [`linear_attention`](super::linear_attention) in plain tensor operations.
pub fn linear_attention_reference(qkv: Tensor<3>, heads: usize, map: FeatureMap) -> Tensor<3> {
    let [batch, tokens, width] = qkv.dims();
    let head = width / 3 / heads;
    let part = |i: usize| {
        qkv.clone().narrow(2, i * width / 3, width / 3).reshape([batch, tokens, heads, head]).swap_dims(1, 2)
    };
    let features = |x: Tensor<4>| match map {
        // elu(x) + 1 is exp(x) below zero and x + 1 above.
        FeatureMap::EluPlusOne => relu(x.clone()) + relu(-x).neg().exp(),
        FeatureMap::Relu => relu(x),
    };
    let (q, k) = (features(part(0)), features(part(1)));
    let moments = k.clone().swap_dims(2, 3).matmul(part(2)); // [N, heads, head, head]
    let weights = q.clone().matmul(k.sum_dim(2).swap_dims(2, 3)) + EPS; // [N, heads, T, 1]
    (q.matmul(moments) / weights).swap_dims(1, 2).reshape([batch, tokens, width / 3])
}
