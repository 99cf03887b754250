//! Studies: many runs that differ in a few fields of a recipe, and one page that compares them.

mod study;

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::atomic;
use crate::config::{PrecisionConfig, Recipe};
use crate::error::{Error, Result};
use crate::model::Architecture;
use crate::operator::OperatorConfig;
use crate::report::Results;
use crate::report::study::{Measured, QuestionResult, StudyResults, VariantResult, changes};
use crate::run::{self, Locality, Planned, Until};

pub use study::{Question, Study, Variant};

/// A study whose every variant has been planned.
#[derive(Debug)]
pub struct Sweep<'a> {
    /// What is asked.
    pub study: &'a Study,
    /// What has to be run for it, each recipe once.
    pub runs: Vec<PlannedRun>,
    /// The place in `runs` of every question's variants.
    pub places: Vec<Vec<usize>>,
    out: PathBuf,
}

/// A run, and what its recipe makes of its model.
#[derive(Debug)]
pub struct PlannedRun {
    /// The recipe.
    pub recipe: Recipe,
    /// The run's folder.
    pub folder: PathBuf,
    /// The model before the edit.
    pub before: Architecture,
    /// The model after it.
    pub after: Architecture,
}

impl PlannedRun {
    /// Whether the run has been finished, in this session or an earlier one.
    pub fn is_finished(&self) -> bool {
        [RESULTS, "report.html"].iter().all(|name| self.folder.join(name).exists())
    }

    /// How the run ended in an earlier session, if it did. To try a diverged one again, its folder is deleted.
    fn ending(&self) -> Result<Option<Ending>> {
        if self.is_finished() {
            return Ok(Some(Ending::Before(self.results()?)));
        }
        let path = self.folder.join(DIVERGED);
        match fs::read_to_string(&path) {
            Ok(detail) => Ok(Some(Ending::Diverged(detail))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", &path, e)),
        }
    }

    /// What a finished run found.
    fn results(&self) -> Result<Results> {
        Results::read(&self.folder.join(RESULTS))
    }
}

/// How a run of a sweep ended.
#[derive(Debug)]
pub enum Ending {
    /// It was finished before.
    Before(Results),
    /// It was finished now.
    Now(Results),
    /// Its training ran into numbers that are not finite.
    Diverged(String),
}

/// Where a study's runs are, in its folder.
const RUNS: &str = "runs";
/// What a run found, in its folder.
const RESULTS: &str = "results.json";
/// Why a run's training was given up, in its folder.
const DIVERGED: &str = "diverged.txt";
/// A study's numbers and page.
const NUMBERS: &str = "study.json";
const PAGE: &str = "index.html";

impl<'a> Sweep<'a> {
    /// Plans every variant of a study whose results go to the folder `out`. Equal recipes become one run; a run that the
    /// folder holds already is found by its recipe, whatever it is called.
    ///
    /// # Errors
    /// When a plan cannot be carried out; the error names question and variant.
    pub fn plan(study: &'a Study, out: &Path, quiet: bool) -> Result<Self> {
        let begun = begun_runs(&out.join(RUNS))?;
        let (mut auto, mut localities) = (None, Vec::new());
        let mut runs: Vec<PlannedRun> = Vec::new();
        let mut places = Vec::new();
        for question in &study.questions {
            let mut own = Vec::new();
            for variant in &question.variants {
                let mut recipe = variant.recipe.clone();
                if recipe.precision == PrecisionConfig::Auto {
                    recipe.precision = *auto.get_or_insert_with(|| settled_precision(study, &begun));
                }
                if let Some(place) = runs.iter().position(|run| run.recipe == recipe) {
                    own.push(place);
                    continue;
                }
                own.push(runs.len());
                runs.push(planned(recipe, out, &begun, &mut localities, quiet).map_err(|error| {
                    Error::Recipe {
                        path: study.path.clone(),
                        detail: format!(
                            "question \"{}\", variant \"{}\": {error}",
                            question.title, variant.name
                        ),
                    }
                })?);
            }
            places.push(own);
        }
        Ok(Self { study, runs, places, out: out.into() })
    }

