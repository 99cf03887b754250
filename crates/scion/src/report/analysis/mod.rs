//! One self-contained HTML page per analysis of a model: what is advised, and the numbers that it rests on.

mod charts;
mod results;
mod table;

use std::fmt::{self, Write};

use super::number::{self, Text};
use super::{page, picture, plot};
use charts::{Chart, Side};

pub use results::{
    Activity, Advice, AnalysisResults, Baseline, BlockLocality, Change, Drawing, Look, LookAt,
    OperatorResult, Replaced, Statistics,
};

impl AnalysisResults {
    /// The page as one HTML document.
    pub fn html(&self) -> String {
        let mut out = String::new();
        document(&mut out, self).expect("writing to a String cannot fail");
        out
    }

    /// The plots of the page as SVG files, with their names without the ending.
    pub fn pictures(&self) -> Vec<(String, String)> {
        let all = [charts::locality(self), charts::sensitivity(self)].into_iter().flatten();
        let activations = [Side::Output, Side::Input].map(|side| charts::activations(self, side));
        all.chain(activations.into_iter().flatten())
            .filter_map(|Chart { file, curve, y }| Some((file, picture::file(&curve, y)?)))
            .collect()
    }
}

fn document(out: &mut String, results: &AnalysisResults) -> fmt::Result {
    page::open(out, &format!("{} · Scion analysis", results.model))?;
    top(out, results)?;
    out.push_str("<main>");
    let cost = charts::sensitivity(results);
    page::section(out, "What operators are worth", &worth_note(results), |out| figures(out, &cost))?;
    let local = charts::locality(results);
    page::section(out, "Where attention looks", &locality_note(results), |out| figures(out, &local))?;
    page::section(out, "Operator by operator", &table_note(results), |out| table::operators(out, results))?;
    page::section(out, "Activations", ACTIVATIONS_NOTE, |out| {
        figures(out, &charts::activations(results, Side::Output))?;
        out.push_str("<details><summary>The same of the operators’ inputs</summary>");
        figures(out, &charts::activations(results, Side::Input))?;
        out.push_str("</details>");
        Ok(())
    })?;
    page::section(out, "As a recipe", RECIPE_NOTE, |out| match results.recipe.trim() {
        "" => Ok(()),
        recipe => write!(out, "<pre>{}</pre>", Text(recipe)),
    })?;
    page::section(out, "What was left out", "", |out| {
        results.left_out.iter().try_for_each(|what| write!(out, "<p>{}</p>", Text(what)))
    })?;
    page::section(out, "Repeating this analysis", "", |out| repeat(out, results))?;
    page::close(out)
}

fn top(out: &mut String, results: &AnalysisResults) -> fmt::Result {
    write!(out, "<header><p class=\"run\"><b>Scion</b> analysis<span>{}</span>", Text(&results.model))?;
    out.push_str("<button id=\"theme\" hidden>Dark</button></p>");
    write!(out, "<h1>{}</h1>", Text(&results.headline))?;
    let advice: Vec<_> = results.advice.iter().map(|a| (a.topic.clone(), a.text.clone())).collect();
    page::list(out, "details", &advice)?;
    out.push_str("</header>");
    Ok(())
}

fn figures(out: &mut String, charts: &[Chart]) -> fmt::Result {
    let mut figures = String::new();
    charts.iter().try_for_each(|chart| plot::chart_within(&mut figures, &chart.curve, chart.y))?;
    if figures.is_empty() { Ok(()) } else { write!(out, "<div class=\"charts\">{figures}</div>") }
}

fn worth_note(results: &AnalysisResults) -> String {
    let Some(base) = &results.baseline else { return String::new() };
    let mut note = format!(
        "Each operator alone is taken out, so that its block’s tokens pass it unchanged{}. Loss: the diffusion loss on {} {}, \
         the same timesteps and noise each time; the model as it is has {}.",
        results
            .run
            .as_ref()
            .map_or(String::new(), |run| format!(", or replaced by that of stage 1 in {run}")),
        base.images,
        base.data,
        number::estimate_text(&base.loss)
    );
    if let Some(frechet) = &base.frechet {
        note.push_str(&format!(
            " Fréchet distance: {} images drawn in {} steps without guidance from the same noise each time, against the real \
             test images in the embedded judge’s features (not FID); the model as it is has {}. So few images are enough to \
             compare, not to quote.",
            base.drawn,
            base.steps,
            number::estimate_text(frechet)
        ));
    }
    note.push_str(" Above zero is worse; bars are one standard error.");
    note
}

fn locality_note(results: &AnalysisResults) -> String {
    let drawing = &results.drawing;
    let guided = if results.locality.iter().any(|block| block.guided.is_some()) {
        format!(
            "With guidance {} both passes count; without, the conditional ones are all there are. ",
            drawing.cfg
        )
    } else {
        String::new()
    };
    format!(
        "Seen while the model drew {} images in {} DDIM steps, as the mean over images, steps, heads and tokens. Lₖ is the share \
         of a token’s attention on tokens at most k places away in raster order; the distance is that on the grid of tokens, \
         weighted by attention. {guided}Over timesteps: with guidance where there is any.",
        drawing.samples, drawing.steps
    )
}

fn table_note(results: &AnalysisResults) -> String {
    let drawing = &results.drawing;
    let mut note = format!(
        "Over all steps of the {} images drawn without guidance. A normal distribution has a kurtosis of 3. Outlier channels \
         are those whose standard deviation or largest |x| is more than {} times that of the median channel; in \
         brackets the first of them.",
        drawing.samples, results.outlier_factor
    );
    if results.baseline.is_some() {
        note.push_str(" Behind ±: one standard error of the difference, paired image by image.");
    }
    note
}

const ACTIVATIONS_NOTE: &str = "What operators give, before the gate, at every timestep of the images drawn without guidance. \
    This is what stage 1 copies.";

const RECIPE_NOTE: &str = "The advice as entries of a recipe; the operators are examples.";

fn repeat(out: &mut String, results: &AnalysisResults) -> fmt::Result {
    write!(out, "<pre class=\"command\">{}</pre>", Text(&results.command))?;
    let mut facts: Vec<(String, String)> = vec![
        ("Time".into(), number::duration(results.elapsed_s)),
        ("Seed".into(), results.seed.to_string()),
        ("Precision of products".into(), results.precision.clone()),
        ("Threads".into(), results.threads.to_string()),
        ("Weights, SHA-256".into(), results.weights_sha256.clone()),
    ];
    facts.extend(results.cpu.clone().map(|c| ("Processor".into(), c)));
    facts.extend(results.versions.iter().map(|(name, version)| (name.clone(), version.clone())));
    page::list(out, "facts", &facts)?;
    out.push_str(
        "<p class=\"note\">Beside this page lie the numbers (analysis.json; statistics, locality, attention and \
         sensitivity as .csv) and every plot as .svg.</p>",
    );
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
