//! The contents of a run's `results.json`: everything the report shows besides curves and images.
//!
//! Fields that a run may not have measured are optional and are left out of the file. Unknown fields
//! are ignored on reading, so an older Scion can show a newer run.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};
use crate::plan::Restructure;

/// All numbers of one run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Wall-clock time of the whole run in seconds, over all its resumptions.
    pub elapsed_s: f64,
    /// Largest resident set of the process in bytes.
    pub peak_rss_bytes: u64,
    /// The models that were measured, at most one of each name.
    pub models: Vec<ModelResult>,
    /// What real images score, the best any generator could be expected to reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Floor>,
    /// What the distances are measured in, in a full phrase, such as
    /// "Fréchet distance in Scion's Fashion-MNIST classifier features, not FID".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_space: Option<String>,
    /// How the error bars were made, such as "standard error over 10 splits of the samples".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_bars: Option<String>,
    /// How latency was measured, such as "batch 8, f32, 30 passes".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_setting: Option<String>,
    /// What accuracy is the share of, where it is not that of samples which the classifier assigns to the class asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy_setting: Option<String>,
    /// Prompts in the row order of the sample grids, of a text-to-image model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<String>,
    /// Names of the classes in the row order of the sample grids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_names: Vec<String>,
    /// The blocks of the model before the edit, in order of depth.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<BlockResult>,
    /// How local the teacher's attention is, where blocks were chosen by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<LocalityResult>,
    /// One row per distilled operator or pair.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stage1: Vec<Stage1Result>,
    /// Whether there was nothing to distil, so that no model "after stage 1" was measured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stage1_left_out: bool,
    /// Time and memory of each stage, in the order they ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageTiming>,
    /// Versions by component: `scion`, `burn`, `rustc`, …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, String>,
    /// Model name of the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Worker threads used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Seed of every random stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// End of the run, as text (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// The resolved recipe, as TOML.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
    /// The command line that made this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// Which model a row describes, in the order in which a run makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelName {
    /// The model before any edit.
    Teacher,
    /// The grafted model before any training.
    Untrained,
    /// The grafted model after activation distillation.
    Stage1,
    /// The grafted model after the lightweight finetune.
    Stage2,
}

impl ModelName {
    /// All models, in the order in which a run makes them.
    pub const ALL: [ModelName; 4] = [Self::Teacher, Self::Untrained, Self::Stage1, Self::Stage2];

    /// The name in `results.json` and of the sample grid, `samples/NAME.png`.
    pub fn id(self) -> &'static str {
        match self {
            Self::Teacher => "teacher",
            Self::Untrained => "untrained",
            Self::Stage1 => "stage1",
            Self::Stage2 => "stage2",
        }
    }

    /// The name that readers see.
    pub fn label(self) -> &'static str {
        match self {
            Self::Teacher => "Teacher",
            Self::Untrained => "Grafted, untrained",
            Self::Stage1 => "After stage 1",
            Self::Stage2 => "After stage 2",
        }
    }
}

/// One model's cost and quality.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelResult {
    pub name: ModelName,
    /// Number of parameters.
    pub params: u64,
    /// Floating-point operations of one forward pass on one image.
    pub flops: u64,
    /// Median time of a forward pass in milliseconds; `latency_setting` gives the batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// Fastest pass in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms_min: Option<f64>,
    /// Slowest pass in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms_max: Option<f64>,
    /// Latency over the teacher's, measured side by side: below 1 is faster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ratio: Option<f64>,
    /// Number of generated images behind the quality numbers.
    #[serde(default)]
    pub samples: u64,
    /// Fréchet distance to the reference images; lower is better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frechet: Option<Estimate>,
    /// Kernel distance to the reference images; lower is better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<Estimate>,
    /// Share of samples that show what was asked for, 0 to 1; `accuracy_setting` tells how that is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// 95 % interval of `accuracy`, low then high.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy_interval: Option<[f64; 2]>,
}

