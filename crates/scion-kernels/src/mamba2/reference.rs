use burn::Tensor;
use burn::tensor::activation::{silu, softplus};

use super::{EPS, Mamba2, Mamba2Weights};
use crate::conv::short_conv_reference;

/// [`mamba2`](super::mamba2) in plain tensor operations, one token after another; softplus has no linear part, which
/// is the same in f32.
pub fn mamba2_reference(projected: Tensor<3>, weights: Mamba2Weights, op: Mamba2) -> Tensor<3> {
    let [batch, tokens, _] = projected.dims();
    let (inner, state, heads) = (weights.norm.dims()[0], op.state, op.heads);
    let convolved = inner + 2 * state;
    let z = projected.clone().narrow(2, 0, inner);
    let ahead = if op.both { weights.filter.dims()[1] / 2 } else { 0 };
    let mixed = silu(short_conv_reference(
        projected.clone().narrow(2, inner, convolved),
        weights.filter,
        weights.bias,
        ahead,
    ));
    let x = mixed.clone().narrow(2, 0, inner).reshape([batch, tokens, heads, inner / heads]);
    let (b, c) = (mixed.clone().narrow(2, inner, state), mixed.narrow(2, inner + state, state));
    let dt = projected.narrow(2, inner + convolved, heads);
    let mut y = x.clone().zeros_like();
    for direction in 0..if op.both { 2 } else { 1 } {
        let own = |vector: &Tensor<1>| vector.clone().narrow(0, direction * heads, heads);
        let dt = softplus(dt.clone() + own(&weights.dt_bias).reshape([1, 1, heads]), 1.0);
        let rates = own(&weights.a_log).exp().neg().reshape([1, 1, heads]);
        let decay = (dt.clone() * rates).exp(); // [N, T, H]
        let mut carried = Tensor::<4>::zeros([batch, heads, inner / heads, state], &y.device());
        let mut outputs = Vec::with_capacity(tokens);
        for step in 0..tokens {
            let t = if direction == 0 { step } else { tokens - 1 - step };
            let head = |of: &Tensor<3>| of.clone().narrow(1, t, 1).reshape([batch, heads, 1, 1]);
            let shared = |of: &Tensor<3>| of.clone().narrow(1, t, 1).reshape([batch, 1, 1, state]);
            let input = x.clone().narrow(1, t, 1).reshape([batch, heads, inner / heads, 1]) * head(&dt);
            carried = carried * head(&decay) + input * shared(&b);
            let output = (carried.clone() * shared(&c)).sum_dim(3); // [N, H, P, 1]
            outputs.push(output.reshape([batch, 1, heads, inner / heads]));
        }
        if direction == 1 {
            outputs.reverse();
        }
        y = y + Tensor::cat(outputs, 1) + x.clone() * own(&weights.d).reshape([1, 1, heads, 1]);
    }
    let gated = y.reshape([batch, tokens, inner]) * silu(z);
    let scale = ((gated.clone() * gated.clone()).mean_dim(2) + EPS).sqrt();
    gated / scale * weights.norm.reshape([1, 1, inner])
}
