use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Common;
use super::graft::{read, settle_precision};
use crate::config::Recipe;
use crate::error::Result;
use crate::operator::Slot;
use crate::plan::needs_locality;
use crate::run::{Planned, plan_of};

#[derive(Args)]
pub struct PlanArguments {
    /// The recipe
    recipe: PathBuf,
    /// The run's folder, whose measurements are used where there are any; runs/NAME of the recipe by default
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn plan(arguments: &PlanArguments, common: &Common) -> Result<()> {
    let (mut recipe, out) = read(&arguments.recipe, arguments.out.as_deref(), common)?;
    if arguments.json {
        settle_for_plan(&mut recipe, &out);
        let planned = plan_of(&recipe, &out, common.quiet)?;
        say!("{}", serde_json::to_string_pretty(&planned.grafted).expect("architectures are plain data"));
        return Ok(());
    }
    print(&recipe, &out, common)
}

/// Only the locality of attention is computed for a plan.
fn settle_for_plan(recipe: &mut Recipe, out: &Path) {
    if needs_locality(&recipe.grafts) {
        settle_precision(recipe, out);
    }
}

/// Prints what a recipe changes when it is run in the folder `out`.
pub fn print(recipe: &Recipe, out: &Path, common: &Common) -> Result<()> {
    let mut recipe = recipe.clone();
    settle_for_plan(&mut recipe, out);
    let Planned { native, grafted, unread } = plan_of(&recipe, out, common.quiet)?;
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
    let source = match &recipe.model.checkpoint {
        Some(name) if unread => format!(" (as the recipe says; {name} is not on this machine)"),
        _ => String::new(),
    };
    if unread && needs_locality(&recipe.grafts) {
        say!(
            "\nWhich blocks are the most or least local is measured on the checkpoint; here, the first ones stand for them."
        );
    }
    say!("\nmodel: {} blocks of width {width}, {tokens} tokens an image{source}", native.dit.depth);
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
