use burn::Tensor;
use burn::tensor::activation::softmax;

/// Queries whose scores are held at once.
const QUERIES: usize = 1024;

/// Softmax attention of `queries` [N, T, D] to `keys` and `values` [N, L, D], head after head in each, with scale
/// head_dim^-½ → [N, T, D]. `bias` [N, 1, 1, L] is added to the scores. In plain tensor operations, for keys that are
/// not the queries' own tokens; self-attention has a fused kernel.
pub(crate) fn attend(
    queries: Tensor<3>,
    keys: Tensor<3>,
    values: Tensor<3>,
    heads: usize,
    bias: Option<Tensor<4>>,
) -> Tensor<3> {
    let [n, tokens, d] = queries.dims();
    let size = d / heads;
    let by_head = |x: Tensor<3>| {
        let len = x.dims()[1];
        x.reshape([n, len, heads, size]).swap_dims(1, 2) // [N, heads, len, size]
    };
    let (keys, values) = (by_head(keys).swap_dims(2, 3), by_head(values));
    let queries = queries * (size as f32).powf(-0.5);
    let some = |start: usize| {
        let queries = queries.clone().slice([0..n, start..tokens.min(start + QUERIES), 0..d]);
        let scores = by_head(queries).matmul(keys.clone()); // [N, heads, some, L]
        let scores = match &bias {
            Some(bias) => scores + bias.clone(),
            None => scores,
        };
        let mixed = softmax(scores, 3).matmul(values.clone()).swap_dims(1, 2);
        let some = mixed.dims()[1];
        mixed.reshape([n, some, d])
    };
    Tensor::cat((0..tokens).step_by(QUERIES).map(some).collect(), 1)
}
