//! Every fused operator against its plain reference: values and gradients, on regular, ragged and extreme
//! shapes.

mod common;

use burn::Tensor;
use burn::tensor::TensorData;
use common::{tensor, values};
use scion_kernels::adapted::{adapted_linear, adapted_linear_reference};
use scion_kernels::attention::{
    Window, attention, attention_reference, cross_attention, cross_attention_reference,
};
use scion_kernels::conv::{short_conv, short_conv_reference};
use scion_kernels::feature_conv::{gated_feature_conv, gated_feature_conv_reference};
use scion_kernels::hyena::{gated_conv, gated_conv_reference, gated_inner, gated_inner_reference};
use scion_kernels::linear::{Activation, linear, linear_reference};
use scion_kernels::linear_attention::{FeatureMap, linear_attention, linear_attention_reference};
use scion_kernels::mamba2::{Mamba2, Mamba2Weights, mamba2, mamba2_reference};
use scion_kernels::mlp::{mlp, mlp_reference};
use scion_kernels::norm::{modulated_norm, modulated_norm_reference};
use scion_kernels::residual::{gated_residual, gated_residual_reference};

/// Largest difference over the largest expected magnitude.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let top = expected.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    found
        .iter()
        .zip(expected)
        .map(|(f, e)| (f - e).abs())
        .fold(0f32, |m, d| if d > m || d.is_nan() { d } else { m })
        / top
}

/// Checks output and the gradients of every input: `inputs` are (tensor as flat rank-D) closures.
macro_rules! check {
    ($what:expr, [$($input:ident),+], $fused:expr, $reference:expr, $tolerance:expr) => {{
        let fused = $fused;
        let reference = $reference;
        let weight = tensor(fused.dims(), 99, 1.0).detach();
        let error_out = error(&values(fused.clone().detach()), &values(reference.clone().detach()));
        assert!(error_out < $tolerance, "{}: output differs by {error_out}", $what);
        let found = (fused * weight.clone()).sum().backward();
        let expected = (reference * weight).sum().backward();
        $(
            let (f, e) = ($input.grad(&found).unwrap(), $input.grad(&expected).unwrap());
            let e = error(&values(f), &values(e));
            assert!(e < $tolerance, "{}: gradient of {} differs by {e}", $what, stringify!($input));
        )+
    }};
}

#[test]
fn linear_matches_reference() {
    // Of eight rows and fewer, large weights are read as they lie.
    let few = [(1, 330, 101), (5, 77, 513), (8, 256, 300)];
    let any = [(1, 1, 1), (3, 5, 7), (17, 33, 49), (130, 128, 512), (300, 96, 31)];
    for (rows, inputs, outputs) in any.into_iter().chain(few) {
        for activation in [Activation::None, Activation::GeluTanh] {
            let x = tensor([1, rows, inputs], 1, 2.0);
            let w = tensor([outputs, inputs], 2, 0.5);
            let b = tensor([outputs], 3, 1.0);
            check!(
                format!("linear {rows}x{inputs}x{outputs} {activation:?}"),
                [x, w, b],
                linear(x.clone(), w.clone(), b.clone(), activation),
                linear_reference(x.clone(), w.clone(), b.clone(), activation),
                2e-5
            );
        }
    }
}

#[test]
fn adapted_linear_matches_reference() {
    for (rows, inputs, outputs, rank) in [(1, 1, 1, 1), (3, 5, 7, 2), (17, 33, 49, 9), (130, 128, 512, 16)] {
        for activation in [Activation::None, Activation::GeluTanh] {
            let x = tensor([1, rows, inputs], 1, 2.0);
            let w = tensor([outputs, inputs], 2, 0.5);
            let bias = tensor([outputs], 3, 1.0);
            let a = tensor([rank, inputs], 4, 0.5);
            let b = tensor([outputs, rank], 5, 0.5);
            let inputs = || (x.clone(), w.clone(), bias.clone(), a.clone(), b.clone());
            let fused = |(x, w, bias, a, b)| adapted_linear(x, w, bias, a, b, 0.75, activation);
            let reference = |(x, w, bias, a, b)| adapted_linear_reference(x, w, bias, a, b, 0.75, activation);
            check!(
                format!("adapted linear {rows}, {rank} {activation:?}"),
                [x, w, bias, a, b],
                fused(inputs()),
                reference(inputs()),
                2e-5
            );
        }
    }
}

