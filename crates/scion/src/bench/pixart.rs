//! PixArt-Σ's forward pass, with and without the paper's graft (Chandrasegaran et al., arXiv:2506.05340).

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use scion_kernels::{PackedWeights, keep_awake, release_freed_memory};
use serde::Serialize;

use super::stages::hyena_x;
use super::times::Times;
use super::workload::{normal, random_dit};
use crate::config::PrecisionConfig;
use crate::error::Result;
use crate::metrics::median;
use crate::model::{Architecture, Dit, DitConfig, Seen, Text};
use crate::operator::Slot;
use crate::plan::{BlockSelection, Plan};
use crate::run::{peak_memory, reset_peak_memory, with_fresh_parts};

/// Blocks whose self-attention the paper replaces by Hyena-X in PixArt-Σ.
const GRAFTED: [usize; 14] = [8, 10, 12, 14, 16, 18, 20, 21, 22, 23, 24, 25, 26, 27];
/// How many times as fast that made the model of images of so many pixels a side, on the paper's GPU.
const PAPER: (&str, f64) = ("2048", 1.43);
/// Passes of each model before the first timed one. They take seconds to minutes.
const WARM_UP: usize = 1;

/// A model of random weights beside itself with a graft, on one image and one prompt of full length.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The preset.
    pub model: String,
    /// Tokens of the image.
    pub tokens: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Blocks in which Hyena-X stands in place of self-attention.
    pub grafted_blocks: Vec<usize>,
    /// Operand precision of products.
    pub precision: PrecisionConfig,
    /// Timed passes of each of the two, which took turns.
    pub runs: usize,
    /// Threads of the pool.
    pub threads: usize,
    /// The model as it is.
    pub native: Passes,
    /// The model with the graft.
    pub grafted: Passes,
    /// How many times as fast the grafted model is: the median over pairs of passes that followed one another.
    pub speed_up: f64,
    /// What the paper found for this graft and size, on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paper_speed_up: Option<f64>,
    /// Largest resident memory of the process while both models, which share all other weights, were built and run, in
    /// bytes.
    pub peak_rss_bytes: u64,
}

/// Forward passes of one model.
#[derive(Clone, Debug, Serialize)]
pub struct Passes {
    /// How long they took.
    #[serde(flatten)]
    pub times: Times,
    /// Arithmetic of a pass in GFLOP (a multiply-add is two).
    pub gflop: f64,
    /// Share of a pass's time that the operators in the place of self-attention take, whichever they are; the median.
    pub attention_share_of_time: f64,
    /// Their share of its arithmetic.
    pub attention_share_of_flops: f64,
}

/// Times PixArt-Σ for images of 256, 512, 1024 or 2048 pixels a side, with and without the paper's graft.
///
/// # Errors
/// When there is no preset of this size.
pub fn measure_pixart(side: &str, precision: PrecisionConfig, runs: usize) -> Result<Comparison> {
    let model = format!("pixart-sigma-{side}");
    let found = compare(&DitConfig::preset(&model)?, &GRAFTED, precision, runs)?;
    Ok(Comparison { model, paper_speed_up: (side == PAPER.0).then_some(PAPER.1), ..found })
}

/// A comparison without the model's name, of a text-to-image model of any sizes.
fn compare(
    sizes: &DitConfig,
    blocks: &[usize],
    precision: PrecisionConfig,
    runs: usize,
) -> Result<Comparison> {
    release_freed_memory();
    reset_peak_memory();
    let graft = hyena_x(BlockSelection::List(blocks.into()));
    let plan = Plan::new(&Architecture::native(sizes.clone()), &[graft], &[])?;
    let native = random_dit(sizes, &Device::flex())?;
    let grafted = with_fresh_parts(&native, &plan, 0, &BTreeMap::new())?;
    let (input, weights) = (Input::random(sizes), PackedWeights::default());
    for model in [&native, &grafted].repeat(WARM_UP) {
        input.pass(model, &weights);
    }
    let mut found = [Vec::new(), Vec::new()];
    for _ in 0..runs.max(1) {
        found[0].push(keep_awake(|| input.pass(&native, &weights)));
        found[1].push(keep_awake(|| input.pass(&grafted, &weights)));
    }
    let ratios = found[0].iter().zip(&found[1]).map(|(native, grafted)| native.whole_ms / grafted.whole_ms);
    let speed_up = median(ratios).expect("there is at least one run");
    let [native, grafted] = found;
    Ok(Comparison {
        model: String::new(),
        tokens: sizes.tokens(),
        prompt_tokens: input.text.mask.dims()[1],
        grafted_blocks: blocks.into(),
        precision,
        runs: native.len(),
        threads: rayon::current_num_threads(),
        native: Passes::of(&native, &plan.before),
        grafted: Passes::of(&grafted, &plan.after),
        speed_up,
        paper_speed_up: None,
        peak_rss_bytes: peak_memory(),
    })
}

