//! Quality against cost of all variants, and which of them nothing beats in both.

use std::fmt;

use super::results::{StudyResults, VariantResult};
use crate::report::number;
use crate::report::results::{Estimate, ModelName, ModelResult};
use crate::report::scatter::{Point, Scatter};

/// A model and what it is called.
struct Model<'a> {
    name: &'a str,
    class: &'static str,
    result: &'a ModelResult,
    score: Estimate,
}

/// Writes the Fréchet distance of the edited models and the teacher against FLOPs, parameters and latency.
pub(super) fn charts(out: &mut String, study: &StudyResults) -> fmt::Result {
    let models = models(study);
    let largest = |of: fn(&ModelResult) -> u64| models.iter().map(|m| of(m.result)).max().unwrap_or(0);
    let [flops, params] = [largest(|m| m.flops), largest(|m| m.params)].map(|most| number::unit(most as f64));
    let mut inner = String::new();
    let mut chart = |title: &str, x_label: &str, cost: &dyn Fn(&ModelResult) -> Option<f64>| {
        let known: Vec<(&Model, f64)> = models
            .iter()
            .filter_map(|m| Some((m, cost(m.result).filter(|cost| cost.is_finite())?)))
            .collect();
        let front = front(&known.iter().map(|(m, cost)| (*cost, m.score.value)).collect::<Vec<_>>());
        let points = known.iter().enumerate().map(|(index, &(m, cost))| Point {
            name: m.name.into(),
            class: if front.contains(&index) { m.class } else { "beaten" },
            cost,
            score: m.score,
            labelled: front.contains(&index),
        });
        let points = points.collect();
        Scatter { title, x_label, points, floor: None, line: ("front", front), from_zero: false }
            .write(&mut inner)
    };
    let per_pass = format!("{}FLOPs per forward pass", flops.1);
    chart("Fréchet distance and FLOPs", &per_pass, &|m| Some(m.flops as f64 / flops.0))?;
    let millions =
        if params.1.is_empty() { "parameters".into() } else { format!("parameters, {}", params.1) };
    chart("Fréchet distance and parameters", &millions, &|m| Some(m.params as f64 / params.0))?;
    chart("Fréchet distance and latency", "latency over the teacher’s", &|m| match m.name {
        ModelName::Teacher => Some(1.0),
        _ => m.latency_ratio,
    })?;
    if !inner.is_empty() {
        out.push_str(&format!("<div class=\"charts\">{inner}</div>"));
    }
    Ok(())
}

/// The last model of every run, each run once, and the teacher where all have the same.
fn models(study: &StudyResults) -> Vec<Model<'_>> {
    let variants = || study.questions.iter().flat_map(|question| &question.variants);
    let mut seen: Vec<&str> = Vec::new();
    let mut models = Vec::new();
    for variant in variants() {
        if seen.contains(&variant.run.as_str()) {
            continue;
        }
        seen.push(&variant.run);
        let edited = variant.measured.as_ref().and_then(|m| m.edited());
        models.extend(edited.and_then(|result| model(&variant.name, "edited", result)));
    }
    let teacher = |variant: &VariantResult| variant.measured.as_ref()?.model(ModelName::Teacher).cloned();
    let same =
        |a: &ModelResult, b: &ModelResult| (a.frechet, a.params, a.flops) == (b.frechet, b.params, b.flops);
    let mut teachers = variants().filter(|v| v.measured.is_some()).map(teacher);
    if let Some(Some(first)) = teachers.next()
        && teachers.all(|other| other.is_some_and(|other| same(&other, &first)))
    {
        let first = variants().find_map(|v| v.measured.as_ref()?.model(ModelName::Teacher));
        models.extend(first.and_then(|result| model("Teacher", "teacher", result)));
    }
    models
}

fn model<'a>(name: &'a str, class: &'static str, result: &'a ModelResult) -> Option<Model<'a>> {
    let score = result.frechet.filter(|score| score.value.is_finite())?;
    Some(Model { name, class, result, score })
}

/// The points (cost, score), by their index and in the order of cost, beside which no other is at most as dear and as far,
/// and better in one of the two.
fn front(points: &[(f64, f64)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&a, &b| {
        points[a].0.total_cmp(&points[b].0).then(points[a].1.total_cmp(&points[b].1)).then(a.cmp(&b))
    });
    let mut last = (f64::NEG_INFINITY, f64::INFINITY);
    order.retain(|&index| {
        let kept = points[index].1 < last.1 || points[index] == last;
        if kept {
            last = points[index];
        }
        kept
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::study::tests::sample;

    #[test]
    fn nothing_beats_the_points_of_the_front() {
        assert_eq!(front(&[(3.0, 1.0), (1.0, 5.0), (2.0, 6.0), (2.0, 2.0), (4.0, 1.0)]), [1, 3, 0]);
        assert_eq!(
            front(&[(1.0, 2.0), (2.0, 2.0), (1.0, 2.0)]),
            [0, 2],
            "ties stay, what is dearer for nothing goes"
        );
        assert_eq!(front(&[]), [0usize; 0]);
    }

    #[test]
    fn runs_and_the_teacher_are_shown_once() {
        let mut study = sample();
        study.questions.push(study.questions[0].clone());
        let mut html = String::new();
        charts(&mut html, &study).unwrap();
        assert_eq!(html.matches("<figure").count(), 2, "no latency was measured: {html}");
        assert_eq!(html.matches("<circle").count(), 2 * 3);
        assert!(html.contains(">Teacher</text>") && html.contains("model beaten"));
    }
}
