//! Every shipped recipe loads and can be planned; those of the paper's models change costs as the paper's tables say.

use std::path::{Path, PathBuf};

use scion::config::Recipe;
use scion::operator::Slot;
use scion::run::{Planned, plan_of};
use scion::sweep::{Study, Sweep};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes")
}

/// The file that holds questions about recipes.
const STUDY: &str = "study.toml";

/// All recipes in a folder and the folders in it.
fn recipes(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let recipe = |path: &PathBuf| path.extension().is_some_and(|end| end == "toml") && !path.ends_with(STUDY);
    let files = files.into_iter().filter(recipe);
    files.chain(folders.iter().flat_map(|inner| recipes(inner))).collect()
}

fn planned(path: &Path) -> Planned {
    let recipe = Recipe::read(path).unwrap_or_else(|e| panic!("{e}"));
    plan_of(&recipe, Path::new("nowhere"), true).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn every_recipe_can_be_planned() {
    let all = recipes(&folder());
    for path in &all {
        let Planned { plan, unread } = planned(path);
        let paper = path.parent().is_some_and(|parent| parent.ends_with("paper"));
        assert_eq!(unread, paper, "{}: only the paper's models are not at hand", path.display());
        if paper {
            let sizes = &plan.before.dit;
            let tokens = if sizes.text().is_some() { 16_384 } else { 256 };
            assert_eq!((sizes.hidden, sizes.depth, sizes.tokens()), (1152, 28, tokens));
            assert!(!plan.sites.is_empty(), "{}", path.display());
            let text = std::fs::read_to_string(path).unwrap();
            let index = std::fs::read_to_string(path.with_file_name("README.md")).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(text.contains(&format!("recipes/paper/{name}")), "{name} does not say how it is run");
            assert!(index.contains(&format!("({name})")), "{name} is not in the index");
        }
    }
    // The published models, and the other rows of the paper's tables.
    assert!(all.len() >= 45, "{} recipes", all.len());
}

#[test]
fn the_study_can_be_planned() {
    let study = Study::read(&folder().join(STUDY), None).unwrap_or_else(|e| panic!("{e}"));
    let sweep = Sweep::plan(&study, Path::new("nowhere"), true).unwrap_or_else(|e| panic!("{e}"));
    let variants: usize = study.questions.iter().map(|question| question.variants.len()).sum();
    assert!(sweep.runs.len() < variants, "questions share the runs of equal recipes");
    assert!(sweep.runs.iter().all(|run| run.before.dit.hidden == 128 && !run.is_finished()));
}

/// Change of `after` against `before` in percent, with as many decimals as `printed` has.
fn change(after: usize, before: usize, printed: &str) -> String {
    let decimals = printed.split('.').nth(1).map_or(0, str::len);
    format!("{:+.decimals$}", (after as f64 / before as f64 - 1.0) * 100.0)
}

/// Recipe, slot, parameters at each share, op, ft.
type Columns = (&'static str, Slot, [&'static str; 3], Option<&'static str>, Option<&'static str>);

/// The paper's columns at 50%, 75% and 100%: parameters of the replaced slots, and at 100% the FLOPs of their mixing
/// ("op") and of their projections and featurisers ("ft"; for an MLP, all of it). Left out are Mamba-2's FLOPs, which do not
/// follow from its arithmetic, and those of MLP Hyena-X, which the paper counts without its convolution.
const COLUMNS: [Columns; 8] = [
    ("hyena-se", Slot::Attention, ["+0.22", "+0.33", "+0.43"], Some("-99.03"), Some("+0.26")),
    ("hyena-x", Slot::Attention, ["+0.16", "+0.24", "+0.33"], Some("-99.81"), Some("+0.26")),
    ("hyena-y", Slot::Attention, ["+0.05", "+0.08", "+0.11"], Some("-99.03"), Some("+0.00")),
    ("sliding-window", Slot::Attention, ["+0", "+0", "+0"], Some("-96.48"), Some("+0.00")),
    ("mamba2", Slot::Attention, ["+28.02", "+42.04", "+56.05"], None, None),
    ("mlp-r3", Slot::Mlp, ["-12.5", "-18.75", "-25"], None, Some("-25.00")),
    ("mlp-r6", Slot::Mlp, ["+25", "+37.5", "+50"], None, Some("+50.00")),
    ("mlp-hyena-x", Slot::Mlp, ["+0.02", "+0.03", "+0.03"], None, None),
];

#[test]
fn costs_are_those_of_the_papers_tables() {
    for (operator, slot, parameters, op, ft) in COLUMNS {
        for (share, expected) in ["50", "75", "100"].into_iter().zip(parameters) {
            let name = format!("{operator}-{share}");
            let plan = planned(&folder().join("paper").join(format!("{name}.toml"))).plan;
            let (native, grafted) = (&plan.before, &plan.after);
            let blocks = share.parse::<usize>().unwrap() * 28 / 100;
            assert_eq!(grafted.grafts.len(), blocks, "{name}");
            let own = 28 * native.dit.native_operator(slot).parameters(1152);
            let found = change(grafted.parameters() + own - native.parameters(), own, expected);
            assert_eq!(found, expected, "{name}: parameters");
            let (before, after) = (native.operator_flops(slot), grafted.operator_flops(slot));
            // The columns are linear in the share.
            let whole = |after: usize, before: usize, printed: &str| {
                let change_at_100 = (after as f64 - before as f64) * 28.0 / blocks as f64;
                change((before as f64 + change_at_100).round() as usize, before, printed)
            };
            for (part, printed, after, before) in
                [("op", op, after.operator, before.operator), ("ft", ft, after.features, before.features)]
            {
                if let Some(printed) = printed {
                    assert_eq!(whole(after, before, printed), printed, "{name}: FLOPs, {part}");
                }
            }
        }
    }
}

#[test]
fn pairs_of_all_blocks_have_the_papers_size() {
    let plan = planned(&folder().join("paper/parallel-pairs.toml")).plan;
    // The paper's count holds the table of positions, ours does not.
    assert_eq!(plan.after.parameters() + 256 * 1152, 712_304_672);
    assert_eq!(plan.after.pairs.len(), 14);
}
