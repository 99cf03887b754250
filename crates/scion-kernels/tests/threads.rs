//! Every fused operator on one, two and three threads: the same bits, in values and gradients.

mod common;

use burn::Tensor;
use common::{tensor, values};
use scion_kernels::adapted::adapted_linear;
use scion_kernels::attention::{Window, attention, cross_attention};
use scion_kernels::conv::short_conv;
use scion_kernels::feature_conv::gated_feature_conv;
use scion_kernels::hyena::{gated_conv, gated_inner};
use scion_kernels::linear::{Activation, linear};
use scion_kernels::linear_attention::{FeatureMap, linear_attention};
use scion_kernels::mamba2::{Mamba2, Mamba2Weights, mamba2};
use scion_kernels::mlp::mlp;
use scion_kernels::norm::modulated_norm;
use scion_kernels::residual::gated_residual;
use scion_kernels::{Precision, set_precision};

/// Output of an operator on one input, and the input's gradient.
fn run<const D: usize>(input: Tensor<D>, operator: impl Fn(Tensor<D>) -> Tensor<3>) -> [Vec<f32>; 2] {
    let out = operator(input.clone());
    let weight = tensor(out.dims(), 99, 1.0).detach();
    let gradients = (out.clone() * weight).sum().backward();
    [values(out), values(input.grad(&gradients).unwrap())]
}

/// All operators, on sizes that are cut into several tasks.
fn all() -> Vec<(&'static str, [Vec<f32>; 2])> {
    let (n, tokens, width, hidden) = (3, 130, 96, 200);
    let x = || tensor([n, tokens, width], 1, 1.0);
    let qkv = || tensor([n, tokens, 3 * width], 2, 1.0);
    let (words, mask) =
        (tensor([n, 300, 2 * width], 21, 1.0), Tensor::from_inner(tensor([n, 300], 22, 1.0).inner()));
    let modulation = || tensor([n, 6 * width], 3, 1.0);
    let (w1, b1) = (tensor([hidden, width], 4, 0.2), tensor([hidden], 5, 1.0));
    let (w2, b2) = (tensor([width, hidden], 6, 0.2), tensor([width], 7, 1.0));
    let (wide, wide_bias) = (tensor([500, 200], 24, 0.2), tensor([500], 25, 1.0));
    let (inner, inner_bias) = (tensor([width, 4], 19, 1.0), tensor([width], 20, 1.0));
    let (features, feature_bias) = (tensor([tokens, 4], 10, 1.0), tensor([tokens], 11, 1.0));
    let op = Mamba2 { heads: 8, state: 16, both: true };
    let projected = || tensor([n, tokens, 2 * width + 2 * op.state + op.heads], 12, 1.0);
    let weights = |a_log| Mamba2Weights {
        filter: tensor([width + 2 * op.state, 7], 13, 1.0),
        bias: tensor([width + 2 * op.state], 14, 1.0),
        dt_bias: tensor([2 * op.heads], 15, 1.0),
        a_log,
        d: tensor([2 * op.heads], 17, 1.0),
        norm: tensor([width], 18, 1.0),
    };
    let a_log = tensor([2 * op.heads], 16, 1.0);
    let (a, b) = (tensor([16, width], 10, 0.2), tensor([hidden, 16], 11, 0.2));
    let adapted = |x, a, b| adapted_linear(x, w1.clone(), b1.clone(), a, b, 0.5, Activation::GeluTanh);
    let (filter, bias) = (tensor([3 * width, 4], 8, 1.0), tensor([3 * width], 9, 1.0));
    vec![
        ("linear", run(x(), |x| linear(x, w1.clone(), b1.clone(), Activation::GeluTanh))),
        ("linear's weight", run(w1.clone(), |w| linear(x(), w, b1.clone(), Activation::None))),
        ("linear's bias", run(b1.clone(), |b| linear(x(), w1.clone(), b, Activation::None))),
        (
            "linear of few rows",
            run(tensor([1, 8, 200], 23, 1.0), |x| {
                linear(x, wide.clone(), wide_bias.clone(), Activation::None)
            }),
        ),
        (
            "its weight",
            run(wide.clone(), |w| {
                linear(tensor([1, 8, 200], 23, 1.0), w, wide_bias.clone(), Activation::None)
            }),
        ),
        ("adapted linear", run(x(), |x| adapted(x, a.clone(), b.clone()))),
        ("adapter's A", run(a.clone(), |a| adapted(x(), a, b.clone()))),
        ("adapter's B", run(b.clone(), |b| adapted(x(), a.clone(), b))),
        ("mlp", run(x(), |x| mlp(x, w1.clone(), b1.clone(), w2.clone(), b2.clone()))),
        ("mlp's weight", run(w2.clone(), |w| mlp(x(), w1.clone(), b1.clone(), w, b2.clone()))),
        ("norm", run(x(), |x| modulated_norm(x, modulation(), 0, 1, 1e-6))),
        ("norm's modulation", run(modulation(), |m| modulated_norm(x(), m, 0, 1, 1e-6))),
        ("residual", run(x(), |y| gated_residual(x(), y, modulation(), 2))),
        ("residual's gate", run(modulation(), |m| gated_residual(x(), x(), m, 2))),
        ("attention", run(qkv(), |qkv| attention(qkv, 4, None))),
        ("cross attention", run(x(), |q| cross_attention(q, words.clone(), mask.clone(), 4))),
        ("cross attention's keys", run(words.clone(), |words| cross_attention(x(), words, mask.clone(), 4))),
        ("window", run(qkv(), |qkv| attention(qkv, 4, Some(Window::Raster { left: 4, right: 4 })))),
        ("square", run(qkv(), |qkv| attention(qkv, 4, Some(Window::Square { side: 5, columns: 13 })))),
        ("linear attention", run(qkv(), |qkv| linear_attention(qkv, 4, FeatureMap::EluPlusOne))),
        ("short conv", run(qkv(), |qkv| short_conv(qkv, filter.clone(), bias.clone(), 0))),
        ("short conv's filter", run(filter.clone(), |f| short_conv(qkv(), f, bias.clone(), 0))),
        ("gated conv", run(qkv(), |qkv| gated_conv(qkv, filter.clone(), bias.clone(), 0))),
        ("gated conv's filter", run(filter.clone(), |f| gated_conv(qkv(), f, bias.clone(), 0))),
        ("gated inner", run(qkv(), |qkv| gated_inner(qkv, inner.clone(), inner_bias.clone(), 0))),
        ("gated inner's filter", run(inner.clone(), |f| gated_inner(qkv(), f, inner_bias.clone(), 0))),
        ("feature conv", run(qkv(), |x| gated_feature_conv(x, features.clone(), feature_bias.clone()))),
        (
            "feature conv's filter",
            run(features.clone(), |f| gated_feature_conv(qkv(), f, feature_bias.clone())),
        ),
        ("mamba2", run(projected(), |x| mamba2(x, weights(a_log.clone()), op))),
        ("mamba2's decay", run(a_log.clone(), |a_log| mamba2(projected(), weights(a_log), op))),
    ]
}

#[test]
fn results_do_not_depend_on_threads() {
    for precision in [Precision::F32, Precision::Bf16] {
        set_precision(precision);
        let on = |threads: usize| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(all)
        };
        let one = on(1);
        for threads in [2, 3] {
            for ((name, expected), (_, found)) in one.iter().zip(on(threads)) {
                assert!(*expected == found, "{name} in {precision:?} differs on {threads} threads");
            }
        }
    }
}
