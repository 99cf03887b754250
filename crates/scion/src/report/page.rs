//! The document: sections in reading order, from the finding to the means of repeating it.

use std::fmt::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::headline::{self, Verdict};
use super::number::{self, Text};
use super::results::{ModelName, ModelResult, Results};
use super::{Report, SampleGrid, blocks, cost, locality, plot, prompts, read, stage_title, tables};

/// Forbids every request: all the page needs is inside it.
const POLICY: &str =
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// Writes the whole page.
pub(super) fn document(out: &mut String, report: &Report) -> fmt::Result {
    let results = report.results;
    open(out, &format!("{} · Scion graft report", report.run))?;
    top(out, report)?;
    out.push_str("<main>");
    section(out, "The graft", "", |out| blocks::drawing(out, &results.blocks))?;
    section(out, "Why these blocks", &locality_note(results), |out| locality_chart(out, results))?;
    section(out, "Samples", &samples_note(report), |out| samples(out, report))?;
    section(out, "Quality and cost", &table_note(results), |out| models(out, results))?;
    section(out, "Stage 1, part by part", &stage1_note(results), |out| stage1(out, results))?;
    section(out, "Training", "", |out| curves(out, report))?;
    section(out, "Time and memory", "", |out| timing(out, results))?;
    section(out, "Repeating this run", REPEAT_NOTE, |out| reproduce(out, report))?;
    close(out)
}

/// Opens a document, up to what is seen.
pub(super) fn open(out: &mut String, title: &str) -> fmt::Result {
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\
         <link rel=\"icon\" href=\"data:,\"><title>{}</title>\n<style>\n{}</style></head>\n<body>",
        Text(title),
        include_str!("style.css")
    )
}

/// Closes the main part and the document.
pub(super) fn close(out: &mut String) -> fmt::Result {
    write!(out, "</main>\n<script>\n{}</script></body></html>\n", include_str!("script.js"))
}

/// Writes a section, unless its body stays empty.
pub(super) fn section(
    out: &mut String,
    title: &str,
    note: &str,
    body: impl FnOnce(&mut String) -> fmt::Result,
) -> fmt::Result {
    let mut inner = String::new();
    body(&mut inner)?;
    if inner.is_empty() {
        return Ok(());
    }
    write!(out, "\n<section><h2>{}</h2>", Text(title))?;
    if !note.is_empty() {
        write!(out, "<p class=\"note\">{}</p>", Text(note))?;
    }
    write!(out, "{inner}</section>")
}

fn top(out: &mut String, report: &Report) -> fmt::Result {
    let results = report.results;
    write!(out, "<header><p class=\"run\"><b>Scion</b> graft report<span>{}</span>", Text(report.run))?;
    if let Some(finished) = &results.finished {
        write!(out, "<span>{}</span>", Text(finished))?;
    }
    out.push_str("<button id=\"theme\" hidden>Dark</button></p>");
    write!(out, "<h1>{}</h1>", Text(&headline::headline(results)))?;
    tiles(out, results)?;
    let details = headline::details(results);
    if !details.is_empty() {
        out.push_str("<dl class=\"details\">");
        for (topic, sentence) in details {
            write!(out, "<div><dt>{topic}</dt><dd>{}</dd></div>", Text(&sentence))?;
        }
        out.push_str("</dl>");
    }
    out.push_str("</header>");
    Ok(())
}

fn tiles(out: &mut String, results: &Results) -> fmt::Result {
    let (Some(teacher), Some(graft)) = (results.model(ModelName::Teacher), results.grafted()) else {
        return Ok(());
    };
    out.push_str("<dl class=\"tiles\">");
    quality_tile(out, graft, teacher)?;
    accuracy_tile(out, graft, teacher)?;
    let costs = [
        ("FLOPs per forward pass", Some(graft.flops as f64), Some(teacher.flops as f64)),
        ("Parameters", Some(graft.params as f64), Some(teacher.params as f64)),
    ];
    for (name, new, old) in costs {
        let (Some(new), Some(old)) = (new, old) else { continue };
        let Some(change) = headline::relative(new, old) else { continue };
        let from = format!("{} → {}", number::count(old as u64), number::count(new as u64));
        tile(out, name, &number::change(change), &from, "")?;
    }
    if let (Some(new), Some(old)) = (graft.latency_ms, teacher.latency_ms) {
        let ratio = graft.latency_ratio.unwrap_or(new / old);
        let from = format!("{} → {} ms", number::significant(old, 3), number::significant(new, 3));
        tile(out, "Latency", &format!("{}×", number::fixed(ratio, 2)), &from, "")?;
    }
    out.push_str("</dl>");
    Ok(())
}

