//! The report in words: what was replaced, what it cost in quality and what it saves, computed from
//! the numbers and never claiming more than their error bars allow.

use super::number;
use super::results::{BlockResult, Estimate, ModelName, ModelResult, Results, SlotResult};
use crate::plan::Restructure;

/// Half-width of a 95 % interval in standard errors.
const Z95: f64 = 1.96;

/// A lower-is-better score of the grafted model compared with the teacher's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Verdict {
    /// The difference is within its 95 % interval.
    Same,
    Better,
    Worse,
    /// At least one of the two has no error bar.
    NoErrorBar,
    /// At least one of the two is missing.
    NotMeasured,
    /// At least one of the two is not a finite number.
    NotFinite,
}

/// Compares two scores. Their errors are taken as independent, which overstates the error of the
/// difference when both models start from the same noise: a small real difference may go unseen.
pub(super) fn compare(graft: Option<&Estimate>, teacher: Option<&Estimate>) -> Verdict {
    let (Some(graft), Some(teacher)) = (graft, teacher) else { return Verdict::NotMeasured };
    let difference = graft.value - teacher.value;
    if !difference.is_finite() {
        return Verdict::NotFinite;
    }
    match error_of_difference(graft, teacher) {
        None => Verdict::NoErrorBar,
        Some(error) if difference.abs() <= Z95 * error => Verdict::Same,
        Some(_) if difference < 0.0 => Verdict::Better,
        Some(_) => Verdict::Worse,
    }
}

fn error_of_difference(a: &Estimate, b: &Estimate) -> Option<f64> {
    let error = a.stderr?.hypot(b.stderr?);
    error.is_finite().then_some(error)
}

/// The one sentence that stands first.
pub(super) fn headline(results: &Results) -> String {
    let subject = edit(&results.blocks);
    let Some(graft) = results.grafted() else {
        return format!("{subject} is planned; no grafted model has been measured yet.");
    };
    let Some(teacher) = results.model(ModelName::Teacher) else {
        return format!("{subject} gave a working model, but the teacher was not measured beside it.");
    };
    let quality = quality_clause(graft, teacher);
    let cost = cost_clause(graft, teacher);
    format!("{subject} {quality} {cost}.")
}

/// The edit as the subject of a sentence.
fn edit(blocks: &[BlockResult]) -> String {
    let total = blocks.len();
    let attention = blocks.iter().map(|b| &b.attention).filter(|s| s.replaced);
    let mlp = blocks.iter().map(|b| &b.mlp).filter(|s| s.replaced);
    let edits = [replacement("attention", attention, total), replacement("MLP", mlp, total)];
    let replaced: Vec<String> = edits.into_iter().flatten().collect();
    let count = |wanted: fn(Restructure) -> bool| {
        blocks.iter().filter_map(|b| b.restructure).filter(|r| wanted(*r)).count()
    };
    let (dropped, parallel) =
        (count(|r| r == Restructure::Dropped), count(|r| matches!(r, Restructure::ParallelWith(_))));
    let mut phrases = Vec::new();
    if !replaced.is_empty() {
        phrases.push(format!("replacing {}", join(&replaced)));
    }
    if dropped > 0 {
        phrases.push(format!("dropping {}", share(dropped, total)));
    }
    if parallel > 0 {
        phrases.push(format!("running {} in parallel pairs", share(parallel, total)));
    }
    let sentence = if phrases.is_empty() { "the edit of this run".into() } else { join(&phrases) };
    let (first, rest) = sentence.split_at(1);
    first.to_uppercase() + rest
}

