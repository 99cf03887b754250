//! GenEval's rules, as `evaluation/evaluate_images.py` of djghosh13/geneval has them: which detections count, and
//! whether they are what the prompt asks for. Arithmetic is single precision where it is there.

use std::fmt::Write;

use serde::Serialize;

use super::detections::{Detection, Objects};
use super::prompt::{Prompt, Required};
use super::words::{Color, Relation, Tag};

/// The settings of the rules; the defaults are GenEval's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rules {
    /// Detections count above this score.
    pub threshold: f32,
    /// The same for prompts of the tag `counting`.
    pub counting_threshold: f32,
    /// At most so many of a class count.
    pub max_objects: usize,
    /// Boxes of a class that overlap a surer one at least so much (intersection over union) do not count; 1: all do.
    pub max_overlap: f64,
    /// Share of both objects' sizes by which they must be apart to be said to lie beside each other.
    pub position_threshold: f32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            threshold: 0.3,
            counting_threshold: 0.9,
            max_objects: 16,
            max_overlap: 1.0,
            position_threshold: 0.1,
        }
    }
}

impl Rules {
    /// The detections of one class that count, surest first. Of equally sure ones the later comes first, which is
    /// what GenEval's `argsort` gives for up to 16; it leaves the order of more to chance.
    pub fn select(&self, found: &[Detection], tag: Tag) -> Vec<Detection> {
        let threshold = if tag == Tag::Counting { self.counting_threshold } else { self.threshold };
        let mut order: Vec<usize> = (0..found.len()).filter(|&i| found[i].score > threshold).collect();
        order.sort_by(|&a, &b| found[b].score.total_cmp(&found[a].score).then(b.cmp(&a)));
        order.truncate(self.max_objects);
        let mut kept: Vec<Detection> = Vec::new();
        for index in order {
            let overlaps =
                |surer: &Detection| overlap(&surer.bounds, &found[index].bounds) >= self.max_overlap;
            if self.max_overlap == 1.0 || !kept.iter().any(overlaps) {
                kept.push(found[index]);
            }
        }
        kept
    }

    /// Where `a` lies as seen from `b`: in none, one or two of the four directions.
    pub fn relations(&self, a: &Detection, b: &Detection) -> Vec<Relation> {
        let [(center_a, size_a), (center_b, size_b)] = [a, b].map(|object| {
            let [left, top, right, bottom] = object.bounds;
            ([(left + right) / 2.0, (top + bottom) / 2.0], [right - left, bottom - top])
        });
        let offset = [0, 1].map(|axis| center_a[axis] - center_b[axis]);
        // Less the share of both sizes, but not past zero.
        let apart = [0, 1].map(|axis| {
            let least = self.position_threshold * (size_a[axis] + size_b[axis]);
            (offset[axis].abs() - least).max(0.0).copysign(offset[axis])
        });
        if apart.iter().all(|part| part.abs() < 1e-3) {
            return vec![];
        }
        let norm = (offset[0] * offset[0] + offset[1] * offset[1]).sqrt();
        let [x, y] = apart.map(|part| part / norm);
        let all = [
            (Relation::LeftOf, x < -0.5),
            (Relation::RightOf, x > 0.5),
            (Relation::Above, y < -0.5),
            (Relation::Below, y > 0.5),
        ];
        all.into_iter().filter(|(_, holds)| *holds).map(|(relation, _)| relation).collect()
    }

    /// Whether an image shows what its prompt asks for. `objects` are those that count, [`Rules::select`].
    ///
    /// # Errors
    /// Which box lacks the colour that a condition asks for.
    pub fn judge(&self, prompt: &Prompt, objects: &Objects) -> Result<Verdict, String> {
        let mut reasons = Vec::new();
        // For each entry of `include`, the objects that meet it, where they do.
        let mut matched: Vec<Option<&[Detection]>> = Vec::new();
        for required in &prompt.include {
            let found = surest(required, objects);
            let reason = self.failure(required, found, &matched)?;
            matched.push(reason.is_none().then_some(found));
            reasons.extend(reason);
        }
        for excluded in &prompt.exclude {
            let found = objects.get(&excluded.class).map_or(0, Vec::len);
            if found >= excluded.count {
                reasons.push(format!("expected {}<{}, found {found}", excluded.class, excluded.count));
            }
        }
        Ok(Verdict { correct: reasons.is_empty(), reason: reasons.join("\n") })
    }

