//! What a new operator takes over from the one it replaces, so that an edit starts near the teacher.

use std::collections::HashMap;

use burn::Tensor;
use burn::tensor::{Device, TensorData};
use scion_kernels::linear::{Activation, linear};
use scion_kernels::with_values;

use crate::error::{Error, Result};
use crate::model::{parameters, update_parameters};
use crate::operator::{
    AttentionConfig, Direction, KvCompressionConfig, LinearAttentionConfig, MlpConfig, NeighborhoodConfig,
    Operator, OperatorConfig, SlidingWindowConfig,
};

/// An operator whose weights are taken over.
#[derive(Debug)]
pub struct Ancestor {
    config: OperatorConfig,
    width: usize,
    weights: HashMap<String, Vec<f32>>,
    /// The MLP's hidden units that matter, most important first, and their mean activations by unit. All in order, with
    /// none known, unless [`Ancestor::rank`] was called.
    ranked: Vec<usize>,
    means: Vec<f32>,
}

/// Checks that `new` can inherit from `old`.
///
/// # Errors
/// A plan error that names both.
pub fn check_inherits(new: &OperatorConfig, old: &OperatorConfig) -> Result<()> {
    let fail =
        |why: &str| Err(Error::Plan(format!("{} cannot inherit from {}: {why}", new.name(), old.name())));
    match (new, old) {
        (OperatorConfig::Identity(_), _) | (OperatorConfig::Mlp(_), OperatorConfig::Mlp(_)) => Ok(()),
        (OperatorConfig::MlpHyenaX(_) | OperatorConfig::Mlp(_), _) => {
            fail("only an MLP inherits from an MLP; use init = \"random\"")
        }
        (new, old) => match (heads(new), heads(old)) {
            (_, None) => fail("it has no projections of queries, keys and values; use init = \"random\""),
            (Some(new), Some(old)) if new != old => fail(&format!("it has {new} heads instead of {old}")),
            _ => Ok(()),
        },
    }
}

/// Whether what is inherited depends on the hidden units' activations.
pub fn needs_activations(new: &OperatorConfig, old: &OperatorConfig) -> bool {
    matches!((new, old), (OperatorConfig::Mlp(new), OperatorConfig::Mlp(old)) if new.ratio < old.ratio)
}

/// Heads of an operator with projections qkv and proj.
fn heads(config: &OperatorConfig) -> Option<usize> {
    match config {
        OperatorConfig::Attention(AttentionConfig { heads })
        | OperatorConfig::SlidingWindow(SlidingWindowConfig { heads, .. })
        | OperatorConfig::Neighborhood(NeighborhoodConfig { heads, .. })
        | OperatorConfig::KvCompression(KvCompressionConfig { heads, .. })
        | OperatorConfig::LinearAttention(LinearAttentionConfig { heads, .. }) => Some(*heads),
        _ => None,
    }
}

impl Ancestor {
    /// The operator that is replaced, of tokens of the given width.
    pub fn new(config: &OperatorConfig, operator: &Operator, width: usize) -> Self {
        let mut weights = HashMap::new();
        parameters(operator, |name, data| {
            let name = name.replace("Wqkv.", "qkv.").replace("out_proj.", "proj.");
            weights.insert(name, data.try_into_vec().expect("parameters are f32"));
        });
        let hidden = weights.get("fc1.bias").map_or(0, Vec::len);
        let (ranked, means) = ((0..hidden).collect(), vec![0.0; hidden]);
        Self { config: config.clone(), width, weights, ranked, means }
    }

