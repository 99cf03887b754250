//! Line charts as inline SVG. The page's script reads values back from the path coordinates for the
//! hover display, so the data is not stored twice.

use std::fmt::{self, Write};

use super::axis::Scale;
use super::number::{self, Text};
use super::{Curve, Series};

/// Size of a chart in SVG units, close to CSS pixels on a wide screen.
pub(super) const WIDTH: f64 = 460.0;
pub(super) const HEIGHT: f64 = 262.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 40.0;

/// More series than this share a colour ramp and a short legend.
pub(super) const NAMED_SERIES: usize = 6;

/// A drawn line holds at most this many points.
const DRAWN_POINTS: usize = 240;

/// The plot area of a chart and its two scales.
pub(super) struct Frame {
    pub x: Scale,
    pub y: Scale,
}

impl Frame {
    /// Horizontal position of `v` in SVG units.
    pub fn px(&self, v: f64) -> f64 {
        LEFT + self.x.at(v) * (WIDTH - LEFT - RIGHT)
    }

    /// Vertical position of `v` in SVG units.
    pub fn py(&self, v: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.at(v) * (HEIGHT - TOP - BOTTOM)
    }

    /// Left and right edges of the plot area.
    pub fn x_edges(&self) -> (f64, f64) {
        (LEFT, WIDTH - RIGHT)
    }

    /// Top and bottom edges of the plot area.
    pub fn y_edges(&self) -> (f64, f64) {
        (TOP, HEIGHT - BOTTOM)
    }

    /// Opens the SVG and draws grid, tick labels and axis names. `label` is read out by screen readers.
    pub fn open(&self, out: &mut String, label: &str, x_label: &str, y_label: &str) -> fmt::Result {
        let Scale { low: x0, high: x1, log: x_log } = self.x;
        let Scale { low: y0, high: y1, log: y_log } = self.y;
        write!(
            out,
            "<svg class=\"plot\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\" \
             data-box=\"{LEFT} {TOP} {} {}\" data-x=\"{x0:e} {x1:e} {x_log}\" data-y=\"{y0:e} {y1:e} {y_log}\">",
            Text(label),
            WIDTH - RIGHT,
            HEIGHT - BOTTOM,
        )?;
        for v in self.y.ticks(4) {
            let (y, text) = (self.py(v), number::tick(v));
            write!(out, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{}\"/>", WIDTH - RIGHT)?;
            write!(out, "<text class=\"tick end\" x=\"{}\" y=\"{:.1}\">{text}</text>", LEFT - 7.0, y + 4.0)?;
        }
        let base = HEIGHT - BOTTOM;
        write!(out, "<path class=\"axis\" d=\"M{LEFT} {base}H{}\"/>", WIDTH - RIGHT)?;
        for v in self.x.ticks(5) {
            let (x, text) = (self.px(v), number::tick(v));
            write!(out, "<path class=\"axis\" d=\"M{x:.1} {base}v4\"/>")?;
            write!(out, "<text class=\"tick mid\" x=\"{x:.1}\" y=\"{:.1}\">{text}</text>", base + 17.0)?;
        }
        let log = if y_log { ", log scale" } else { "" };
        write!(
            out,
            "<text class=\"name mid\" x=\"{:.1}\" y=\"{}\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 5.0,
            Text(x_label)
        )?;
        write!(
            out,
            "<text class=\"name mid\" transform=\"translate(11 {:.1}) rotate(-90)\">{}{log}</text>",
            (TOP + base) / 2.0,
            Text(y_label)
        )
    }
}

/// Writes a line chart as a figure with legend; nothing when no series has a finite point.
pub(super) fn chart(out: &mut String, curve: &Curve) -> fmt::Result {
    chart_within(out, curve, None)
}

/// [`chart`] with a y axis that is given.
pub(super) fn chart_within(out: &mut String, curve: &Curve, y: Option<Scale>) -> fmt::Result {
    let Some(frame) = frame(curve, y) else { return Ok(()) };
    write!(out, "<figure class=\"chart\"><figcaption>{}</figcaption>", Text(&curve.name))?;
    let smoothed = svg(out, curve, &frame)?;
    legend(out, curve, smoothed)?;
    out.push_str("</figure>");
    Ok(())
}

