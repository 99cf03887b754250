//! Several finished runs on one page.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::Table;

use super::results::{ModelName, Results};
use super::study::{Measured, QuestionResult, StudyPage, StudyResults, VariantResult, changes};
use super::{SampleGrid, read, run_name};
use crate::error::{Error, Result};

/// How a comparison's page begins, by which it is known again.
const KIND: &str = "comparison";

/// A run that is compared.
struct Run {
    folder: PathBuf,
    name: String,
    results: Results,
    recipe: Table,
}

/// Reads the run folders and writes a page that compares them to `out`. A page of this kind there is replaced.
///
/// # Errors
/// When a folder holds no results, two were scored in different feature spaces, or `out` is another file or cannot be
/// written.
pub fn compare_runs(folders: &[PathBuf], out: &Path) -> Result<()> {
    match std::fs::read(out) {
        Ok(found) if !String::from_utf8_lossy(&found).contains(&StudyPage::title_of(KIND)) => {
            let detail = "is not a comparison of runs; choose another --out".into();
            return Err(Error::Exists { path: out.into(), detail });
        }
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("read", out, e)),
        _ => {}
    }
    let runs = folders.iter().map(|folder| Run::read(folder, folders)).collect::<Result<Vec<_>>>()?;
    check_alike(&runs)?;
    let study = results(&runs, out)?;
    let grids = grids(&runs)?;
    let page = StudyPage { kind: KIND, study: &study, grids: &grids, grids_note: &grids_note(&runs) };
    crate::atomic::write(out, page.html().as_bytes())
}

impl Run {
    fn read(folder: &Path, all: &[PathBuf]) -> Result<Self> {
        let path = folder.join("results.json");
        let results = Results::read(&path)?;
        let recipe = toml::from_str(results.recipe.as_deref().unwrap_or_default())
            .map_err(|e| Error::invalid(&path, format!("`recipe` is no TOML: {e}")))?;
        // Folders of one name are told apart by their paths.
        let own = run_name(folder);
        let shared = all.iter().filter(|other| run_name(other) == own).count() > 1;
        let name = if shared { folder.display().to_string() } else { own };
        Ok(Self { folder: folder.into(), name, results, recipe })
    }
}

/// Distances in different feature spaces have nothing to do with each other.
fn check_alike(runs: &[Run]) -> Result<()> {
    let mut spaces = runs.iter().filter_map(|run| Some((run, run.results.feature_space.as_ref()?)));
    let Some((first, space)) = spaces.next() else { return Ok(()) };
    match spaces.find(|(_, other)| *other != space) {
        Some((run, other)) => Err(Error::Usage(format!(
            "{} was scored by {space}, {} by {other}; such distances cannot be compared",
            first.folder.display(),
            run.folder.display()
        ))),
        None => Ok(()),
    }
}

fn results(runs: &[Run], out: &Path) -> Result<StudyResults> {
    let tables: Vec<&Table> = runs.iter().map(|run| &run.recipe).collect();
    let variants = runs.iter().zip(differences(&tables)).map(|(run, differs)| {
        let teacher = run.results.model(ModelName::Teacher);
        let edited = run.results.grafted().or(teacher);
        Ok(VariantResult {
            name: run.name.clone(),
            changes: changes(&differs),
            run: link(&run.folder, out)?,
            params: edited.map_or(0, |model| model.params),
            params_before: teacher.map_or(0, |model| model.params),
            flops: edited.map_or(0, |model| model.flops),
            flops_before: teacher.map_or(0, |model| model.flops),
            measured: Some(Measured::of(&run.results)),
            diverged: None,
        })
    });
    let names: Vec<String> = runs.iter().map(|run| run.folder.display().to_string()).collect();
    Ok(StudyResults {
        title: format!("{} runs compared", runs.len()),
        runs: runs.len(),
        ended: runs.len(),
        elapsed_s: runs.iter().map(|run| run.results.elapsed_s).sum(),
        questions: vec![QuestionResult {
            title: "The runs".into(),
            ask: caution(runs),
            variants: variants.collect::<Result<_>>()?,
        }],
        command: format!("scion report {} --out {}", names.join(" "), out.display()),
        ..runs.first().map_or_else(StudyResults::default, |first| StudyResults::surroundings(&first.results))
    })
}