fn quality_tile(out: &mut String, graft: &ModelResult, teacher: &ModelResult) -> fmt::Result {
    let (Some(new), Some(old)) = (&graft.frechet, &teacher.frechet) else { return Ok(()) };
    let (class, judgement) = match headline::compare(Some(new), Some(old)) {
        Verdict::Same => ("same", "no measurable difference"),
        Verdict::Better => ("good", "better than the teacher"),
        Verdict::Worse => ("bad", "worse than the teacher"),
        _ => ("", "not judged"),
    };
    let from = format!("teacher {}: {judgement}", number::estimate_text(old));
    tile(out, "Fréchet distance", &number::estimate_text(new), &from, class)
}

/// The share of samples that show what was asked for, where no distance was measured.
fn accuracy_tile(out: &mut String, graft: &ModelResult, teacher: &ModelResult) -> fmt::Result {
    let (None, Some(new), Some(old)) = (&graft.frechet, graft.accuracy, teacher.accuracy) else {
        return Ok(());
    };
    let from = format!("teacher {}", number::percent(old, 1));
    tile(out, "Samples that show their prompt", &number::percent(new, 1), &from, "")
}

fn tile(out: &mut String, name: &str, value: &str, note: &str, class: &str) -> fmt::Result {
    let (name, value, note) = (Text(name), Text(value), Text(note));
    write!(out, "<div class=\"{class}\"><dt>{name}</dt><dd>{value}</dd><dd class=\"from\">{note}</dd></div>")
}

fn locality_note(results: &Results) -> String {
    let Some(locality) = &results.locality else { return String::new() };
    format!(
        "They were chosen by how local the teacher’s attention is: the share of a token’s attention that falls on tokens at \
         most {} places away in raster order, averaged over tokens, heads, and the {} steps of {} images sampled with \
         guidance {}.",
        locality.k, locality.steps, locality.samples, locality.cfg
    )
}

fn locality_chart(out: &mut String, results: &Results) -> fmt::Result {
    results.locality.as_ref().map_or(Ok(()), |locality| locality::chart(out, locality))
}

fn samples_note(report: &Report) -> String {
    if !report.results.prompts.is_empty() {
        return "A row a prompt; all images of a row start from the same noise.".into();
    }
    let mut note = String::from("Every grid starts from the same noise, so equal places can be compared.");
    if !report.results.class_names.is_empty() {
        let classes = report.results.class_names.join(", ");
        note.push_str(&format!(" Rows from top to bottom: {classes}."));
    }
    if report.grids.len() > 1 {
        note.push_str(" Press and hold a grid to see the first one in its place.");
    }
    note
}

fn samples(out: &mut String, report: &Report) -> fmt::Result {
    match &report.results.prompts[..] {
        [] => grids(out, report.grids),
        prompts => prompts::table(out, prompts, report.grids),
    }
}

/// Writes grids of samples side by side; nothing without any.
pub(super) fn grids(out: &mut String, grids: &[SampleGrid]) -> fmt::Result {
    if grids.is_empty() {
        return Ok(());
    }
    out.push_str("<div class=\"grids\">");
    for grid in grids {
        let title = Text(&grid.title);
        write!(out, "<figure><figcaption><b>{title}</b><br>{}</figcaption>", Text(&grid.caption))?;
        image(out, &format!("Samples: {title}"), &grid.png)?;
        out.push_str("</figure>");
    }
    out.push_str("</div>");
    Ok(())
}

/// Writes a PNG image; `alt` is HTML already.
pub(super) fn image(out: &mut String, alt: &str, png: &[u8]) -> fmt::Result {
    write!(out, "<img alt=\"{alt}\"")?;
    if let Some((width, height)) = read::png_size(png) {
        write!(out, " width=\"{width}\" height=\"{height}\"")?;
    }
    write!(out, " src=\"data:image/png;base64,{}\">", STANDARD.encode(png))
}

fn table_note(results: &Results) -> String {
    let mut sentences = Vec::new();
    sentences.extend(results.feature_space.as_ref().map(|s| format!("Quality: {s}.")));
    sentences.extend(results.accuracy_setting.as_ref().map(|s| format!("Accuracy: {s}.")));
    let bars = results.error_bars.as_deref().unwrap_or("one standard error");
    sentences.push(format!(
        "Behind ±: {bars}. Two scores count as different when they are more than 1.96 standard errors of \
         their difference apart, taking errors as independent; a smaller real difference can go unseen."
    ));
    sentences.extend(results.latency_setting.as_ref().map(|s| format!("Latency: {s}; median and range.")));
    sentences.push("↓ lower is better, ↑ higher is better.".into());
    sentences.join(" ")
}