#[test]
fn an_adapter_of_zero_changes_no_bit() {
    for activation in [Activation::None, Activation::GeluTanh] {
        let (x, w, bias) = (tensor([2, 49, 96], 1, 2.0), tensor([130, 96], 2, 0.5), tensor([130], 3, 1.0));
        let (a, b) = (tensor([8, 96], 4, 1.0), tensor([130, 8], 5, 0.0));
        let plain = linear(x.clone(), w.clone(), bias.clone(), activation);
        let adapted = adapted_linear(x, w, bias, a, b, 2.0, activation);
        assert_eq!(values(adapted), values(plain), "{activation:?}");
    }
}

#[test]
fn linear_accepts_non_contiguous_inputs() {
    let x = tensor([4, 6, 8], 1, 1.0);
    let w = tensor([5, 6], 2, 1.0);
    let b = tensor([5], 3, 1.0);
    check!(
        "linear on a transposed view",
        [x, w, b],
        linear(x.clone().swap_dims(1, 2), w.clone(), b.clone(), Activation::None),
        linear_reference(x.clone().swap_dims(1, 2), w.clone(), b.clone(), Activation::None),
        2e-5
    );
}

#[test]
fn modulated_norm_matches_reference() {
    for (n, tokens, width, scale) in [(1, 1, 4, 1.0), (2, 7, 33, 1.0), (3, 49, 128, 100.0), (2, 5, 48, 1e-3)]
    {
        let x = tensor([n, tokens, width], 1, scale);
        let m = tensor([n, 6 * width], 2, 1.0);
        check!(
            format!("norm {n}x{tokens}x{width} at {scale}"),
            [x, m],
            modulated_norm(x.clone(), m.clone(), 3, 4, 1e-6),
            modulated_norm_reference(x.clone(), m.clone(), 3, 4, 1e-6),
            1e-4
        );
    }
}

#[test]
fn gated_residual_matches_reference() {
    for (n, tokens, width) in [(1, 1, 1), (2, 7, 33), (3, 49, 128)] {
        let x = tensor([n, tokens, width], 1, 1.0);
        let y = tensor([n, tokens, width], 2, 1.0);
        let m = tensor([n, 6 * width], 3, 1.0);
        check!(
            format!("residual {n}x{tokens}x{width}"),
            [x, y, m],
            gated_residual(x.clone(), y.clone(), m.clone(), 5),
            gated_residual_reference(x.clone(), y.clone(), m.clone(), 5),
            1e-5
        );
    }
}

#[test]
fn mlp_matches_reference() {
    for (n, tokens, width, hidden) in [(1, 1, 1, 1), (2, 3, 5, 7), (1, 130, 48, 144), (2, 49, 33, 20)] {
        let x = tensor([n, tokens, width], 1, 2.0);
        let w1 = tensor([hidden, width], 2, 0.5);
        let b1 = tensor([hidden], 3, 1.0);
        let w2 = tensor([width, hidden], 4, 0.5);
        let b2 = tensor([width], 5, 1.0);
        check!(
            format!("mlp {n}x{tokens}x{width} of {hidden}"),
            [x, w1, b1, w2, b2],
            mlp(x.clone(), w1.clone(), b1.clone(), w2.clone(), b2.clone()),
            mlp_reference(x.clone(), w1.clone(), b1.clone(), w2.clone(), b2.clone()),
            2e-5
        );
    }
}

#[test]
fn attention_matches_reference() {
    let windows = [
        None,
        Some(Window::Raster { left: 4, right: 4 }),
        Some(Window::Raster { left: 0, right: 0 }),
        Some(Window::Raster { left: 3, right: 1 }),
    ];
    for (n, tokens, heads, head) in [
        (1, 1, 1, 1),
        (2, 7, 3, 5),
        (2, 49, 4, 32),
        (1, 131, 2, 8),
        (1, 65, 2, 72),
        (2, 270, 5, 4),
        (1, 530, 2, 8),
    ] {
        for window in windows {
            for scale in [1.0, 12.0] {
                let qkv = tensor([n, tokens, 3 * heads * head], 1, scale);
                check!(
                    format!("attention {n}x{tokens} {heads} heads of {head} {window:?} at {scale}"),
                    [qkv],
                    attention(qkv.clone(), heads, window),
                    attention_reference(qkv.clone(), heads, window),
                    1e-4
                );
            }
        }
    }
}