    /// Why `found` does not meet an entry of `include`.
    fn failure(
        &self,
        required: &Required,
        found: &[Detection],
        matched: &[Option<&[Detection]>],
    ) -> Result<Option<String>, String> {
        let Required { class, count, color, position } = required;
        if found.len() < *count {
            return Ok(Some(format!("expected {class}>={count}, found {}", found.len())));
        }
        if let Some(color) = color
            && let Some(reason) = other_colors(*color, required, found)?
        {
            return Ok(Some(reason));
        }
        let Some((relation, target)) = position else { return Ok(None) };
        let relation = relation.name();
        let Some(targets) = matched[*target] else {
            return Ok(Some(format!("no target for {class} to be {relation}")));
        };
        let pairs = found.iter().flat_map(|object| targets.iter().map(move |target| (object, target)));
        for (object, target) in pairs {
            let actual: Vec<&str> = self.relations(object, target).into_iter().map(Relation::name).collect();
            if !actual.contains(&relation) {
                let actual = actual.join(" and ");
                return Ok(Some(format!("expected {class} {relation} target, found {actual} target")));
            }
        }
        Ok(None)
    }
}

/// What the rules make of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub correct: bool,
    /// A line for each condition that fails.
    pub reason: String,
}

/// The objects that an entry of `include` is about: the surest of its class, at most `count`.
pub fn surest<'a>(required: &Required, objects: &'a Objects) -> &'a [Detection] {
    let found = objects.get(&required.class).map_or(&[][..], Vec::as_slice);
    &found[..required.count.min(found.len())]
}

/// Why objects are not of a colour.
fn other_colors(color: Color, required: &Required, found: &[Detection]) -> Result<Option<String>, String> {
    let Required { class, count, .. } = required;
    let colors = found.iter().map(|detection| {
        let [left, top, right, bottom] = detection.bounds;
        let place = format!("\"{class}\" at [{left}, {top}, {right}, {bottom}]");
        detection.color.ok_or_else(|| format!("{place} has no colour, which the prompt asks for"))
    });
    let colors = colors.collect::<Result<Vec<_>, _>>()?;
    let number = |color: Color| colors.iter().filter(|found| **found == color).count();
    if number(color) >= *count {
        return Ok(None);
    }
    let mut reason = format!("expected {} {class}>={count}, found ", color.name());
    let there: Vec<String> = Color::ALL
        .into_iter()
        .filter(|color| colors.contains(color))
        .map(|color| format!("{} {}", number(color), color.name()))
        .collect();
    let _ = write!(reason, "{} {}; and {}", number(color), color.name(), there.join(", "));
    Ok(Some(reason))
}

/// Intersection over union of two boxes whose last pixels count too, in double precision as NumPy 1 computes it.
fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f64 {
    let area = |left: f32, top: f32, right: f32, bottom: f32| {
        let side = |from: f32, to: f32| f64::from(to - from) + 1.0;
        side(left, right).max(0.0) * side(top, bottom).max(0.0)
    };
    let shared = area(a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3]));
    let either = area(a[0], a[1], a[2], a[3]) + area(b[0], b[1], b[2], b[3]) - shared;
    if either == 0.0 { 0.0 } else { shared / either }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(bounds: [f32; 4], score: f32) -> Detection {
        Detection { bounds, score, color: None }
    }

    #[test]
    fn equally_sure_objects_come_later_first() {
        let found: Vec<Detection> = (0..20).map(|i| object([i as f32, 0.0, 30.0, 9.0], 0.5)).collect();
        let kept = Rules::default().select(&found, Tag::Position);
        assert_eq!(kept.len(), 16);
        assert_eq!((kept[0].bounds[0], kept[15].bounds[0]), (19.0, 4.0));
        assert!(Rules::default().select(&found, Tag::Counting).is_empty());
    }

    #[test]
    fn thresholds_are_single_precision() {
        let found = [object([0.0; 4], 0.3), object([0.0; 4], 0.3f32.next_up())];
        assert_eq!(Rules::default().select(&found, Tag::Colors), found[1..]);
    }

    #[test]
    fn touching_boxes_share_their_border() {
        assert_eq!(overlap(&[0.0, 0.0, 9.0, 9.0], &[0.0, 0.0, 9.0, 4.0]), 0.5);
        assert_eq!(overlap(&[0.0, 0.0, 9.0, 9.0], &[9.0, 9.0, 9.0, 9.0]), 0.01);
        assert_eq!(overlap(&[0.0, 0.0, 9.0, 9.0], &[20.0, 0.0, 30.0, 9.0]), 0.0);
    }

    #[test]
    fn a_colour_that_is_asked_for_must_be_known() {
        let text = r#"{"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "a red dog"}"#;
        let prompt = Prompt::parse(text).unwrap();
        let objects = Objects::from([("dog".into(), vec![object([0.0, 1.5, 2.0, 3.0], 0.9)])]);
        let message = Rules::default().judge(&prompt, &objects).unwrap_err();
        assert!(message.contains("\"dog\" at [0, 1.5, 2, 3] has no colour"), "{message}");
    }
}