/// The axes of a chart, the y axis unless it is given; nothing when no series has a finite point.
pub(super) fn frame(curve: &Curve, y: Option<Scale>) -> Option<Frame> {
    let points =
        || curve.series.iter().flat_map(|s| s.points.iter()).filter(|p| p.0.is_finite() && p.1.is_finite());
    let ends = curve.series.iter().flat_map(bars).flat_map(|(_, low, high)| [low, high]);
    let (x, found) =
        (Scale::tight(points().map(|p| p.0))?, Scale::padded(points().map(|p| p.1).chain(ends))?);
    Some(Frame { x, y: y.unwrap_or(found) })
}

/// Writes the drawing without its legend; returns over how many points lines were averaged.
pub(super) fn svg(out: &mut String, curve: &Curve, frame: &Frame) -> Result<usize, fmt::Error> {
    frame.open(out, &curve.name, &curve.x_label, &curve.y_label)?;
    let mut smoothed = 0;
    for (i, series) in curve.series.iter().enumerate() {
        smoothed = smoothed.max(line(out, frame, series, i, curve.series.len())?);
    }
    out.push_str("</svg>");
    Ok(smoothed)
}

/// Draws one series; returns over how many points it was averaged.
fn line(
    out: &mut String,
    frame: &Frame,
    series: &Series,
    index: usize,
    of: usize,
) -> Result<usize, fmt::Error> {
    let mut points: Vec<(f64, f64)> =
        series.points.iter().copied().filter(|p| p.0.is_finite() && p.1.is_finite()).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let window = points.len().div_ceil(DRAWN_POINTS);
    let paint = paint(index, of);
    let smooth = window > 1 && noisy(&points);
    if smooth && of <= NAMED_SERIES {
        write!(out, "<path class=\"line raw\" {paint} d=\"")?;
        path(out, frame, &extremes(&points, window))?;
        out.push_str("\"/>");
    }
    let drawn = match (smooth, window) {
        // The mean over five drawn points calms a noisy training loss without hiding its course.
        (true, _) => running_mean(&points, 5 * window, window),
        (false, 0 | 1) => points.clone(),
        (false, _) => extremes(&points, window),
    };
    write!(out, "<path class=\"line\" {paint} data-name=\"{}\" d=\"", Text(&series.name))?;
    path(out, frame, &drawn)?;
    out.push_str("\"/>");
    if let [only] = points[..] {
        write!(
            out,
            "<circle class=\"dot\" {paint} cx=\"{:.2}\" cy=\"{:.2}\" r=\"3\"/>",
            frame.px(only.0),
            frame.py(only.1)
        )?;
    }
    for (x, low, high) in bars(series) {
        write!(
            out,
            "<path class=\"error\" {paint} d=\"M{:.2} {:.2}V{:.2}\"/>",
            frame.px(x),
            frame.py(low),
            frame.py(high)
        )?;
    }
    Ok(if smooth { 5 * window } else { 1 })
}

/// Error bars as (x, low, high): one standard error to both sides.
fn bars(series: &Series) -> impl Iterator<Item = (f64, f64, f64)> {
    let with_errors = series.points.iter().zip(&series.errors);
    with_errors
        .map(|(&(x, y), error)| (x, y - error, y + error))
        .filter(|bar| [bar.0, bar.1, bar.2].into_iter().all(f64::is_finite))
}

fn path(out: &mut String, frame: &Frame, points: &[(f64, f64)]) -> fmt::Result {
    for (i, (x, y)) in points.iter().enumerate() {
        write!(out, "{}{:.2} {:.2}", if i == 0 { 'M' } else { 'L' }, frame.px(*x), frame.py(*y))?;
    }
    Ok(())
}

/// Whether the values go up and down much more than their range: a loss does, a schedule does not.
fn noisy(points: &[(f64, f64)]) -> bool {
    let travelled: f64 = points.windows(2).map(|p| (p[1].1 - p[0].1).abs()).sum();
    let low = points.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    travelled > 8.0 * (high - low)
}

/// The lowest and highest point of each window, so that spikes stay visible.
fn extremes(points: &[(f64, f64)], window: usize) -> Vec<(f64, f64)> {
    let mut kept = Vec::new();
    for chunk in points.chunks(2 * window) {
        let low = chunk.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        let high = chunk.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let mut pair: Vec<(f64, f64)> = low.into_iter().chain(high).copied().collect();
        pair.sort_by(|a, b| a.0.total_cmp(&b.0));
        kept.extend(pair);
    }
    kept
}

