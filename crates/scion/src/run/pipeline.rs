//! The main job: teacher, plan, stage 1, stage 2, samples, scores, report.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;

use super::evaluate::{Judge, Scores, evaluation_samples, labels, latencies};
use super::folder::RunFolder;
use super::graft::{new_sites, place, with_fresh_operators};
use super::pretrain::{Training, train};
use super::results;
use super::stage1::{Regrown, stage1};
use super::teacher::{EMBEDDED_NAME, Teacher, load_teacher};
use crate::capture::Site;
use crate::checkpoint::Checkpoint;
use crate::config::{DataSource, Recipe};
use crate::error::{Error, Result};
use crate::model::{Architecture, Dit, fingerprint, load, save_scion};
use crate::operator::Operator;
use crate::plan;
use crate::report::results::{ModelName, ModelResult, Results, Stage1Result};

/// How far a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Until {
    /// Stage 1: `stage1.safetensors`.
    Distill,
    /// Stage 2: `stage2.safetensors`.
    Finetune,
    /// Samples, scores and report.
    Report,
}

/// What a finished run left.
#[derive(Debug)]
pub enum Outcome {
    /// The files of this kind were made now.
    Made(PathBuf),
    /// The run was finished before.
    Already(PathBuf),
}

/// Runs a recipe's stages up to `until`, going on where an interrupted run stopped.
///
/// # Errors
/// When the recipe lacks a stage's section, or files cannot be read or written.
pub fn run(recipe: &Recipe, root: &Path, until: Until, command: &str, quiet: bool) -> Result<Outcome> {
    for (needed, name, there) in [
        (Until::Distill, "distill", recipe.distill.is_some()),
        (Until::Finetune, "finetune", recipe.finetune.is_some()),
    ] {
        if until >= needed && !there {
            return Err(Error::Usage(format!("the recipe has no [{name}] section")));
        }
    }
    let mut folder = RunFolder::open(root, recipe)?;
    let goal = folder.path(match until {
        Until::Distill => "stage1.safetensors",
        Until::Finetune => "stage2.safetensors",
        Until::Report => "report.html",
    });
    if goal.exists() {
        return Ok(Outcome::Already(goal));
    }
    let mut job = Job::open(recipe, &mut folder, quiet)?;
    let stage1 = job.stage1(&mut folder)?;
    if until == Until::Distill {
        return Ok(Outcome::Made(goal));
    }
    let stage2 = job.stage2(&mut folder, &stage1)?;
    if until == Until::Report {
        job.report(&mut folder, &stage1, &stage2, command)?;
    }
    Ok(Outcome::Made(goal))
}

/// The pieces that stages share.
struct Job<'a> {
    recipe: &'a Recipe,
    quiet: bool,
    device: Device,
    teacher: Teacher,
    grafted: Architecture,
    sites: Vec<Site>,
    untrained: Dit,
}

impl<'a> Job<'a> {
    fn open(recipe: &'a Recipe, folder: &mut RunFolder, quiet: bool) -> Result<Self> {
        let device = Device::flex();
        let teacher = load_teacher(&recipe.model, folder, &device)?;
        folder.claim(&fingerprint(&teacher.model))?;
        let grafted = plan::graft(&teacher.architecture, &recipe.grafts)?;
        plan::check_finetuning(recipe, &teacher.architecture, &grafted)?;
        let sites = new_sites(&teacher.architecture, &grafted);
        if sites.is_empty() {
            return Err(Error::Plan("the recipe grafts nothing; add a [[graft]] entry".into()));
        }
        let untrained =
            with_fresh_operators(&teacher.model, &teacher.architecture, &grafted, recipe.seed, &device)?;
        Ok(Self { recipe, quiet, device, teacher, grafted, sites, untrained })
    }

    /// The grafted model with regressed operators.
    fn stage1(&mut self, folder: &mut RunFolder) -> Result<Dit> {
        let file = folder.path("stage1.safetensors");
        if file.exists() {
            folder.remove("stage1.state.safetensors")?;
            return self.reload(&file);
        }
        let config = self.recipe.distill.as_ref().expect("checked before the run");
        let tracked = with_fresh_operators(
            &self.teacher.model,
            &self.teacher.architecture,
            &self.grafted,
            self.recipe.seed,
            &self.device.clone().autodiff(),
        )?;
        let fresh: Vec<(Site, Operator)> = self
            .sites
            .iter()
            .map(|&(block, slot)| ((block, slot), tracked.blocks()[block].operator(slot).clone()))
            .collect();
        let sizes = &self.teacher.architecture.dit;
        let (regrown, seconds) =
            stage1(self.recipe, config, &self.teacher.model, sizes, &fresh, folder, self.quiet)?;
        let rows = self.stage1_rows(&regrown, seconds, folder)?;
        folder.save_json("stage1.json", &rows)?;
        let model = place(self.untrained.clone(), regrown.into_iter().map(|r| (r.site, r.operator)));
        // Comes last: where this file is there, the stage is done.
        save_scion(&model, &self.grafted, &file)?;
        folder.remove("stage1.state.safetensors")?;
        Ok(model)
    }

