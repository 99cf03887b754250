//! The main job: teacher, plan, stage 1, stage 2, samples, scores, report.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;

use super::canvas::Canvas;
use super::evaluate::{Judge, Scores, adopt_teacher_samples, evaluation_samples, latencies};
use super::folder::RunFolder;
use super::graft::with_fresh_parts;
use super::locality::{self, Locality};
use super::pictures::{self, Pictures};
use super::pretrain::{Training, train};
use super::prompts::{Labels, with_prompts};
use super::results;
use super::stage1::{Regrown, inheritance, stage1};
use super::teacher::{EMBEDDED_NAME, Teacher, open_teacher};
use crate::checkpoint::Checkpoint;
use crate::config::{DataSource, GraftConfig, Recipe};
use crate::error::{Error, Result};
use crate::model::{Architecture, Dit, Part, Site, fingerprint, load, save_scion};
use crate::plan::{self, Plan};
use crate::report::results::{LocalityResult, ModelName, ModelResult, Results, Stage1Result};
use crate::train::TrainConfig;

/// How far a run goes. Of the stages before, those are run that the recipe has.
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
/// The teacher's images are taken from the folder of a finished run, `sibling`, where that had the same teacher and
/// drew them in the same way.
///
/// # Errors
/// Those of [`check_stages`], and when files cannot be read or written.
pub fn run(
    recipe: &Recipe,
    root: &Path,
    until: Until,
    sibling: Option<&Path>,
    command: &str,
    quiet: bool,
) -> Result<Outcome> {
    check_stages(recipe, until)?;
    let mut folder = RunFolder::open(root, recipe)?;
    let goal = folder.path(match until {
        Until::Distill => "stage1.safetensors",
        Until::Finetune => "stage2.safetensors",
        Until::Report => "report.html",
    });
    if goal.exists() && (until != Until::Report || folder.path("results.json").exists()) {
        return Ok(Outcome::Already(goal));
    }
    let mut job = Job::open(recipe, &mut folder, until, quiet)?;
    let stage1 = job.stage1(&mut folder)?;
    if until == Until::Distill {
        return Ok(Outcome::Made(goal));
    }
    let stage2 =
        recipe.finetune.as_ref().map(|config| job.stage2(config, &mut folder, &stage1)).transpose()?;
    if until == Until::Report {
        if let Some(sibling) = sibling {
            adopt_teacher_samples(recipe, sibling, &folder)?;
        }
        job.report(&mut folder, &stage1, stage2.as_ref(), command)?;
    }
    Ok(Outcome::Made(goal))
}

/// Checks that a recipe has the section of stage 2, where a run shall end with it, and of any stage for a report.
///
/// # Errors
/// When it has not.
pub fn check_stages(recipe: &Recipe, until: Until) -> Result<()> {
    let (distill, finetune) = (recipe.distill.is_some(), recipe.finetune.is_some());
    let (there, section) = match until {
        // An edit may bring nothing for stage 1 to train.
        Until::Distill => (true, "[distill]"),
        Until::Finetune => (finetune, "[finetune]"),
        Until::Report => (distill || finetune, "[distill] or [finetune]"),
    };
    if there { Ok(()) } else { Err(Error::Usage(format!("the recipe has no {section} section"))) }
}

/// The pieces that stages share.
struct Job<'a> {
    recipe: &'a Recipe,
    quiet: bool,
    device: Device,
    teacher: Teacher,
    plan: Plan,
    /// What the blocks were chosen by, where locality chose them.
    locality: Option<LocalityResult>,
    /// What stage 1 trains, in the teacher's numbers; nothing where the recipe has no stage 1.
    sites: Vec<Site>,
    untrained: Dit,
    /// What becomes of drawn images.
    canvas: Canvas,
    /// What they are of.
    labels: Labels,
}

impl<'a> Job<'a> {
    fn open(recipe: &'a Recipe, folder: &mut RunFolder, until: Until, quiet: bool) -> Result<Self> {
        let device = Device::flex();
        let (file, architecture) = open_teacher(&recipe.model, folder)?;
        let canvas = Canvas::of_run(recipe, &architecture.dit)?;
        let labels = Labels::of(recipe, &architecture.dit)?;
        // Mistakes are found before the weights are read, unless they choose the blocks.
        if !plan::needs_locality(&recipe.grafts) {
            checked_plan(recipe, &architecture, &recipe.grafts, until)?;
        }
        let model = with_prompts(
            load(&file, &architecture, &device)?,
            recipe,
            &architecture.dit,
            Some(folder),
            quiet,
        )?;
        let teacher = Teacher { model, architecture };
        folder.claim(&fingerprint(&teacher.model))?;
        let (grafts, locality) = chosen_blocks(recipe, &teacher, folder, quiet)?;
        let plan = checked_plan(recipe, &teacher.architecture, &grafts, until)?;
        let sites = if recipe.distill.is_some() { plan.trained_sites() } else { Vec::new() };
        let inputs = inheritance(recipe, &teacher.model, &plan, folder, quiet)?;
        let untrained = with_fresh_parts(&teacher.model, &plan, recipe.seed, &inputs)?;
        Ok(Self { recipe, quiet, device, teacher, plan, locality, sites, untrained, canvas, labels })
    }

