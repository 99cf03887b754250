//! From measurements to `results.json`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::evaluate::Scores;
use super::folder::RunFolder;
use crate::classifier::FEATURE_SPACE;
use crate::config::Recipe;
use crate::data::fashion_mnist::CLASS_NAMES;
use crate::error::Result;
use crate::metrics::{Accuracy, median};
use crate::model::{Architecture, Site};
use crate::operator::Slot;
use crate::plan::Plan;
use crate::report::results::{BlockResult, ModelName, ModelResult, Results, SlotResult};

/// A model's row: cost, and scores where there are any, or how many images show their prompt.
pub(super) fn model(
    name: ModelName,
    architecture: &Architecture,
    scores: Option<Scores>,
    shown: Option<Accuracy>,
) -> ModelResult {
    let mut row = ModelResult::new(name, architecture.parameters() as u64, architecture.flops() as u64);
    if let Some(scores) = scores {
        row.samples = scores.samples;
        row.frechet = Some(scores.frechet);
        row.kid = Some(scores.kid);
        row.accuracy = scores.accuracy;
        row.accuracy_interval = scores.accuracy_interval;
    }
    if let Some(shown) = shown {
        row.samples = shown.total as u64;
        row.accuracy = Some(shown.fraction());
        row.accuracy_interval = Some(shown.wilson(1.96).into());
    }
    row
}

/// Adds the forward times of the teacher and the grafted model; all grafted rows share an architecture.
pub(super) fn add_latencies(rows: &mut [ModelResult], times: &[Vec<f64>]) {
    let ratios: Vec<f64> =
        times[1].iter().zip(&times[0]).map(|(grafted, teacher)| grafted / teacher).collect();
    for row in rows {
        let teacher = row.name == ModelName::Teacher;
        let times = &times[usize::from(!teacher)];
        row.latency_ms = median(times.iter().copied());
        row.latency_ms_min = times.iter().copied().reduce(f64::min);
        row.latency_ms_max = times.iter().copied().reduce(f64::max);
        row.latency_ratio = if teacher { Some(1.0) } else { median(ratios.iter().copied()) };
    }
}

/// Every block of the model before, and what became of it.
pub(super) fn blocks(plan: &Plan) -> Vec<BlockResult> {
    let (width, tokens) = (plan.before.dit.hidden, plan.before.dit.tokens());
    let slot = |block, slot: Slot| {
        let before = plan.before.operator(block, slot);
        let after = plan.number(block).map(|number| plan.after.operator(number, slot));
        SlotResult {
            operator: after.as_ref().unwrap_or(&before).name(),
            original: before.name(),
            replaced: plan.sites.contains(&Site::Operator(block, slot)),
            init: plan.inits.get(&Site::Operator(block, slot)).map(|init| init.name().into()),
            params_before: before.parameters(width) as u64,
            params_after: after.as_ref().map_or(0, |o| o.parameters(width)) as u64,
            flops_before: before.flops(width, tokens).total() as u64,
            flops_after: after.as_ref().map_or(0, |o| o.flops(width, tokens).total()) as u64,
        }
    };
    let block = |(block, &restructure)| BlockResult {
        block,
        attention: slot(block, Slot::Attention),
        mlp: slot(block, Slot::Mlp),
        restructure,
    };
    plan.restructured.iter().enumerate().map(block).collect()
}

/// Everything around the numbers: recipe, machine, versions, times.
pub(super) fn surroundings(
    recipe: &Recipe,
    folder: &RunFolder,
    command: &str,
    judged: bool,
) -> Result<Results> {
    let stages = folder.stages()?;
    let evaluate = &recipe.evaluate;
    let precision = kebab(&recipe.precision);
    Ok(Results {
        elapsed_s: stages.iter().map(|s| s.seconds).sum(),
        // Earlier sessions of the run count as well.
        peak_rss_bytes: stages.iter().filter_map(|s| s.peak_rss_bytes).fold(peak_memory(), u64::max),
        feature_space: judged.then(|| FEATURE_SPACE.to_string()),
        error_bars: judged
            .then(|| "standard errors by jackknife over the images; accuracy: 95% Wilson interval".into()),
        latency_setting: Some(format!(
            "batch {}, {precision}, {} passes of each model in alternation",
            evaluate.latency_batch, evaluate.latency_runs
        )),
        class_names: if judged { CLASS_NAMES.map(String::from).to_vec() } else { Vec::new() },
        stages,
        versions: BTreeMap::from([
            ("scion".to_string(), env!("CARGO_PKG_VERSION").to_string()),
            ("burn".to_string(), "0.22.1".to_string()),
        ]),
        cpu: cpu_name(),
        threads: Some(rayon::current_num_threads()),
        seed: Some(recipe.seed),
        recipe: Some(recipe.to_toml()),
        command: Some(command.to_string()),
        ..Results::default()
    })
}

/// How a setting is written in recipes.
pub(crate) fn kebab(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default()
}

/// Largest resident memory of this process so far, in bytes; 0 where the system does not tell.
pub(crate) fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Starts [`peak_memory`] anew, where the system allows it.
pub(crate) fn reset_peak_memory() {
    // Elsewhere the peak stays that of the whole process.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Model name of the processor, where the system tells it.
pub(crate) fn cpu_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}
