//! Scores of variants as points with error bars, one row a variant.

use std::fmt::{self, Write};

use super::results::{QuestionResult, VariantResult};
use crate::report::axis::Scale;
use crate::report::number::{self, Text};
use crate::report::results::{Estimate, ModelName};

/// Size of the chart in SVG units, close to CSS pixels on a wide screen.
const WIDTH: f64 = 1030.0;
const RIGHT: f64 = 22.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 42.0;
const ROW: f64 = 26.0;

/// Longest name that is shown whole, in characters.
const NAME: usize = 44;

/// Writes the chart and its legend; nothing while nothing has been scored.
pub(super) fn chart(out: &mut String, question: &QuestionResult) -> fmt::Result {
    let models = question.edited_models();
    let Some(frame) = Frame::of(question, &models) else { return Ok(()) };
    write!(
        out,
        "<figure class=\"chart wide\"><div class=\"scroll\"><svg class=\"plot dots\" viewBox=\"0 0 {WIDTH} {}\" role=\"img\" \
         aria-label=\"Fréchet distances of the variants of: {}\">",
        frame.base + BOTTOM,
        Text(&question.title)
    )?;
    frame.axis(out)?;
    if let Some(teacher) = question.teacher() {
        frame.band(out, teacher)?;
        frame.mark(out, teacher.value, "teacher", "")?;
    }
    if let Some(floor) = question.floor() {
        frame.mark(out, floor.value, "real images", "end")?;
    }
    for (row, variant) in question.variants.iter().enumerate() {
        frame.row(out, row, variant, &models)?;
    }
    out.push_str("</svg></div>");
    legend(out, &models)?;
    out.push_str("</figure>");
    Ok(())
}

struct Frame {
    x: Scale,
    left: f64,
    base: f64,
}

impl Frame {
    fn of(question: &QuestionResult, models: &[ModelName]) -> Option<Self> {
        let measured = question.variants.iter().filter_map(|v| v.measured.as_ref());
        let scores = measured.flat_map(|m| models.iter().filter_map(|name| m.frechet(*name)));
        // A bar that reaches zero would force a linear axis, so its lower end does not set the range.
        let ends = |e: &Estimate| [e.value, e.value + e.stderr.unwrap_or(0.0)];
        let marks = question.teacher().into_iter().chain(question.floor());
        let x = Scale::padded(scores.chain(marks).flat_map(ends))?;
        let longest = question.variants.iter().map(|v| shown(&v.name).chars().count()).max()?;
        // Letters are taken as 7 units wide.
        let left = (7.0 * longest as f64 + 24.0).max(110.0);
        Some(Self { x, left, base: TOP + ROW * question.variants.len() as f64 + 6.0 })
    }

    /// Horizontal position of `v`, kept inside the chart.
    fn px(&self, v: f64) -> f64 {
        let share = if self.x.log && v <= self.x.low { 0.0 } else { self.x.at(v).clamp(0.0, 1.0) };
        self.left + share * (WIDTH - RIGHT - self.left)
    }

    fn axis(&self, out: &mut String) -> fmt::Result {
        let (left, right, base) = (self.left, WIDTH - RIGHT, self.base);
        write!(out, "<path class=\"axis\" d=\"M{left} {base}H{right}\"/>")?;
        for v in self.x.ticks(7) {
            let (x, text) = (self.px(v), number::tick(v));
            write!(
                out,
                "<path class=\"grid\" d=\"M{x:.1} {TOP}V{base}\"/><path class=\"axis\" d=\"M{x:.1} {base}v4\"/>"
            )?;
            write!(out, "<text class=\"tick mid\" x=\"{x:.1}\" y=\"{:.1}\">{text}</text>", base + 17.0)?;
        }
        let log = if self.x.log { ", log scale" } else { "" };
        write!(
            out,
            "<text class=\"name mid\" x=\"{:.1}\" y=\"{:.1}\">Fréchet distance ↓{log}</text>",
            (left + right) / 2.0,
            base + BOTTOM - 7.0
        )
    }

    /// A shade over one standard error to both sides.
    fn band(&self, out: &mut String, score: &Estimate) -> fmt::Result {
        let Some(stderr) = score.stderr.filter(|s| s.is_finite()) else { return Ok(()) };
        let (from, to) = (self.px(score.value - stderr), self.px(score.value + stderr));
        let (width, height) = (to - from, self.base - TOP);
        write!(
            out,
            "<rect class=\"band\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\"/>"
        )
    }

    /// A dashed line from top to bottom with its name above.
    fn mark(&self, out: &mut String, value: f64, name: &str, anchor: &str) -> fmt::Result {
        let x = self.px(value);
        let shift = if anchor.is_empty() { -4.0 } else { 4.0 };
        write!(out, "<path class=\"floor\" d=\"M{x:.1} {}V{}\"/>", TOP - 4.0, self.base)?;
        write!(out, "<text class=\"tick {anchor}\" x=\"{:.1}\" y=\"{}\">{name}</text>", x + shift, TOP - 9.0)
    }

    fn row(
        &self,
        out: &mut String,
        row: usize,
        variant: &VariantResult,
        models: &[ModelName],
    ) -> fmt::Result {
        let y = TOP + ROW * (row as f64 + 0.5) + 3.0;
        let name = shown(&variant.name);
        write!(
            out,
            "<text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            self.left - 12.0,
            y + 4.0,
            Text(&name)
        )?;
        write!(out, "<path class=\"grid\" d=\"M{} {y:.1}H{}\"/>", self.left, WIDTH - RIGHT)?;
        let Some(measured) = &variant.measured else {
            let state = if variant.diverged.is_some() { "diverged" } else { "not run yet" };
            return write!(
                out,
                "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{state}</text>",
                self.left + 8.0,
                y + 4.0
            );
        };
        for (place, &model) in models.iter().enumerate() {
            let Some(score) = measured.frechet(model).filter(|s| s.value.is_finite()) else { continue };
            let shift = 7.0 * (place as f64 - (models.len() - 1) as f64 / 2.0);
            self.point(out, (&variant.name, model, score), y + shift)?;
        }
        Ok(())
    }

    fn point(
        &self,
        out: &mut String,
        (name, model, score): (&str, ModelName, &Estimate),
        y: f64,
    ) -> fmt::Result {
        write!(out, "<g class=\"model {}\" tabindex=\"0\">", model.id())?;
        let (text, label) = (number::estimate_text(score), model.label().to_lowercase());
        write!(out, "<title>{}, {label}\nFréchet distance {text}</title>", Text(name))?;
        if let Some(stderr) = score.stderr.filter(|s| s.is_finite()) {
            let (from, to) = (self.px(score.value - stderr), self.px(score.value + stderr));
            write!(out, "<path class=\"bar\" d=\"M{from:.1} {y:.1}H{to:.1}\"/>")?;
        }
        write!(out, "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4.5\"/></g>", self.px(score.value))
    }
}

fn shown(name: &str) -> String {
    if name.chars().count() <= NAME {
        return name.into();
    }
    name.chars().take(NAME - 1).chain(['…']).collect()
}

fn legend(out: &mut String, models: &[ModelName]) -> fmt::Result {
    out.push_str("<p class=\"legend\">");
    for model in models {
        write!(out, "<span><i class=\"dot {}\"></i>{}</span>", model.id(), model.label())?;
    }
    out.push_str("<span class=\"hint\">bars and shade: one standard error</span></p>");
    Ok(())
}