    /// The edited model with regressed parts; as it is where there is nothing to train.
    fn stage1(&mut self, folder: &mut RunFolder) -> Result<Dit> {
        let file = folder.path("stage1.safetensors");
        if file.exists() {
            folder.remove("stage1.state.safetensors")?;
            return self.reload(&file);
        }
        let mut model = self.untrained.clone();
        let rows = if self.sites.is_empty() {
            Vec::new()
        } else {
            let (regrown, seconds) = self.distill(folder)?;
            let rows = self.stage1_rows(&regrown, seconds, folder)?;
            regrown.into_iter().for_each(|r| model.place(self.plan.place(r.site), r.part));
            rows
        };
        folder.save_json("stage1.json", &rows)?;
        // Comes last: where this file is there, the stage is done.
        save_scion(&model, &self.plan.after, &file)?;
        folder.remove("stage1.state.safetensors")?;
        Ok(model)
    }

    /// Trains all parts; returns them with the seconds it took.
    fn distill(&self, folder: &mut RunFolder) -> Result<(Vec<Regrown>, f64)> {
        let config = self.recipe.distill.as_ref().expect("there is something to train");
        let teacher = &self.teacher;
        let fresh = |&site| (site, self.untrained.part(self.plan.place(site)).train());
        let fresh: Vec<(Site, Part)> = self.sites.iter().map(fresh).collect();
        stage1(self.recipe, config, &teacher.model, &teacher.architecture.dit, fresh, folder, self.quiet)
    }

    /// The edited model after light finetuning.
    fn stage2(&mut self, config: &TrainConfig, folder: &mut RunFolder, stage1: &Dit) -> Result<Dit> {
        let file = folder.path("stage2.safetensors");
        if file.exists() {
            folder.remove("stage2.state.safetensors")?;
            return self.reload(&file);
        }
        let tracked = stage1.clone().train();
        let training = Training::Finetuning { teacher: &self.teacher, plan: &self.plan };
        let model = train(self.recipe, config, &training, &self.plan.after, tracked, folder, self.quiet)?;
        // Comes last: where this file is there, the stage is done.
        save_scion(&model, &self.plan.after, &file)?;
        folder.remove("stage2.state.safetensors")?;
        Ok(model)
    }