/// What a model is given.
struct Input {
    /// Latents [1, C, H, W].
    x: Vec<f32>,
    text: Text,
}

/// How long a pass took.
struct Pass {
    whole_ms: f64,
    /// In the operators of attention slots.
    attention_ms: f64,
}

impl Input {
    fn random(sizes: &DitConfig) -> Self {
        let text = sizes.text().expect("PixArt reads text");
        let shape = [1, text.tokens, text.width];
        let tokens = normal(text.tokens * text.width, 2);
        let text = Text::new(tokens, vec![1.0; text.tokens], shape, &Device::flex());
        Self { x: normal(sizes.image_len(), 1), text }
    }

    /// One forward pass as sampling does it, with packed weights. Operators compute when they are called, so that the time
    /// between the looks before and behind one is its own.
    fn pass(&self, model: &Dit, weights: &PackedWeights) -> Pass {
        let started = Instant::now();
        let (mut began, mut attention) = (started, Duration::ZERO);
        let mut look = |seen: Seen<'_>| match seen {
            Seen::Begin { slot: Slot::Attention, .. } => began = Instant::now(),
            Seen::Operator { slot: Slot::Attention, .. } => attention += began.elapsed(),
            _ => {}
        };
        let text = self.text.clone();
        black_box(weights.scope(|| model.predict_tapped(&self.x, &[500.0], text, &mut look)));
        Pass { whole_ms: started.elapsed().as_secs_f64() * 1e3, attention_ms: attention.as_secs_f64() * 1e3 }
    }
}

impl Passes {
    fn of(passes: &[Pass], architecture: &Architecture) -> Self {
        let (flops, attention) = (architecture.flops(), architecture.operator_flops(Slot::Attention));
        let shares = passes.iter().map(|pass| pass.attention_ms / pass.whole_ms);
        Self {
            times: Times::of(passes.iter().map(|pass| pass.whole_ms).collect()),
            gflop: flops as f64 / 1e9,
            attention_share_of_time: median(shares).expect("there is at least one run"),
            attention_share_of_flops: attention.total() as f64 / flops as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Conditions, TextConfig};

    #[test]
    fn both_models_are_timed_and_attention_in_them() {
        let text = TextConfig { width: 8, tokens: 5, interpolation: 1.0, size_conditions: false };
        let sizes = DitConfig {
            input_size: 64,
            patch: 2,
            in_channels: 4,
            hidden: 32,
            depth: 4,
            heads: 2,
            mlp_ratio: 1.0,
            learn_sigma: true,
            conditions: Conditions::Text(text),
        };
        let found = compare(&sizes, &[0, 1, 2, 3], PrecisionConfig::F32, 3).unwrap();
        assert_eq!((found.tokens, found.prompt_tokens, found.runs), (1024, 5, 3));
        let (native, grafted) = (&found.native, &found.grafted);
        assert_eq!([native.times.times_ms.len(), grafted.times.times_ms.len()], [3, 3]);
        assert!(
            native.times.min_ms <= native.times.median_ms && native.times.median_ms <= native.times.max_ms
        );
        // Nearly all of this model is attention over 1,024 tokens.
        assert!(native.attention_share_of_flops > 0.8 && grafted.gflop < 0.3 * native.gflop, "{found:?}");
        // How large shares of the time are depends on what else the machine does.
        for passes in [native, grafted] {
            assert!((0.0..1.0).contains(&passes.attention_share_of_time), "{found:?}");
        }
        assert!(native.attention_share_of_time > 0.0 && found.speed_up > 0.0, "{found:?}");
    }

    #[test]
    fn the_papers_graft_is_half_of_pixart() {
        let native = Architecture::native(DitConfig::preset("pixart-sigma-2048").unwrap());
        let plan = Plan::new(&native, &[hyena_x(BlockSelection::List(GRAFTED.into()))], &[]).unwrap();
        assert_eq!((plan.sites.len(), native.dit.depth, native.dit.tokens()), (14, 28, 16_384));
        // The arithmetic allows for a little more than the paper's speed-up.
        let least = native.flops() as f64 / plan.after.flops() as f64;
        assert!((1.43..1.6).contains(&least), "{least}");
    }
}