fn models(out: &mut String, results: &Results) -> fmt::Result {
    if results.models.is_empty() {
        return Ok(());
    }
    tables::models(out, results)?;
    out.push_str("<div class=\"charts\">");
    cost::charts(out, results)?;
    out.push_str("</div>");
    Ok(())
}

fn stage1_note(results: &Results) -> String {
    let mut note = String::new();
    if results.stage1.iter().any(|row| row.second.is_none()) {
        note.push_str("Each new operator learns alone to give the output of the one it replaces. ");
    }
    if results.stage1.iter().any(|row| row.second.is_some()) {
        note.push_str(
            "Each pair of blocks, with its merge, learns alone to give the tokens that its two blocks gave one after the \
             other. ",
        );
    }
    if !results.stage1.is_empty() {
        note.push_str("“Remaining” is the best validation loss as a share of the first.");
    }
    note
}

fn stage1(out: &mut String, results: &Results) -> fmt::Result {
    if results.stage1_left_out {
        out.push_str(
            "<p>There was nothing to train: this edit brings no new parameters. Stage 2 began with the untrained model.</p>",
        );
    }
    if results.stage1.is_empty() { Ok(()) } else { tables::stage1(out, &results.stage1) }
}

fn curves(out: &mut String, report: &Report) -> fmt::Result {
    let mut charts = String::new();
    for curve in report.curves {
        plot::chart(&mut charts, curve)?;
    }
    if charts.is_empty() { Ok(()) } else { write!(out, "<div class=\"charts\">{charts}</div>") }
}

fn timing(out: &mut String, results: &Results) -> fmt::Result {
    write!(
        out,
        "<p>The whole run took {} and at most {} of memory.</p>",
        number::duration(results.elapsed_s),
        number::bytes(results.peak_rss_bytes)
    )?;
    if results.stages.is_empty() {
        return Ok(());
    }
    let longest = results.stages.iter().map(|s| s.seconds).fold(f64::MIN_POSITIVE, f64::max);
    out.push_str(
        "<div class=\"scroll\"><table class=\"times\"><thead><tr><th>Stage</th><th class=\"num\">Time</th>\
         <th></th><th class=\"num\">Peak memory so far</th></tr></thead><tbody>",
    );
    for stage in &results.stages {
        let memory = stage.peak_rss_bytes.map_or_else(|| "—".into(), number::bytes);
        write!(
            out,
            "<tr><td>{}</td><td class=\"num\">{}</td><td class=\"span\"><i style=\"width:{:.1}%\"></i></td>\
             <td class=\"num\">{memory}</td></tr>",
            Text(stage_title(&stage.name)),
            number::duration(stage.seconds),
            100.0 * (stage.seconds / longest).clamp(0.0, 1.0),
        )?;
    }
    out.push_str("</tbody></table></div>");
    Ok(())
}

const REPEAT_NOTE: &str =
    "The same seed on the same machine with the same number of threads gives the same bits.";

fn reproduce(out: &mut String, report: &Report) -> fmt::Result {
    let results = report.results;
    write!(out, "<pre class=\"command\">{}</pre>", Text(&command(report)))?;
    let mut facts: Vec<(String, String)> = Vec::new();
    facts.extend(results.seed.map(|s| ("Seed".into(), s.to_string())));
    facts.extend(results.threads.map(|t| ("Threads".into(), t.to_string())));
    facts.extend(results.cpu.clone().map(|c| ("Processor".into(), c)));
    facts.extend(results.versions.iter().map(|(name, version)| (name.clone(), version.clone())));
    list(out, "facts", &facts)?;
    if let Some(recipe) = &results.recipe {
        write!(out, "<h3>Recipe</h3><pre>{}</pre>", Text(recipe.trim()))?;
    }
    Ok(())
}

/// Writes names and what they stand for; nothing when there are none.
pub(super) fn list(out: &mut String, class: &str, entries: &[(String, String)]) -> fmt::Result {
    if entries.is_empty() {
        return Ok(());
    }
    write!(out, "<dl class=\"{class}\">")?;
    for (name, value) in entries {
        write!(out, "<div><dt>{}</dt><dd>{}</dd></div>", Text(name), Text(value))?;
    }
    out.push_str("</dl>");
    Ok(())
}

/// The recorded command, or the one that runs the recipe below it.
fn command(report: &Report) -> String {
    if let Some(command) = &report.results.command {
        return command.clone();
    }
    let mut command = String::from("scion run recipe.toml");
    if let Some(seed) = report.results.seed {
        command.push_str(&format!(" --seed {seed}"));
    }
    if let Some(threads) = report.results.threads {
        command.push_str(&format!(" --threads {threads}"));
    }
    command
}
