//! Every operator against PyTorch on random weights under the published names: values and gradients.

use std::path::Path;

use burn::Tensor;
use burn::tensor::{Device, TensorData};
use scion::checkpoint::Checkpoint;
use scion::model::apply_weights;
use scion::operator::{
    AttentionConfig, Direction, FeatureMap, GridWindow, HyenaSeConfig, HyenaXConfig, HyenaYConfig,
    IdentityConfig, Init, KvCompressionConfig, LinearAttentionConfig, Mamba2Config, MlpConfig,
    MlpHyenaXConfig, NeighborhoodConfig, OperatorConfig, SlidingWindowConfig, square_grid,
};
use scion::train::collect;

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

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

fn golden(name: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    Checkpoint::open(&folder.join(format!("{name}.safetensors"))).unwrap()
}

fn check(case: &str, config: &OperatorConfig) {
    let golden = golden(&format!("operators/{case}"));
    let tokens = golden.entry("x").unwrap().shape[1];
    check_on(square_grid(tokens), case, config, &golden);
}

fn check_on(grid: [usize; 2], case: &str, config: &OperatorConfig, golden: &Checkpoint) {
    let device = Device::flex().autodiff();
    let shape = golden.entry("x").unwrap().shape.clone();
    let operator = config.init(shape[2], &mut Init::empty(&device)).unwrap();
    // A variant's name is no level of its own, so the operator's parameters have their published names.
    let operator = apply_weights(operator, |name| golden.read_f32(name).map(Some)).unwrap();
    let tensor = |name: &str| {
        Tensor::<3>::from_data(TensorData::new(golden.read_f32(name).unwrap(), shape.clone()), &device)
    };
    let x = tensor("x").require_grad();
    let out = operator.forward(x.clone(), grid);
    let difference = error(&values(out.clone().detach()), &golden.read_f32("out").unwrap());
    assert!(difference < 1e-5, "{case}: output differs by {difference}");
    let gradients = (out * tensor("w")).sum().backward();
    let dx = values(x.grad(&gradients).unwrap());
    let mut found = collect(&operator, gradients);
    found.insert("x".into(), dx);
    for (name, gradient) in &found {
        let difference = error(gradient, &golden.read_f32(&format!("grad.{name}")).unwrap());
        assert!(difference < 1e-4, "{case}: gradient of {name} differs by {difference}");
    }
    let compared = golden.names().filter(|name| name.starts_with("grad.")).count();
    assert_eq!(compared, found.len(), "{case}: every gradient is compared");
}

#[test]
fn sliding_window_matches_pytorch() {
    for (case, heads, left, right) in [("a", 2, 4, 4), ("b", 3, 2, 1), ("c", 1, 0, 5)] {
        let config = SlidingWindowConfig { heads, left, right };
        check(&format!("sliding-window-{case}"), &OperatorConfig::SlidingWindow(config));
    }
}

#[test]
fn hyena_x_matches_pytorch() {
    for (case, kernel) in [("a", 4), ("b", 3), ("c", 4)] {
        check(
            &format!("hyena-x-{case}"),
            &OperatorConfig::HyenaX(HyenaXConfig { kernel, ..Default::default() }),
        );
    }
}

#[test]
fn hyena_se_matches_pytorch() {
    for (case, kernel, inner_kernel) in [("a", 4, 4), ("b", 3, 5), ("c", 4, 2)] {
        let config = HyenaSeConfig { kernel, inner_kernel, ..Default::default() };
        check(&format!("hyena-se-{case}"), &OperatorConfig::HyenaSe(config));
    }
}

#[test]
fn hyena_y_matches_pytorch() {
    for (case, inner_kernel) in [("a", 4), ("b", 3), ("c", 4)] {
        let config = HyenaYConfig { inner_kernel, ..Default::default() };
        check(&format!("hyena-y-{case}"), &OperatorConfig::HyenaY(config));
    }
}

