//! A score against a cost: points with error bars and names, and lines that join some of them.

use std::fmt::{self, Write};

use super::axis::Scale;
use super::number::{self, Text};
use super::plot::Frame;
use super::results::Estimate;

/// A chart of Fréchet distances.
pub(super) struct Scatter<'a> {
    pub title: &'a str,
    pub x_label: &'a str,
    /// Those that are not finite are left out.
    pub points: Vec<Point>,
    /// What real images score.
    pub floor: Option<f64>,
    /// Class and points, by their index, of a line.
    pub line: (&'static str, Vec<usize>),
    /// Whether costs start at zero. Zero shows how much is saved; without it, points are further apart.
    pub from_zero: bool,
}

/// One model in the chart.
pub(super) struct Point {
    pub name: String,
    /// Class of the point, which gives its colour.
    pub class: &'static str,
    pub cost: f64,
    pub score: Estimate,
    /// Whether the name stands beside the point; it is shown under the pointer in any case.
    pub labelled: bool,
}

impl Scatter<'_> {
    /// Writes the chart; nothing with fewer than two points.
    pub fn write(&self, out: &mut String) -> fmt::Result {
        let Some(frame) = self.frame() else { return Ok(()) };
        write!(out, "<figure class=\"chart\"><figcaption>{}</figcaption>", Text(self.title))?;
        frame.open(out, self.title, self.x_label, "Fréchet distance ↓")?;
        if let Some(floor) = self.floor {
            floor_line(out, &frame, floor)?;
        }
        self.line(out, &frame)?;
        for point in self.finite() {
            marker(out, &frame, point)?;
        }
        self.labels(out, &frame)?;
        out.push_str("</svg></figure>");
        Ok(())
    }

    fn finite(&self) -> impl Iterator<Item = &Point> {
        self.points.iter().filter(|p| p.cost.is_finite() && p.score.value.is_finite())
    }

    fn frame(&self) -> Option<Frame> {
        if self.finite().count() < 2 {
            return None;
        }
        let costs = Scale::tight(self.finite().map(|p| p.cost))?;
        let x = if self.from_zero {
            Scale { low: 0.0, high: costs.high.max(f64::MIN_POSITIVE) * 1.2, log: false }
        } else {
            let margin = 0.06 * (costs.high - costs.low);
            Scale { low: (costs.low - margin).max(0.0), high: costs.high + 3.0 * margin, log: false }
        };
        let bars = self.finite().flat_map(|p| {
            let stderr = p.score.stderr.unwrap_or(0.0);
            // A bar that reaches zero would force a linear axis, so its lower end does not set the range.
            [p.score.value, p.score.value + stderr]
        });
        let y = Scale::padded(bars.chain(self.floor))?;
        Some(Frame { x, y })
    }

    fn line(&self, out: &mut String, frame: &Frame) -> fmt::Result {
        let (class, order) = &self.line;
        for pair in order.windows(2) {
            let at = |p: &Point| (frame.px(p.cost), frame.py(p.score.value));
            let ((x0, y0), (x1, y1)) = (at(&self.points[pair[0]]), at(&self.points[pair[1]]));
            write!(out, "<path class=\"{class}\" d=\"M{x0:.1} {y0:.1}L{x1:.1} {y1:.1}\"/>")?;
        }
        Ok(())
    }

    /// Names beside the points, right of them where there is room, moved apart where they would overlap.
    fn labels(&self, out: &mut String, frame: &Frame) -> fmt::Result {
        let at = |p: &Point| (frame.px(p.cost), frame.py(p.score.value));
        let labelled = || self.finite().filter(|p| p.labelled);
        let free = |p: &&Point| {
            let ((x, y), end) = (at(p), label_end(frame, p));
            let crossed = |q: &Point| {
                q.name != p.name && (x - 1.0..end).contains(&at(q).0) && (at(q).1 - y).abs() < 14.0
            };
            end <= frame.x_edges().1 && !labelled().any(crossed)
        };
        let (on_right, on_left): (Vec<&Point>, Vec<&Point>) = labelled().partition(free);
        column(out, frame, on_right, 11.0, "")?;
        column(out, frame, on_left, -11.0, "end")
    }
}

fn floor_line(out: &mut String, frame: &Frame, floor: f64) -> fmt::Result {
    let ((left, right), y) = (frame.x_edges(), frame.py(floor));
    write!(out, "<path class=\"floor\" d=\"M{left} {y:.1}H{right}\"/>")?;
    write!(out, "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">real images</text>", left + 6.0, y - 5.0)
}

fn marker(out: &mut String, frame: &Frame, point: &Point) -> fmt::Result {
    let (x, y) = (frame.px(point.cost), frame.py(point.score.value));
    let (top, bottom) = frame.y_edges();
    write!(out, "<g class=\"model {}\">", point.class)?;
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
        Text(&point.name),
        number::estimate_text(&point.score),
        number::significant(point.cost, 3)
    )
}

/// Where a point's name would end on its right; letters are taken as 7 units wide.
fn label_end(frame: &Frame, point: &Point) -> f64 {
    frame.px(point.cost) + 11.0 + 7.0 * point.name.chars().count() as f64
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
        let (x, y, label) = (frame.px(point.cost) + shift, y + 4.0, Text(&point.name));
        write!(out, "<text class=\"label {class}\" x=\"{x:.1}\" y=\"{y:.1}\">{label}</text>")?;
    }
    Ok(())
}