    /// Runs what has not been finished, and after every run writes numbers and page anew; returns the page's path.
    /// `on_end` hears how each run ended, those first that were finished before.
    ///
    /// # Errors
    /// When a run fails for another reason than that it diverged, or the folder holds something else or cannot be written.
    pub fn run(
        &self,
        command: &str,
        quiet: bool,
        mut on_end: impl FnMut(usize, &Ending) -> Result<()>,
    ) -> Result<PathBuf> {
        let (page, numbers) = (self.out.join(PAGE), self.out.join(NUMBERS));
        if page.exists() && !numbers.exists() {
            let detail = "is not the page of a study; choose another --out";
            return Err(Error::Exists { path: page, detail: detail.into() });
        }
        let mut endings: Vec<Option<Ending>> = Vec::new();
        for (place, run) in self.runs.iter().enumerate() {
            let ending = run.ending()?;
            ending.iter().try_for_each(|ending| on_end(place, ending))?;
            self.check_teacher(run)?;
            endings.push(ending);
        }
        self.write(&endings, command)?;
        for (place, run) in self.runs.iter().enumerate() {
            if endings[place].is_some() {
                continue;
            }
            let ending = self.finish(run, quiet)?;
            on_end(place, &ending)?;
            self.check_teacher(run)?;
            endings[place] = Some(ending);
            self.write(&endings, command)?;
        }
        Ok(page)
    }

    /// Brings a run to its end.
    fn finish(&self, run: &PlannedRun, quiet: bool) -> Result<Ending> {
        scion_kernels::set_precision(run.recipe.precision.operands());
        run::reset_peak_memory();
        let alike =
            |other: &&PlannedRun| other.is_finished() && run::same_teacher_images(&other.recipe, &run.recipe);
        let sibling = self.runs.iter().find(alike).map(|other| other.folder.as_path());
        let command = format!("scion run {}", run.folder.join("recipe.toml").display());
        match run::run(&run.recipe, &run.folder, Until::Report, sibling, &command, quiet) {
            Ok(_) => Ok(Ending::Now(run.results()?)),
            Err(Error::Diverged(detail)) => {
                atomic::write(&run.folder.join(DIVERGED), detail.as_bytes())?;
                Ok(Ending::Diverged(detail))
            }
            Err(error) => Err(error),
        }
    }

    /// Writes numbers and page.
    fn write(&self, endings: &[Option<Ending>], command: &str) -> Result<()> {
        let study = self.results(endings, command);
        let text = serde_json::to_string_pretty(&study).expect("plain data serialises");
        fs::create_dir_all(&self.out).map_err(|e| Error::io("create the folder", &self.out, e))?;
        atomic::write(&self.out.join(NUMBERS), text.as_bytes())?;
        atomic::write(&self.out.join(PAGE), study.html().as_bytes())
    }

    /// Checks that a run started from the same weights as the finished ones of its teacher.
    fn check_teacher(&self, run: &PlannedRun) -> Result<()> {
        let weights = |run: &PlannedRun| fs::read(run.folder.join(run::TEACHER)).ok();
        let alike = |other: &&PlannedRun| other.is_finished() && other.recipe.model == run.recipe.model;
        match self.runs.iter().find(alike) {
            Some(first) if run.is_finished() && weights(first) != weights(run) => Err(Error::Exists {
                path: run.folder.clone(),
                detail: format!(
                    "started from other weights than {}; delete the folder that holds the wrong ones",
                    first.folder.display()
                ),
            }),
            _ => Ok(()),
        }
    }

    fn results(&self, endings: &[Option<Ending>], command: &str) -> StudyResults {
        let ended: Vec<&Ending> = endings.iter().flatten().collect();
        let found: Vec<&Results> = ended.iter().filter_map(|ending| ending.results()).collect();
        let questions = self.study.questions.iter().zip(&self.places).map(|(question, places)| {
            let variants = question.variants.iter().zip(places);
            QuestionResult {
                title: question.title.clone(),
                ask: question.ask.clone(),
                variants: variants
                    .map(|(v, &place)| self.variant(v, place, endings[place].as_ref()))
                    .collect(),
            }
        });
        StudyResults {
            title: self.study.title.clone(),
            runs: self.runs.len(),
            ended: ended.len(),
            elapsed_s: found.iter().map(|results| results.elapsed_s).sum(),
            questions: questions.collect(),
            command: command.into(),
            study: self.study.text.clone(),
            ..found.first().map_or_else(StudyResults::default, |first| StudyResults::surroundings(first))
        }
    }