#[test]
fn filters_that_look_both_ways_match_pytorch() {
    let direction = Direction::Both;
    for (case, kernel) in [("both", 3), ("both-b", 4), ("both-c", 2)] {
        let config = HyenaXConfig { kernel, direction };
        check(&format!("hyena-x-{case}"), &OperatorConfig::HyenaX(config));
    }
    for (case, kernel, inner_kernel) in [("both", 3, 5), ("both-b", 4, 2), ("both-c", 2, 3)] {
        let config = HyenaSeConfig { kernel, inner_kernel, direction };
        check(&format!("hyena-se-{case}"), &OperatorConfig::HyenaSe(config));
    }
    for (case, inner_kernel) in [("both", 4), ("both-b", 3), ("both-c", 2)] {
        let config = HyenaYConfig { inner_kernel, direction };
        check(&format!("hyena-y-{case}"), &OperatorConfig::HyenaY(config));
    }
}

#[test]
fn mamba2_matches_a_plain_recurrence() {
    for (case, d_state, head_dim, expand, conv_kernel, direction) in [
        ("a", 8, 4, 2, 4, Direction::Forward),
        ("b", 17, 3, 1, 3, Direction::Forward),
        ("c", 16, 8, 3, 4, Direction::Forward),
        ("both", 5, 4, 2, 3, Direction::Both),
        ("both-b", 16, 8, 1, 4, Direction::Both),
        ("both-c", 3, 3, 2, 2, Direction::Both),
    ] {
        let config = Mamba2Config { d_state, head_dim, expand, conv_kernel, direction };
        check(&format!("mamba2-{case}"), &OperatorConfig::Mamba2(config));
    }
}

#[test]
fn neighborhood_matches_pytorch() {
    for (case, heads, window) in [
        ("a", 2, GridWindow::Square(3)),
        ("b", 3, GridWindow::Square(5)),
        ("c", 1, GridWindow::Circle(3)),
        ("d", 2, GridWindow::Circle(2)),
        ("e", 1, GridWindow::Circle(5)),
    ] {
        let config = NeighborhoodConfig { heads, window };
        check(&format!("neighborhood-{case}"), &OperatorConfig::Neighborhood(config));
    }
}

#[test]
fn kv_compression_matches_the_original_code() {
    for (case, heads, factor, grid) in [("a", 2, 2, [4, 4]), ("b", 3, 2, [4, 6]), ("c", 1, 3, [6, 3])] {
        let config = OperatorConfig::KvCompression(KvCompressionConfig { heads, factor });
        let case = format!("kv-compression/operator-{case}");
        check_on(grid, &case, &config, &golden(&case));
    }
}

#[test]
fn linear_attention_matches_pytorch() {
    for (case, heads, feature_map) in [
        ("a", 2, FeatureMap::EluPlusOne),
        ("b", 3, FeatureMap::Relu),
        ("c", 1, FeatureMap::EluPlusOne),
        ("d", 2, FeatureMap::Relu),
        ("e", 1, FeatureMap::Relu),
    ] {
        let config = LinearAttentionConfig { heads, feature_map };
        check(&format!("linear-attention-{case}"), &OperatorConfig::LinearAttention(config));
    }
}

#[test]
fn mlp_hyena_x_matches_pytorch() {
    for (case, ratio, tokens, kernel) in [("a", 2.0, 16, 4), ("b", 0.5, 7, 3), ("c", 3.0, 5, 4)] {
        let config = MlpHyenaXConfig { ratio, tokens, kernel };
        check(&format!("mlp-hyena-x-{case}"), &OperatorConfig::MlpHyenaX(config));
    }
}

#[test]
fn identity_changes_nothing() {
    let device = Device::flex();
    let operator = OperatorConfig::Identity(IdentityConfig {}).init(4, &mut Init::empty(&device)).unwrap();
    let x = Tensor::<3>::from_data([[[1.0, -2.0, 0.5, 3.0]]], &device);
    assert_eq!(values(operator.forward(x.clone(), [1, 1])), values(x));
}

#[test]
fn mlp_matches_pytorch() {
    for (case, ratio) in [("a", 3.0), ("b", 0.5), ("c", 6.0)] {
        check(&format!("mlp-{case}"), &OperatorConfig::Mlp(MlpConfig { ratio }));
    }
}

#[test]
fn a_config_that_does_not_fit_is_refused() {
    let attention = OperatorConfig::Attention(AttentionConfig { heads: 5 });
    assert!(attention.check(16, 4).is_err());
    assert!(OperatorConfig::Mlp(MlpConfig { ratio: 0.3 }).check(16, 4).is_err());
    let window = SlidingWindowConfig { heads: 2, left: 9, right: 9 };
    assert!(OperatorConfig::SlidingWindow(window).check(16, 4).is_err());
}
