//! Against the original implementation: fixtures/diffusion, made by scripts/fixtures/diffusion.py; and against diffusers:
//! fixtures/dpm-solver, made by scripts/fixtures/dpm_solver.py.

use safetensors::{Dtype, SafeTensors};

use super::*;
use crate::error::Result;

/// A fixture file.
struct Golden(Vec<u8>);

impl Golden {
    fn open(name: &str) -> Self {
        Self::read(&format!("diffusion/{name}"))
    }

    fn read(name: &str) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures");
        Self(std::fs::read(format!("{folder}/{name}.safetensors")).unwrap())
    }

    /// Any tensor as f64.
    fn values(&self, name: &str) -> Vec<f64> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        let bytes = tensor.data();
        match tensor.dtype() {
            Dtype::F32 => {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect()
            }
            Dtype::F64 => bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::I64 => {
                bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect()
            }
            other => panic!("{name} is {other:?}"),
        }
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.values(name).iter().map(|&v| v as f32).collect()
    }

    fn indices(&self, name: &str) -> Vec<usize> {
        self.values(name).iter().map(|&v| v as usize).collect()
    }
}

/// |found − expected| ≤ relative·|expected| + absolute, value by value.
fn assert_close(what: &str, found: &[f64], expected: &[f64], relative: f64, absolute: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= relative * b.abs() + absolute, "{what}[{i}]: {a}, expected {b}");
    }
}