    /// Ranks an MLP's hidden units by mean |activation| times the norm of their output weights, on inputs
    /// [.., D], row-major.
    pub fn rank(&mut self, inputs: &[f32]) {
        let device = Device::flex();
        let (fc1, bias) = (&self.weights["fc1.weight"], &self.weights["fc1.bias"]);
        let hidden = bias.len();
        let matrix = |values: &[f32], rows: usize| {
            Tensor::<2>::from_data(TensorData::new(values.to_vec(), [rows, values.len() / rows]), &device)
        };
        let tokens = inputs.len() / self.width;
        let bias = Tensor::<1>::from_data(TensorData::new(bias.clone(), [hidden]), &device);
        let active = linear(matrix(inputs, tokens), matrix(fc1, hidden), bias, Activation::GeluTanh);
        let mut sums = vec![(0f64, 0f64); hidden];
        with_values(&active, |values| {
            for row in values.chunks_exact(hidden) {
                for ((sum, magnitude), &value) in sums.iter_mut().zip(row) {
                    *sum += f64::from(value);
                    *magnitude += f64::from(value.abs());
                }
            }
        });
        let mut squares = vec![0f64; hidden];
        for row in self.weights["fc2.weight"].chunks_exact(hidden) {
            squares.iter_mut().zip(row).for_each(|(sum, &w)| *sum += f64::from(w).powi(2));
        }
        let importance: Vec<f64> =
            sums.iter().zip(&squares).map(|((_, magnitude), square)| magnitude * square.sqrt()).collect();
        self.means = sums.iter().map(|(sum, _)| (sum / tokens as f64) as f32).collect();
        self.ranked.sort_by(|&a, &b| importance[b].total_cmp(&importance[a]).then(a.cmp(&b)));
    }

    /// The fresh operator `new` with what it takes over.
    ///
    /// # Errors
    /// When it cannot inherit from this one.
    pub fn bequeath(&self, new: &OperatorConfig, fresh: Operator) -> Result<Operator> {
        check_inherits(new, &self.config)?;
        update_parameters(fresh, |name, _, _, values| {
            match new {
                OperatorConfig::Mlp(config) => self.give_hidden_units(config, name, values)?,
                OperatorConfig::Mamba2(c) => self.give_to_mamba2(name, values, c.inner(self.width)),
                OperatorConfig::LinearAttention(_) => self.give_projections(name, values, 2 * self.width),
                OperatorConfig::HyenaSe(c) => self.give_to_hyena(name, values, c.direction, true),
                OperatorConfig::HyenaX(c) => self.give_to_hyena(name, values, c.direction, true),
                OperatorConfig::HyenaY(c) => self.give_to_hyena(name, values, c.direction, false),
                OperatorConfig::MlpHyenaX(_) | OperatorConfig::Identity(_) => {}
                // It compresses as its like does; of others it takes what makes keys and values, and averages them.
                OperatorConfig::KvCompression(_) if *new == self.config => {
                    values.copy_from_slice(&self.weights[name]);
                }
                OperatorConfig::Attention(_)
                | OperatorConfig::SlidingWindow(_)
                | OperatorConfig::Neighborhood(_)
                | OperatorConfig::KvCompression(_) => self.give_projections(name, values, 0),
            }
            Ok(())
        })
    }

    /// The output projection, and the rows of q, k, v from `first` on.
    fn give_projections(&self, name: &str, values: &mut [f32], first: usize) {
        let (layer, kind) = name.rsplit_once('.').unwrap_or((name, ""));
        let row = if kind == "weight" { self.width } else { 1 };
        match layer {
            "qkv" | "Wqkv" | "in_proj" => {
                let from = first * row;
                values[from..].copy_from_slice(&self.weights[&format!("qkv.{kind}")][from..]);
            }
            "proj" | "out_proj" => values.copy_from_slice(&self.weights[&format!("proj.{kind}")]),
            _ => {}
        }
    }

