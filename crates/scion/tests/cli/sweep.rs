//! Studies: many runs and one page.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;

use super::{assert_names, listing, printed, refused, scion};

const BASE: &str = r#"title = "Small <study>"
[base.model]
checkpoint = "embedded"
[base.distill]
steps = 2
batch = 2
validation = 10
[base.finetune]
steps = 2
batch = 2
[base.sample]
steps = 2
cfg = 2.0
count = 10
[base.evaluate]
models = ["teacher", "stage1", "stage2"]
latency-runs = 1
latency-batch = 1
"#;

/// A place with a study.
struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The sweep of a study of one question, with these variants.
    fn sweep(&self, variants: &[String]) -> Command {
        let question = "[[question]]\ntitle = \"Which operator?\"\nask = \"Which is best?\"\n";
        let study = self.path("ops.toml");
        fs::write(&study, format!("{BASE}{question}{}", variants.concat())).unwrap();
        let mut program = scion("sweep");
        program.arg(study).arg("--out").arg(self.path("out"));
        program
    }

    fn run(&self, operator: &str) -> PathBuf {
        let runs = self.path("out/runs");
        let own = |name: &String| name.starts_with(operator) && name.len() == operator.len() + 9;
        let found: Vec<String> = listing(&runs).into_iter().filter(own).collect();
        assert_eq!(found.len(), 1, "{found:?} of {:?}", listing(&runs));
        runs.join(&found[0])
    }

    fn numbers(&self) -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(self.path("out/study.json")).unwrap()).unwrap()
    }
}

fn variant(name: &str, operator: &str, more: &str) -> String {
    format!(
        "[[question.variant]]\nname = \"{name}\"\ngraft = [{{ target = \"attention\", blocks = [3], operator = {{ kind = \"{operator}\" }} }}]\n{more}\n"
    )
}

fn written(path: &Path) -> std::time::SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

