use std::collections::BTreeMap;

use serde::Serialize;

use crate::operator::Slot;
use crate::report::results::Estimate;

/// The contents of `analysis.json`: all that was measured on a model, and what is advised.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnalysisResults {
    /// What the model was called.
    pub model: String,
    /// Which weights it has.
    pub weights_sha256: String,
    /// Tokens an image.
    pub tokens: usize,
    /// Reach of `local`: tokens on either side, in raster order.
    pub reach: usize,
    /// Times the median channel beyond which a channel stands out.
    pub outlier_factor: f64,
    /// How the images were drawn.
    pub drawing: Drawing,
    /// Every operator, block by block.
    pub operators: Vec<OperatorResult>,
    /// Every block whose token mixer is softmax attention over all tokens.
    pub locality: Vec<BlockLocality>,
    /// What the changes are measured against; nothing where there was no data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// The run whose new operators were tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// What could not be measured, and why.
    pub left_out: Vec<String>,
    /// What follows, in a line.
    pub headline: String,
    /// What follows.
    pub advice: Vec<Advice>,
    /// `[[graft]]` entries that follow the advice, in TOML.
    pub recipe: String,
    /// Operand precision of products.
    pub precision: String,
    /// Seed of everything that was drawn.
    pub seed: u64,
    /// Threads computed with.
    pub threads: usize,
    /// Model name of the processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Programs and their versions.
    pub versions: BTreeMap<String, String>,
    /// The command line.
    pub command: String,
    /// Wall-clock time in seconds.
    pub elapsed_s: f64,
}

/// How images were drawn to watch the model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Drawing {
    /// Images.
    pub samples: usize,
    /// DDIM steps an image.
    pub steps: usize,
    /// Scale of guidance where there was any.
    pub cfg: f64,
}

/// One operator.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OperatorResult {
    /// Index of the block.
    pub block: usize,
    /// The slot inside it.
    pub slot: Slot,
    /// Name of the operator.
    pub operator: String,
    /// What it gets, after modulation.
    pub input: Activity,
    /// What it gives, before the gate.
    pub output: Activity,
    /// What its removal changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed: Option<Change>,
    /// What a run's new operator in its place changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced: Option<Replaced>,
}

/// Activations at one place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Activity {
    /// Over all timesteps.
    pub all: Statistics,
    /// Channels that stand out over all timesteps.
    pub outlier_channels: Vec<usize>,
    /// By timestep, ascending.
    pub by_timestep: Vec<Statistics>,
}

/// Statistics of activations. What is not finite is `null`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statistics {
    /// The timestep, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestep: Option<usize>,
    /// Values seen.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub std: f64,
    /// The largest magnitude.
    pub max_abs: f64,
    /// 3 for a normal distribution.
    pub kurtosis: f64,
    /// Number of channels that stand out.
    pub outliers: usize,
}

/// Where a block's attention looks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BlockLocality {
    /// Index of the block.
    pub block: usize,
    /// Without guidance: conditional passes alone.
    pub plain: Look,
    /// With guidance: conditional and unconditional passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guided: Option<Look>,
}

/// Where attention looks, as the mean over images, passes, heads and queries.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Look {
    /// L_k of k = 0, 1, … T − 1, over all timesteps.
    pub curve: Vec<f64>,
    /// Mean distance on the grid in tokens, over all timesteps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid_distance: Option<f64>,
    /// By timestep, ascending.
    pub by_timestep: Vec<LookAt>,
}

/// Where attention looks at one timestep.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LookAt {
    /// The timestep.
    pub timestep: usize,
    /// L_k at the reach.
    pub local: f64,
    /// Mean distance on the grid in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid_distance: Option<f64>,
}

/// The model as it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Baseline {
    /// Which images the loss is taken on.
    pub data: String,
    /// How many of them.
    pub images: usize,
    /// Mean diffusion loss.
    pub loss: Estimate,
    /// Fréchet distance of drawn images, where the data have a judge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frechet: Option<Estimate>,
    /// Images drawn for it.
    pub drawn: usize,
    /// DDIM steps of each.
    pub steps: usize,
}

/// A difference from the baseline, positive where the model gets worse. Errors are those of paired differences.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Of the mean loss.
    pub loss: Estimate,
    /// Of the Fréchet distance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frechet: Option<Estimate>,
}

/// What a run's new operator changes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replaced {
    /// Name of the new operator.
    pub operator: String,
    /// What it changes.
    pub change: Change,
}

/// A piece of advice with the rule and the numbers that it rests on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Advice {
    /// What it is about.
    pub topic: String,
    /// The advice in sentences.
    pub text: String,
}

impl AnalysisResults {
    /// The operators of a slot, block by block.
    pub fn slot(&self, slot: Slot) -> impl Iterator<Item = &OperatorResult> {
        self.operators.iter().filter(move |operator| operator.slot == slot)
    }
}

impl BlockLocality {
    /// With guidance, where there is any.
    pub fn usual(&self) -> &Look {
        self.guided.as_ref().unwrap_or(&self.plain)
    }
}