/// Sizes of convolutions: batch, tokens, width, taps, taps ahead.
const CONVOLUTIONS: [(usize, usize, usize, usize, usize); 11] = [
    (1, 1, 1, 4, 0),
    (2, 3, 5, 4, 0),
    (2, 49, 16, 4, 0),
    (3, 10, 7, 1, 0),
    (2, 20, 33, 6, 0),
    (1, 2, 48, 5, 0),
    (2, 20, 33, 7, 3),
    (1, 2, 18, 5, 4),
    (2, 300, 5, 4, 0), // more tokens than one task takes
    (1, 257, 17, 7, 3),
    (1, 130, 3, 6, 5),
];

#[test]
fn cross_attention_matches_reference() {
    for (n, queries, keys, heads, head) in [
        (1, 1, 1, 1, 1),
        (2, 7, 3, 3, 5),
        (3, 49, 16, 4, 32),
        (1, 131, 300, 2, 72),
        (2, 3, 270, 5, 4),
        (1, 530, 257, 2, 8),
    ] {
        for scale in [1.0, 12.0] {
            let q = tensor([n, queries, heads * head], 1, scale);
            let kv = tensor([n, keys, 2 * heads * head], 2, scale);
            // The first image sees everything, the second its first key alone, the third nothing, which is everything.
            let hidden = |image: usize, key: usize| image == 2 || image == 1 && key > 0;
            let masked = |i: usize| if hidden(i / keys, i % keys) { -10_000.0 } else { 0.0 };
            // Scores of what is hidden as a whole lie near -10000, where f32 has steps of 1e-3.
            let tolerance = if n > 2 { 1e-3 } else { 1e-4 };
            let bias: Vec<f32> = (0..n * keys).map(masked).collect();
            let bias = Tensor::<2>::from_data(TensorData::new(bias, [n, keys]), &q.device());
            check!(
                format!("cross attention {n}x{queries} to {keys}, {heads} heads of {head} at {scale}"),
                [q, kv],
                cross_attention(q.clone(), kv.clone(), bias.clone(), heads),
                cross_attention_reference(q.clone(), kv.clone(), bias.clone(), heads),
                tolerance
            );
        }
    }
}

#[test]
fn attention_on_a_grid_matches_reference() {
    for (rows, columns, window) in [
        (5, 5, Window::Square { side: 3, columns: 5 }),
        (7, 9, Window::Square { side: 7, columns: 9 }),
        (4, 6, Window::Square { side: 1, columns: 6 }),
        (6, 6, Window::Circle { radius: 3, columns: 6 }),
        (3, 8, Window::Circle { radius: 9, columns: 8 }),
        (5, 4, Window::Circle { radius: 1, columns: 4 }),
    ] {
        let qkv = tensor([2, rows * columns, 3 * 2 * 12], 1, 3.0);
        check!(
            format!("attention on {rows}x{columns} with {window:?}"),
            [qkv],
            attention(qkv.clone(), 2, Some(window)),
            attention_reference(qkv.clone(), 2, Some(window)),
            1e-4
        );
    }
}

#[test]
fn linear_attention_matches_reference() {
    for (n, tokens, heads, head) in [(1, 1, 1, 1), (2, 7, 3, 5), (2, 49, 4, 32), (1, 131, 2, 72)] {
        for map in [FeatureMap::EluPlusOne, FeatureMap::Relu] {
            for scale in [1.0, 12.0] {
                let qkv = tensor([n, tokens, 3 * heads * head], 1, scale);
                check!(
                    format!("linear attention {n}x{tokens} {heads} heads of {head} {map:?} at {scale}"),
                    [qkv],
                    linear_attention(qkv.clone(), heads, map),
                    linear_attention_reference(qkv.clone(), heads, map),
                    1e-4
                );
            }
        }
    }
}

#[test]
fn gated_conv_matches_reference() {
    for (n, tokens, width, taps, ahead) in CONVOLUTIONS {
        let x = tensor([n, tokens, 3 * width], 1, 1.0);
        let f = tensor([3 * width, taps], 2, 1.0);
        let b = tensor([3 * width], 3, 1.0);
        check!(
            format!("gated conv {n}x{tokens}x{width} with {taps} taps, {ahead} ahead"),
            [x, f, b],
            gated_conv(x.clone(), f.clone(), b.clone(), ahead),
            gated_conv_reference(x.clone(), f.clone(), b.clone(), ahead),
            1e-5
        );
    }
}