#[test]
fn a_killed_sweep_goes_on_and_ends_in_one_page() {
    let place = Place::new();
    let first = variant("first", "hyena-x", "");
    let endless = variant("endless", "hyena-y", "distill = { steps = 1000000 }");
    let started = place.sweep(&[first.clone(), endless]);
    let mut killed = std::process::Command::new(started.get_program());
    let mut killed = killed.args(started.get_args()).stdout(std::process::Stdio::null()).spawn().unwrap();
    let at_work = |operator: &str| {
        let begun = |name: &String| name.starts_with(operator);
        let runs = place.path("out/runs");
        runs.exists()
            && listing(&runs).iter().any(|n| begun(n) && runs.join(n).join("metrics.jsonl").exists())
    };
    while !at_work("hyena-y") && killed.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    killed.kill().unwrap();
    assert_eq!(killed.wait().unwrap().code(), None, "ended before it was killed");
    assert_eq!(place.numbers()["ended"], 1);
    let page = fs::read_to_string(place.path("out/index.html")).unwrap();
    assert!(page.contains("not run yet") && page.contains("1 of 2 runs"));

    // The next run takes the teacher's images from the first one, which is left as it is.
    let report = written(&place.run("hyena-x").join("report.html"));
    fs::write(place.run("hyena-x").join("samples/teacher.png"), b"\x89PNG\r\n\x1a\nmine").unwrap();
    let again = variant("first again", "hyena-x", "seed = 0");
    let short = variant("short", "sliding-window", "finetune = false")
        .replace("sliding-window\"", "sliding-window\", left = 1, right = 1");
    let text = printed(&mut place.sweep(&[first, again, short]));
    assert_names(
        &text,
        &["[1/2] Which operator? first: finished before", "[2/2] Which operator? short: ", "index.html"],
    );
    assert_eq!(written(&place.run("hyena-x").join("report.html")), report);
    let other = place.run("sliding-window-1-1-1");
    assert_eq!(fs::read(other.join("samples/teacher.png")).unwrap(), b"\x89PNG\r\n\x1a\nmine");
    assert_eq!(listing(&other.join("samples")), ["stage1.npz", "stage1.png", "teacher.npz", "teacher.png"]);
    assert!(!other.join("stage2.safetensors").exists());

    let numbers = place.numbers();
    let variants = numbers["questions"][0]["variants"].as_array().unwrap();
    assert_eq!(variants[0]["run"], variants[1]["run"], "equal recipes are run once");
    assert_eq!(variants[0]["measured"], variants[1]["measured"]);
    for (variant, models) in variants.iter().zip([3, 3, 2]) {
        let found = variant["measured"]["models"].as_array().unwrap();
        assert_eq!(found.len(), models);
        assert!(found.iter().all(|m| m["samples"] == 10 && m["frechet"]["stderr"].as_f64().unwrap() > 0.0));
        assert!(variant["measured"]["held_out_best"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(variants[2]["changes"][0], "no [finetune]");
    let page = fs::read_to_string(place.path("out/index.html")).unwrap();
    assert!(page.contains("Small &lt;study&gt;") && page.contains("has the lowest Fréchet distance"));
    for (start, _) in page.match_indices("href=\"runs/") {
        let link = page[start + 6..].split('"').next().unwrap();
        assert!(place.path("out").join(link).exists(), "{link}");
    }
    assert_eq!(page.matches("href=\"runs/").count(), 3);
    assert!(!page.contains("http:") && !page.contains("https:"), "asks for something from outside");
}

#[test]
fn studies_are_checked_before_anything_runs() {
    let place = Place::new();
    let fine = variant("fine", "hyena-x", "");
    let text = printed(place.sweep(&[fine.clone(), variant("same", "hyena-x", "seed = 0")]).arg("--dry-run"));
    assert_names(
        &text,
        &["Which operator?", "fine", "+0.05%", "out/runs/hyena-x-", "2 variants, 1 runs, 0 finished"],
    );
    let refused_with = |bad: String, parts: &[&str]| {
        let message = refused(&mut place.sweep(&[fine.clone(), bad]), 2);
        assert_names(&message, &["ops.toml: question \"Which operator?\", variant \"bad\": "]);
        assert_names(&message, parts);
    };
    refused_with(
        variant("bad", "hyena-x", "distill = { stepz = 1 }"),
        &["distill.stepz", "did you mean `steps`"],
    );
    refused_with(variant("bad", "hyena-q", ""), &["graft", "hyena-q", "hyena-x"]);
    refused_with(variant("bad", "hyena-x", "").replace("[3]", "[12]"), &["block 12 does not exist"]);
    refused_with(
        variant("bad", "hyena-x", "finetune = false\ndistill = false"),
        &["[distill] or [finetune]"],
    );
    assert!(!place.path("out").exists(), "refused only after some work");

    fs::create_dir(place.path("out")).unwrap();
    fs::write(place.path("out/index.html"), "my own page").unwrap();
    assert_names(&refused(&mut place.sweep(&[fine]), 1), &["index.html", "not the page of a study"]);
    assert_eq!(fs::read_to_string(place.path("out/index.html")).unwrap(), "my own page");
}

#[test]
fn a_run_that_diverged_is_told_and_not_tried_again() {
    let place = Place::new();
    let wild = variant("wild", "hyena-x", "distill = { lr = 1e30 }");
    let variants = [variant("tame", "hyena-x", ""), wild];
    assert_names(&printed(&mut place.sweep(&variants)), &["tame: ", "wild: training diverged", "done: "]);
    let page = fs::read_to_string(place.path("out/index.html")).unwrap();
    for part in ["Training diverged: “wild”", "The 1 finished runs"] {
        assert!(page.contains(part), "{part}");
    }
    let log = || {
        let runs = place.path("out/runs");
        let found = listing(&runs).into_iter().find(|name| runs.join(name).join("diverged.txt").exists());
        written(&runs.join(found.unwrap()).join("metrics.jsonl"))
    };
    let before = log();
    assert_names(
        &printed(&mut place.sweep(&variants)),
        &["tame: finished before", "wild: training diverged"],
    );
    assert_eq!(log(), before, "trained again");
    assert!(fs::read_to_string(place.path("out/index.html")).unwrap().contains("Training diverged: “wild”"));
}
