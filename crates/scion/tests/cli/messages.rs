//! Help, completions, usage errors, recipe errors.

use std::fs;
use std::path::PathBuf;

use super::{SMALL_MODEL, assert_names, fixture, listing, printed, refused, scion};

const COMMANDS: [&str; 20] = [
    "bench",
    "quickstart",
    "run",
    "sweep",
    "plan",
    "inspect",
    "convert",
    "forward",
    "encode",
    "tokenize",
    "pretrain",
    "distill",
    "finetune",
    "sample",
    "generate",
    "evaluate",
    "geneval",
    "analyze",
    "neighbours",
    "report",
];

fn shipped(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../recipes").join(name)
}

#[test]
fn every_command_explains_itself_with_an_example() {
    let overview = printed(&mut scion("--help"));
    for command in COMMANDS.into_iter().chain(["completions"]) {
        assert!(overview.contains(command), "{command} is not in the overview");
        let help = printed(scion(command).arg("--help"));
        assert_names(&help, &["Example", &format!("\n  scion {command} "), "--seed"]);
    }
    assert!(printed(&mut scion("--version")).starts_with("scion "));
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = printed(scion("completions").arg(shell));
        COMMANDS.iter().for_each(|command| assert_names(&script, &[command]));
    }
    scion("completions").arg("csh").assert().code(2);
}

