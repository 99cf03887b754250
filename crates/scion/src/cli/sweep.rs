use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Common;
use crate::error::Result;
use crate::report::results::{ModelName, Results};
use crate::sweep::{Ending, Study, Sweep};

#[derive(Args)]
pub struct SweepArguments {
    /// The study: a base recipe, and questions with variants of it
    study: PathBuf,
    /// The study's folder; runs/NAME of the study by default
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print the variants and their plans; nothing is trained or drawn, only locality measured where it chooses blocks
    #[arg(long)]
    dry_run: bool,
}

pub fn sweep(arguments: &SweepArguments, common: &Common) -> Result<()> {
    let study = Study::read(&arguments.study, common.seed)?;
    let stem = arguments.study.file_stem().unwrap_or_default();
    let out = arguments.out.clone().unwrap_or_else(|| Path::new("runs").join(stem));
    let sweep = Sweep::plan(&study, &out, common.quiet)?;
    if arguments.dry_run {
        return dry_run(&sweep);
    }
    let mut command = format!("scion sweep {}", arguments.study.display());
    if let Some(seed) = common.seed {
        command.push_str(&format!(" --seed {seed}"));
    }
    let total = sweep.runs.len();
    let mut ended = 0;
    let page = sweep.run(&command, common.quiet, |place, ending| {
        ended += 1;
        say!("[{ended}/{total}] {}: {}", label(&sweep, place), told(ending));
        Ok(())
    })?;
    say!("done: {}", page.display());
    Ok(())
}

/// A run's first question and variant.
fn label(sweep: &Sweep, place: usize) -> String {
    let asked = sweep.study.questions.iter().zip(&sweep.places).find_map(|(question, places)| {
        let variant = places.iter().position(|&p| p == place)?;
        Some(format!("{} {}", question.title, question.variants[variant].name))
    });
    asked.unwrap_or_default()
}

fn told(ending: &Ending) -> String {
    match ending {
        Ending::Before(results) => format!("finished before, {}", scores(results)),
        Ending::Now(results) => format!("{:.0} s, {}", results.elapsed_s, scores(results)),
        Ending::Diverged(detail) => format!("training diverged: {detail}"),
    }
}

/// The Fréchet distances of a run's models, such as "teacher 13.4 ± 1.2, stage2 16.7 ± 1.5".
fn scores(results: &Results) -> String {
    let score = |name: ModelName| {
        let frechet = results.model(name)?.frechet?;
        let error = frechet.stderr.map_or(String::new(), |stderr| format!(" ± {stderr:.1}"));
        Some(format!("{} {:.1}{error}", name.id(), frechet.value))
    };
    let scores: Vec<String> = ModelName::ALL.into_iter().filter_map(score).collect();
    if scores.is_empty() { "no scores".into() } else { format!("Fréchet {}", scores.join(", ")) }
}

fn dry_run(sweep: &Sweep) -> Result<()> {
    let names = sweep.study.questions.iter().flat_map(|question| &question.variants);
    let width = names.map(|variant| variant.name.chars().count()).max().unwrap_or(0);
    for (question, places) in sweep.study.questions.iter().zip(&sweep.places) {
        say!("{}", question.title);
        for (variant, &place) in question.variants.iter().zip(places) {
            let run = &sweep.runs[place];
            say!(
                "  {:width$}  {:>9} parameters  {:>9} FLOPs  {}{}",
                variant.name,
                change(run.after.parameters(), run.before.parameters()),
                change(run.after.flops(), run.before.flops()),
                run.folder.display(),
                if run.is_finished() { " (finished)" } else { "" },
            );
        }
    }
    let finished = sweep.runs.iter().filter(|run| run.is_finished()).count();
    let variants: usize = sweep.places.iter().map(Vec::len).sum();
    say!("\n{variants} variants, {} runs, {finished} finished", sweep.runs.len());
    Ok(())
}

fn change(after: usize, before: usize) -> String {
    format!("{:+.2}%", (after as f64 / before.max(1) as f64 - 1.0) * 100.0)
}