    fn variant(&self, variant: &Variant, place: usize, ending: Option<&Ending>) -> VariantResult {
        let run = &self.runs[place];
        let folder = run.folder.file_name().unwrap_or_default().to_string_lossy();
        VariantResult {
            name: variant.name.clone(),
            changes: changes(&variant.overrides),
            run: format!("{RUNS}/{folder}"),
            params: run.after.parameters() as u64,
            params_before: run.before.parameters() as u64,
            flops: run.after.flops() as u64,
            flops_before: run.before.flops() as u64,
            measured: ending.and_then(Ending::results).map(Measured::of),
            diverged: match ending {
                Some(Ending::Diverged(detail)) => Some(detail.clone()),
                _ => None,
            },
        }
    }
}

impl Ending {
    /// What was measured, unless the run diverged.
    pub fn results(&self) -> Option<&Results> {
        match self {
            Self::Before(results) | Self::Now(results) => Some(results),
            Self::Diverged(_) => None,
        }
    }
}

/// The recipes and folders of the runs that were begun, by name.
fn begun_runs(runs: &Path) -> Result<Vec<(Recipe, PathBuf)>> {
    let entries = match fs::read_dir(runs) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| Error::io("list", runs, e))?,
    };
    let folders = entries.map(|entry| entry.map(|e| e.path()).map_err(|e| Error::io("list", runs, e)));
    let mut folders = folders.collect::<Result<Vec<_>>>()?;
    folders.sort();
    // A recipe that cannot be read, such as one of another version, is no run of this study.
    Ok(folders.into_iter().filter_map(|f| Some((Recipe::read(&f.join("recipe.toml")).ok()?, f))).collect())
}

/// What `precision = "auto"` means in a study: what it meant in the runs that were begun, else what it means now.
fn settled_precision(study: &Study, begun: &[(Recipe, PathBuf)]) -> PrecisionConfig {
    let variants = || study.questions.iter().flat_map(|question| &question.variants);
    let unsettled = |recipe: &Recipe| {
        let recipe = Recipe { precision: PrecisionConfig::Auto, ..recipe.clone() };
        variants().any(|variant| variant.recipe == recipe)
    };
    let meant = begun.iter().find(|(recipe, _)| unsettled(recipe)).map(|(recipe, _)| recipe.precision);
    meant.unwrap_or(PrecisionConfig::Auto).resolved()
}

fn planned(
    recipe: Recipe,
    out: &Path,
    begun: &[(Recipe, PathBuf)],
    localities: &mut Vec<Locality>,
    quiet: bool,
) -> Result<PlannedRun> {
    let found = begun.iter().find(|(other, _)| *other == recipe).map(|(_, folder)| folder.clone());
    let folder = found.unwrap_or_else(|| out.join(RUNS).join(name(&recipe)));
    // Blocks may be chosen by how the teacher's attention looks in this precision.
    scion_kernels::set_precision(recipe.precision.operands());
    let Planned { plan, .. } = run::plan_with(&recipe, &folder, localities, quiet)?;
    run::check_stages(&recipe, Until::Report)?;
    if plan.is_empty() {
        return Err(Error::Plan(
            "the recipe changes nothing; add a [[graft]] or a [[restructure]] entry".into(),
        ));
    }
    Ok(PlannedRun { recipe, folder, before: plan.before, after: plan.after })
}

/// What a run's folder is called: its new operators, or that it has none, and a hash of its recipe.
fn name(recipe: &Recipe) -> String {
    let mut operators: Vec<String> = recipe.grafts.iter().map(|g| slug(&g.operator)).collect();
    operators.dedup();
    let hash = Sha256::digest(recipe.to_toml());
    let hash: String = hash[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    if operators.is_empty() {
        operators.push("restructured".into());
    }
    format!("{}-{hash}", operators.join("-"))
}

fn slug(operator: &OperatorConfig) -> String {
    let name = operator.name();
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}