#[cfg(target_os = "linux")]
#[test]
fn standard_output_that_takes_nothing_is_no_panic() {
    for arguments in ["inspect embedded", "completions zsh", "quickstart --dry-run"] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let run = |script: &str| {
            let mut shell = assert_cmd::Command::new("sh");
            shell.args(["-c", script]).arg(scion(arguments[0]).get_program()).args(&arguments);
            shell
        };
        let message = refused(&mut run(r#""$0" "$@" > /dev/full"#), 1);
        assert_names(&message, &["cannot write to standard output"]);
        let output = run(r#""$0" "$@" | true"#).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}

#[test]
fn wrong_arguments_are_usage_errors() {
    scion("graft").assert().code(2);
    scion("plan").assert().code(2);
    scion("sample").args(["embedded", "--out", "x.png", "--class", "1", "--classes", "2,3"]).assert().code(2);
    scion("sample").args(["embedded", "--out", "x.png", "--steps", "many"]).assert().code(2);
    scion("inspect").args(["embedded", "--device", "tpu"]).assert().code(2);
}

#[test]
fn recipe_errors_name_file_field_and_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    let head = "[model]\ncheckpoint = \"embedded\"\n";
    let graft = "[[graft]]\ntarget = \"attention\"\nblocks = \"all\"\n";
    let finetune = |rest: &str| format!("{head}[finetune]\nsteps = 1\n{rest}\n");
    let cases: [(String, &[&str]); 29] = [
        (
            format!("{head}[finetune]\nsteps = 3\nwarm-up = 3\n"),
            &["line 5", "warm-up", "did you mean `warmup`"],
        ),
        (format!("{head}[distil]\nsteps = 3\n"), &["line 3", "distil", "did you mean `distill`"]),
        (format!("{head}[finetune]\nsteps = \"many\"\n"), &["line 4", "many"]),
        (format!("{head}[finetune]\nsteps = 0\n"), &["finetune.steps"]),
        (format!("{head}[finetune]\nsteps = 1\nlr = -1.0\n"), &["finetune.lr", "-1"]),
        (format!("{head}[data]\nsource = \"embedded\"\nfraction = 1.5\n"), &["data.fraction", "1.5"]),
        (format!("{head}{graft}operator = {{ kind = \"hyena\" }}\n"), &["line", "hyena", "hyena-x"]),
        (format!("{head}{graft}operator = {{ kind = \"hyena-x\", kernel = 0 }}\n"), &["kernel"]),
        (format!("{head}{graft}operator = {{ kind = \"hyena-x\", kernel = 50 }}\n"), &["kernel", "49", "50"]),
        (
            format!("{head}{graft}operator = {{ kind = \"hyena-x\" }}\n").replace("\"all\"", "[-1]"),
            &["line 5", "blocks = \"all\"", "interleaved"],
        ),
        (
            format!("{head}[finetune]\nsteps = 1\nbatch = 1000000000000\n"),
            &["finetune.batch", "at most", "1000000000000"],
        ),
        (finetune("objective = \"techer\""), &["line 5", "techer", "did you mean `teacher`"]),
        (finetune("teacher = { noise = 1.0 }"), &["finetune.teacher", "objective = \"teacher\" or \"both\""]),
        (
            finetune("objective = \"teacher\"\nteacher = { blocks = -1.0 }"),
            &["finetune.teacher.blocks", "at least 0", "-1"],
        ),
        (
            finetune("objective = \"teacher\"\nteacher = { block = 1.0 }"),
            &["line 6", "did you mean `blocks`"],
        ),
        (
            finetune("objective = \"teacher\"\nteacher = { diffusion = 1.0 }"),
            &["finetune.teacher.diffusion", "\"both\""],
        ),
        (
            finetune("objective = \"both\"\nteacher = { noise = 0.0, variance = 0.0 }"),
            &["finetune.teacher.noise, variance and blocks", "above 0"],
        ),
        (finetune("lora = { rank = 4 }"), &["finetune.lora", "method = \"lora\""]),
        (finetune("method = \"lora\"\nlora = { rank = 0 }"), &["finetune.lora.rank", "at least 1"]),
        (
            finetune("method = \"lora\"\nlora = { layers = [\"attn\"] }"),
            &["line 6", "attn", "`attention`", "`mlp`", "`ada-ln`", "`grafted`"],
        ),
        (
            finetune("method = \"lora\"\nlora = { full = [\"mlp\"] }"),
            &["finetune.lora.full has \"mlp\"", "in one of them"],
        ),
        (
            format!("{head}[data]\nsource = \"embedded\"\ncount = 20\n"),
            &["data.count", "source = \"teacher\""],
        ),
        (format!("{head}[data]\nsource = \"teacher\"\nsteps = 5000\n"), &["data.steps", "5000"]),
        (
            format!("{head}[pretrain]\nsteps = 1\nobjective = \"teacher\"\n"),
            &["pretrain.objective", "[finetune]"],
        ),
        ("[model]\npreset = \"dit-huge-2-256\"\n".into(), &["dit-huge-2-256", "dit-xl"]),
        (format!("{head}preset = \"dit-s-2-256\"\n"), &["other sizes", "input_size 28 instead of 32", "hidden 128 instead of 384"]),
        (format!("{head}preset = \"dit-s-2-256\"\n[model.sizes]\nhidden = 8\n"), &["line 4", "input_size"]),
        (
            "[model]\npreset = \"dit-s-2-256\"\nsizes = { input_size = 8, patch = 2, in_channels = 4, hidden = 8, depth = 1, heads = 1, num_classes = 2 }\n".into(),
            &["preset", "sizes", "leave one out"],
        ),
        ("this is no recipe".into(), &["line 1"]),
    ];
    for (text, parts) in cases {
        fs::write(&file, &text).unwrap();
        let message = refused(scion("plan").arg(&file), 2);
        assert_names(&message, parts);
        if !text.contains("preset") && !text.contains("kernel") {
            assert_names(&message, &["mine.toml"]);
        }
    }
}

#[test]
fn missing_files_are_named() {
    for command in ["plan", "run", "distill", "finetune", "pretrain"] {
        assert_names(&refused(scion(command).arg("nowhere.toml"), 1), &["cannot read", "nowhere.toml"]);
    }
    assert_names(&refused(scion("inspect").arg("nowhere.pt"), 1), &["cannot open", "nowhere.pt"]);
    assert_names(&refused(scion("report").arg("nowhere"), 1), &["nowhere"]);
    refused(scion("evaluate").arg("nowhere.npz"), 1);
}

#[test]
fn names_on_the_hub_are_checked_before_the_network() {
    assert_names(&refused(scion("inspect").arg("hf://facebook"), 2), &["hf://facebook", "hf://org/repo"]);
    let empty = tempfile::tempdir().unwrap();
    let message = refused(scion("inspect").arg("hf://facebook/DiT-XL-2-256").env("HF_HOME", empty.path()), 2);
    assert_names(&message, &["facebook/DiT-XL-2-256", "HF_HUB_OFFLINE"]);
}

#[test]
fn plans_are_printed_and_parse() {
    let recipe = shipped("quickstart.toml");
    assert_names(&printed(scion("plan").arg(&recipe)), &["hyena-x", "parameters:", "FLOPs"]);
    let json: serde_json::Value =
        serde_json::from_str(&printed(scion("plan").arg(&recipe).arg("--json"))).unwrap();
    assert_eq!(json["grafts"].as_array().unwrap().len() * 2, json["dit"]["depth"].as_u64().unwrap() as usize);
    assert_eq!(json["grafts"][0]["operator"]["kind"], "hyena-x");
}

#[test]
fn costs_are_measured_by_length() {
    let options = ["--lengths", "49,64", "--precision", "auto", "--runs", "1", "--json"];
    let printed = printed(scion("bench").args(options));
    let lines: Vec<serde_json::Value> =
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found: Vec<_> =
        lines.iter().map(|line| (line["workload"].as_str().unwrap(), line["tokens"].as_u64())).collect();
    let operators = [
        "attention",
        "sliding-window 4+1+4",
        "neighborhood 7×7",
        "linear-attention",
        "hyena-se",
        "hyena-x",
        "hyena-y",
        "mamba2",
    ];
    let expected: Vec<_> =
        operators.into_iter().flat_map(|name| [(name, Some(49)), (name, Some(64))]).collect();
    assert_eq!(found, expected);
    assert!(lines.iter().all(|line| line["median_ms"].as_f64().unwrap() > 0.0));
    let error = refused(scion("bench").args(["--lengths", "50", "--runs", "1"]), 2);
    assert_names(&error, &["neighborhood 7×7", "square grid", "50 tokens"]);
    let refusal = scion("bench").args(["--lengths", "0"]).output().unwrap();
    assert_eq!(refusal.status.code(), Some(2));
    assert_names(&String::from_utf8(refusal.stderr).unwrap(), &["--lengths", "between 1 and"]);
}

#[test]
fn pixart_is_timed_at_its_sizes_alone() {
    let told = |options: &[&str]| {
        let refusal = scion("bench").args(options).output().unwrap();
        assert_eq!(refusal.status.code(), Some(2));
        String::from_utf8(refusal.stderr).unwrap()
    };
    assert_names(&told(&["--pixart", "1024,3000"]), &["'3000'", "--pixart", "256, 512, 1024, 2048"]);
    assert_names(&told(&["--pixart", "1024", "--lengths", "256"]), &["--pixart", "--lengths"]);
    assert_names(&told(&["--pixart", "1024", "--only", "data"]), &["--pixart", "--only"]);
}

#[test]
fn dry_runs_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run = |command: &str| {
        let mut program = scion(command);
        program.current_dir(folder.path());
        program
    };
    assert_names(&printed(run("quickstart").arg("--dry-run")), &["seed = 1", "hyena-x", "parameters:"]);
    for command in ["run", "distill", "finetune"] {
        let recipe = shipped("quickstart.toml").canonicalize().unwrap();
        let text = printed(run(command).arg(recipe).args(["--dry-run", "--seed", "7", "--out", "made"]));
        assert_names(&text, &["seed = 7", "hyena-x", "parameters:"]);
    }
    let recipe = shipped("teacher.toml").canonicalize().unwrap();
    assert_names(&printed(run("pretrain").arg(recipe).arg("--dry-run")), &["[pretrain]", "steps = "]);
    assert_eq!(listing(folder.path()), [""; 0]);
}

#[test]
fn finished_output_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = folder.path().join(name);
        fs::write(&path, "precious").unwrap();
        path
    };
    let (model, heads) = (fixture(SMALL_MODEL), ["--heads", "3"]);
    let (kept, png, npz) = (file("kept.safetensors"), file("kept.png"), file("kept.npz"));
    let inputs = fixture("dit/odd/inputs.safetensors");
    let messages = [
        refused(scion("convert").arg(&model).arg(&kept).args(["--layout", "scion"]).args(heads), 1),
        refused(scion("forward").arg(&model).arg("--inputs").arg(inputs).arg("--output").arg(&kept), 1),
        refused(scion("sample").arg(&model).arg("--out").arg(&png).args(heads), 1),
        refused(scion("sample").arg(&model).arg("--out").arg(&npz).args(heads), 1),
    ];
    messages.iter().for_each(|message| assert_names(message, &["kept."]));
    assert!([kept, png, npz].iter().all(|path| fs::read(path).unwrap() == b"precious"));
}
