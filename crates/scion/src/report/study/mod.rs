//! One self-contained HTML page per study: for every question a finding, a chart and a table.

mod change;
mod cost;
mod dots;
mod finding;
mod results;
mod table;

use std::fmt::{self, Write};

use super::number::{self, Text};
use super::{SampleGrid, page};

pub(crate) use change::changes;
pub use results::{Measured, QuestionResult, StudyResults, VariantResult};

impl StudyResults {
    /// The page as one HTML document. Its only links are those to the reports of the runs, by relative path.
    pub fn html(&self) -> String {
        StudyPage { kind: "study", study: self, grids: &[], grids_note: "" }.html()
    }
}

/// A page of runs that are compared.
pub(super) struct StudyPage<'a> {
    /// What it is called.
    pub kind: &'static str,
    pub study: &'a StudyResults,
    /// Samples to be seen side by side, and what is to be said of them.
    pub grids: &'a [SampleGrid],
    pub grids_note: &'a str,
}

impl StudyPage<'_> {
    /// The end of the title of every page of a kind.
    pub fn title_of(kind: &str) -> String {
        format!(" · Scion {kind}</title>")
    }

    /// The page as one HTML document.
    pub fn html(&self) -> String {
        let mut out = String::new();
        document(&mut out, self).expect("writing to a String cannot fail");
        out
    }
}

fn document(out: &mut String, page: &StudyPage) -> fmt::Result {
    let study = page.study;
    page::open(out, &format!("{} · Scion {}", study.title, page.kind))?;
    top(out, page)?;
    out.push_str("<main>");
    page::section(out, "Samples", page.grids_note, |out| page::grids(out, page.grids))?;
    for question in &study.questions {
        page::section(out, &question.title, &question.ask, |out| {
            write!(out, "<p class=\"finding\">{}</p>", Text(&finding::finding(question)))?;
            dots::chart(out, question)?;
            table::variants(out, question)
        })?;
    }
    page::section(out, "Quality and cost", COST_NOTE, |out| cost::charts(out, study))?;
    page::section(out, "How to read this", &reading(study), |out| {
        let total = number::duration(study.elapsed_s);
        let diverged = study.questions.iter().flat_map(|q| &q.variants).filter(|v| v.diverged.is_some());
        let lost: std::collections::BTreeSet<&str> = diverged.map(|v| v.run.as_str()).collect();
        write!(out, "<p>The {} finished runs took {total} in all.</p>", study.ended - lost.len())
    })?;
    page::section(out, &format!("Repeating this {}", page.kind), "", |out| repeat(out, study))?;
    page::close(out)
}

const COST_NOTE: &str = "Every run’s last model, and the teacher. The line joins those beside which no other \
                         is at most as dear and as far; errors are not taken into account.";

fn top(out: &mut String, page: &StudyPage) -> fmt::Result {
    let study = page.study;
    write!(out, "<header><p class=\"run\"><b>Scion</b> {}", page.kind)?;
    let runs = match study.runs - study.ended {
        0 => format!("{} runs", study.runs),
        _ => format!("{} of {} runs", study.ended, study.runs),
    };
    write!(out, "<span>{runs}</span><button id=\"theme\" hidden>Dark</button></p>")?;
    write!(out, "<h1>{}</h1>", Text(&study.title))?;
    let findings = study.questions.iter().map(|q| (q.title.clone(), finding::finding(q)));
    page::list(out, "details", &findings.collect::<Vec<_>>())?;
    out.push_str("</header>");
    Ok(())
}

