//! Recipes: everything a run depends on, in one TOML file.

mod data;
mod model;
mod sample;
mod texts;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use scion_kernels::Precision;
use scion_kernels::gemm::faster_precision;
use serde::{Deserialize, Serialize};

pub use model::ModelConfig;
pub use sample::{SampleConfig, SamplerConfig};
pub use texts::{Texts, read_lines, read_utf8};

use crate::error::{Error, Result};
use crate::operator::{OperatorConfig, Slot};
use crate::plan::{BlockSelection, LocalityConfig, RestructureConfig, needs_locality};
use crate::report::results::ModelName;
use crate::train::{DistillConfig, TrainConfig};

/// A recipe. Sections that a command does not use may be left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    /// Seed of everything that is drawn.
    #[serde(default)]
    pub seed: u64,
    /// Operand precision of matrix products.
    #[serde(default)]
    pub precision: PrecisionConfig,
    /// The model to start from.
    pub model: ModelConfig,
    /// The images to train on.
    #[serde(default)]
    pub data: DataConfig,
    /// Operators to replace.
    #[serde(default, rename = "graft", skip_serializing_if = "Vec::is_empty")]
    pub grafts: Vec<GraftConfig>,
    /// Blocks to take out, or to let run side by side.
    #[serde(default, rename = "restructure", skip_serializing_if = "Vec::is_empty")]
    pub restructures: Vec<RestructureConfig>,
    /// How attention's locality is measured, where blocks are chosen by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<LocalityConfig>,
    /// Training from nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<TrainConfig>,
    /// Stage 1: activation distillation of each new operator and pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distill: Option<DistillConfig>,
    /// Stage 2: light finetuning of the whole model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finetune: Option<TrainConfig>,
    /// How images are drawn from a model.
    #[serde(default)]
    pub sample: SampleConfig,
    /// What is measured on them.
    #[serde(default)]
    pub evaluate: EvaluateConfig,
}

/// Operand precision of matrix products, and of what an MLP keeps between its two; sums, norms, softmax and the optimiser are
/// always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrecisionConfig {
    /// bf16 operands.
    Bf16,
    /// f32 operands.
    #[default]
    F32,
    /// bf16 where this machine multiplies it clearly faster than f32, else f32.
    Auto,
}

impl PrecisionConfig {
    /// What products run in; for `auto`, found by timing some.
    pub fn operands(self) -> Precision {
        match self {
            Self::Bf16 => Precision::Bf16,
            Self::F32 => Precision::F32,
            Self::Auto => faster_precision(),
        }
    }

    /// The same with `auto` replaced by what it means on this machine.
    pub fn resolved(self) -> Self {
        match self.operands() {
            Precision::Bf16 => Self::Bf16,
            Precision::F32 => Self::F32,
        }
    }
}

/// Which images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataSource {
    /// The 10% of Fashion-MNIST compiled into the program.
    #[default]
    Embedded,
    /// 1,026 captioned pictures compiled into the program, for text-to-image models.
    Emoji,
    /// All of Fashion-MNIST, from `path`, the system's copy, or the network.
    FashionMnist,
    /// A folder with one sub-folder of PNG, JPEG or WebP images a class.
    ImageFolder,
    /// A folder of latents that `scion encode` wrote.
    Latents,
    /// No data set: images that the teacher draws, of every class in turn, once a run.
    Teacher,
}

/// The training images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DataConfig {
    /// Which images.
    pub source: DataSource,
    /// The folder, for sources that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Share of every class that is used.
    #[serde(default = "one")]
    pub fraction: f64,
    /// Whether images that cannot be read are left out (and counted) instead of stopping the run.
    #[serde(default)]
    pub skip_broken: bool,
    /// A text file with the prompts, one a line, of which a text-to-image teacher draws images in turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<PathBuf>,
    /// Images that the teacher draws; 10,000 where it is left out. They are drawn as `[sample]` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// Model calls for each of them; those of `[sample]` where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Their guidance; where it is left out, that of `[sample]` for prompts, and none for classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cfg: Option<f64>,
}

fn one() -> f64 {
    1.0
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            source: DataSource::Embedded,
            path: None,
            fraction: 1.0,
            skip_broken: false,
            prompts: None,
            count: None,
            steps: None,
            cfg: None,
        }
    }
}

/// One `[[graft]]` entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GraftConfig {
    /// The slot whose operators are replaced.
    pub target: Slot,
    /// In which blocks.
    pub blocks: BlockSelection,
    /// By what.
    pub operator: OperatorConfig,
    /// How the new operators start.
    #[serde(default)]
    pub init: InitConfig,
}

/// How new operators start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InitConfig {
    /// PyTorch's default random initialisation, the paper's setting.
    #[default]
    Random,
    /// With what they can take over from the operators that they replace.
    Inherit,
}

impl InitConfig {
    /// Its name in recipes and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Inherit => "inherit",
        }
    }
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct EvaluateConfig {
    /// The models that are drawn from and scored, as far as the recipe has the stages that make them.
    pub models: BTreeSet<ModelName>,
    /// What a text-to-image model draws, in turn: prompts, or a text file with one a line. Captions or prompts of the data,
    /// spread evenly, where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<Texts>,
    /// Images of each class or prompt in a model's grid.
    pub grid_columns: usize,
    /// Timed forward passes a model.
    pub latency_runs: usize,
    /// Images in a timed forward pass.
    pub latency_batch: usize,
}

impl Default for EvaluateConfig {
    fn default() -> Self {
        Self {
            models: ModelName::ALL.into(),
            prompts: None,
            grid_columns: 8,
            latency_runs: 15,
            latency_batch: 64,
        }
    }
}