    /// Samples and scores the models, and writes `results.json` and `report.html`.
    fn report(
        &mut self,
        folder: &mut RunFolder,
        stage1: &Dit,
        stage2: Option<&Dit>,
        command: &str,
    ) -> Result<()> {
        let evaluate = &self.recipe.evaluate;
        let mut models = vec![
            (ModelName::Teacher, &self.teacher.model),
            (ModelName::Untrained, &self.untrained),
            (ModelName::Stage1, stage1),
        ];
        models.extend(stage2.map(|model| (ModelName::Stage2, model)));
        // Without stage 1, the model after it is the untrained one.
        models.retain(|(name, _)| *name != ModelName::Stage1 || !self.sites.is_empty());
        models.retain(|(name, _)| evaluate.models.contains(name));
        let sizes = &self.teacher.architecture.dit;
        if matches!(self.canvas, Canvas::Latents(_)) {
            tracing::warn!(
                "the model makes latents of {} channels: its samples are kept as such, and the report has no pictures; \
                 model.vae = \"FOLDER\" in the recipe decodes them",
                sizes.in_channels
            );
        }
        let labels = &self.labels;
        let clock = folder.start_stage("samples")?;
        let mut pixels = Vec::new();
        for &(name, model) in &models {
            pixels.push(evaluation_samples(
                self.recipe,
                name,
                model,
                sizes,
                labels,
                &self.canvas,
                folder,
                self.quiet,
            )?);
        }
        folder.note_stage(&clock)?;
        let clock = folder.start_stage("evaluation")?;
        let asked = labels.evaluated(self.recipe.sample.count);
        let judge = self.judged().then(|| Judge::new(&self.device, self.recipe.seed)).transpose()?;
        let score = |pixels: &Vec<u8>| judge.as_ref().map(|j| j.score(pixels, Some(&asked))).transpose();
        let scores = pixels.iter().map(score).collect::<Result<Vec<Option<Scores>>>>()?;
        let floor = judge.as_ref().map(|j| j.floor(self.recipe.sample.count)).transpose()?;
        let timed = [&self.teacher.model, stage2.unwrap_or(stage1)];
        let pictures = Pictures::of(self.recipe, labels, &self.canvas);
        let shown = |pixels: &Vec<u8>| pictures.as_ref()?.score(pixels, &asked);
        let shown: Vec<_> = pixels.iter().map(shown).collect();
        let told = shown.iter().any(Option::is_some).then(|| pictures::SETTING.into());
        let times = latencies(&timed, sizes, evaluate.latency_batch, evaluate.latency_runs);
        let mut rows: Vec<ModelResult> = models
            .iter()
            .zip(scores.into_iter().zip(shown))
            .map(|((name, _), (scores, shown))| {
                let architecture =
                    if *name == ModelName::Teacher { &self.plan.before } else { &self.plan.after };
                results::model(*name, architecture, scores, shown)
            })
            .collect();
        results::add_latencies(&mut rows, &times);
        folder.note_stage(&clock)?;
        let results = Results {
            models: rows,
            floor,
            stage1: folder.load_json("stage1.json")?,
            stage1_left_out: self.plan.trained_sites().is_empty(),
            blocks: results::blocks(&self.plan),
            locality: self.locality.clone(),
            prompts: labels.of_rows(self.recipe.sample.count, evaluate.grid_columns),
            accuracy_setting: told,
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
            DataSource::Emoji | DataSource::ImageFolder | DataSource::Latents => false,
            DataSource::Teacher => self.recipe.model.checkpoint.as_deref() == Some(EMBEDDED_NAME),
        };
        fashion && (sizes.in_channels, sizes.input_size, sizes.classes().ok()) == (1, 28, Some(10))
    }

    fn reload(&self, file: &Path) -> Result<Dit> {
        let model = load(&Checkpoint::open(file)?, &self.plan.after, &self.device)?;
        Ok(match self.teacher.model.prompts() {
            Some(prompts) => model.with_prompts(prompts.clone()),
            None => model,
        })
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
        let losses = |site: Site| -> Vec<f64> {
            let own = logged.iter().filter(|l| l["block"] == site.block() && l["slot"] == site.kind());
            own.filter_map(|l| l["loss"].as_f64()).collect()
        };
        let row = |r: &Regrown| Stage1Result {
            block: r.site.block(),
            second: r.site.second(),
            slot: r.site.kind().into(),
            operator: self.plan.part_name(r.site),
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

/// The plan of a run up to `until`, its blocks chosen.
fn checked_plan(
    recipe: &Recipe,
    before: &Architecture,
    grafts: &[GraftConfig],
    until: Until,
) -> Result<Plan> {
    let plan = Plan::new(before, grafts, &recipe.restructures)?;
    plan::check_finetuning(recipe, &plan)?;
    if plan.is_empty() {
        return Err(Error::Plan(
            "the recipe changes nothing; add a [[graft]] or a [[restructure]] entry".into(),
        ));
    }
    if until == Until::Distill && !plan.trained_sites().is_empty() && recipe.distill.is_none() {
        return Err(Error::Usage("the recipe has no [distill] section".into()));
    }
    Ok(plan)
}

/// The recipe's grafts with their blocks chosen, and what they were chosen by. The teacher's attention is measured once a
/// run.
fn chosen_blocks(
    recipe: &Recipe,
    teacher: &Teacher,
    folder: &RunFolder,
    quiet: bool,
) -> Result<(Vec<GraftConfig>, Option<LocalityResult>)> {
    if !plan::needs_locality(&recipe.grafts) {
        return Ok((recipe.grafts.clone(), None));
    }
    let found = match Locality::stored(recipe, teacher, &folder.path(locality::FILE))? {
        Some(stored) => stored,
        None => {
            let clock = folder.start_stage("locality")?;
            let measured = Locality::measure(recipe, teacher, quiet)?;
            folder.save_json(locality::FILE, &measured)?;
            folder.note_stage(&clock)?;
            measured
        }
    };
    let grafts = plan::choose(&recipe.grafts, found.blocks())?;
    let by_locality = recipe.grafts.iter().zip(&grafts).filter(|(rule, _)| rule.blocks.by_locality());
    let blocks = by_locality.map(|(_, chosen)| chosen.blocks.resolve(found.blocks().len()));
    let chosen: BTreeSet<usize> = blocks.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    Ok((grafts, Some(found.result(chosen.into_iter().collect()))))
}
