use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::config::Recipe;
use crate::error::Result;
use crate::operator::Slot;
use crate::run::{Planned, plan_of};

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
        let planned = plan_of(&recipe)?;
        say!("{}", serde_json::to_string_pretty(&planned.grafted).expect("architectures are plain data"));
        return Ok(());
    }
    print(&recipe)
}

/// Prints what a recipe changes.
pub fn print(recipe: &Recipe) -> Result<()> {
    let Planned { native, grafted, unread } = plan_of(recipe)?;
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