/// Mean over the last `window` points (fewer at the start), at every `every`-th point and the last.
fn running_mean(points: &[(f64, f64)], window: usize, every: usize) -> Vec<(f64, f64)> {
    let ends = (0..points.len()).filter(|i| i % every == 0 || i + 1 == points.len());
    ends.map(|i| {
        let past = &points[(i + 1).saturating_sub(window)..=i];
        (points[i].0, past.iter().map(|p| p.1).sum::<f64>() / past.len() as f64)
    })
    .collect()
}

/// Attributes that colour series `index` of `of`: a palette class, or a place on a ramp when many.
fn paint(index: usize, of: usize) -> String {
    if of <= NAMED_SERIES {
        format!("data-c=\"{index}\"")
    } else {
        let colour = ramp(index, of);
        format!("style=\"--c:{colour};color:{colour}\"")
    }
}

/// A colour from violet (first) to yellow-green (last), readable on light and dark ground.
pub(super) fn ramp(index: usize, of: usize) -> String {
    let t = index as f64 / (of - 1).max(1) as f64;
    format!("hsl({:.0},{:.0}%,{:.0}%)", 285.0 - 205.0 * t, 45.0, 52.0 - 6.0 * t)
}

fn legend(out: &mut String, curve: &Curve, smoothed: usize) -> fmt::Result {
    let n = curve.series.len();
    out.push_str("<p class=\"legend\">");
    if n > NAMED_SERIES {
        let stops: Vec<String> = (0..=4).map(|i| ramp(i * (n - 1) / 4, n)).collect();
        let (first, last) = (&curve.series[0].name, &curve.series[n - 1].name);
        let gradient = stops.join(",");
        write!(
            out,
            "<span>{}</span><i class=\"ramp\" style=\"background:linear-gradient(90deg,{gradient})\"></i>\
             <span>{}</span>",
            Text(first),
            Text(last)
        )?;
    } else {
        for (i, series) in curve.series.iter().enumerate() {
            write!(out, "<span><i class=\"key\" data-c=\"{i}\"></i>{}</span>", Text(&series.name))?;
        }
    }
    if smoothed > 1 {
        let raw = if n <= NAMED_SERIES { "; faint: single values" } else { "" };
        write!(out, "<span class=\"hint\">mean over the last {smoothed} logged values{raw}</span>")?;
    }
    out.push_str("</p>");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(series: usize, points: usize) -> Curve {
        let points = |s: usize| (0..points).map(|i| (i as f64, 1.0 + (s + i % 7) as f64)).collect();
        Curve {
            name: "Loss <b>".into(),
            x_label: "step".into(),
            y_label: "loss".into(),
            series: (0..series).map(|s| Series::new(format!("block {s}"), points(s))).collect(),
        }
    }

    #[test]
    fn long_series_are_thinned_and_the_page_says_so() {
        let mut html = String::new();
        chart(&mut html, &curve(2, 5000)).unwrap();
        assert!(html.len() < 40_000, "{} bytes", html.len());
        assert!(html.contains("mean over the last 105 logged values"));
        assert!(html.contains("Loss &lt;b&gt;") && !html.contains("<b>"));
    }

    #[test]
    fn many_series_share_a_ramp() {
        let mut html = String::new();
        chart(&mut html, &curve(28, 5)).unwrap();
        assert_eq!(html.matches("data-name").count(), 28);
        assert!(html.contains("linear-gradient"));
    }

    #[test]
    fn a_chart_without_finite_points_is_left_out() {
        let mut html = String::new();
        let mut empty = curve(1, 3);
        empty.series[0].points = vec![(0.0, f64::NAN), (f64::INFINITY, 1.0)];
        chart(&mut html, &empty).unwrap();
        assert_eq!(html, "");
    }

    #[test]
    fn a_schedule_is_not_averaged() {
        let mut schedule = curve(1, 0);
        schedule.series[0].points = (0..5000).map(|i| (f64::from(i), f64::from(i.min(200)))).collect();
        let mut html = String::new();
        chart(&mut html, &schedule).unwrap();
        assert!(!html.contains("mean over") && !html.contains("raw"), "{html}");
    }

    #[test]
    fn running_mean_starts_short() {
        let points = [(0.0, 2.0), (1.0, 4.0), (2.0, 9.0)];
        assert_eq!(running_mean(&points, 2, 1), [(0.0, 2.0), (1.0, 3.0), (2.0, 6.5)]);
        assert_eq!(running_mean(&points, 2, 3), [(0.0, 2.0), (2.0, 6.5)]);
    }
}
