//! What a question's numbers say, in sentences that claim no more than the error bars allow.

use crate::report::headline::{Verdict, compare};
use crate::report::number;
use crate::report::results::Estimate;

use super::results::QuestionResult;

/// A variant's name and its last score.
type Scored<'a> = (&'a str, &'a Estimate);

/// The finding of a question; says so where nothing has been measured yet.
pub(super) fn finding(question: &QuestionResult) -> String {
    let mut scored = last_scores(question);
    scored.sort_by(|a, b| a.1.value.total_cmp(&b.1.value));
    let Some((&best, others)) = scored.split_first() else {
        return "Nothing has been measured yet.".into();
    };
    let mut sentences = vec![lowest(best, question.teacher())];
    if !others.is_empty() {
        sentences.push(ties(best, others));
    }
    let diverged: Vec<&str> =
        question.variants.iter().filter(|v| v.diverged.is_some()).map(|v| v.name.as_str()).collect();
    if !diverged.is_empty() {
        sentences.push(format!("Training diverged: {}.", names(&diverged)));
    }
    let waiting = question.variants.len() - scored.len() - diverged.len();
    if waiting > 0 {
        sentences.push(format!("{waiting} of {} variants have no score yet.", question.variants.len()));
    }
    sentences.join(" ")
}

/// The variants that have one, with the finite score of their last model.
fn last_scores(question: &QuestionResult) -> Vec<Scored<'_>> {
    let scores = question.variants.iter().filter_map(|variant| {
        let score = variant.measured.as_ref()?.edited()?.frechet.as_ref()?;
        Some((variant.name.as_str(), score))
    });
    scores.filter(|(_, score)| score.value.is_finite()).collect()
}

fn lowest((name, score): Scored, teacher: Option<&Estimate>) -> String {
    let start = format!("“{name}” has the lowest Fréchet distance, {}", number::estimate_text(score));
    let Some(teacher) = teacher.filter(|t| t.value > 0.0) else { return format!("{start}.") };
    let of_teacher = format!("the teacher’s {}", number::estimate_text(teacher));
    match compare(Some(score), Some(teacher)) {
        Verdict::Same => format!("{start}: too close to {of_teacher} to tell apart."),
        _ => format!("{start}: {} times {of_teacher}.", number::fixed(score.value / teacher.value, 2)),
    }
}

/// Which of the others cannot be told from the best, for all that the error bars say.
fn ties(best: Scored, others: &[Scored]) -> String {
    let worse = |other: &&Scored| compare(Some(other.1), Some(best.1)) == Verdict::Worse;
    let tied: Vec<&str> = others.iter().filter(|other| !worse(other)).map(|(name, _)| *name).collect();
    if tied.is_empty() {
        "All others are measurably worse.".into()
    } else if tied.len() == others.len() {
        "No other variant can be told apart from it.".into()
    } else {
        format!("{} cannot be told apart from it; the others are measurably worse.", names(&tied))
    }
}

/// The first few names of a list.
fn names(all: &[&str]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = all.iter().take(SHOWN).map(|name| format!("“{name}”")).collect();
    let shown = shown.join(", ");
    if all.len() > SHOWN { format!("{shown} and {} more", all.len() - SHOWN) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::study::tests::{question, sample};

    #[test]
    fn findings_claim_no_more_than_error_bars_allow() {
        let found = |scores: &[Option<f64>]| finding(&question(scores));
        assert_eq!(
            found(&[Some(20.0), Some(16.0), Some(17.0)]),
            "“v1” has the lowest Fréchet distance, 16.0\u{a0}±\u{a0}1.0: 1.60 times the teacher’s 10.0\u{a0}±\u{a0}1.0. \
             “v2” cannot be told apart from it; the others are measurably worse."
        );
        let text = found(&[Some(11.0), Some(40.0), None]);
        assert!(text.contains("too close to the teacher’s 10.0\u{a0}±\u{a0}1.0 to tell apart."), "{text}");
        assert!(
            text.contains("All others are measurably worse. 1 of 3 variants have no score yet."),
            "{text}"
        );
        assert!(found(&[Some(11.0), Some(11.5)]).contains("No other variant can be told apart"));
        assert_eq!(found(&[None, None]), "Nothing has been measured yet.");
        let mut bare = question(&[Some(11.0), Some(400.0)]);
        for variant in &mut bare.variants {
            let models = &mut variant.measured.as_mut().unwrap().models;
            models.iter_mut().for_each(|model| model.frechet.as_mut().unwrap().stderr = None);
        }
        assert!(
            finding(&bare).contains("No other variant can be told apart"),
            "nothing is claimed without error bars"
        );
        let mut diverged = question(&[Some(11.0), Some(f64::NAN), None]);
        diverged.variants[2].diverged = Some("loss".into());
        let text = finding(&diverged);
        assert!(text.contains("Training diverged: “v2”. 1 of 3"), "{text}");
        assert!(sample().html().contains(&finding(&sample().questions[0])));
    }
}