    /// Value and output projections, with v unfiltered and gates around one: at first each token keeps its value.
    fn give_to_hyena(&self, name: &str, values: &mut [f32], direction: Direction, featuriser: bool) {
        let gates = 2 * self.width;
        self.give_projections(name, values, gates);
        match name {
            "short_filter.weight" => {
                let taps = values.len() / (3 * self.width);
                let current = match direction {
                    Direction::Forward => taps - 1,
                    Direction::Both => taps / 2,
                };
                values[gates * taps..].fill(0.0);
                values[gates * taps..].iter_mut().skip(current).step_by(taps).for_each(|tap| *tap = 1.0);
            }
            "short_filter.bias" => {
                values[..gates].fill(1.0);
                values[gates..].fill(0.0);
            }
            "in_proj.bias" if !featuriser => values[..gates].fill(1.0),
            _ => {}
        }
    }

    /// Value and output projections: x is v, over again where it is wider, and the output the mean of these.
    fn give_to_mamba2(&self, name: &str, values: &mut [f32], inner: usize) {
        let d = self.width;
        let (qkv, proj) = (&self.weights["qkv.weight"], &self.weights["proj.weight"]);
        match name {
            "in_proj.weight" => {
                // Rows z, x, B, C and the step sizes.
                let x = values[inner * d..2 * inner * d].chunks_exact_mut(d * d);
                x.for_each(|x| x.copy_from_slice(&qkv[2 * d * d..]));
            }
            "out_proj.weight" => {
                let share = d as f32 / inner as f32;
                for (row, from) in values.chunks_exact_mut(inner).zip(proj.chunks_exact(d)) {
                    row.chunks_exact_mut(d).for_each(|row| {
                        row.iter_mut().zip(from).for_each(|(to, from)| *to = from * share);
                    });
                }
            }
            _ => {}
        }
    }

