use super::*;
use crate::operator::Slot;
use crate::report::results::Estimate;

/// Three blocks: costs of attention 0.3, 0.1, 0.2, L₂ 0.2, 0.5, 0.8.
pub(crate) fn sample() -> AnalysisResults {
    let statistics = |timestep, kurtosis| Statistics {
        timestep,
        count: 1000,
        mean: 0.1,
        std: 2.0,
        max_abs: 9.0,
        kurtosis,
        outliers: usize::from(timestep.is_none()),
    };
    let activity = |kurtosis: f64| Activity {
        all: statistics(None, kurtosis),
        outlier_channels: vec![7],
        by_timestep: [0, 500].map(|t| statistics(Some(t), kurtosis)).into(),
    };
    let operator = |block: usize, slot, cost: f64| OperatorResult {
        block,
        slot,
        operator: "<attention>".into(),
        input: activity(f64::NAN),
        output: activity(8.0),
        removed: Some(Change {
            loss: Estimate::new(cost, 0.01),
            frechet: Some(Estimate::new(10.0 * cost, 0.5)),
        }),
        replaced: None,
    };
    let look = |local: f64| Look {
        curve: vec![0.1, 0.15, local, 1.0],
        grid_distance: Some(1.5),
        by_timestep: [0, 500].map(|timestep| LookAt { timestep, local, grid_distance: Some(1.5) }).into(),
    };
    let costs = [0.3, 0.1, 0.2];
    AnalysisResults {
        model: "<model>.pt".into(),
        weights_sha256: "ab".repeat(32),
        tokens: 4,
        reach: 2,
        outlier_factor: 5.0,
        drawing: Drawing { samples: 100, steps: 25, cfg: 1.5 },
        operators: (0..3)
            .flat_map(|block| Slot::ALL.map(|slot| operator(block, slot, costs[block])))
            .collect(),
        locality: [0.2, 0.5, 0.8]
            .iter()
            .enumerate()
            .map(|(block, &local)| BlockLocality { block, plain: look(local), guided: Some(look(local)) })
            .collect(),
        baseline: Some(Baseline {
            data: "test images".into(),
            images: 512,
            loss: Estimate::new(0.06, 0.001),
            frechet: Some(Estimate::new(15.0, 4.0)),
            drawn: 200,
            steps: 10,
        }),
        run: None,
        left_out: vec!["Something <else>.".into()],
        headline: "Start with attention in blocks 1 and 2".into(),
        advice: vec![Advice { topic: "Loss".into(), text: "l1 & so on".into() }],
        recipe: "[[graft]]".into(),
        precision: "f32".into(),
        seed: 0,
        threads: 2,
        cpu: None,
        versions: [("scion".to_string(), "0.1.0".to_string())].into(),
        command: "scion analyze model.pt".into(),
        elapsed_s: 61.5,
    }
}

#[test]
fn the_page_holds_every_section_and_escapes_names() {
    let html = sample().html();
    for text in [
        "l1 &amp; so on",
        "&lt;model&gt;.pt",
        "Something &lt;else&gt;.",
        "(not FID)",
        "5 times",
        "scion analyze",
    ] {
        assert!(html.contains(text), "{text}");
    }
    assert_eq!(html.matches("<section>").count(), 7);
    let (shown, _script) = html.split_once("<script>").unwrap();
    assert!(!shown.contains("NaN") && !html.contains("://"), "a request or a broken number");
    // A curve a block, with and without guidance, from 0 to 1.
    assert_eq!(html.matches("Locality curve Lₖ").count(), 2 * 2);
    assert!(html.contains("data-y=\"0e0 1e0 false\""));
    // Three blocks, two slots, loss and distance.
    assert_eq!(html.matches("class=\"error\"").count(), 3 * 2 * 2);
}

#[test]
fn what_was_not_measured_has_no_place() {
    let mut results = sample();
    results.baseline = None;
    results.operators.iter_mut().for_each(|operator| operator.removed = None);
    results.locality.clear();
    let html = results.html();
    for text in ["What operators are worth", "Where attention looks", "Removed", "Attention within"] {
        assert!(!html.contains(text), "{text}");
    }
    let names: Vec<String> = results.pictures().into_iter().map(|(name, _)| name).collect();
    // Four measures of two slots on two sides, but for the inputs' kurtosis, which is nowhere finite.
    assert_eq!(names.len(), 16 - 2, "{names:?}");
}
