//! `[[restructure]]` from the plan to the report.

use std::fs;
use std::path::{Path, PathBuf};

use scion::checkpoint::Checkpoint;

use super::{assert_names, listing, printed, refused, scion};

const MODEL: &str = "seed = 3\n[model]\ncheckpoint = \"embedded\"\n";
const STAGES: &str = "[distill]\nsteps = 2\nbatch = 4\nvalidation = 10\n[finetune]\nsteps = 2\nbatch = 4\nactivation-checkpointing = true\n";
const SAMPLE: &str =
    "[sample]\nsteps = 2\ncfg = 2.0\ncount = 20\n[evaluate]\nlatency-runs = 2\nlatency-batch = 2\n";
const HYENA: &str = "[[graft]]\ntarget = \"attention\"\nblocks = [9]\noperator = { kind = \"hyena-x\" }\n";

fn drop(blocks: &str) -> String {
    format!("[[restructure]]\nkind = \"drop\"\nblocks = {blocks}\n")
}

fn pairs(pairs: &str) -> String {
    format!("[[restructure]]\nkind = \"parallel-pairs\"\npairs = {pairs}\n")
}

fn write(folder: &Path, text: &str) -> PathBuf {
    let recipe = folder.join("edit.toml");
    fs::write(&recipe, format!("{MODEL}{text}")).unwrap();
    recipe
}

fn names(file: &Path) -> Vec<String> {
    Checkpoint::open(file).unwrap().names().map(String::from).collect()
}

#[test]
fn plans_tell_restructures_by_the_original_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = write(folder.path(), &[HYENA, &drop("[0, 8]"), &pairs("[[2, 3]]")].concat());
    let text = printed(scion("plan").arg(&recipe));
    assert_names(&text, &["2, 3  pair", "parallel pair, sum", "+32896", "8  block", "dropped", "-100.00%"]);
    assert_names(&text, &["9  attention", "12 → 10 blocks"]);
    let json = printed(scion("plan").arg(&recipe).arg("--json"));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["dit"]["depth"], 10);
    assert_eq!(json["grafts"][0]["block"], 7);
    assert_eq!(json["pairs"], serde_json::json!([[1, 2]]));
}

#[test]
fn impossible_restructures_are_refused_at_the_plan() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(String, &[&str]); 13] = [
        ([HYENA, &drop("[9]")].concat(), &["block 9 is dropped", "attention", "grafted"]),
        ([HYENA, &pairs("\"all\"")].concat(), &["block 9 is in parallel with block 8", "grafted"]),
        (pairs("[[1, 2], [2, 3]]"), &["block 2", "two pairs"]),
        ([pairs("[[1, 2]]"), pairs("[[2, 3]]")].concat(), &["block 2", "twice"]),
        (pairs("[[4, 6]]"), &["blocks 4 and 6", "consecutive"]),
        ([drop("[5]"), pairs("[[4, 6]]")].concat(), &["blocks 4 and 6", "consecutive"]),
        ([drop("[5]"), pairs("[[4, 5]]")].concat(), &["block 5", "dropped"]),
        (pairs("[[11, 12]]"), &["blocks 11 and 12", "12 blocks, 0 to 11"]),
        (drop("\"all\""), &["all 12 blocks are dropped"]),
        (drop("[12]"), &["block 12", "12 blocks, 0 to 11"]),
        (pairs("[3]"), &["pairs = \"all\"", "[[0, 1], [4, 5]]"]),
        (format!("{}blocks = [1]\n", pairs("\"all\"")), &["blocks", "merge-init"]),
        (format!("{}merge-init = \"mean\"\n", pairs("\"all\"")), &["mean", "average"]),
    ];
    for (text, parts) in cases {
        let message = refused(scion("plan").arg(write(folder.path(), &text)), 2);
        assert_names(&message, parts);
    }
    let odd = "[model.sizes]\ninput_size = 8\npatch = 4\nin_channels = 1\nhidden = 8\ndepth = 3\nheads = 2\nnum_classes = 2\n";
    let recipe = folder.path().join("odd.toml");
    fs::write(&recipe, [odd, &pairs("\"all\"")].concat()).unwrap();
    assert_names(&refused(scion("plan").arg(&recipe), 2), &["even number of blocks", "3", "list the pairs"]);
}

#[test]
fn pairs_need_a_distill_section_and_drops_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let distill = |text: &str| {
        let mut program = scion("distill");
        program.arg(write(folder.path(), text)).arg("--out").arg(folder.path().join("run"));
        program
    };
    assert_names(&refused(&mut distill(&pairs("[[0, 1]]")), 2), &["[distill]"]);
    assert_names(&refused(&mut distill(""), 2), &["changes nothing", "[[restructure]]"]);
    assert_names(&printed(&mut distill(&drop("{ last = 9 }"))), &["done: ", "stage1.safetensors"]);
}