impl Recipe {
    /// Reads a recipe.
    ///
    /// # Errors
    /// When the file cannot be read, or has an unknown field or a bad value, named with its line.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read the recipe", path, e))?;
        Self::parse(&text, path)
    }

    /// Parses a recipe; `path` is for messages.
    ///
    /// # Errors
    /// As [`Recipe::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let mut recipe: Self = toml::from_str(text)
            .map_err(|e| Error::Recipe { path: path.into(), detail: explain(&e, text) })?;
        if needs_locality(&recipe.grafts) {
            recipe.locality.get_or_insert_default();
        }
        recipe.data.resolve(&recipe.sample);
        if let Some(finetune) = &mut recipe.finetune {
            finetune.resolve();
        }
        recipe.check().map_err(|detail| Error::Recipe { path: path.into(), detail })?;
        Ok(recipe)
    }

    /// The recipe as TOML, every default written out.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("recipes hold nothing that TOML cannot say")
    }

    fn check(&self) -> std::result::Result<(), String> {
        self.data.check(self).map_err(|e| format!("data.{e}"))?;
        self.model.check()?;
        for (name, train) in [("pretrain", &self.pretrain), ("finetune", &self.finetune)] {
            if let Some(train) = train {
                train.check().map_err(|e| format!("{name}.{e}"))?;
            }
        }
        if let Some(locality) = &self.locality {
            locality.check().map_err(|e| format!("locality.{e}"))?;
        }
        if let Some(pretrain) = &self.pretrain {
            pretrain.check_pretraining().map_err(|e| format!("pretrain.{e}"))?;
        }
        if let Some(finetune) = &self.finetune {
            finetune.check_finetuning().map_err(|e| format!("finetune.{e}"))?;
        }
        if let Some(distill) = &self.distill {
            distill.check().map_err(|e| format!("distill.{e}"))?;
        }
        self.sample.check().map_err(|e| format!("sample.{e}"))?;
        if self.evaluate.models.is_empty() {
            return Err("evaluate.models is empty; expected some of \"teacher\", \"untrained\", \"stage1\" and \"stage2\"".into());
        }
        let EvaluateConfig { grid_columns, latency_batch, latency_runs, .. } = self.evaluate;
        if grid_columns == 0 || latency_batch == 0 || latency_runs == 0 {
            return Err(
                "evaluate.grid-columns, evaluate.latency-batch and evaluate.latency-runs must be at least 1"
                    .into(),
            );
        }
        Ok(())
    }
}

/// A TOML error in one paragraph, with the nearest known name where a field is unknown.
pub(crate) fn explain(error: &toml::de::Error, text: &str) -> String {
    let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
    let message = error.message().replace('\n', " ");
    let mut quoted = message.split('`').skip(1).step_by(2);
    let hint = match (message.starts_with("unknown"), quoted.next()) {
        (true, Some(found)) => quoted
            .map(|known| (strsim::osa_distance(found, known), known))
            .min()
            .filter(|(distance, _)| *distance <= 3)
            .map_or(String::new(), |(_, known)| format!("; did you mean `{known}`?")),
        _ => String::new(),
    };
    format!("line {line}: {message}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Recipe> {
        Recipe::parse(text, Path::new("recipe.toml"))
    }

    #[test]
    fn unknown_fields_name_line_and_nearest() {
        let error =
            parse("[model]\ncheckpoint = \"embedded\"\n[sample]\nstep = 3\n").unwrap_err().to_string();
        assert!(error.contains("line 4") && error.contains("did you mean `steps`"), "{error}");
        let error = parse("[model]\ncheckpoint = \"embedded\"\n[[graft]]\ntarget = \"attention\"\nblocks = \"all\"\noperator = { kind = \"hyena-z\" }\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("hyena-x"), "{error}");
        let error = parse("[model]\ncheckpoint = \"embedded\"\n[[graft]]\ntarget = \"attention\"\nblocks = \"all\"\noperator = { kind = \"hyena-x\", kernal = 3 }\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("kernel"), "{error}");
    }

    #[test]
    fn resolved_recipe_reads_back() {
        let recipe = parse(
            "[model]\ncheckpoint = \"embedded\"\n[[graft]]\ntarget = \"attention\"\nblocks = { interleaved = 0.5 }\noperator = { kind = \"hyena-x\" }\n[finetune]\nsteps = 5\n",
        )
        .unwrap();
        assert_eq!(parse(&recipe.to_toml()).unwrap(), recipe);
        let recipe = parse(
            "[model]\ncheckpoint = \"embedded\"\n[data]\nsource = \"teacher\"\n[finetune]\nsteps = 5\nobjective = \"both\"\nmethod = \"lora\"\n",
        )
        .unwrap();
        let text = recipe.to_toml();
        for default in
            ["count = 10000", "steps = 25", "cfg = 1.0", "blocks = 0.0", "diffusion = 1.0", "rank = 16"]
        {
            assert!(text.contains(default), "{default} is not in {text}");
        }
        assert_eq!(parse(&text).unwrap(), recipe);
    }

    #[test]
    fn impossible_values_are_refused() {
        assert!(parse("[model]\n").is_err());
        assert!(
            parse("[model]\ncheckpoint = \"embedded\"\n[data]\nsource = \"embedded\"\nfraction = 0\n")
                .is_err()
        );
        let error =
            parse("[model]\ncheckpoint = \"embedded\"\n[finetune]\nsteps = 0\n").unwrap_err().to_string();
        assert!(error.contains("finetune.steps"), "{error}");
    }
}
