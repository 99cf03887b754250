//! Scores of a set of results, as `evaluation/summary_scores.py` of djghosh13/geneval computes them, with standard
//! errors.

use std::collections::HashMap;

use serde::Serialize;

use super::record::Record;
use super::words::Tag;
use crate::metrics::{Accuracy, Estimate};

/// Right images out of all, and prompts with a right image out of all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// The share of images that are right.
    pub accuracy: Estimate,
    pub correct: usize,
    pub images: usize,
    pub prompts: usize,
}

/// The score of one tag.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TagScore {
    pub tag: Tag,
    #[serde(flatten)]
    pub score: Score,
}

/// The scores of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// GenEval's score: the mean of the tags' accuracies, those without images left out.
    pub overall: Estimate,
    /// Tags that have images.
    pub tags: Vec<TagScore>,
    /// All images together.
    pub all: Score,
    /// The share of prompts of which at least one image is right.
    pub prompts_correct: Estimate,
}

impl Summary {
    /// Sums up results; there must be at least one.
    pub fn of(records: &[Record]) -> Self {
        let scored = |tag: Tag| {
            let records: Vec<&Record> = records.iter().filter(|record| record.tag == tag).collect();
            (!records.is_empty()).then(|| TagScore { tag, score: score(&by_prompt(&records)) })
        };
        let tags: Vec<TagScore> = Tag::ALL.into_iter().filter_map(scored).collect();
        let count = tags.len() as f64;
        let accuracies = || tags.iter().map(|tag| tag.score.accuracy);
        let overall = Estimate {
            value: accuracies().map(|a| a.value).sum::<f64>() / count,
            stderr: accuracies().map(|a| a.stderr * a.stderr).sum::<f64>().sqrt() / count,
        };
        let prompts = by_prompt(&records.iter().collect::<Vec<_>>());
        let any = prompts.iter().filter(|prompt| prompt.correct > 0).count();
        let prompts_correct = Accuracy { correct: any, total: prompts.len() }.estimate();
        Self { overall, tags, all: score(&prompts), prompts_correct }
    }

    /// Tags without images.
    pub fn missing(&self) -> Vec<Tag> {
        Tag::ALL.into_iter().filter(|tag| self.tags.iter().all(|found| found.tag != *tag)).collect()
    }
}

/// Right images out of all of each prompt.
fn by_prompt(records: &[&Record]) -> Vec<Accuracy> {
    let mut places = HashMap::new();
    let mut prompts: Vec<Accuracy> = Vec::new();
    for record in records {
        let place = *places.entry(record.metadata.as_str()).or_insert(prompts.len());
        if place == prompts.len() {
            prompts.push(Accuracy { correct: 0, total: 0 });
        }
        prompts[place].total += 1;
        prompts[place].correct += usize::from(record.correct);
    }
    prompts
}

/// The share of right images. Images of one prompt succeed or fail together, so its standard error is that of a ratio
/// of sums over prompts, drawn anew (Cochran, "Sampling Techniques", 3rd ed., eq. 6.13), but at least that of as many
/// independent images, which is above zero where all are right.
fn score(prompts: &[Accuracy]) -> Score {
    let total = Accuracy {
        correct: prompts.iter().map(|prompt| prompt.correct).sum(),
        total: prompts.iter().map(|prompt| prompt.total).sum(),
    };
    let independent = total.estimate();
    let residual = |prompt: &Accuracy| prompt.correct as f64 - independent.value * prompt.total as f64;
    let squares: f64 = prompts.iter().map(|prompt| residual(prompt).powi(2)).sum();
    let count = prompts.len() as f64;
    let clustered =
        if prompts.len() > 1 { (squares * count / (count - 1.0)).sqrt() / total.total as f64 } else { 0.0 };
    let stderr = independent.stderr.max(clustered);
    Score {
        accuracy: Estimate { value: independent.value, stderr },
        correct: total.correct,
        images: total.total,
        prompts: prompts.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(tag: Tag, prompts: &[&str]) -> Vec<Record> {
        let record = |(prompt, right): (usize, char)| Record {
            filename: String::new(),
            tag,
            prompt: String::new(),
            correct: right == '+',
            reason: String::new(),
            metadata: format!("{tag:?} {prompt}"),
            details: String::new(),
        };
        let images = prompts.iter().enumerate().flat_map(|(at, images)| images.chars().map(move |c| (at, c)));
        images.map(record).collect()
    }

    #[test]
    fn tags_count_alike_whatever_their_size() {
        let mut all = records(Tag::Position, &["++++", "+--+", "----"]);
        all.extend(records(Tag::Counting, &["++"]));
        let summary = Summary::of(&all);
        assert_eq!(summary.tags.iter().map(|t| t.tag).collect::<Vec<_>>(), [Tag::Counting, Tag::Position]);
        assert_eq!(summary.overall.value, (1.0 + 0.5) / 2.0);
        assert_eq!((summary.all.correct, summary.all.images, summary.all.prompts), (8, 14, 4));
        assert_eq!(summary.prompts_correct.value, 0.75);
        let missing = [Tag::SingleObject, Tag::TwoObject, Tag::Colors, Tag::ColorAttr];
        assert_eq!(summary.missing(), missing);
    }

    #[test]
    fn errors_know_that_images_of_a_prompt_are_alike() {
        let error =
            |prompts: &[&str]| Summary::of(&records(Tag::Colors, prompts)).tags[0].score.accuracy.stderr;
        // Four prompts as good as four images: residuals ±2, √(16 · 4/3) / 16.
        let alike = error(&["++++", "++++", "----", "----"]);
        assert!((alike - (16.0f64 * 4.0 / 3.0).sqrt() / 16.0).abs() < 1e-12, "{alike}");
        let independent = Accuracy { correct: 8, total: 16 }.estimate().stderr;
        assert_eq!(error(&["++--", "+-+-", "-+-+", "--++"]), independent);
        assert!(error(&["++++"; 5]) > 0.01);
    }
}