/// Pairs, a drop and a graft in one run, with the cache of activations.
#[test]
fn edits_of_all_kinds_run_to_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let stages = STAGES.replace(
        "steps = 2\nbatch = 4\nvalidation",
        "capture = \"cache\"\nsamples = 8\nsteps = 2\nbatch = 4\nvalidation",
    );
    let text = [HYENA, &drop("[5, 6, 7]"), &pairs("[[0, 1], [10, 11]]"), &stages, SAMPLE].concat();
    let (recipe, run) = (write(folder.path(), &text), folder.path().join("run"));
    printed(scion("run").arg(&recipe).arg("--out").arg(&run));
    let rows: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(run.join("stage1.json")).unwrap()).unwrap();
    let places: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["block"].as_u64().unwrap(), r["slot"].as_str().unwrap()))
        .collect();
    assert_eq!(places, [(0, "pair"), (9, "attention"), (10, "pair")]);
    assert_eq!(rows[2]["second"], 11);
    assert!(rows.as_array().unwrap().iter().all(|r| r["val_best"].as_f64().unwrap() > 0.0));
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    assert_names(
        &page,
        &[
            "Replacing attention with hyena-x in 1 of 12 blocks, dropping 3 of 12 blocks and running 4 of 12 blocks in parallel pairs",
            "Block 5: dropped",
            "Block 10: in parallel with block 11",
            ">10, 11</td>",
            "blocks 10 and 11",
        ],
    );
    let results = fs::read_to_string(run.join("results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_str(&results).unwrap();
    assert_eq!(results["blocks"].as_array().unwrap().len(), 12);
    assert_eq!(results["blocks"][5]["restructure"], "dropped");
    assert_eq!(results["blocks"][5]["attention"]["params_after"], 0);
    assert_eq!(results["blocks"][1]["restructure"]["parallel-with"], 0);

    let model = run.join("stage2.safetensors");
    let text = printed(scion("inspect").arg(&model));
    assert_names(&text, &["9 blocks", "blocks 0 and 1 run side by side", "blocks 7 and 8 run side by side"]);
    assert_names(&text, &["block 6 attention: hyena-x"]);
    assert!(names(&model).contains(&"merges.1.bias".to_string()));
    let grid = folder.path().join("grid.png");
    printed(scion("sample").arg(&model).args(["--count", "2", "--steps", "2", "--out"]).arg(&grid));
    for layout in ["dit", "diffusers"] {
        let output = folder.path().join("converted");
        let message = refused(scion("convert").arg(&model).arg(&output).args(["--layout", layout]), 2);
        assert_names(&message, &["stage2.safetensors", "side by side", "--layout scion"]);
        assert!(!output.exists());
    }
    let again = folder.path().join("again.safetensors");
    printed(scion("convert").arg(&model).arg(&again).args(["--layout", "scion"]));
    assert!(fs::read(&again).unwrap() == fs::read(&model).unwrap());
}

/// A drop has nothing to distil, and leaves a plain DiT that any layout can hold.
#[test]
fn a_drop_alone_goes_straight_to_stage_2() {
    let folder = tempfile::tempdir().unwrap();
    let stages = STAGES.split_once("[finetune]").unwrap().1;
    let text = format!("{}[finetune]{stages}{SAMPLE}", drop("{ interleaved = 0.75 }"));
    let (recipe, run) = (write(folder.path(), &text), folder.path().join("run"));
    printed(scion("run").arg(&recipe).arg("--out").arg(&run));
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    assert_names(&page, &["Dropping 9 of 12 blocks", "nothing to train", "stage 2 brought it to"]);
    assert!(!page.contains("After stage 1") && !page.contains("stage 1 brought it"));
    let samples = listing(&run.join("samples"));
    assert!(samples.iter().all(|name| !name.starts_with("stage1")) && samples.len() == 6, "{samples:?}");

    let (cut, plain) = (run.join("stage1.safetensors"), folder.path().join("plain.pt"));
    assert!(names(&cut).iter().any(|n| n.starts_with("blocks.2.")));
    assert!(!names(&cut).iter().any(|n| n.starts_with("blocks.3.") || n.starts_with("merges.")));
    printed(scion("convert").arg(&cut).arg(&plain).args(["--layout", "dit"]));
    let back = folder.path().join("back.safetensors");
    printed(scion("convert").arg(&plain).arg(&back).args(["--layout", "scion", "--heads", "4"]));
    assert!(fs::read(&back).unwrap() == fs::read(&cut).unwrap());
    printed(scion("convert").arg(&cut).arg(folder.path().join("hub")).args(["--layout", "diffusers"]));
    // Kept blocks are the original ones: 0, 4 and 8.
    let teacher = Checkpoint::open(&run.join("teacher.safetensors")).unwrap();
    let student = Checkpoint::open(&cut).unwrap();
    for (after, before) in [(0, 0), (1, 4), (2, 8)] {
        let read =
            |file: &Checkpoint, block| file.read_f32(&format!("blocks.{block}.attn.qkv.weight")).unwrap();
        assert!(read(&student, after) == read(&teacher, before));
    }
}