/// What to keep in mind where runs were not measured alike.
fn caution(runs: &[Run]) -> String {
    let models = runs.iter().flat_map(|run| &run.results.models);
    let counts: BTreeSet<u64> = models.map(|model| model.samples).filter(|count| *count > 0).collect();
    let mut sentences = vec!["Below each name is what its recipe has of its own.".to_string()];
    if let (Some(least), Some(most)) = (counts.first(), counts.last())
        && least < most
    {
        sentences.push(format!(
            "Between {least} and {most} images were scored: a Fréchet distance falls with their number, so that these \
             cannot be compared closely."
        ));
    }
    let machines: BTreeSet<_> = runs
        .iter()
        .map(|run| (&run.results.cpu, run.results.threads, &run.results.latency_setting))
        .collect();
    if machines.len() > 1 {
        sentences.push("Latencies were measured on different machines or in different settings.".into());
    }
    sentences.join(" ")
}

/// What each table has that is not the same in all of them.
fn differences(tables: &[&Table]) -> Vec<Table> {
    let mut own = vec![Table::new(); tables.len()];
    let names: BTreeSet<&String> = tables.iter().flat_map(|table| table.keys()).collect();
    for name in names {
        let values: Vec<Option<&toml::Value>> = tables.iter().map(|table| table.get(name)).collect();
        if values.iter().all(|value| *value == values[0]) {
            continue;
        }
        let sections: Option<Vec<&Table>> =
            values.iter().map(|value| value.and_then(|v| v.as_table())).collect();
        let values: Vec<Option<toml::Value>> = match sections {
            Some(sections) => differences(&sections).into_iter().map(|own| Some(own.into())).collect(),
            None => values.into_iter().map(|value| value.cloned()).collect(),
        };
        for (own, value) in own.iter_mut().zip(values) {
            own.extend(value.map(|value| (name.clone(), value)));
        }
    }
    own
}

/// A run's folder as seen from the page.
fn link(folder: &Path, out: &Path) -> Result<String> {
    let whole = |path: &Path| path.canonicalize().map_err(|e| Error::io("find", path, e));
    let home = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (folder, home) = (whole(folder)?, whole(home)?);
    let path = pathdiff::diff_paths(&folder, &home).unwrap_or(folder);
    Ok(path.to_string_lossy().replace('\\', "/"))
}

/// The last model's samples of each run, after those of the teacher that all share.
fn grids(runs: &[Run]) -> Result<Vec<SampleGrid>> {
    let (mut teachers, mut edited) = (Vec::new(), Vec::new());
    for run in runs {
        let found = read::grids(&run.folder.join("samples"), &run.results)?;
        let grid = |name: ModelName| found.iter().find(|grid| grid.title == name.label()).cloned();
        teachers.push(grid(ModelName::Teacher));
        let last = run.results.grafted().and_then(|model| grid(model.name));
        edited.extend(last.map(|grid| SampleGrid { title: run.name.clone(), ..grid }));
    }
    let shared = teachers.first().cloned().flatten();
    let shared =
        shared.filter(|first| teachers.iter().all(|t| t.as_ref().is_some_and(|t| t.png == first.png)));
    Ok(shared.into_iter().chain(edited).collect())
}

fn grids_note(runs: &[Run]) -> String {
    let noise = |run: &Run| (run.results.seed, run.recipe.get("sample").cloned());
    if runs.windows(2).all(|pair| noise(&pair[0]) == noise(&pair[1])) {
        "Every grid starts from the same noise, so equal places can be compared. Press and hold a grid to see the first \
         one in its place."
            .into()
    } else {
        "These grids were drawn from different noise or with different settings.".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        let read = |text: &str| toml::from_str::<Table>(text).unwrap();
        let tables = [
            read("seed = 1\n[distill]\nlr = 1e-3\nsteps = 5\n[data]\nsource = \"embedded\""),
            read(
                "seed = 1\n[distill]\nlr = 2e-3\nsteps = 5\n[data]\nsource = \"embedded\"\n[finetune]\nsteps = 3",
            ),
        ];
        let own = differences(&[&tables[0], &tables[1]]);
        assert_eq!(
            own.iter().map(changes).collect::<Vec<_>>(),
            [vec!["distill.lr = 0.001"], vec!["distill.lr = 0.002", "finetune.steps = 3"]]
        );
    }
}