/// What replaced one kind of slot and where; `None` when nothing did.
fn replacement<'a>(
    name: &str,
    replaced: impl Iterator<Item = &'a SlotResult>,
    total: usize,
) -> Option<String> {
    let mut operators: Vec<(String, usize)> = Vec::new();
    for slot in replaced {
        let inherits = slot.init.as_deref() == Some("inherit");
        let operator = match (slot.operator == slot.original, inherits) {
            (true, false) => "a fresh copy of its own kind".into(),
            (true, true) => "a copy of its own kind, weights inherited,".into(),
            (false, false) => slot.operator.clone(),
            (false, true) => format!("{} (weights inherited)", slot.operator),
        };
        match operators.iter_mut().find(|(o, _)| *o == operator) {
            Some((_, n)) => *n += 1,
            None => operators.push((operator, 1)),
        }
    }
    match operators.as_slice() {
        [] => None,
        [(operator, n)] => Some(format!("{name} with {operator} in {}", share(*n, total))),
        several => {
            let n = several.iter().map(|(_, n)| n).sum();
            let each: Vec<String> = several.iter().map(|(o, n)| format!("{o} in {n}")).collect();
            Some(format!("{name} in {} ({})", share(n, total), each.join(", ")))
        }
    }
}

fn share(n: usize, total: usize) -> String {
    if n == total { format!("all {total} blocks") } else { format!("{n} of {total} blocks") }
}

