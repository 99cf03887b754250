//! What the stages of a recipe make, one after the other.

use std::fs;

use super::place::Place;
use super::{assert_names, listing, printed, refused, scion};

/// The main job in small: every stage, four models drawn and scored, the report.
#[test]
fn a_whole_run_ends_in_a_report() {
    let root = tempfile::tempdir().unwrap();
    let (recipe, run) = (root.path().join("small.toml"), root.path().join("run"));
    let text = r#"seed = 2
[model]
checkpoint = "embedded"
[[graft]]
target = "attention"
blocks = [3]
operator = { kind = "hyena-x" }
[distill]
steps = 2
batch = 4
validation = 10
[finetune]
steps = 2
batch = 4
[sample]
steps = 2
cfg = 2.0
count = 20
[evaluate]
latency-runs = 2
latency-batch = 2
"#;
    fs::write(&recipe, text).unwrap();
    let command = || {
        let mut program = scion("run");
        program.arg(&recipe).arg("--out").arg(&run);
        program
    };
    assert_names(&printed(&mut command()), &["done: ", "report.html"]);
    let results = fs::read_to_string(run.join("results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_str(&results).unwrap();
    let models = results["models"].as_array().unwrap();
    assert_eq!(
        models.iter().map(|m| &m["name"]).collect::<Vec<_>>(),
        ["teacher", "untrained", "stage1", "stage2"]
    );
    for model in models {
        assert_eq!(model["samples"], 20);
        assert!(model["frechet"]["value"].as_f64().unwrap() > 0.0, "{model}");
        assert!(model["latency_ms"].as_f64().unwrap() > 0.0, "{model}");
    }
    assert_eq!(results["floor"]["samples"], 20);
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(page.contains("After stage 2") && page.contains("data:image/png;base64"));
    assert_eq!(
        listing(&run.join("samples")),
        [
            "stage1.npz",
            "stage1.png",
            "stage2.npz",
            "stage2.png",
            "teacher.npz",
            "teacher.png",
            "untrained.npz",
            "untrained.png"
        ]
    );
    assert_names(&printed(&mut command()), &["nothing to do", "report.html"]);

    // What is lost is made again, the same as before.
    let images = fs::read(run.join("samples/stage2.npz")).unwrap();
    for name in ["report.html", "results.json", "samples/stage2.npz"] {
        fs::remove_file(run.join(name)).unwrap();
    }
    printed(&mut command());
    assert!(fs::read(run.join("samples/stage2.npz")).unwrap() == images);
    assert!(fs::read_to_string(run.join("report.html")).unwrap().contains("After stage 2"));
}

/// No data set: the teacher draws, once, the images that both stages see.
#[test]
fn a_teacher_draws_the_images() {
    let drawn_by = |batch: usize| {
        let place = Place::new();
        let data = format!("source = \"image-folder\"\npath = {:?}\n", place.path("images"));
        place.edit(&data, "source = \"teacher\"\ncount = 12\nsteps = 2\ncfg = 2.0\n");
        place.edit("[finetune]\n", &format!("[sample]\nbatch = {batch}\n[finetune]\nobjective = \"both\"\n"));
        place
    };
    let place = drawn_by(64);
    printed(&mut place.run("distill"));
    let images = place.path("run/teacher-images.npz");
    let (before, written) = (fs::read(&images).unwrap(), fs::metadata(&images).unwrap().modified().unwrap());
    let set = scion::data::samples::read_samples(&images).unwrap();
    assert_eq!((set.len(), &set.labels()[..7]), (12, &[0, 1, 2, 3, 4, 0, 1][..]));
    printed(&mut place.run("finetune"));
    assert_eq!(fs::metadata(&images).unwrap().modified().unwrap(), written, "drawn twice");
    assert!(!listing(&place.path("run")).contains(&"teacher-images.parts".to_string()));
    let log = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    for term in ["loss", "mse", "vb", "teacher_noise", "teacher_variance"] {
        assert!(last[term].as_f64().unwrap() > 0.0, "{term} in {last}");
    }
    assert!(last.get("teacher_blocks").is_none(), "{last}");
    let kept = fs::read_to_string(place.path("run/recipe.toml")).unwrap();
    assert_names(&kept, &["count = 12", "objective = \"both\"", "variance = 1.0", "diffusion = 1.0"]);

    // Images depend on the seed and their number alone.
    let other = drawn_by(5);
    printed(&mut other.run("distill"));
    assert!(fs::read(other.path("run/teacher-images.npz")).unwrap() == before);
    let mut again = scion("distill");
    printed(again.arg(other.recipe()).args(["--seed", "6", "--out"]).arg(other.path("other-seed")));
    assert!(fs::read(other.path("other-seed/teacher-images.npz")).unwrap() != before);

    // A run that has drawn images is one of its recipe.
    fs::remove_file(place.path("run/stage1.safetensors")).unwrap();
    fs::remove_file(place.path("run/stage2.safetensors")).unwrap();
    fs::remove_file(place.path("run/metrics.jsonl")).unwrap();
    place.edit("count = 12", "count = 13");
    assert_names(&refused(&mut place.run("distill"), 1), &["another recipe"]);
}

#[test]
fn adapters_end_in_a_plain_model() {
    let place = Place::new();
    place.edit(
        "[finetune]\n",
        "[finetune]\nmethod = \"lora\"\nema = 0.5\nlora = { rank = 4, full = [\"grafted\"] }\n",
    );
    printed(&mut place.run("finetune"));
    let weights = |name: &str| {
        let file = scion::checkpoint::Checkpoint::open(&place.path("run").join(name)).unwrap();
        let names: Vec<String> = file.names().map(String::from).collect();
        names.into_iter().map(|name| (name.clone(), file.read_f32(&name).unwrap())).collect::<Vec<_>>()
    };
    let (before, after) = (weights("stage1.safetensors"), weights("stage2.safetensors"));
    assert_eq!(before.len(), after.len());
    for ((name, before), (same, after)) in before.iter().zip(&after) {
        assert_eq!(name, same);
        let grafted = name.starts_with("blocks.1.attn.");
        let adapted = name.ends_with("weight") && (name.contains(".attn.") || name.contains(".mlp.fc"));
        assert_eq!(before != after, grafted || adapted, "{name}");
    }
    let text = printed(scion("inspect").arg(place.path("run/stage2.safetensors")));
    assert_names(&text, &["width 24, 3 blocks", "attention: hyena-x"]);
}

#[test]
fn rules_of_locality_can_stand_side_by_side() {
    let place = Place::new();
    place.edit(
        "[[graft]]",
        "[locality]\nk = 1\nsamples = 2\nsteps = 2\n[[graft]]\ntarget = \"attention\"\nblocks = { most-local = 1 }\n\
         operator = { kind = \"sliding-window\", left = 1, right = 1 }\n[[graft]]",
    );
    place.edit("{ interleaved = 0.5 }", "{ least-local = 1 }");
    printed(&mut place.run("plan"));
    printed(&mut place.run("distill"));
    assert!(place.path("run").join("locality.json").exists());
}

#[test]
fn adapters_need_something_to_adapt() {
    let place = Place::new();
    place.edit(
        "[finetune]",
        "[finetune]\nema = 0.4\nmethod = \"lora\"\nlora = { layers = [], full = [\"grafted\"] }",
    );
    let whole = fs::read_to_string(place.recipe()).unwrap();
    let (head, rest) = whole.split_once("[[graft]]").unwrap();
    let stages = rest.split_once("[distill]").unwrap().1;
    let drop = "[[restructure]]\nkind = \"drop\"\nblocks = [1]\n";
    fs::write(place.recipe(), format!("{head}{drop}[distill]{stages}")).unwrap();
    let message = refused(&mut place.run("finetune"), 2);
    assert_names(&message, &["finetune.lora", "trains nothing", "layers", "full"]);
}

#[test]
fn inherited_operators_start_nearer_to_the_teacher() {
    let place = Place::new();
    let grafts = |init: &str| {
        format!(
            "[[graft]]\ntarget = \"attention\"\nblocks = [0]\ninit = \"{init}\"\n\
             operator = {{ kind = \"sliding-window\", left = 4, right = 4 }}\n\
             [[graft]]\ntarget = \"mlp\"\nblocks = [1]\ninit = \"{init}\"\noperator = {{ kind = \"mlp\", ratio = 2.0 }}\n\
             [[graft]]\ntarget = \"mlp\"\nblocks = [2]\noperator = {{ kind = \"identity\" }}\n[distill]"
        )
    };
    let whole = fs::read_to_string(place.recipe()).unwrap();
    let (head, rest) = whole.split_once("[[graft]]").unwrap();
    let stages = rest.split_once("[distill]").unwrap().1;
    let losses = ["random", "inherit"].map(|init| {
        fs::write(place.recipe(), format!("{head}{}{stages}", grafts(init))).unwrap();
        printed(scion("distill").arg(place.recipe()).arg("--out").arg(place.path(init)));
        let rows = fs::read_to_string(place.path(init).join("stage1.json")).unwrap();
        let rows: Vec<serde_json::Value> = serde_json::from_str(&rows).unwrap();
        assert_eq!(rows.len(), 2, "the identity has nothing to learn");
        let named = rows.iter().all(|row| row["operator"].as_str().unwrap().ends_with(", inherited"));
        assert_eq!(named, init == "inherit");
        rows.iter().map(|row| row["val_first"].as_f64().unwrap()).collect::<Vec<_>>()
    });
    assert!(
        losses[1].iter().zip(&losses[0]).all(|(inherited, random)| inherited < &(0.8 * random)),
        "{losses:?}"
    );
    place.edit("kind = \"sliding-window\", left = 4, right = 4", "kind = \"sliding-window\", heads = 1");
    let message = refused(&mut place.run("plan"), 2);
    assert_names(&message, &["sliding-window", "cannot inherit", "1 heads instead of 3"]);
}

#[test]
fn a_report_is_made_of_the_stages_and_models_that_a_recipe_has() {
    let place = Place::new();
    let sections = "[sample]\nsteps = 2\ncount = 10\n[evaluate]\nmodels = [\"untrained\", \"stage1\", \"stage2\"]\nlatency-runs = 1\nlatency-batch = 1\n";
    place.edit("[distill]\nsteps = 3\nbatch = 2\nvalidation = 2\n", sections);
    assert_names(&printed(&mut place.run("run")), &["done: ", "report.html"]);
    let drawn = ["stage2.npz", "stage2.png", "untrained.npz", "untrained.png"];
    assert_eq!(listing(&place.path("run/samples")), drawn);
    let results = fs::read_to_string(place.path("run/results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_str(&results).unwrap();
    let models = results["models"].as_array().unwrap();
    assert_eq!(models.iter().map(|m| &m["name"]).collect::<Vec<_>>(), ["untrained", "stage2"]);

    place.edit("[finetune]\nsteps = 2\nbatch = 2\n", "");
    assert_names(&refused(&mut place.run("run"), 2), &["[distill] or [finetune]"]);
    place.edit("models = [\"untrained\", \"stage1\", \"stage2\"]", "models = []");
    assert_names(&refused(&mut place.run("run"), 2), &["evaluate.models is empty"]);
}

#[test]
fn runs_are_compared_on_one_page() {
    let place = Place::new();
    let sections =
        "[sample]\nsteps = 2\ncount = 10\n[evaluate]\nlatency-runs = 1\nlatency-batch = 1\n[distill]\n";
    place.edit("[distill]\n", sections);
    place.edit("[finetune]\nsteps = 2\nbatch = 2\n", "");
    let run = |name: &str| {
        let folder = place.path(name);
        printed(scion("run").arg(place.recipe()).arg("--out").arg(&folder));
        folder
    };
    let first = run("first");
    place.edit("steps = 3", "steps = 4");
    let second = run("second");
    let page = place.path("comparison.html");
    let compare = || {
        let mut program = scion("report");
        program.args([&first, &second]).arg("--out").arg(&page);
        program
    };
    for _ in 0..2 {
        assert_names(&printed(&mut compare()), &["comparison.html"]);
    }
    let html = fs::read_to_string(&page).unwrap();
    for part in [
        "2 runs compared",
        "<a href=\"second/report.html\">second</a>",
        "distill.steps = 4",
        "data:image/png",
    ] {
        assert!(html.contains(part), "{part} is not in the page");
    }
    assert!(!html.contains("distill.batch"), "what is the same in both is told");
    fs::write(&page, [0xff, 0x00, 0x80]).unwrap();
    assert_names(&refused(&mut compare(), 1), &["comparison.html", "not a comparison"]);
    fs::remove_file(&page).unwrap();
    assert_names(
        &refused(scion("report").arg(&first).arg("--out").arg(&page), 2),
        &["--out", "several runs"],
    );
    fs::remove_file(second.join("results.json")).unwrap();
    assert_names(&refused(&mut compare(), 1), &["results.json"]);

    let events = listing(&first.join("events/stage1"));
    assert!(events.len() == 1 && events[0].starts_with("events.out.tfevents."), "{events:?}");
}