#[test]
fn gated_inner_matches_reference() {
    for (n, tokens, width, taps, ahead) in CONVOLUTIONS {
        let x = tensor([n, tokens, 3 * width], 1, 1.0);
        let f = tensor([width, taps], 2, 1.0);
        let b = tensor([width], 3, 1.0);
        check!(
            format!("gated inner {n}x{tokens}x{width} with {taps} taps, {ahead} ahead"),
            [x, f, b],
            gated_inner(x.clone(), f.clone(), b.clone(), ahead),
            gated_inner_reference(x.clone(), f.clone(), b.clone(), ahead),
            1e-5
        );
    }
}

#[test]
fn short_conv_matches_reference() {
    for (n, tokens, width, taps, ahead) in CONVOLUTIONS {
        let x = tensor([n, tokens, width], 1, 1.0);
        let f = tensor([width, taps], 2, 1.0);
        let b = tensor([width], 3, 1.0);
        check!(
            format!("short conv {n}x{tokens}x{width} with {taps} taps, {ahead} ahead"),
            [x, f, b],
            short_conv(x.clone(), f.clone(), b.clone(), ahead),
            short_conv_reference(x.clone(), f.clone(), b.clone(), ahead),
            1e-5
        );
    }
}

#[test]
fn gated_feature_conv_matches_reference() {
    for (n, tokens, hidden, taps) in [(1, 1, 1, 4), (2, 3, 5, 4), (3, 49, 32, 4), (2, 7, 11, 1), (1, 2, 3, 9)]
    {
        let x = tensor([n, tokens, 3 * hidden], 1, 1.0);
        let f = tensor([tokens, taps], 2, 1.0);
        let b = tensor([tokens], 3, 1.0);
        check!(
            format!("gated feature conv {n}x{tokens}x{hidden} with {taps} taps"),
            [x, f, b],
            gated_feature_conv(x.clone(), f.clone(), b.clone()),
            gated_feature_conv_reference(x.clone(), f.clone(), b.clone()),
            1e-5
        );
    }
}

#[test]
fn mamba2_matches_reference() {
    for (n, tokens, heads, channels, state, both) in [
        (1, 1, 1, 1, 1, false),
        (2, 7, 3, 5, 17, false),
        (2, 70, 10, 4, 16, false),
        (1, 33, 2, 16, 64, false),
        (1, 130, 18, 16, 64, false),
        (2, 9, 3, 5, 17, true),
        (1, 65, 9, 2, 8, true),
        (2, 135, 2, 3, 4, true),
    ] {
        for scale in [1.0, 8.0] {
            let (inner, directions) = (heads * channels, if both { 2 } else { 1 });
            let convolved = inner + 2 * state;
            let x = tensor([n, tokens, inner + convolved + heads], 1, scale);
            let weights = Mamba2Weights {
                filter: tensor([convolved, if both { 7 } else { 4 }], 2, 1.0),
                bias: tensor([convolved], 3, 1.0),
                dt_bias: tensor([directions * heads], 4, 1.0),
                a_log: tensor([directions * heads], 5, 1.0),
                d: tensor([directions * heads], 6, 1.0),
                norm: tensor([inner], 7, 1.0),
            };
            let Mamba2Weights { filter, bias, dt_bias, a_log, d, norm } = weights.clone();
            let op = Mamba2 { heads, state, both };
            check!(
                format!("{op:?} on {n}x{tokens} with {channels} channels at {scale}"),
                [x, filter, bias, dt_bias, a_log, d, norm],
                mamba2(x.clone(), weights.clone(), op),
                mamba2_reference(x.clone(), weights.clone(), op),
                1e-4
            );
        }
    }
}

/// The tests of this file again, with the instruction sets that this machine would not choose.
#[test]
fn every_instruction_set_matches_reference() {
    for set in ["portable", "avx2", "avx512", "avx512bf16"] {
        let mut tests = std::process::Command::new(std::env::current_exe().unwrap());
        tests.args(["--skip", "every_instruction_set"]).env("SCION_ISA", set);
        let output = tests.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && text.contains("attention_matches_reference ... ok"),
            "{set}: {text}"
        );
    }
}
