//! Runs that are killed and started again end with the same bits as runs that are left alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const MODEL: &str = r#"seed = 3
[model.sizes]
input_size = 28
patch = 7
in_channels = 1
hidden = 32
depth = 4
heads = 2
num_classes = 10
[data]
source = "embedded"
fraction = 0.05
[pretrain]
steps = 60
batch = 32
lr = 1e-3
warmup = 5
schedule = "cosine"
ema = 0.9
flip = true
checkpoint-every = 7
"#;

const GRAFT: &str = r#"seed = 4
[model]
checkpoint = "CHECKPOINT"
[data]
source = "embedded"
fraction = 0.05
[[graft]]
target = "attention"
blocks = { interleaved = 0.5 }
operator = { kind = "hyena-x" }
[distill]
steps = 60
batch = 32
lr = 1e-2
schedule = "halving"
weight-decay = 0.01
capture = "CAPTURE"
samples = 960
validation = 20
validate-every = 4
checkpoint-every = 7
[finetune]
steps = 60
batch = 32
ema = 0.9
activation-checkpointing = true
checkpoint-every = 7
"#;

/// All that takes the graft's place in a recipe of restructures.
const RESTRUCTURES: &str = r#"[[graft]]
target = "attention"
blocks = [3]
operator = { kind = "hyena-x" }
[[restructure]]
kind = "parallel-pairs"
pairs = [[1, 2]]
[[restructure]]
kind = "drop"
blocks = [0]
"#;

/// Longest time that a run may take to reach the moment at which it is killed.
const PATIENCE: Duration = Duration::from_secs(120);

/// When a run is killed, told from its folder.
#[derive(Debug)]
enum Moment {
    /// The log has come to a step of a stage.
    Step(&'static str, u64),
    /// A file whose name starts so is there.
    File(&'static str),
}

impl Moment {
    fn has_come(&self, folder: &Path) -> bool {
        match self {
            Self::Step(stage, step) => steps(folder, stage).last() >= Some(step),
            Self::File(start) => fs::read_dir(folder).is_ok_and(|mut entries| {
                entries.any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().starts_with(start)))
            }),
        }
    }
}

/// Steps of a stage that a run's log tells of; its last line may be half-written.
fn steps(folder: &Path, stage: &str) -> Vec<u64> {
    let log = fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.filter(|line| line["stage"] == stage).filter_map(|line| line["step"].as_u64()).collect()
}

fn scion(command: &str, recipe: &Path, folder: &Path) -> Command {
    let mut program = Command::new(assert_cmd::cargo::cargo_bin!("scion"));
    program.args(["--quiet", command]).arg(recipe).arg("--out").arg(folder).stdout(Stdio::null());
    program
}

fn finish(command: &str, recipe: &Path, folder: &Path) {
    assert!(scion(command, recipe, folder).status().unwrap().success(), "scion {command} failed");
}

/// Starts a command once for every moment and kills it when that comes, then lets it finish.
///
/// On a busy machine a run may get to its end before a late kill hits it, but not before most of them.
fn finish_with_kills(command: &str, recipe: &Path, folder: &Path, moments: &[Moment]) {
    let mut kills = 0;
    for moment in moments {
        let mut run = scion(command, recipe, folder).spawn().unwrap();
        let started = Instant::now();
        while !moment.has_come(folder) && run.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < PATIENCE, "scion {command} does not come to {moment:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        run.kill().unwrap();
        let status = run.wait().unwrap();
        assert!(status.success() || status.code().is_none(), "scion {command} failed: {status}");
        kills += usize::from(!status.success());
    }
    assert!(kills > moments.len() / 2, "only {kills} kills of scion {command} came in time");
    finish(command, recipe, folder);
}

