use super::results::*;
use super::*;
use crate::data::ImageShape;
use crate::data::image_io::{GridOptions, grid, save_png};

/// Two blocks, one replaced operator, a teacher and a graft that cannot be told apart.
pub(super) fn sample_results() -> Results {
    let slot = |operator: &str, original: &str| SlotResult {
        operator: operator.into(),
        original: original.into(),
        replaced: operator != original,
        init: (operator != original).then(|| "random".into()),
        params_before: 1000,
        params_after: 900,
        flops_before: 2000,
        flops_after: if operator == original { 2000 } else { 1500 },
    };
    let block = |block, attention: &str| BlockResult {
        block,
        attention: slot(attention, "attention"),
        mlp: slot("mlp", "mlp"),
        restructure: None,
    };
    let model = |name, flops, frechet| ModelResult {
        latency_ms: Some(4.0),
        latency_ms_min: Some(3.9),
        latency_ms_max: Some(4.4),
        samples: 1000,
        frechet: Some(Estimate::new(frechet, 0.1)),
        kid: Some(Estimate::new(0.01, 0.002)),
        accuracy: Some(0.9),
        accuracy_interval: Some([0.88, 0.92]),
        ..ModelResult::new(name, 1_000_000, flops)
    };
    Results {
        elapsed_s: 61.5,
        peak_rss_bytes: 900 << 20,
        models: vec![model(ModelName::Teacher, 100_000_000, 3.0), model(ModelName::Stage2, 90_000_000, 3.1)],
        floor: Some(Floor {
            samples: 2000,
            frechet: Some(Estimate::new(0.5, 0.02)),
            kid: None,
            accuracy: Some(0.94),
        }),
        class_names: vec!["Coat".into(), "<Bag>".into()],
        blocks: vec![block(0, "attention"), block(1, "sliding-window")],
        stage1: vec![Stage1Result {
            block: 1,
            second: None,
            slot: "attention".into(),
            operator: "sliding-window".into(),
            loss: "l1".into(),
            train_first: None,
            train_best: None,
            val_first: Some(0.4),
            val_best: Some(0.1),
            epochs: 20.0,
            seconds: 12.0,
        }],
        stages: vec![StageTiming { name: "stage1".into(), seconds: 12.0, peak_rss_bytes: Some(800 << 20) }],
        versions: [("scion".to_string(), "0.1.0".to_string())].into(),
        seed: Some(7),
        recipe: Some("[model]\ncheckpoint = \"embedded\" # </pre><script>alert(1)</script>".into()),
        ..Results::default()
    }
}

fn sample_curve() -> Curve {
    let points = (1..50).map(|i| (f64::from(i), 1.0 / f64::from(i))).collect();
    let series = vec![Series::new("\"<img src=x>\"", points)];
    Curve { name: "loss".into(), x_label: "step".into(), y_label: "loss".into(), series }
}

fn sample_grid() -> SampleGrid {
    SampleGrid {
        title: "Teacher".into(),
        caption: "a & b".into(),
        png: b"\x89PNG\r\n\x1a\n".to_vec(),
        rows: Vec::new(),
    }
}

fn page(results: &Results) -> String {
    Report { run: "run <1>", results, curves: &[sample_curve()], grids: &[sample_grid()] }.html()
}

