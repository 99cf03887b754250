use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::config::{ModelConfig, Recipe};
use crate::error::{Error, Result};
use crate::model::{Architecture, DitConfig, architecture_of};
use crate::operator::Slot;
use crate::run::open_checkpoint;

#[derive(Args)]
pub struct PlanArguments {
    /// The recipe
    recipe: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn plan(arguments: &PlanArguments) -> Result<()> {
    let recipe = Recipe::read(&arguments.recipe)?;
    if arguments.json {
        let (_, grafted) = architectures(&recipe)?;
        say!("{}", serde_json::to_string_pretty(&grafted).expect("architectures are plain data"));
        return Ok(());
    }
    print(&recipe)
}

/// Prints what a recipe changes.
pub fn print(recipe: &Recipe) -> Result<()> {
    let (native, grafted) = architectures(recipe)?;
    let (width, tokens) = (native.dit.hidden, native.dit.tokens());
    say!(
        "{:>5}  {:9}  {:22}  {:22}  {:>12}  {:>9}",
        "block",
        "slot",
        "before",
        "after",
        "parameters",
        "FLOPs"
    );
    for graft in &grafted.grafts {
        let (before, after) = (native.operator(graft.block, graft.slot), &graft.operator);
        say!(
            "{:>5}  {:9}  {:22}  {:22}  {:>+12}  {:>9}",
            graft.block,
            graft.slot.name(),
            before.name(),
            after.name(),
            after.parameters(width) as i64 - before.parameters(width) as i64,
            change(after.flops(width, tokens).total(), before.flops(width, tokens).total()),
        );
    }
    say!("\nmodel: {} blocks of width {width}, {tokens} tokens an image", native.dit.depth);
    say!(
        "parameters: {} → {} ({})",
        native.parameters(),
        grafted.parameters(),
        change(grafted.parameters(), native.parameters())
    );
    say!(
        "FLOPs an image: {} → {} ({})",
        native.flops(),
        grafted.flops(),
        change(grafted.flops(), native.flops())
    );
    for slot in Slot::ALL {
        let (before, after) = (native.operator_flops(slot), grafted.operator_flops(slot));
        say!(
            "  {} slots: operator {}, features {}",
            slot.name(),
            change(after.operator, before.operator),
            change(after.features, before.features)
        );
    }
    Ok(())
}

fn change(after: usize, before: usize) -> String {
    if before == 0 { "–".into() } else { format!("{:+.2}%", (after as f64 / before as f64 - 1.0) * 100.0) }
}

/// The model before and after the recipe's grafts.
fn architectures(recipe: &Recipe) -> Result<(Architecture, Architecture)> {
    let native = match &recipe.model {
        ModelConfig { checkpoint: Some(name), heads, .. } => {
            let folder =
                tempfile::tempdir().map_err(|e| Error::io("create a folder in", std::env::temp_dir(), e))?;
            architecture_of(&open_checkpoint(name, &folder.path().join("teacher.safetensors"))?, *heads)?
        }
        ModelConfig { sizes: Some(sizes), .. } => {
            sizes.check()?;
            Architecture::native(sizes.clone())
        }
        ModelConfig { preset, .. } => {
            Architecture::native(DitConfig::preset(preset.as_deref().unwrap_or_default())?)
        }
    };
    let grafted = crate::plan::graft(&native, &recipe.grafts)?;
    crate::plan::check_finetuning(recipe, &native, &grafted)?;
    Ok((native, grafted))
}
