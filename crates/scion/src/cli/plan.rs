use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Common;
use super::graft::{read, settle_precision};
use crate::config::Recipe;
use crate::error::Result;
use crate::model::Site;
use crate::operator::Slot;
use crate::plan::{Plan, Restructure, needs_locality};
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

const STAND_IN: &str = "Which blocks are the most or least local is measured on the checkpoint; here, the first ones \
                        stand for the most local, the last for the least.";

pub fn plan(arguments: &PlanArguments, common: &Common) -> Result<()> {
    let (mut recipe, out) = read(&arguments.recipe, arguments.out.as_deref(), common)?;
    if arguments.json {
        settle_for_plan(&mut recipe, &out);
        let Planned { plan, unread } = plan_of(&recipe, &out, common.quiet)?;
        if unread && needs_locality(&recipe.grafts) {
            tracing::warn!("{STAND_IN}");
        }
        say!("{}", serde_json::to_string_pretty(&plan.after).expect("architectures are plain data"));
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
    let Planned { plan, unread } = plan_of(&recipe, out, common.quiet)?;
    let (before, after) = (&plan.before, &plan.after);
    let (width, tokens) = (before.dit.hidden, before.dit.tokens());
    say!(
        "{:>6}  {:9}  {:22}  {:22}  {:>12}  {:>9}",
        "block",
        "slot",
        "before",
        "after",
        "parameters",
        "FLOPs"
    );
    for row in rows(&plan) {
        say!(
            "{:>6}  {:9}  {:22}  {:22}  {:>+12}  {:>9}",
            row.block,
            row.kind,
            row.before,
            row.after,
            row.parameters[1] as i64 - row.parameters[0] as i64,
            change(row.flops[1], row.flops[0]),
        );
    }
    let source = match &recipe.model.checkpoint {
        Some(name) if unread => format!(" (as the recipe says; {name} was not read)"),
        _ => String::new(),
    };
    if unread && needs_locality(&recipe.grafts) {
        say!("\n{STAND_IN}");
    }
    let blocks = match (before.dit.depth, after.dit.depth) {
        (depth, left) if depth == left => depth.to_string(),
        (depth, left) => format!("{depth} → {left}"),
    };
    say!("\nmodel: {blocks} blocks of width {width}, {tokens} tokens an image{source}");
    say!(
        "parameters: {} → {} ({})",
        before.parameters(),
        after.parameters(),
        change(after.parameters(), before.parameters())
    );
    say!(
        "FLOPs an image: {} → {} ({})",
        before.flops(),
        after.flops(),
        change(after.flops(), before.flops())
    );
    for slot in Slot::ALL {
        let (before, after) = (before.operator_flops(slot), after.operator_flops(slot));
        say!(
            "  {} slots: operator {}, features {}",
            slot.name(),
            change(after.operator, before.operator),
            change(after.features, before.features)
        );
    }
    Ok(())
}

/// One change; parameters and FLOPs are those before and after.
struct Row {
    block: String,
    kind: &'static str,
    before: String,
    after: String,
    parameters: [usize; 2],
    flops: [usize; 2],
}

/// The changes in the order of the original blocks.
fn rows(plan: &Plan) -> Vec<Row> {
    let sites = plan.sites.iter().map(|&site| (site.block(), site_row(plan, site)));
    let dropped =
        plan.restructured.iter().enumerate().filter(|(_, r)| **r == Some(Restructure::Dropped)).map(
            |(block, _)| {
                let row = Row {
                    block: block.to_string(),
                    kind: "block",
                    before: "in sequence".into(),
                    after: "dropped".into(),
                    parameters: [plan.before.block_parameters(block), 0],
                    flops: [plan.before.block_flops(block), 0],
                };
                (block, row)
            },
        );
    let mut rows: Vec<(usize, Row)> = sites.chain(dropped).collect();
    rows.sort_by_key(|(block, _)| *block);
    rows.into_iter().map(|(_, row)| row).collect()
}

fn site_row(plan: &Plan, site: Site) -> Row {
    let (model, width, tokens) = (&plan.before, plan.before.dit.hidden, plan.before.dit.tokens());
    let (block, before, parameters, flops) = match site {
        Site::Operator(block, slot) => {
            let (old, new) =
                (model.operator(block, slot), plan.after.operator(plan.place(site).block(), slot));
            (
                block.to_string(),
                old.name(),
                [&old, &new].map(|operator| operator.parameters(width)),
                [&old, &new].map(|operator| operator.flops(width, tokens).total()),
            )
        }
        Site::Pair(first) => {
            let blocks = [first, first + 1];
            let parameters: usize = blocks.iter().map(|&block| model.block_parameters(block)).sum();
            let flops: usize = blocks.iter().map(|&block| model.block_flops(block)).sum();
            (
                format!("{first}, {}", first + 1),
                "in sequence".into(),
                [parameters, parameters + model.merge_parameters()],
                [flops, flops + model.merge_flops()],
            )
        }
    };
    Row { block, kind: site.kind(), before, after: plan.part_name(site), parameters, flops }
}

fn change(after: usize, before: usize) -> String {
    if before == 0 { "–".into() } else { format!("{:+.2}%", (after as f64 / before as f64 - 1.0) * 100.0) }
}