#[test]
fn results_survive_json() {
    let results = sample_results();
    let json = serde_json::to_string(&results).unwrap();
    assert_eq!(serde_json::from_str::<Results>(&json).unwrap(), results);
    assert!(json.contains(r#""name":"stage2""#));
}

#[test]
fn a_diverged_score_survives_json() {
    let mut results = sample_results();
    results.models[1].frechet = Some(Estimate { value: f64::INFINITY, stderr: None });
    let json = serde_json::to_string(&results).unwrap();
    let back: Results = serde_json::from_str(&json).unwrap();
    assert!(back.models[1].frechet.unwrap().value.is_nan());
    assert!(page(&back).contains("not a finite number"));
}

#[test]
fn the_page_asks_for_nothing_from_outside() {
    let html = page(&sample_results());
    for pattern in
        ["http:", "https:", "//cdn", "@import", "url(", "<iframe", "fetch(", "XMLHttp", "<link rel=\"style"]
    {
        assert!(!html.contains(pattern), "found {pattern}");
    }
    for (i, _) in html.match_indices("src=\"") {
        assert!(html[i..].starts_with("src=\"data:"), "{}", &html[i..i + 40]);
    }
    for (i, _) in html.match_indices("href=\"") {
        assert!(html[i..].starts_with("href=\"data:"), "{}", &html[i..i + 40]);
    }
}

#[test]
fn a_run_without_stage_1_says_so() {
    let mut results = sample_results();
    assert!(!page(&results).contains("nothing to train"));
    results.stage1.clear();
    results.stage1_left_out = true;
    let html = page(&results);
    assert!(html.contains("Stage 1, part by part</h2>") && html.contains("nothing to train"));
}

#[test]
fn text_from_the_run_is_escaped() {
    let html = page(&sample_results());
    assert_eq!(html.matches("<script>").count(), 1);
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(html.contains("run &lt;1&gt;") && html.contains("&lt;Bag&gt;") && html.contains("a &amp; b"));
    assert!(!html.contains("<img src=x"));
}

#[test]
fn sections_without_data_are_left_out() {
    let empty = Results::default();
    let html = Report { run: "empty", results: &empty, curves: &[], grids: &[] }.html();
    assert!(html.ends_with("</html>\n"));
    assert!(html.contains("no grafted model has been measured"));
    for heading in ["The graft</h2>", "Samples</h2>", "Stage 1", "Training</h2>", "Quality and cost</h2>"] {
        assert!(!html.contains(heading), "{heading}");
    }
    let minimal = r#"{"elapsed_s":1.0,"peak_rss_bytes":1,"future":1,"models":[
        {"name":"teacher","params":5,"flops":9,"latency_ms":1.5,"samples":10,"frechet":{"value":2.0}},
        {"name":"untrained","params":5,"flops":9,"samples":10,"frechet":{"value":null,"stderr":null}}]}"#;
    let html = page(&serde_json::from_str(minimal).unwrap());
    assert!(html.contains("Quality and cost</h2>"));
}

#[test]
fn samples_of_prompts_come_row_by_row() {
    let dir = tempfile::tempdir().unwrap();
    let mut results = sample_results();
    results.prompts = vec!["a red <apple>".into(), "rocket".into()];
    for model in &mut results.models {
        (model.frechet, model.kid) = (None, None);
    }
    results.accuracy_setting = Some("by the nearest picture".into());
    std::fs::write(dir.path().join("results.json"), serde_json::to_string(&results).unwrap()).unwrap();
    std::fs::create_dir(dir.path().join("samples")).unwrap();
    // Two rows of one black and one white image, with their gaps.
    let shape = ImageShape { channels: 3, height: 4, width: 4 };
    let pixels = [vec![0; shape.len()], vec![255; shape.len()]].concat();
    let sheet = grid(&pixels, shape, &GridOptions::new(1)).unwrap();
    save_png(&dir.path().join("samples/teacher.png"), &sheet).unwrap();
    let html = std::fs::read_to_string(from_run_dir(dir.path()).unwrap()).unwrap();
    assert!(html.contains("<th scope=\"row\">a red &lt;apple&gt;</th><td><img alt=\"Teacher: a red &lt;apple&gt;\" width=\"4\" height=\"4\""));
    assert!(
        html.contains("of samples showing their prompt (teacher:") && html.contains("by the nearest picture")
    );
    std::fs::write(dir.path().join("samples/stage2.png"), b"\x89PNG\r\n\x1a\nbroken").unwrap();
    assert!(from_run_dir(dir.path()).unwrap_err().to_string().contains("stage2.png"));
}

#[test]
fn a_run_folder_becomes_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let missing = from_run_dir(dir.path()).unwrap_err().to_string();
    assert!(missing.contains("results.json"), "{missing}");
    let json = serde_json::to_string(&sample_results()).unwrap();
    std::fs::write(dir.path().join("results.json"), &json).unwrap();
    std::fs::write(dir.path().join("metrics.jsonl"), "{\"stage\":\"stage2\",\"step\":1,\"loss\":0.5}\n")
        .unwrap();
    let out = from_run_dir(dir.path()).unwrap();
    let html = std::fs::read_to_string(out).unwrap();
    assert!(html.contains("Stage 2: loss"));
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn two_models_of_one_name_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut results = sample_results();
    results.models[1].name = ModelName::Teacher;
    let path = dir.path().join("results.json");
    std::fs::write(&path, serde_json::to_string(&results).unwrap()).unwrap();
    let error = Results::read(&path).unwrap_err().to_string();
    assert!(error.contains("two entries named `teacher`"), "{error}");
}