    /// The grafted model after light finetuning.
    fn stage2(&mut self, folder: &mut RunFolder, stage1: &Dit) -> Result<Dit> {
        let file = folder.path("stage2.safetensors");
        if file.exists() {
            folder.remove("stage2.state.safetensors")?;
            return self.reload(&file);
        }
        let config = self.recipe.finetune.as_ref().expect("checked before the run");
        let tracked = stage1.clone().train();
        let training = Training::Finetuning { teacher: &self.teacher, sites: &self.sites };
        let model = train(self.recipe, config, &training, &self.grafted, tracked, folder, self.quiet)?;
        // Comes last: where this file is there, the stage is done.
        save_scion(&model, &self.grafted, &file)?;
        folder.remove("stage2.state.safetensors")?;
        Ok(model)
    }

    /// Samples and scores four models, and writes `results.json` and `report.html`.
    fn report(&mut self, folder: &mut RunFolder, stage1: &Dit, stage2: &Dit, command: &str) -> Result<()> {
        let models = [
            (ModelName::Teacher, &self.teacher.model),
            (ModelName::Untrained, &self.untrained),
            (ModelName::Stage1, stage1),
            (ModelName::Stage2, stage2),
        ];
        let sizes = &self.teacher.architecture.dit;
        let clock = folder.start_stage("samples")?;
        let mut pixels = Vec::new();
        for (name, model) in models {
            pixels.push(evaluation_samples(self.recipe, name, model, sizes, folder, self.quiet)?);
        }
        folder.note_stage(&clock)?;
        let clock = folder.start_stage("evaluation")?;
        let classes = labels(self.recipe.sample.count, sizes.num_classes);
        let judge = self.judged().then(|| Judge::new(&self.device, self.recipe.seed)).transpose()?;
        let score = |pixels: &Vec<u8>| judge.as_ref().map(|j| j.score(pixels, Some(&classes))).transpose();
        let scores = pixels.iter().map(score).collect::<Result<Vec<Option<Scores>>>>()?;
        let floor = judge.as_ref().map(|j| j.floor(self.recipe.sample.count)).transpose()?;
        let evaluate = &self.recipe.evaluate;
        let times =
            latencies(&[&self.teacher.model, stage2], sizes, evaluate.latency_batch, evaluate.latency_runs);
        let mut rows: Vec<ModelResult> = models
            .iter()
            .zip(scores)
            .map(|((name, _), scores)| {
                let architecture =
                    if *name == ModelName::Teacher { &self.teacher.architecture } else { &self.grafted };
                results::model(*name, architecture, scores)
            })
            .collect();
        results::add_latencies(&mut rows, &times);
        folder.note_stage(&clock)?;
        let results = Results {
            models: rows,
            floor,
            stage1: folder.load_json("stage1.json")?,
            blocks: results::blocks(&self.teacher.architecture, &self.grafted),
            ..results::surroundings(self.recipe, folder, command, judge.is_some())?
        };
        folder.save_json("results.json", &results)?;
        crate::report::from_run_dir(folder.root())?;
        Ok(())
    }

    /// Whether the embedded classifier can judge this model's images.
    fn judged(&self) -> bool {
        let sizes = &self.teacher.architecture.dit;
        let fashion = match self.recipe.data.source {
            DataSource::Embedded | DataSource::FashionMnist => true,
            DataSource::ImageFolder => false,
            DataSource::Teacher => self.recipe.model.checkpoint.as_deref() == Some(EMBEDDED_NAME),
        };
        fashion && (sizes.in_channels, sizes.input_size, sizes.num_classes) == (1, 28, 10)
    }

    fn reload(&self, file: &Path) -> Result<Dit> {
        load(&Checkpoint::open(file)?, &self.grafted, &self.device)
    }

    fn stage1_rows(
        &self,
        regrown: &[Regrown],
        seconds: f64,
        folder: &RunFolder,
    ) -> Result<Vec<Stage1Result>> {
        let config = self.recipe.distill.as_ref().expect("stage 1 has run");
        let loss = results::kebab(&config.loss);
        let logged = folder.logged("stage1")?;
        let losses = |(block, slot): Site| -> Vec<f64> {
            let own = logged.iter().filter(|l| l["block"] == block && l["slot"] == slot.name());
            own.filter_map(|l| l["loss"].as_f64()).collect()
        };
        let row = |r: &Regrown| Stage1Result {
            block: r.site.0,
            slot: r.site.1.name().into(),
            operator: self.grafted.operator(r.site.0, r.site.1).name(),
            loss: loss.clone(),
            train_first: losses(r.site).first().copied(),
            train_best: losses(r.site).into_iter().reduce(f64::min),
            val_first: Some(r.val_first),
            val_best: Some(r.val_best),
            epochs: (config.steps * config.batch as u64) as f64 / r.samples as f64,
            seconds: seconds / regrown.len() as f64,
        };
        Ok(regrown.iter().map(row).collect())
    }
}