    /// A narrower MLP keeps the units ranked first and takes the mean of what the others added into its bias; a wider
    /// one adds units that nothing reads yet.
    fn give_hidden_units(&self, new: &MlpConfig, name: &str, values: &mut [f32]) -> Result<()> {
        let (d, hidden) = (self.width, new.hidden(self.width)?);
        let old = self.ranked.len();
        let mut kept = self.ranked[..hidden.min(old)].to_vec();
        kept.sort_unstable();
        match name {
            "fc1.weight" | "fc1.bias" => {
                let row = if name == "fc1.weight" { d } else { 1 };
                for (to, &unit) in values.chunks_exact_mut(row).zip(&kept) {
                    to.copy_from_slice(&self.weights[name][unit * row..(unit + 1) * row]);
                }
            }
            "fc2.weight" => {
                for (to, from) in values.chunks_exact_mut(hidden).zip(self.weights[name].chunks_exact(old)) {
                    to.fill(0.0);
                    to.iter_mut().zip(&kept).for_each(|(to, &unit)| *to = from[unit]);
                }
            }
            _ => {
                let rows = self.weights["fc2.weight"].chunks_exact(old);
                for ((to, from), row) in values.iter_mut().zip(&self.weights[name]).zip(rows) {
                    let removed = &self.ranked[kept.len()..];
                    let mean: f64 =
                        removed.iter().map(|&unit| f64::from(row[unit]) * f64::from(self.means[unit])).sum();
                    *to = (f64::from(*from) + mean) as f32;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::*;

    const WIDTH: usize = 12;
    const TOKENS: usize = 9;

    fn fresh(config: &OperatorConfig, seed: u64) -> Operator {
        config.init(WIDTH, &mut Init::new(seed, 0, &Device::flex())).unwrap()
    }

    fn outputs(operator: &Operator) -> Vec<f32> {
        let values: Vec<f32> = (0..2 * TOKENS * WIDTH).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        let x = Tensor::from_data(TensorData::new(values, [2, TOKENS, WIDTH]), &Device::flex());
        operator.forward(x, square_grid(TOKENS)).into_data().try_into_vec().unwrap()
    }

    fn attention() -> OperatorConfig {
        OperatorConfig::Attention(AttentionConfig { heads: 3 })
    }

    fn difference(a: &Operator, b: &Operator) -> f32 {
        outputs(a)
            .iter()
            .zip(outputs(b))
            .map(|(a, b)| (a - b).abs())
            .fold(0f32, |m, d| if d > m || d.is_nan() { d } else { m })
    }

    fn inherited(new: &OperatorConfig, old: &OperatorConfig, teacher: &Operator) -> Operator {
        Ancestor::new(old, teacher, WIDTH).bequeath(new, fresh(new, 2)).unwrap()
    }

    #[test]
    fn windows_that_see_everything_are_the_teacher() {
        let (old, heads) = (attention(), 3);
        let teacher = fresh(&old, 1);
        for new in [
            OperatorConfig::SlidingWindow(SlidingWindowConfig { heads, left: TOKENS - 1, right: TOKENS - 1 }),
            OperatorConfig::Neighborhood(NeighborhoodConfig { heads, window: GridWindow::Square(3) }),
        ] {
            let difference = difference(&inherited(&new, &old, &teacher), &teacher);
            assert!(difference < 1e-6, "{}: {difference}", new.name());
        }
    }

    #[test]
    fn a_wider_mlp_computes_the_same() {
        let (old, new) = (MlpConfig { ratio: 2.0 }, MlpConfig { ratio: 3.0 });
        let (old, new) = (OperatorConfig::Mlp(old), OperatorConfig::Mlp(new));
        let teacher = fresh(&old, 1);
        assert!(difference(&inherited(&new, &old, &teacher), &teacher) < 1e-6);
    }

    #[test]
    fn a_narrower_mlp_loses_the_units_that_matter_least_and_keeps_their_mean() {
        let (old, new) =
            (OperatorConfig::Mlp(MlpConfig { ratio: 1.0 }), OperatorConfig::Mlp(MlpConfig { ratio: 0.5 }));
        // Every second unit ignores its input: what it adds is a constant, which the bias can take over.
        let teacher = update_parameters(fresh(&old, 1), |name, _, _, values| {
            match name {
                "fc1.weight" => values.chunks_exact_mut(WIDTH).step_by(2).for_each(|row| row.fill(0.0)),
                "fc1.bias" => values.iter_mut().step_by(2).for_each(|bias| *bias = 0.25),
                "fc2.weight" => {
                    for (at, w) in values.iter_mut().enumerate() {
                        *w *= if at % 2 == 0 { 0.01 } else { 10.0 };
                    }
                }
                _ => {}
            }
            Ok(())
        })
        .unwrap();
        let inputs: Vec<f32> = (0..50 * WIDTH).map(|i| (i * 29 % 97) as f32 / 40.0 - 1.0).collect();
        let mut ancestor = Ancestor::new(&old, &teacher, WIDTH);
        ancestor.rank(&inputs);
        let smaller = ancestor.bequeath(&new, fresh(&new, 2)).unwrap();
        let difference = difference(&smaller, &teacher);
        assert!(difference < 1e-5, "{difference}");
    }

    #[test]
    fn gates_start_around_one_and_leave_the_value() {
        let old = attention();
        let teacher = fresh(&old, 1);
        for direction in [Direction::Forward, Direction::Both] {
            for new in [
                OperatorConfig::HyenaX(HyenaXConfig { kernel: 3, direction }),
                OperatorConfig::HyenaSe(HyenaSeConfig { kernel: 3, inner_kernel: 3, direction }),
                OperatorConfig::HyenaY(HyenaYConfig { inner_kernel: 3, direction }),
            ] {
                // With gates of exactly one the operator is the output projection of the values.
                let silent = update_parameters(inherited(&new, &old, &teacher), |name, _, _, values| {
                    match name {
                        "in_proj.weight" => values[..2 * WIDTH * WIDTH].fill(0.0),
                        "in_proj.bias" if !new.name().starts_with("hyena-y") => values[..2 * WIDTH].fill(0.0),
                        _ => {}
                    }
                    Ok(())
                })
                .unwrap();
                // So is attention in which each token sees itself alone.
                let alone =
                    OperatorConfig::SlidingWindow(SlidingWindowConfig { heads: 3, left: 0, right: 0 });
                let difference = difference(&silent, &inherited(&alone, &old, &teacher));
                assert!(difference < 1e-5, "{}: {difference}", new.name());
            }
        }
    }

    fn weights(operator: &Operator) -> HashMap<String, Vec<f32>> {
        let mut found = HashMap::new();
        parameters(operator, |name, data| {
            found.insert(name, data.try_into_vec().unwrap());
        });
        found
    }

    #[test]
    fn compressed_keys_take_all_projections_and_average() {
        let old = attention();
        let teacher = fresh(&old, 1);
        let compression = |factor| OperatorConfig::KvCompression(KvCompressionConfig { heads: 3, factor });
        let new = inherited(&compression(3), &old, &teacher);
        let (own, theirs) = (weights(&new), weights(&teacher));
        assert!(theirs.iter().all(|(name, values)| own[name] == *values));
        assert_eq!(own["sr.weight"], [1.0 / 9.0; 9 * WIDTH]);
        assert_eq!((&own["norm.weight"], &own["norm.bias"]), (&vec![1.0; WIDTH], &vec![0.0; WIDTH]));
        // Its like takes the compression too, another factor cannot.
        let trained = update_parameters(new, |_, _, _, values| {
            values.iter_mut().for_each(|value| *value += 0.5);
            Ok(())
        })
        .unwrap();
        assert_eq!(weights(&inherited(&compression(3), &compression(3), &trained)), weights(&trained));
        let other = weights(&inherited(&compression(2), &compression(3), &trained));
        assert_eq!(other["sr.weight"], [0.25; 4 * WIDTH]);
        assert_eq!(other["qkv.weight"], weights(&trained)["qkv.weight"]);
    }

    #[test]
    fn mamba2_and_linear_attention_take_value_and_output() {
        let old = attention();
        let teacher = fresh(&old, 1);
        let theirs = weights(&teacher);
        let mamba2 = Mamba2Config { d_state: 4, head_dim: 6, expand: 2, ..Default::default() };
        let own = weights(&inherited(&OperatorConfig::Mamba2(mamba2), &old, &teacher));
        let square = WIDTH * WIDTH;
        let values = &theirs["qkv.weight"][2 * square..];
        assert_eq!(own["in_proj.weight"][2 * square..3 * square], *values);
        assert_eq!(own["in_proj.weight"][3 * square..4 * square], *values);
        assert_eq!(own["out_proj.weight"][WIDTH], theirs["proj.weight"][0] / 2.0);
        let linear = LinearAttentionConfig { heads: 3, feature_map: FeatureMap::Relu };
        let linear = OperatorConfig::LinearAttention(linear);
        let own = weights(&inherited(&linear, &old, &teacher));
        assert_eq!(own["qkv.weight"][2 * square..], *values);
        assert_ne!(own["qkv.weight"][..square], theirs["qkv.weight"][..square]);
        assert_eq!(own["proj.weight"], theirs["proj.weight"]);
    }

    #[test]
    fn what_cannot_inherit_says_why() {
        let (attention, mlp) = (attention(), OperatorConfig::Mlp(MlpConfig { ratio: 2.0 }));
        let hyena = OperatorConfig::HyenaX(HyenaXConfig::default());
        let window = OperatorConfig::SlidingWindow(SlidingWindowConfig { heads: 2, left: 1, right: 1 });
        let mlp_hyena = OperatorConfig::MlpHyenaX(MlpHyenaXConfig::default());
        for (new, old, why) in [
            (&hyena, &hyena, "no projections"),
            (&window, &attention, "2 heads instead of 3"),
            (&mlp_hyena, &mlp, "only an MLP"),
        ] {
            let error = check_inherits(new, old).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