fn reading(study: &StudyResults) -> String {
    let mut sentences: Vec<String> = Vec::new();
    sentences.extend(study.feature_space.as_ref().map(|s| format!("Quality: Fréchet distances in {s}.")));
    let bars = study.error_bars.as_deref().unwrap_or("one standard error");
    sentences.push(format!("Behind ±: {bars}."));
    sentences.push(
        "Two scores count as different when they are more than 1.96 standard errors of their difference apart, taking \
         errors as independent. All models are drawn from the same noise, so that a smaller real difference can go unseen; \
         and every variant is one run of one seed. Of many comparisons, one in twenty looks like a difference by chance. \
         Held-out loss is stage 1’s own loss as the mean over the new operators, behind it the share of its value before \
         training; values of different losses cannot be compared. “Over teacher’s” is the last stage’s distance over the \
         teacher’s, green where there is no measurable difference. Accuracy is that of the last stage."
            .into(),
    );
    sentences.join(" ")
}

fn repeat(out: &mut String, study: &StudyResults) -> fmt::Result {
    write!(out, "<pre class=\"command\">{}</pre>", Text(&study.command))?;
    let mut facts: Vec<(String, String)> = Vec::new();
    facts.extend(study.threads.map(|t| ("Threads".into(), t.to_string())));
    facts.extend(study.cpu.clone().map(|c| ("Processor".into(), c)));
    facts.extend(study.versions.iter().map(|(name, version)| (name.clone(), version.clone())));
    page::list(out, "facts", &facts)?;
    if study.study.is_empty() {
        return Ok(());
    }
    write!(out, "<h3>Study</h3><pre>{}</pre>", Text(study.study.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::results::{Estimate, ModelName, ModelResult};

    /// A question whose variants v0, v1, … have these scores after stage 2, the teacher's being 10 ± 1.
    pub(super) fn question(scores: &[Option<f64>]) -> QuestionResult {
        let model = |name, frechet| ModelResult {
            frechet: Some(Estimate::new(frechet, 1.0)),
            samples: 100,
            ..ModelResult::new(name, 1000, 2000)
        };
        let variant = |(i, score): (usize, &Option<f64>)| VariantResult {
            name: format!("v{i}"),
            changes: vec!["distill.loss = <l1>".into()],
            run: format!("runs/r{i}"),
            params: 1100,
            params_before: 1000,
            flops: 1800,
            flops_before: 2000,
            measured: score.map(|score| Measured {
                seconds: 9.0,
                held_out_first: Some(0.4),
                held_out_best: Some(0.1),
                models: vec![model(ModelName::Teacher, 10.0), model(ModelName::Stage2, score)],
                floor: None,
            }),
            diverged: None,
        };
        QuestionResult {
            title: "Which <operator>?".into(),
            ask: "Which?".into(),
            variants: scores.iter().enumerate().map(variant).collect(),
        }
    }

    pub(super) fn sample() -> StudyResults {
        StudyResults {
            title: "Small & good".into(),
            runs: 3,
            ended: 2,
            questions: vec![question(&[Some(300.0), Some(11.0), None])],
            ..StudyResults::default()
        }
    }

    #[test]
    fn the_page_shows_every_variant_and_asks_for_nothing() {
        let html = sample().html();
        for part in [
            "Small &amp; good",
            "2 of 3 runs",
            "Which &lt;operator&gt;?",
            "distill.loss = &lt;l1&gt;",
            "<a href=\"runs/r0/report.html\">v0</a>",
            "v2 <small>not run yet</small>",
            "30.0 <small>± 3.0</small>",
            "<span class=\"same\">1.10 <small>± 0.15</small></span>",
            "+10.0\u{202f}%",
            "25\u{202f}%",
        ] {
            assert!(html.contains(part), "{part} is not in {html}");
        }
        assert_eq!(html.matches("<circle").count(), 2 + 2 * 3, "of the question, and of two costs");
        let shown = html.split("<script>").next().unwrap();
        assert!(!shown.contains("After stage 1") && !shown.contains("NaN") && !html.contains("http:"));
        for (i, _) in html.match_indices("href=\"") {
            assert!(html[i + 6..].starts_with("runs/") || html[i + 6..].starts_with("data:"));
        }
    }

    #[test]
    fn studies_survive_json() {
        let study = sample();
        let json = serde_json::to_string(&study).unwrap();
        assert_eq!(serde_json::from_str::<StudyResults>(&json).unwrap(), study);
    }
}
