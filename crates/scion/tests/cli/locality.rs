//! Blocks chosen by how local the teacher's attention is: measured once, kept, shown.

use std::fs;
use std::path::Path;

use scion::checkpoint::Checkpoint;
use serde_json::Value;

use super::{assert_names, printed, refused, scion};

/// A recipe that grafts the embedded teacher by a rule.
fn recipe(folder: &Path, rule: &str, locality: &str) -> std::path::PathBuf {
    let file = folder.join("recipe.toml");
    let text = format!(
        "[model]\ncheckpoint = \"embedded\"\n[[graft]]\ntarget = \"attention\"\nblocks = {rule}\n\
         operator = {{ kind = \"hyena-x\" }}\n[locality]\n{locality}\n[distill]\nsteps = 1\nbatch = 2\nvalidation = 2\n"
    );
    fs::write(&file, text).unwrap();
    file
}

const SETTINGS: &str = "k = 6\nsamples = 3\nsteps = 2";

fn values(run: &Path) -> Vec<f64> {
    let json: Value = serde_json::from_slice(&fs::read(run.join("locality.json")).unwrap()).unwrap();
    json["blocks"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

/// The blocks that a plan grafts.
fn planned(recipe: &Path, out: &Path, more: &[&str]) -> Vec<u64> {
    let text = printed(scion("plan").arg(recipe).args(["--json", "--out"]).arg(out).args(more));
    let json: Value = serde_json::from_str(&text).unwrap();
    json["grafts"].as_array().unwrap().iter().map(|graft| graft["block"].as_u64().unwrap()).collect()
}

#[test]
fn a_run_measures_once_and_a_plan_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let (run, nowhere) = (folder.path().join("run"), folder.path().join("nowhere"));
    let recipe = recipe(folder.path(), "{ most-local = 0.5 }", SETTINGS);
    let before = planned(&recipe, &nowhere, &[]);
    assert!(!nowhere.exists(), "a plan wrote something");
    printed(scion("distill").arg(&recipe).arg("--out").arg(&run));
    let found = values(&run);
    assert_eq!(found.len(), 12);
    assert!(found.iter().all(|value| (0.0..1.0).contains(value)), "{found:?}");
    // The six largest values.
    let mut order: Vec<u64> = (0..12).collect();
    order.sort_by(|&a, &b| found[b as usize].total_cmp(&found[a as usize]));
    order.truncate(6);
    order.sort_unstable();
    assert_eq!(before, order);
    let file = Checkpoint::open(&run.join("stage1.safetensors")).unwrap();
    let header: Value = serde_json::from_str(file.model_json().unwrap()).unwrap();
    let grafted: Vec<u64> =
        header["grafts"].as_array().unwrap().iter().map(|graft| graft["block"].as_u64().unwrap()).collect();
    assert_eq!(grafted, order);
    // Whoever changes the file sees that it is read, not measured again; other settings do not read it.
    let path = run.join("locality.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json["blocks"] = (0..12).map(f64::from).map(|value| value / 12.0).collect();
    fs::write(&path, json.to_string()).unwrap();
    assert_eq!(planned(&recipe, &run, &[]), [6, 7, 8, 9, 10, 11]);
    assert_eq!(planned(&recipe, &nowhere, &[]), order);
    fs::remove_file(run.join("stage1.safetensors")).unwrap();
    printed(scion("distill").arg(&recipe).arg("--out").arg(&run));
    assert!(values(&run)[0] == 0.0, "a run that goes on measured again");
    printed(scion("plan").arg(&recipe).args(["--seed", "9", "--out"]).arg(&run));
    assert!(planned(&recipe, &run, &["--seed", "9"]) != [6, 7, 8, 9, 10, 11]);
}

#[test]
fn the_least_and_the_most_local_are_each_others_rest_and_batches_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere");
    let most = planned(&recipe(folder.path(), "{ most-local = 5 }", SETTINGS), &nowhere, &[]);
    let least = planned(&recipe(folder.path(), "{ least-local = 7 }", SETTINGS), &nowhere, &[]);
    assert_eq!((most.len(), least.len()), (5, 7));
    assert!(most.iter().all(|block| !least.contains(block)), "{most:?} {least:?}");
    let measured = |batch: usize| {
        let run = folder.path().join(format!("batch-{batch}"));
        let recipe =
            recipe(folder.path(), "{ most-local = 5 }", &format!("{SETTINGS}\n[sample]\nbatch = {batch}"));
        printed(scion("distill").arg(&recipe).arg("--out").arg(&run));
        values(&run)
    };
    assert_eq!(measured(3), measured(2));
}

#[test]
fn impossible_measurements_are_refused_by_the_plan() {
    let folder = tempfile::tempdir().unwrap();
    let message =
        |rule: &str, settings: &str| refused(scion("plan").arg(recipe(folder.path(), rule, settings)), 2);
    let most = "{ most-local = 0.5 }";
    assert_names(&message(most, "k = 48"), &["locality.k = 48", "49 tokens"]);
    assert_names(&message(most, "samples = 0"), &["locality.samples"]);
    assert_names(&message(most, "steps = 600"), &["locality.steps"]);
    assert_names(&message(most, "reach = 3"), &["unknown field `reach`"]);
    assert_names(&message("{ most-local = 1.5 }", SETTINGS), &["most-local", "1.5"]);
    assert_names(&message("{ least-local = 13 }", SETTINGS), &["13 blocks", "12"]);
    assert_names(&message("{ pattern = \"5 of 4\" }", SETTINGS), &["line 5", "pattern"]);
}

#[test]
fn a_plan_without_the_checkpoint_says_what_stands_for_the_choice() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("xl.toml");
    let planned = |settings: &str| {
        let text = format!(
            "[model]\ncheckpoint = \"no/such/model.safetensors\"\npreset = \"dit-xl-2-256\"\n[locality]\n{settings}\n[[graft]]\n\
             target = \"attention\"\nblocks = {{ most-local = 2 }}\noperator = {{ kind = \"hyena-x\" }}\n"
        );
        std::fs::write(&file, text).unwrap();
        let mut program = scion("plan");
        program.arg(&file);
        program
    };
    assert_names(&printed(&mut planned("k = 32")), &["first ones stand for the most local"]);
    let output = planned("k = 32").arg("--json").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_names(&said, &["first ones stand for the most local"]);
    serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
    assert_names(&refused(&mut planned("k = 255"), 2), &["locality.k = 255", "256 tokens"]);
}
