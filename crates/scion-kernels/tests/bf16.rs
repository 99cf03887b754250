//! Operators with bf16 products against the f32 reference: close, and not the same.

mod common;

use burn::Tensor;
use common::{tensor, values};
use scion_kernels::adapted::{adapted_linear, adapted_linear_reference};
use scion_kernels::attention::{attention, attention_reference};
use scion_kernels::linear::{Activation, linear, linear_reference};
use scion_kernels::linear_attention::{FeatureMap, linear_attention, linear_attention_reference};
use scion_kernels::mlp::{mlp, mlp_reference};
use scion_kernels::{Precision, set_precision};

/// Root mean square of the difference over that of what is expected.
fn error(found: &[f32], expected: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let difference = square(&mut found.iter().zip(expected).map(|(f, e)| f - e));
    (difference / square(&mut expected.iter().copied())).sqrt()
}

/// bf16 keeps eight bits: each operand is off by up to 2⁻⁹, at random.
fn close<const D: usize, const E: usize>(
    what: &str,
    input: &Tensor<D>,
    found: Tensor<E>,
    expected: Tensor<E>,
) {
    let weight = tensor(found.dims(), 99, 1.0).detach();
    let output = error(&values(found.clone().detach()), &values(expected.clone().detach()));
    let [found, expected] = [found, expected].map(|out| (out * weight.clone()).sum().backward());
    let gradient = error(&values(input.grad(&found).unwrap()), &values(input.grad(&expected).unwrap()));
    for (part, error) in [("output", output), ("gradient", gradient)] {
        assert!((1e-5..1e-2).contains(&error), "{what}: {part} differs by {error}");
    }
}

#[test]
fn bf16_products_are_close() {
    set_precision(Precision::Bf16);
    for (tokens, heads, head) in [(49, 4, 32), (131, 3, 20), (64, 2, 64)] {
        let qkv = tensor([2, tokens, 3 * heads * head], 1, 1.5);
        let what = format!("attention over {tokens} tokens, {heads} heads of {head}");
        close(
            &what,
            &qkv,
            attention(qkv.clone(), heads, None),
            attention_reference(qkv.clone(), heads, None),
        );
        for map in [FeatureMap::EluPlusOne, FeatureMap::Relu] {
            close(
                &format!("linear {map:?} {what}"),
                &qkv,
                linear_attention(qkv.clone(), heads, map),
                linear_attention_reference(qkv.clone(), heads, map),
            );
        }
    }
    for activation in [Activation::None, Activation::GeluTanh] {
        let (x, w, b) = (tensor([2, 33, 70], 1, 1.0), tensor([50, 70], 2, 0.3), tensor([50], 3, 1.0));
        let found = linear(x.clone(), w.clone(), b.clone(), activation);
        let expected = linear_reference(x.clone(), w.clone(), b.clone(), activation);
        close(&format!("linear {activation:?}"), &x, found, expected);
        let (x7, w7, b7) = (tensor([1, 7, 210], 6, 1.0), tensor([300, 210], 7, 0.2), tensor([300], 8, 1.0));
        let found = linear(x7.clone(), w7.clone(), b7.clone(), activation);
        let expected = linear_reference(x7.clone(), w7, b7, activation);
        close(&format!("linear of few rows {activation:?}"), &x7, found, expected);
        let (down, up) = (tensor([9, 70], 4, 0.3), tensor([50, 9], 5, 0.3));
        let [found, expected] = [adapted_linear, adapted_linear_reference]
            .map(|op| op(x.clone(), w.clone(), b.clone(), down.clone(), up.clone(), 0.75, activation));
        close(&format!("adapted linear {activation:?}"), &x, found, expected);
    }
    let (x, w1, b1) = (tensor([2, 33, 70], 1, 1.0), tensor([150, 70], 2, 0.3), tensor([150], 3, 1.0));
    let (w2, b2) = (tensor([70, 150], 4, 0.3), tensor([70], 5, 1.0));
    let run = |op: fn(_, _, _, _, _) -> _| op(x.clone(), w1.clone(), b1.clone(), w2.clone(), b2.clone());
    close("mlp, input", &x, run(mlp), run(mlp_reference));
    close("mlp, first weight", &w1, run(mlp), run(mlp_reference));
    close("mlp, first bias", &b1, run(mlp), run(mlp_reference));
    close("mlp, second weight", &w2, run(mlp), run(mlp_reference));
    // Without gradients the same numbers.
    let inner = |t: &Tensor<2>| Tensor::from_inner(t.clone().inner());
    let plain = mlp(
        Tensor::from_inner(x.clone().inner()),
        inner(&w1),
        Tensor::from_inner(b1.clone().inner()),
        inner(&w2),
        Tensor::from_inner(b2.clone().inner()),
    );
    assert_eq!(values(plain), values(run(mlp)));
}