impl ModelResult {
    /// A model of which only the size is known.
    pub fn new(name: ModelName, params: u64, flops: u64) -> Self {
        Self {
            name,
            params,
            flops,
            latency_ms: None,
            latency_ms_min: None,
            latency_ms_max: None,
            latency_ratio: None,
            samples: 0,
            frechet: None,
            kid: None,
            accuracy: None,
            accuracy_interval: None,
        }
    }
}

/// A measured value and its standard error.
///
/// JSON has no NaN: a value that is not finite (a diverged model) is written as `null` and read back
/// as NaN.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    #[serde(deserialize_with = "null_as_nan")]
    pub value: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
}

impl Estimate {
    /// A value with its standard error.
    pub fn new(value: f64, stderr: f64) -> Self {
        Self { value, stderr: Some(stderr) }
    }
}

fn null_as_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Real training images measured against the real test images, as if a model had made them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// Training images that were scored.
    #[serde(default)]
    pub samples: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frechet: Option<Estimate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<Estimate>,
    /// The classifier's accuracy on real test images, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
}

/// One transformer block with its two slots.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockResult {
    /// Zero-based depth.
    pub block: usize,
    /// The token mixer.
    pub attention: SlotResult,
    /// The channel mixer.
    pub mlp: SlotResult,
    /// What a restructure did to the block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restructure: Option<Restructure>,
}

/// The operator in a slot, before and after the edit; a dropped one has nothing left after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotResult {
    /// The operator there now.
    pub operator: String,
    /// The operator that was there; equal to `operator` in an untouched slot and in a self-graft.
    pub original: String,
    /// Whether the slot was grafted.
    pub replaced: bool,
    /// How a grafted operator started: "random" or "inherit".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// Parameters of the operator before and after.
    pub params_before: u64,
    pub params_after: u64,
    /// Floating-point operations of the operator on one image, before and after.
    pub flops_before: u64,
    pub flops_after: u64,
}

/// How local the teacher's attention is, and how that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LocalityResult {
    /// Tokens on either side, in raster order, that count as near.
    pub k: usize,
    /// Sampled images, DDIM steps of each, and scale of guidance.
    pub samples: usize,
    pub steps: usize,
    pub cfg: f64,
    /// Share of each block's attention that falls on near tokens, 0 to 1.
    pub blocks: Vec<f64>,
    /// The blocks that were chosen by it.
    pub chosen: Vec<usize>,
}

/// How the distillation of one operator or pair went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage1Result {
    pub block: usize,
    /// The second block of a pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second: Option<usize>,
    /// `attention`, `mlp` or `pair`.
    pub slot: String,
    /// The new operator, or what the pair is made of.
    pub operator: String,
    /// `l1`, `l2` or `huber`.
    pub loss: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_first: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_best: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_first: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_best: Option<f64>,
    /// Passes over the captured activations.
    pub epochs: f64,
    /// Wall-clock time in seconds.
    pub seconds: f64,
}

/// Time and memory of one stage of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageTiming {
    pub name: String,
    pub seconds: f64,
    /// Largest resident set up to the end of the stage, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
}

impl Results {
    /// Reads `results.json`.
    ///
    /// # Errors
    /// `Io` when the file cannot be read; `Invalid` when it is not JSON of this shape, or when two
    /// models have one name.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let results: Self = serde_json::from_str(&text)
            .map_err(|e| Error::invalid(path, format!("not the results of a run: {e}")))?;
        for (i, model) in results.models.iter().enumerate() {
            if results.models[..i].iter().any(|m| m.name == model.name) {
                let detail = format!("`models` holds two entries named `{}`; expected one", model.name.id());
                return Err(Error::invalid(path, detail));
            }
        }
        Ok(results)
    }

    /// The measured model of that name.
    pub fn model(&self, name: ModelName) -> Option<&ModelResult> {
        self.models.iter().find(|m| m.name == name)
    }

    /// The grafted model at the latest stage that was measured.
    pub fn grafted(&self) -> Option<&ModelResult> {
        self.models.iter().filter(|m| m.name != ModelName::Teacher).max_by_key(|m| m.name)
    }
}
