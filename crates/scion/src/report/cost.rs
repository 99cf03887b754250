//! Quality against cost: every measured model as a point with its error bar, in the order of the run.

use std::fmt::{self, Write};

use super::axis::Scale;
use super::number::{self, Text};
use super::plot::Frame;
use super::results::{Estimate, ModelName, ModelResult, Results};

/// One model in the chart.
struct Point {
    name: ModelName,
    cost: f64,
    score: Estimate,
}

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
    let mut points: Vec<Point> = results
        .models
        .iter()
        .filter_map(|m| Some(Point { name: m.name, cost: cost(m)?, score: m.frechet? }))
        .filter(|p| p.cost.is_finite() && p.score.value.is_finite())
        .collect();
    points.sort_by_key(|p| p.name);
    if points.len() < 2 {
        return Ok(());
    }
    let floor = results.floor.as_ref().and_then(|f| f.frechet).map(|e| e.value).filter(|v| v.is_finite());
    let Some(frame) = frame(&points, floor) else { return Ok(()) };
    write!(out, "<figure class=\"chart\"><figcaption>{}</figcaption>", Text(title))?;
    frame.open(out, title, x_label, "Fréchet distance ↓")?;
    if let Some(floor) = floor {
        floor_line(out, &frame, floor)?;
    }
    training_path(out, &frame, &points)?;
    for point in &points {
        marker(out, &frame, point)?;
    }
    labels(out, &frame, &points)?;
    out.push_str("</svg></figure>");
    Ok(())
}

/// Zero stays on the cost axis when it is not far away; a small saving must not look like a large one.
fn frame(points: &[Point], floor: Option<f64>) -> Option<Frame> {
    let costs = Scale::tight(points.iter().map(|p| p.cost))?;
    let x = Scale { low: 0.0, high: costs.high.max(f64::MIN_POSITIVE) * 1.2, log: false };
    let bars = points.iter().flat_map(|p| {
        let stderr = p.score.stderr.unwrap_or(0.0);
        // A bar that reaches zero would force a linear axis, so its lower end does not set the range.
        [p.score.value, p.score.value + stderr]
    });
    let y = Scale::padded(bars.chain(floor))?;
    Some(Frame { x, y })
}

fn floor_line(out: &mut String, frame: &Frame, floor: f64) -> fmt::Result {
    let ((left, right), y) = (frame.x_edges(), frame.py(floor));
    write!(out, "<path class=\"floor\" d=\"M{left} {y:.1}H{right}\"/>")?;
    write!(out, "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">real images</text>", left + 6.0, y - 5.0)
}

/// Joins the grafted models in the order of training.
fn training_path(out: &mut String, frame: &Frame, points: &[Point]) -> fmt::Result {
    let grafted: Vec<&Point> = points.iter().filter(|p| p.name != ModelName::Teacher).collect();
    for pair in grafted.windows(2) {
        let at = |p: &Point| (frame.px(p.cost), frame.py(p.score.value));
        let ((x0, y0), (x1, y1)) = (at(pair[0]), at(pair[1]));
        write!(out, "<path class=\"course\" d=\"M{x0:.1} {y0:.1}L{x1:.1} {y1:.1}\"/>")?;
    }
    Ok(())
}

fn marker(out: &mut String, frame: &Frame, point: &Point) -> fmt::Result {
    let (x, y, id) = (frame.px(point.cost), frame.py(point.score.value), point.name.id());
    let (top, bottom) = frame.y_edges();
    write!(out, "<g class=\"model {id}\">")?;
    if let Some(stderr) = point.score.stderr.filter(|s| s.is_finite()) {
        let low = point.score.value - stderr;
        let y_low = if frame.y.log && low <= frame.y.low { bottom } else { frame.py(low).min(bottom) };
        let y_high = frame.py(point.score.value + stderr).max(top);
        let x = x - 5.0;
        write!(out, "<path class=\"bar\" d=\"M{x:.1} {y_high:.1}h10m-5 0V{y_low:.1}m-5 0h10\"/>")?;
    }
    write!(
        out,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5.5\"><title>{}\nFréchet distance {}\ncost {}</title></circle></g>",
        point.name.label(),
        number::estimate_text(&point.score),
        number::significant(point.cost, 3)
    )
}

/// Names beside the points, right of them where there is room, moved apart where they would overlap.
fn labels(out: &mut String, frame: &Frame, points: &[Point]) -> fmt::Result {
    let at = |p: &Point| (frame.px(p.cost), frame.py(p.score.value));
    let free = |p: &&Point| {
        let ((x, y), end) = (at(p), label_end(frame, p));
        let crossed =
            |q: &Point| q.name != p.name && (x - 1.0..end).contains(&at(q).0) && (at(q).1 - y).abs() < 14.0;
        end <= frame.x_edges().1 && !points.iter().any(crossed)
    };
    let (on_right, on_left): (Vec<&Point>, Vec<&Point>) = points.iter().partition(free);
    column(out, frame, on_right, 11.0, "")?;
    column(out, frame, on_left, -11.0, "end")
}

/// Where a point's name would end on its right; letters are taken as 7 units wide.
fn label_end(frame: &Frame, point: &Point) -> f64 {
    frame.px(point.cost) + 11.0 + 7.0 * point.name.label().chars().count() as f64
}

fn column(out: &mut String, frame: &Frame, mut points: Vec<&Point>, shift: f64, class: &str) -> fmt::Result {
    const LINE: f64 = 15.0;
    let (top, bottom) = frame.y_edges();
    points.sort_by(|a, b| b.score.value.total_cmp(&a.score.value));
    let mut heights: Vec<f64> = points.iter().map(|p| frame.py(p.score.value).max(top + 8.0)).collect();
    for i in 1..heights.len() {
        heights[i] = heights[i].max(heights[i - 1] + LINE);
    }
    // What was pushed below the axis moves up again, from the lowest label on.
    let mut limit = bottom - 6.0;
    for height in heights.iter_mut().rev() {
        *height = height.min(limit);
        limit = *height - LINE;
    }
    for (point, y) in points.iter().zip(heights) {
        let (x, y, label) = (frame.px(point.cost) + shift, y + 4.0, point.name.label());
        write!(out, "<text class=\"label {class}\" x=\"{x:.1}\" y=\"{y:.1}\">{label}</text>")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
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