fn assert_same(unbroken: &Path, killed: &Path, files: &[&str]) {
    for file in files {
        let (expected, found) =
            (fs::read(unbroken.join(file)).unwrap(), fs::read(killed.join(file)).unwrap());
        assert!(expected == found, "{file} differs after the kills");
    }
    let names = |folder: &Path| -> Vec<_> {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let done = files.last() == Some(&"metrics.jsonl");
    assert!(!done || names(unbroken) == names(killed), "left over: {:?}", names(killed));
}

/// A temporary folder for a test's recipes and runs.
struct Bench {
    root: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// A recipe that grafts a model trained here.
    fn graft_recipe(&self, capture: &str) -> PathBuf {
        let steps = MODEL.replace("steps = 60", "steps = 4");
        let teacher = self.path("teacher");
        finish("pretrain", &self.write("teacher.toml", &steps), &teacher);
        let checkpoint = teacher.join("model.safetensors");
        let text = GRAFT.replace("\"CHECKPOINT\"", &format!("{checkpoint:?}")).replace("CAPTURE", capture);
        self.write("graft.toml", &text)
    }
}

#[test]
fn pretraining_survives_kills() {
    use Moment::{File, Step};
    let bench = Bench::new();
    let recipe = bench.write("model.toml", MODEL);
    let (unbroken, killed) = (bench.path("unbroken"), bench.path("killed"));
    finish("pretrain", &recipe, &unbroken);
    let moments = [
        File("recipe.toml"),
        File("pretrain.state.safetensors"),
        Step("pretrain", 10),
        Step("pretrain", 30),
        Step("pretrain", 50),
    ];
    finish_with_kills("pretrain", &recipe, &killed, &moments);
    assert_same(&unbroken, &killed, &["model.safetensors", "metrics.jsonl"]);
    assert_eq!(steps(&killed, "pretrain"), [10, 20, 30, 40, 50, 60]);
}

#[test]
fn both_stages_survive_kills() {
    use Moment::{File, Step};
    let bench = Bench::new();
    let recipe = bench.graft_recipe("online");
    let (unbroken, killed) = (bench.path("unbroken"), bench.path("killed"));
    finish("finetune", &recipe, &unbroken);
    let moments = [File("stage1.state.safetensors"), Step("stage1", 10), Step("stage1", 40)];
    finish_with_kills("distill", &recipe, &killed, &moments);
    assert_same(&unbroken, &killed, &["stage1.safetensors"]);
    let moments = [File("stage2.state.safetensors"), Step("stage2", 20), Step("stage2", 50)];
    finish_with_kills("finetune", &recipe, &killed, &moments);
    assert_same(&unbroken, &killed, &["stage1.safetensors", "stage2.safetensors", "metrics.jsonl"]);
}

#[test]
fn cached_capture_and_the_turn_to_stage_2_survive_kills() {
    use Moment::{File, Step};
    let bench = Bench::new();
    let recipe = bench.graft_recipe("cache");
    let (unbroken, killed) = (bench.path("unbroken"), bench.path("killed"));
    finish("finetune", &recipe, &unbroken);
    let moments = [
        File(".activations-"),
        File("activations-"),
        Step("stage1", 10),
        Step("stage1", 50),
        File("stage1.safetensors"),
        Step("stage2", 30),
    ];
    finish_with_kills("finetune", &recipe, &killed, &moments);
    assert_same(&unbroken, &killed, &["stage1.safetensors", "stage2.safetensors", "metrics.jsonl"]);
}

/// Stage 2 guided by the teacher, on images that the teacher draws, in full and by adapters.
#[test]
fn guided_finetuning_survives_kills() {
    use Moment::{File, Step};
    for settings in [
        "teacher = { blocks = 0.5 }\n",
        "teacher = { blocks = 0.5 }\nactivation-checkpointing = true\nmethod = \"lora\"\nlora = { full = [\"grafted\"] }\n",
    ] {
        let bench = Bench::new();
        let text = fs::read_to_string(bench.graft_recipe("online")).unwrap();
        let text = text.replace("source = \"embedded\"", "source = \"teacher\"\ncount = 300\nsteps = 3");
        let text = text.replace("fraction = 0.05", "fraction = 0.9");
        let objective = format!("objective = \"both\"\n{settings}");
        let recipe =
            bench.write("guided.toml", &text.replace("activation-checkpointing = true\n", &objective));
        let (unbroken, killed) = (bench.path("unbroken"), bench.path("killed"));
        finish("finetune", &recipe, &unbroken);
        let moments = [
            File("teacher-images.parts"),
            Step("stage1", 20),
            File("stage2.state.safetensors"),
            Step("stage2", 20),
            Step("stage2", 40),
        ];
        finish_with_kills("finetune", &recipe, &killed, &moments);
        let files = ["teacher-images.npz", "stage1.safetensors", "stage2.safetensors", "metrics.jsonl"];
        assert_same(&unbroken, &killed, &files);
    }
}

#[test]
fn restructures_survive_kills() {
    use Moment::{File, Step};
    for capture in ["online", "cache"] {
        let bench = Bench::new();
        let recipe = bench.graft_recipe(capture);
        let text = fs::read_to_string(&recipe).unwrap();
        let (head, rest) = text.split_once("[[graft]]").unwrap();
        let stages = rest.split_once("[distill]").unwrap().1;
        fs::write(&recipe, format!("{head}{RESTRUCTURES}[distill]{stages}")).unwrap();
        let (unbroken, killed) = (bench.path("unbroken"), bench.path("killed"));
        finish("finetune", &recipe, &unbroken);
        let moments = [
            File("stage1.state.safetensors"),
            Step("stage1", 10),
            Step("stage1", 40),
            File("stage2.state.safetensors"),
            Step("stage2", 30),
        ];
        finish_with_kills("finetune", &recipe, &killed, &moments);
        assert_same(&unbroken, &killed, &["stage1.safetensors", "stage2.safetensors", "metrics.jsonl"]);
    }
}

#[test]
fn damaged_training_state_is_refused() {
    let bench = Bench::new();
    let recipe = bench.write("model.toml", &MODEL.replace("steps = 60", "steps = 1000000"));
    let folder = bench.path("run");
    let mut run = scion("pretrain", &recipe, &folder).spawn().unwrap();
    let state = folder.join("pretrain.state.safetensors");
    while !state.exists() && run.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    run.kill().unwrap();
    run.wait().unwrap();
    let whole = fs::read(&state).unwrap();
    for length in [0, 9, whole.len() / 2, whole.len() - 1] {
        fs::write(&state, &whole[..length]).unwrap();
        let output = scion("pretrain", &recipe, &folder).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("pretrain.state.safetensors") && !message.contains("panicked"), "{message}");
        assert!(!folder.join("model.safetensors").exists());
    }
}