/// |found − expected| ≤ tolerance times the largest expected value.
fn assert_close_to_scale(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    let scale = expected.iter().fold(0.0_f64, |scale, v| scale.max(v.abs()));
    assert_close(what, &widen(found), expected, 0.0, tolerance * scale);
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

#[test]
fn tables() {
    let golden = Golden::open("tables");
    let base = Schedule::linear();
    for name in ["linear", "1000", "250", "ddim50", "10", "10,15,20"] {
        let schedule =
            if name == "linear" { base.clone() } else { base.respaced(&name.parse().unwrap()).unwrap() };
        let check = |table: &str, found: &[f64]| {
            let table = format!("{name}.{table}");
            assert_close(&table, found, &golden.values(&table), 1e-12, 0.0);
        };
        check("betas", &schedule.betas);
        check("posterior_log_variance_clipped", &schedule.posterior_log_variance_clipped);
        if name != "linear" {
            assert_eq!(schedule.timestep_map, golden.indices(&format!("{name}.timestep_map")));
        }
        if name == "1000" {
            continue;
        }
        check("alphas_cumprod", &schedule.alphas_cumprod);
        check("alphas_cumprod_prev", &schedule.alphas_cumprod_prev);
        check("alphas_cumprod_next", &schedule.alphas_cumprod_next);
        check("sqrt_alphas_cumprod", &schedule.sqrt_alphas_cumprod);
        check("sqrt_one_minus_alphas_cumprod", &schedule.sqrt_one_minus_alphas_cumprod);
        check("log_one_minus_alphas_cumprod", &schedule.log_one_minus_alphas_cumprod);
        check("sqrt_recip_alphas_cumprod", &schedule.sqrt_recip_alphas_cumprod);
        check("sqrt_recipm1_alphas_cumprod", &schedule.sqrt_recipm1_alphas_cumprod);
        check("posterior_variance", &schedule.posterior_variance);
        check("posterior_mean_coef1", &schedule.posterior_mean_coef1);
        check("posterior_mean_coef2", &schedule.posterior_mean_coef2);
    }
}

#[test]
fn timesteps_at_ties_and_accumulated_rounding() {
    let golden = Golden::open("tables");
    for n in [7, 21, 67, 371, 999] {
        let steps = Respacing::Stride(n).steps(1000).unwrap();
        assert_eq!(steps, golden.indices(&format!("{n}.timestep_map")), "{n}");
    }
}

/// The loss of a fixture's batch, and its gradient.
fn loss(golden: &Golden, prefix: &str, out: &[f32]) -> (HybridLoss, Vec<f32>) {
    let input = |name: &str| golden.floats(&format!("{prefix}{name}"));
    let t = golden.indices(&format!("{prefix}t"));
    let mut grad = vec![f32::NAN; out.len()];
    let schedule = Schedule::linear();
    let loss = hybrid_loss(&schedule, out, &input("x0"), &input("noise"), &input("x_t"), &t, Some(&mut grad))
        .unwrap();
    (loss, grad)
}

#[test]
fn losses_and_gradients() {
    let golden = Golden::open("loss");
    for prefix in ["", "extreme."] {
        let (loss, grad) = loss(&golden, prefix, &golden.floats(&format!("{prefix}out")));
        let expect = |name: &str| golden.values(&format!("{prefix}{name}"));
        let total: Vec<f64> =
            loss.mse_per_sample.iter().zip(&loss.vb_per_sample).map(|(a, b)| a + b).collect();
        assert_close("f64 mse", &loss.mse_per_sample, &expect("f64.mse"), 1e-9, 0.0);
        assert_close("f64 vb", &loss.vb_per_sample, &expect("f64.vb"), 1e-6, 0.0);
        assert_close("f64 loss", &total, &expect("f64.loss"), 1e-6, 0.0);
        assert_close("f64 grad", &widen(&grad), &expect("f64.grad"), 1e-5, 1e-12);
        assert_close("f32 mse", &loss.mse_per_sample, &expect("f32.mse"), 1e-5, 0.0);
        // In the extreme batch's first three samples (t = 0) the original's f32 rounds small bin probabilities to
        // multiples of 6e-8 and then to the clamp: only its double run says what the formula gives.
        let kept = if prefix.is_empty() { 0 } else { 3 };
        assert_close("f32 loss", &total[kept..], &expect("f32.loss")[kept..], 1e-5, 0.0);
        let from = kept * grad.len() / total.len();
        assert_close_to_scale("f32 grad", &grad[from..], &expect("f32.grad")[from..], 1e-5);
    }
}

#[test]
fn loss_without_variance_channels() {
    let golden = Golden::open("loss");
    let eps: Vec<f32> = golden.floats("out").chunks_exact(96).flat_map(|out| out[..48].to_vec()).collect();
    let (loss, grad) = loss(&golden, "", &eps);
    assert_eq!((loss.vb, loss.total), (0.0, loss.mse));
    assert_close("mse", &loss.mse_per_sample, &golden.values("plain.loss"), 1e-6, 0.0);
    assert_close_to_scale("grad", &grad, &golden.values("plain.grad"), 1e-6);
}

#[test]
fn noising_and_moments() {
    let (inputs, golden) = (Golden::open("loss"), Golden::open("moments"));
    let schedule = Schedule::linear();
    let (x0, noise, t) = (inputs.floats("x0"), inputs.floats("noise"), inputs.indices("t"));
    let x_t = q_sample(&schedule, &x0, &noise, &t).unwrap();
    assert_close("x_t", &widen(&x_t), &inputs.values("x_t"), 1e-6, 1e-6);

    let (x_t, out) = (inputs.floats("x_t"), inputs.floats("out"));
    for (name, channels) in [("learned", 96), ("fixed", 48)] {
        for (clip, word) in [(false, "free"), (true, "clipped")] {
            let expect = |key: &str| golden.values(&format!("{name}.{word}.{key}"));
            let [mean, log_variance, x0] = ["mean", "log_variance", "pred_xstart"].map(expect);
            for (n, &index) in t.iter().enumerate() {
                let range = n * 48..(n + 1) * 48;
                let out = &out[n * 96..n * 96 + channels];
                let p = moments(&schedule, index, &x_t[range.clone()], out, 1, clip).unwrap();
                // At t = 999 the predicted x0 is the difference of numbers about 157 times as large.
                let absolute = if index == 999 { 1e-4 } else { 1e-5 };
                assert_close("x0", &p.pred_x0, &x0[range.clone()], 1e-5, absolute);
                assert_close("mean", &p.mean, &mean[range.clone()], 1e-5, 1e-5);
                assert_close("log-variance", &p.log_variance, &log_variance[range], 1e-6, 0.0);
            }
        }
    }
}

/// The fixture's model: out = A x + 0.3 tanh(B x + g t/1000 + E\[y\]) at each of six pixels.
struct AnalyticModel {
    a: Vec<f64>,
    b: Vec<f64>,
    g: Vec<f64>,
    e: Vec<f64>,
}

impl AnalyticModel {
    fn open(golden: &Golden, prefix: &str) -> Self {
        let [a, b, g, e] = ["a", "b", "g", "e"].map(|name| golden.values(&format!("{prefix}{name}")));
        Self { a, b, g, e }
    }

    fn forward(&self, x: &[f32], t: usize, labels: &[usize]) -> Result<Vec<f32>> {
        let outputs = self.g.len();
        let mut out = Vec::new();
        for (x, &y) in x.chunks_exact(24).zip(labels) {
            for o in 0..outputs {
                let row = |m: &[f64], pixel: usize| {
                    (0..4).map(|c| m[o * 4 + c] * f64::from(x[c * 6 + pixel])).sum::<f64>()
                };
                let shift = self.g[o] * t as f64 / 1000.0 + self.e[y * outputs + o];
                let value = |pixel| row(&self.a, pixel) + 0.3 * (row(&self.b, pixel) + shift).tanh();
                out.extend((0..6).map(|pixel| value(pixel) as f32));
            }
        }
        Ok(out)
    }
}

/// Runs ten steps from the fixture's x_T with the fixture's noise.
fn run(
    golden: &Golden,
    steps: &str,
    sampling: Sampling,
    model: impl FnMut(&[f32], usize) -> Result<Vec<f32>>,
) -> Vec<f32> {
    let schedule = Schedule::linear().respaced(&steps.parse().unwrap()).unwrap();
    let stored = golden.floats("z");
    let mut calls = 0;
    let noise = |n: usize, z: &mut [f32]| {
        let at = (calls / 3) * 72 + n * 24;
        z.copy_from_slice(&stored[at..at + 24]);
        calls += 1;
    };
    sample_loop(&schedule, sampling, [3, 4, 3, 2], golden.floats("x_T"), noise, model, |_| Ok(())).unwrap()
}

#[test]
fn sampling_runs() {
    let golden = Golden::open("sampling");
    let y = golden.indices("y");
    for (name, steps, sampler, clip_denoised, prefix) in [
        ("ddpm", "10", Sampler::Ddpm, false, ""),
        ("ddpm.clipped", "10", Sampler::Ddpm, true, ""),
        ("ddpm.plain", "10", Sampler::Ddpm, false, "plain."),
        ("ddim0", "ddim10", Sampler::Ddim { eta: 0.0 }, false, ""),
        ("ddim0.5", "ddim10", Sampler::Ddim { eta: 0.5 }, false, ""),
        ("ddim0.5.clipped", "ddim10", Sampler::Ddim { eta: 0.5 }, true, ""),
    ] {
        let model = AnalyticModel::open(&golden, prefix);
        let found = run(&golden, steps, Sampling { sampler, clip_denoised }, |x, t| model.forward(x, t, &y));
        assert_close_to_scale(name, &found, &golden.values(name), 1e-4);
    }
}

#[test]
fn guided_half_batch_equals_the_doubled_batch() {
    let golden = Golden::open("sampling");
    let (model, y) = (AnalyticModel::open(&golden, ""), golden.indices("y"));
    let guidance = Guidance { scale: 4.0, channels: GuidanceChannels::FirstThree };
    let found = run(&golden, "10", Sampler::Ddpm.into(), |x, t| {
        let (cond, uncond) = (model.forward(x, t, &y)?, model.forward(x, t, &[2; 3])?);
        guidance.combine(&cond, &uncond, [3, 4, 3, 2])
    });
    let doubled = golden.values("cfg.doubled");
    assert_close_to_scale("cfg", &found, &doubled[..72], 1e-4);
}

#[test]
fn dpm_solver_runs() {
    let (golden, runs) = (Golden::open("sampling"), Golden::read("dpm-solver/runs"));
    let y = golden.indices("y");
    let run = |prefix: &str, steps: usize| {
        let model = AnalyticModel::open(&golden, prefix);
        let sampling = Sampler::DpmSolverPlusPlus.into();
        let mut timesteps = Vec::new();
        let found = run(&golden, &format!("dpm{steps}"), sampling, |x, t| {
            timesteps.push(t);
            model.forward(x, t, &y)
        });
        (timesteps, found)
    };
    for steps in 1..=25 {
        let (timesteps, found) = run("", steps);
        assert_eq!(timesteps, runs.indices(&format!("timesteps.{steps}")));
        assert_close_to_scale("learned", &found, &runs.values(&format!("learned.{steps}")), 1e-6);
        assert_close_to_scale(
            "plain",
            &run("plain.", steps).1,
            &runs.values(&format!("plain.{steps}")),
            1e-6,
        );
    }
    // The scheduler's noise levels are in single precision.
    assert_close_to_scale("rounded", &run("", 20).1, &runs.values("rounded.20"), 1e-4);
}