fn join(phrases: &[String]) -> String {
    match phrases {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn quality_clause(graft: &ModelResult, teacher: &ModelResult) -> String {
    let by_kid = compare(graft.kid.as_ref(), teacher.kid.as_ref());
    match compare(graft.frechet.as_ref(), teacher.frechet.as_ref()) {
        Verdict::Same if by_kid == Verdict::Same => {
            "makes no measurable difference to sample quality (Fréchet distance and KID)".into()
        }
        Verdict::Same => "makes no measurable difference to the Fréchet distance".into(),
        Verdict::Worse => format!("worsens the Fréchet distance by {}", difference(graft, teacher)),
        Verdict::Better => format!("improves the Fréchet distance by {}", difference(graft, teacher)),
        Verdict::NoErrorBar => {
            format!(
                "changes the Fréchet distance by {}, without an error bar to judge it by,",
                difference(graft, teacher)
            )
        }
        Verdict::NotMeasured => match (graft.accuracy, teacher.accuracy) {
            (Some(g), Some(t)) => format!(
                "leaves {} of samples showing their prompt (teacher: {})",
                number::percent(g, 1),
                number::percent(t, 1)
            ),
            _ => "has no measured effect on quality yet".into(),
        },
        Verdict::NotFinite => "gives samples whose Fréchet distance is not a finite number".into(),
    }
}

/// The size of the change in Fréchet distance with the error of the change, and relative to the teacher.
fn difference(graft: &ModelResult, teacher: &ModelResult) -> String {
    let (Some(g), Some(t)) = (&graft.frechet, &teacher.frechet) else { return String::new() };
    let signed = g.value - t.value;
    let error = error_of_difference(g, t);
    // The verdict's verb carries the sign, except where there is no verdict.
    let value = if error.is_some() { signed.abs() } else { signed };
    let text = number::estimate_text(&Estimate { value, stderr: error });
    if t.value > 0.0 { format!("{text} ({})", number::change(signed / t.value)) } else { text }
}

fn cost_clause(graft: &ModelResult, teacher: &ModelResult) -> String {
    let flops = relative(graft.flops as f64, teacher.flops as f64);
    let params = relative(graft.params as f64, teacher.params as f64);
    let flops_text = phrase(flops, "FLOPs per forward pass");
    let params_text = phrase(params, "parameters");
    match (flops_text, params_text) {
        (None, None) => "at the same FLOPs and parameters".into(),
        (Some(f), None) => format!("with {f} and as many parameters"),
        (None, Some(p)) => format!("with {p} and the same FLOPs"),
        (Some(f), Some(p)) => format!("with {f} and {p}"),
    }
}

fn phrase(change: Option<f64>, what: &str) -> Option<String> {
    let change = change.filter(|c| c.abs() >= 0.0005)?;
    let word = if change < 0.0 { "fewer" } else { "more" };
    Some(format!("{} {word} {what}", number::percent(change.abs(), 1)))
}

/// `new` relative to `old`, minus one.
pub(super) fn relative(new: f64, old: f64) -> Option<f64> {
    (old > 0.0 && new.is_finite()).then(|| new / old - 1.0)
}

/// The sentences below the headline, each a full one with its topic.
pub(super) fn details(results: &Results) -> Vec<(&'static str, String)> {
    let (Some(teacher), Some(graft)) = (results.model(ModelName::Teacher), results.grafted()) else {
        return Vec::new();
    };
    let sentences = [
        ("Distance", distance_sentence(graft, teacher)),
        ("Second opinion", kid_sentence(graft, teacher)),
        (
            if results.prompts.is_empty() { "Classes" } else { "Prompts" },
            accuracy_sentence(results, graft, teacher),
        ),
        ("Repair", repair_sentence(results)),
        ("Latency", latency_sentence(graft, teacher)),
        ("Floor", floor_sentence(results)),
    ];
    sentences.into_iter().filter_map(|(topic, sentence)| Some((topic, sentence?))).collect()
}

fn distance_sentence(graft: &ModelResult, teacher: &ModelResult) -> Option<String> {
    let (g, t) = (graft.frechet.as_ref()?, teacher.frechet.as_ref()?);
    let scores = format!(
        "The grafted model reaches a Fréchet distance of {} and the teacher {}",
        number::estimate_text(g),
        number::estimate_text(t)
    );
    let judgement = match compare(Some(g), Some(t)) {
        Verdict::Same => ": too close for this many samples to tell apart",
        Verdict::Worse => ": more than chance explains",
        Verdict::Better => ": better than chance explains",
        _ => "",
    };
    let samples = if graft.samples == teacher.samples {
        format!("{} samples each", number::group(graft.samples))
    } else {
        format!("{} and {} samples", number::group(graft.samples), number::group(teacher.samples))
    };
    Some(format!("{scores} ({samples}){judgement}."))
}

fn kid_sentence(graft: &ModelResult, teacher: &ModelResult) -> Option<String> {
    let (g, t) = (graft.kid.as_ref()?, teacher.kid.as_ref()?);
    let by_kid = compare(Some(g), Some(t));
    let agreement = match by_kid {
        Verdict::Same => "finds no measurable difference",
        Verdict::Worse => "finds the graft worse",
        Verdict::Better => "finds the graft better",
        _ => "cannot judge the difference",
    };
    let start = if by_kid == compare(graft.frechet.as_ref(), teacher.frechet.as_ref()) {
        "KID agrees and"
    } else {
        "KID disagrees: it"
    };
    let scores = format!("{} against {}", number::estimate_text(g), number::estimate_text(t));
    Some(format!("{start} {agreement} ({scores})."))
}

fn accuracy_sentence(results: &Results, graft: &ModelResult, teacher: &ModelResult) -> Option<String> {
    let (g, t) = (graft.accuracy?, teacher.accuracy?);
    let overlap = match (graft.accuracy_interval, teacher.accuracy_interval) {
        (Some(a), Some(b)) if a[0] <= b[1] && b[0] <= a[1] => "; their 95\u{202f}% intervals overlap",
        (Some(_), Some(_)) => "; their 95\u{202f}% intervals do not overlap",
        _ => "",
    };
    let (g, t) = (number::percent(g, 1), number::percent(t, 1));
    Some(match &results.accuracy_setting {
        None => format!(
            "The classifier finds the requested class in {g} of its samples, and in {t} of the teacher’s{overlap}."
        ),
        Some(setting) => {
            format!("{g} of its samples show their prompt, and {t} of the teacher’s{overlap} ({setting}).")
        }
    })
}

fn repair_sentence(results: &Results) -> Option<String> {
    let by_distance = |name| Some(number::estimate_text(results.model(name)?.frechet.as_ref()?));
    let by_accuracy = |name| Some(number::percent(results.model(name)?.accuracy?, 1));
    let score = |name| by_distance(name).or_else(|| by_accuracy(name));
    let untrained = score(ModelName::Untrained)?;
    let repairs = [(ModelName::Stage1, "stage 1"), (ModelName::Stage2, "stage 2")];
    let steps: Vec<String> = repairs
        .iter()
        .filter_map(|(n, stage)| Some(format!("{stage} brought it to {}", score(*n)?)))
        .collect();
    if steps.is_empty() {
        return None;
    }
    Some(format!("Untrained, the graft stood at {untrained}; {}.", join(&steps)))
}

fn latency_sentence(graft: &ModelResult, teacher: &ModelResult) -> Option<String> {
    let (g, t) = (graft.latency_ms?, teacher.latency_ms?);
    let ratio = graft.latency_ratio.unwrap_or(g / t);
    let range = |m: &ModelResult| Some((m.latency_ms_min?, m.latency_ms_max?));
    let judgement = match (range(graft), range(teacher)) {
        (Some(a), Some(b)) if a.0 <= b.1 && b.0 <= a.1 => {
            "; the ranges of the timings overlap, so take the ratio as a tendency"
        }
        _ => "",
    };
    let ms = |v| number::significant(v, 3);
    Some(format!(
        "A forward pass takes {}\u{a0}ms against {}\u{a0}ms (medians, {}× the teacher’s time){judgement}.",
        ms(g),
        ms(t),
        number::fixed(ratio, 2)
    ))
}

fn floor_sentence(results: &Results) -> Option<String> {
    let floor = results.floor.as_ref()?.frechet.as_ref()?;
    Some(format!(
        "As many real training images score {} against the real test images: what a perfect model would reach.",
        number::estimate_text(floor)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample_results;

    #[test]
    fn inherited_weights_are_told() {
        let mut results = sample_results();
        for slot in results.blocks.iter_mut().map(|block| &mut block.attention).filter(|slot| slot.replaced) {
            slot.init = Some("inherit".into());
        }
        let text = edit(&results.blocks);
        assert!(
            text.starts_with("Replacing attention with sliding-window (weights inherited) in 1"),
            "{text}"
        );
    }

    #[test]
    fn verdicts_need_more_than_two_errors() {
        let at = |value, stderr| Estimate { value, stderr };
        let teacher = at(3.0, Some(0.1));
        let judge = |e: Estimate| compare(Some(&e), Some(&teacher));
        assert_eq!(judge(at(3.27, Some(0.1))), Verdict::Same);
        assert_eq!(judge(at(3.28, Some(0.1))), Verdict::Worse);
        assert_eq!(judge(at(2.5, Some(0.1))), Verdict::Better);
        assert_eq!(judge(at(3.0, None)), Verdict::NoErrorBar);
        assert_eq!(judge(at(f64::NAN, Some(0.1))), Verdict::NotFinite);
        assert_eq!(compare(None, Some(&teacher)), Verdict::NotMeasured);
    }

    #[test]
    fn headline_follows_the_numbers() {
        let mut results = sample_results();
        let text = headline(&results);
        assert!(
            text.starts_with("Replacing attention with sliding-window in 1 of 2 blocks makes no measurable")
        );
        assert!(text.contains("10.0\u{202f}% fewer FLOPs"), "{text}");
        results.models[1].frechet = Some(Estimate::new(5.0, 0.1));
        let text = headline(&results);
        assert!(
            text.contains("worsens the Fréchet distance by 2.00\u{a0}±\u{a0}0.14 (+66.7\u{202f}%) with"),
            "{text}"
        );
        assert!(details(&results).iter().any(|(_, s)| s.starts_with("KID disagrees")));
        let replaced = results.blocks[1].attention.clone();
        results.blocks[0].attention = SlotResult { operator: "hyena-x".into(), ..replaced };
        let both = "Replacing attention in all 2 blocks (hyena-x in 1, sliding-window in 1) worsens";
        assert!(headline(&results).starts_with(both), "{}", headline(&results));
        results.blocks[0].restructure = Some(Restructure::Dropped);
        results.blocks[0].attention.replaced = false;
        let text = headline(&results);
        let both =
            "Replacing attention with sliding-window in 1 of 2 blocks and dropping 1 of 2 blocks worsens";
        assert!(text.starts_with(both), "{text}");
        results.blocks.iter_mut().for_each(|b| b.restructure = Some(Restructure::ParallelWith(1 - b.block)));
        results.blocks[1].attention.replaced = false;
        assert!(headline(&results).starts_with("Running all 2 blocks in parallel pairs worsens"));
        results.models.clear();
        assert!(headline(&results).contains("no grafted model has been measured"));
    }
}
