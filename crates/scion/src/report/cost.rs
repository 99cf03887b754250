//! Quality against cost of one run: its models in the order in which they were made.

use std::fmt;

use super::number;
use super::results::{ModelName, ModelResult, Results};
use super::scatter::{Point, Scatter};

/// Writes the Fréchet distance against FLOPs and against latency, each where two models have both.
pub(super) fn charts(out: &mut String, results: &Results) -> fmt::Result {
    let largest = results.models.iter().map(|m| m.flops as f64).fold(0.0, f64::max);
    let (scale, letter) = number::unit(largest);
    let flops = |m: &ModelResult| Some(m.flops as f64 / scale);
    scatter(out, results, "Fréchet distance and FLOPs", &format!("{letter}FLOPs per forward pass"), flops)?;
    scatter(out, results, "Fréchet distance and latency", "latency, ms (median)", |m| m.latency_ms)
}

fn scatter(
    out: &mut String,
    results: &Results,
    title: &str,
    x_label: &str,
    cost: impl Fn(&ModelResult) -> Option<f64>,
) -> fmt::Result {
    let mut models: Vec<(&ModelResult, f64)> =
        results.models.iter().filter_map(|m| Some((m, cost(m).filter(|cost| cost.is_finite())?))).collect();
    models.retain(|(m, _)| m.frechet.is_some_and(|score| score.value.is_finite()));
    models.sort_by_key(|(m, _)| m.name);
    let edited = models.iter().enumerate().filter(|(_, (m, _))| m.name != ModelName::Teacher);
    let course = edited.map(|(index, _)| index).collect();
    let points = models.iter().filter_map(|&(m, cost)| {
        let (name, class) = (m.name.label().into(), m.name.id());
        Some(Point { name, class, cost, score: m.frechet?, labelled: true })
    });
    Scatter {
        title,
        x_label,
        points: points.collect(),
        floor: results.floor.as_ref().and_then(|f| f.frechet).map(|e| e.value).filter(|v| v.is_finite()),
        line: ("course", course),
        from_zero: true,
    }
    .write(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::results::Estimate;
    use crate::report::tests::sample_results;

    #[test]
    fn one_chart_per_cost_with_all_models() {
        let mut html = String::new();
        charts(&mut html, &sample_results()).unwrap();
        assert_eq!(html.matches("<figure").count(), 2);
        assert_eq!(html.matches("<circle").count(), 4);
        assert!(html.contains("real images"));
    }

    #[test]
    fn an_error_bar_across_zero_stays_in_the_chart() {
        let mut results = sample_results();
        results.models[0].frechet = Some(Estimate::new(0.5, 5.0));
        results.models[1].frechet = Some(Estimate::new(400.0, 5.0));
        let mut html = String::new();
        charts(&mut html, &results).unwrap();
        assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
    }
}
