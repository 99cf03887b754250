use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::report::results::{Estimate, Floor, ModelName, ModelResult, Results, Stage1Result};

/// The contents of a study's `study.json`: all numbers of its runs, by question.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StudyResults {
    /// Heading.
    pub title: String,
    /// Runs that the study needs, each recipe once.
    pub runs: usize,
    /// Runs that have ended.
    pub ended: usize,
    /// Wall-clock time of the finished runs in seconds.
    pub elapsed_s: f64,
    /// What was asked and found.
    pub questions: Vec<QuestionResult>,
    /// As in [`Results`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_space: Option<String>,
    /// As in [`Results`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_bars: Option<String>,
    /// As in [`Results`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, String>,
    /// Model name of the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Worker threads used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// The command line.
    pub command: String,
    /// The study's file.
    pub study: String,
}

/// A question and what its variants gave.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct QuestionResult {
    /// Heading.
    pub title: String,
    /// The question in a sentence.
    pub ask: String,
    /// In the study's order.
    pub variants: Vec<VariantResult>,
}

/// One variant: what it costs, and what was measured on it once its run has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VariantResult {
    /// The variant's name.
    pub name: String,
    /// What it changes in the base recipe, in phrases.
    pub changes: Vec<String>,
    /// The run's folder, from the study's.
    pub run: String,
    /// Parameters of the edited model.
    pub params: u64,
    /// Parameters of the teacher.
    pub params_before: u64,
    /// Floating-point operations of a forward pass of the edited model.
    pub flops: u64,
    /// Those of the teacher.
    pub flops_before: u64,
    /// What was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
    /// Why the training was given up, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diverged: Option<String>,
}

/// What a finished run found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Wall-clock time of the run in seconds.
    pub seconds: f64,
    /// Stage 1's loss on held-out images before training, as the mean over the new operators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_first: Option<f64>,
    /// The same of the best weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_best: Option<f64>,
    /// The models that were scored.
    pub models: Vec<ModelResult>,
    /// What real images score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Floor>,
}

impl StudyResults {
    /// What a run tells of all of them.
    pub fn surroundings(run: &Results) -> Self {
        Self {
            feature_space: run.feature_space.clone(),
            error_bars: run.error_bars.clone(),
            versions: run.versions.clone(),
            cpu: run.cpu.clone(),
            threads: run.threads,
            ..Self::default()
        }
    }
}

impl Measured {
    /// The part of a run's results that studies compare.
    pub fn of(run: &Results) -> Self {
        let mean = |loss: fn(&Stage1Result) -> Option<f64>| {
            let losses: Option<Vec<f64>> = run.stage1.iter().map(loss).collect();
            losses.filter(|losses| !losses.is_empty()).map(|l| l.iter().sum::<f64>() / l.len() as f64)
        };
        Self {
            seconds: run.elapsed_s,
            held_out_first: mean(|row| row.val_first),
            held_out_best: mean(|row| row.val_best),
            models: run.models.clone(),
            floor: run.floor.clone(),
        }
    }

    /// A model of the run.
    pub fn model(&self, name: ModelName) -> Option<&ModelResult> {
        self.models.iter().find(|model| model.name == name)
    }

    /// The score of a model.
    pub fn frechet(&self, name: ModelName) -> Option<&Estimate> {
        self.model(name)?.frechet.as_ref()
    }

    /// The edited model after the last stage that was scored.
    pub fn edited(&self) -> Option<&ModelResult> {
        self.models.iter().filter(|model| model.name != ModelName::Teacher).max_by_key(|model| model.name)
    }
}

impl QuestionResult {
    /// A score that all of the question's finished runs agree on, such as the teacher's; nothing where they differ.
    pub fn common(&self, of: fn(&Measured) -> Option<&Estimate>) -> Option<&Estimate> {
        let mut found = self.variants.iter().filter_map(|v| v.measured.as_ref()).map(of);
        let first = found.next()??;
        found.all(|other| other == Some(first)).then_some(first)
    }

    /// The teacher's score, where all have the same.
    pub fn teacher(&self) -> Option<&Estimate> {
        self.common(|measured| measured.frechet(ModelName::Teacher))
    }

    /// The score of real images, where all have the same.
    pub fn floor(&self) -> Option<&Estimate> {
        self.common(|measured| measured.floor.as_ref()?.frechet.as_ref())
    }

    /// The edited models that were scored in any variant, in the order in which runs make them.
    pub fn edited_models(&self) -> Vec<ModelName> {
        let scored = |name: &ModelName| {
            self.variants.iter().any(|v| v.measured.as_ref().is_some_and(|m| m.frechet(*name).is_some()))
        };
        ModelName::ALL.into_iter().filter(|name| *name != ModelName::Teacher).filter(scored).collect()
    }
}
