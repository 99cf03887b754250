use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Common, plan, set_precision};
use crate::config::{PrecisionConfig, Recipe};
use crate::error::Result;
use crate::run::{self, Outcome, QUICKSTART, Until};

#[derive(Args)]
pub struct QuickstartArguments {
    /// The run's folder
    #[arg(long, default_value = "scion-quickstart")]
    out: PathBuf,
    /// Print the recipe and the plan; nothing is trained or drawn, only locality measured where it chooses blocks
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args)]
pub struct RunArguments {
    /// The recipe
    recipe: PathBuf,
    /// The run's folder; runs/NAME of the recipe by default
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print the recipe and the plan; nothing is trained or drawn, only locality measured where it chooses blocks
    #[arg(long)]
    dry_run: bool,
    /// Leave out images that cannot be read instead of stopping
    #[arg(long)]
    skip_broken: bool,
    /// Run each block anew in the backward pass instead of keeping its activations: less memory, more time
    #[arg(long)]
    checkpointing: bool,
}

impl RunArguments {
    fn read(&self, common: &Common) -> Result<(Recipe, PathBuf)> {
        let (mut recipe, out) = read(&self.recipe, self.out.as_deref(), common)?;
        recipe.data.skip_broken |= self.skip_broken;
        for stage in [&mut recipe.pretrain, &mut recipe.finetune].into_iter().flatten() {
            stage.activation_checkpointing |= self.checkpointing;
        }
        Ok((recipe, out))
    }
}

/// A recipe as the command line has it, and the folder of its run.
pub fn read(recipe: &Path, out: Option<&Path>, common: &Common) -> Result<(Recipe, PathBuf)> {
    let by_name = || Path::new("runs").join(recipe.file_stem().unwrap_or_default());
    let out = out.map_or_else(by_name, Path::to_path_buf);
    let mut recipe = Recipe::read(recipe)?;
    recipe.seed = common.seed.unwrap_or(recipe.seed);
    Ok((recipe, out))
}

/// Replaces `auto` by what it means on this machine, or for a run that is gone on with by what it meant then.
pub fn settle_precision(recipe: &mut Recipe, out: &Path) {
    if recipe.precision == PrecisionConfig::Auto {
        let begun = Recipe::read(&out.join("recipe.toml")).ok().map(|begun| begun.precision);
        recipe.precision = begun.unwrap_or(PrecisionConfig::Auto).resolved();
    }
    set_precision(recipe.precision);
}

pub fn quickstart(arguments: &QuickstartArguments, common: &Common) -> Result<()> {
    let mut recipe = Recipe::parse(QUICKSTART, Path::new("quickstart.toml"))?;
    recipe.seed = common.seed.unwrap_or(recipe.seed);
    if arguments.dry_run {
        return dry_run(&recipe, &arguments.out, common);
    }
    let command = format!("scion quickstart --seed {}", recipe.seed);
    start(recipe, &arguments.out, Until::Report, &command, common)
}

pub fn run(arguments: &RunArguments, common: &Common, until: Until) -> Result<()> {
    let (recipe, out) = arguments.read(common)?;
    if arguments.dry_run {
        return dry_run(&recipe, &out, common);
    }
    let command = format!("scion run {} --seed {}", arguments.recipe.display(), recipe.seed);
    start(recipe, &out, until, &command, common)
}

pub fn pretrain(arguments: &RunArguments, common: &Common) -> Result<()> {
    let (mut recipe, out) = arguments.read(common)?;
    if arguments.dry_run {
        say!("{}", recipe.to_toml().trim_end());
        return Ok(());
    }
    settle_precision(&mut recipe, &out);
    tell(&run::pretrain(&recipe, &out, common.quiet)?)
}

fn start(mut recipe: Recipe, out: &Path, until: Until, command: &str, common: &Common) -> Result<()> {
    settle_precision(&mut recipe, out);
    tell(&run::run(&recipe, out, until, None, command, common.quiet)?)
}

fn tell(outcome: &Outcome) -> Result<()> {
    match outcome {
        Outcome::Made(file) => say!("done: {}", file.display()),
        Outcome::Already(file) => say!("nothing to do: {} was finished before", file.display()),
    }
    Ok(())
}

fn dry_run(recipe: &Recipe, out: &Path, common: &Common) -> Result<()> {
    say!("{}", recipe.to_toml());
    plan::print(recipe, out, common)
}
