use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::evaluate::labels;
use super::folder::{PROMPTS, PROMPTS_RECORD};
use super::{Progress, RunFolder};
use crate::checkpoint::Precision;
use crate::config::{DataSource, PrecisionConfig, Recipe, read_lines};
use crate::data::LatentSet;
use crate::data::emoji::{EncodedTexts, emoji_captions, emoji_texts};
use crate::download::sha256;
use crate::error::{Error, Result};
use crate::model::{Dit, DitConfig, Prompts, TextConfig};
use crate::text::{Caption, Embedding, EmbeddingCache, PromptEncoder, Weights};

/// What the labels of a run's images stand for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Labels {
    /// The prompts of a text-to-image model by label, those of the training data first; nothing of any other model.
    pub texts: Vec<String>,
    /// Labels of the training data: those below.
    pub learned: usize,
    /// Labels that evaluation draws in turn.
    shown: Vec<usize>,
}

impl Labels {
    /// Those of a recipe for a model of these sizes.
    ///
    /// # Errors
    /// When the data have no captions, or a file of prompts cannot be read.
    pub fn of(recipe: &Recipe, sizes: &DitConfig) -> Result<Self> {
        if sizes.text().is_none() {
            let set = [
                ("evaluate.prompts", recipe.evaluate.prompts.is_some()),
                ("data.prompts", recipe.data.prompts.is_some()),
                ("model.text-encoder", recipe.model.text_encoder.is_some()),
            ];
            if let Some((name, _)) = set.iter().find(|(_, there)| *there) {
                let detail = "is set, but this model is conditioned on classes and reads no prompts";
                return Err(Error::Usage(format!("{name} {detail}")));
            }
            let learned = sizes.classes()?;
            return Ok(Self { texts: Vec::new(), learned, shown: (0..learned).collect() });
        }
        let mut texts = captions(recipe)?;
        let learned = texts.len();
        let shown = match &recipe.evaluate.prompts {
            None => (0..learned).collect(),
            Some(prompts) => {
                let mut known: HashMap<String, usize> =
                    texts.iter().cloned().enumerate().map(|(label, text)| (text, label)).collect();
                let label = |text: String| {
                    *known.entry(text).or_insert_with_key(|text| {
                        texts.push(text.clone());
                        texts.len() - 1
                    })
                };
                prompts.read()?.into_iter().map(label).collect()
            }
        };
        Ok(Self { texts, learned, shown })
    }

    /// Labels of an evaluation's images: all that are shown in turn, or spread evenly where there are more than images.
    pub fn evaluated(&self, count: usize) -> Vec<usize> {
        labels(count, self.shown.len()).into_iter().map(|i| self.shown[i]).collect()
    }

    /// The sheet of an evaluation's images: a row a label, of at most [`SHEET_ROWS`] spread evenly, with up to `columns` images;
    /// of fewer images than there are labels each stands alone, a text-to-image model's in a row of its own.
    pub fn sheet(&self, count: usize, columns: usize) -> Sheet {
        let (labels, alone) = (self.shown.len(), count < self.shown.len());
        let places = if alone { count } else { labels };
        if alone && self.texts.is_empty() {
            return Sheet { columns, images: (0..count).collect() };
        }
        let (rows, columns) = (places.min(SHEET_ROWS), if alone { 1 } else { columns.min(count / labels) });
        let place = |row: usize| row * places / rows;
        let row = |row: usize| (0..columns).map(move |column| column * labels + place(row));
        Sheet { columns, images: (0..rows).flat_map(row).collect() }
    }

    /// The prompts of a sheet's rows; nothing of a model without prompts.
    pub fn of_rows(&self, count: usize, columns: usize) -> Vec<String> {
        if self.texts.is_empty() {
            return Vec::new();
        }
        let (sheet, labels) = (self.sheet(count, columns), self.evaluated(count));
        sheet.images.iter().step_by(sheet.columns).map(|&image| self.texts[labels[image]].clone()).collect()
    }
}

/// Most rows of a sheet on which a label has a row.
const SHEET_ROWS: usize = 24;

/// Which of an evaluation's images a sheet shows, row by row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sheet {
    pub columns: usize,
    pub images: Vec<usize>,
}

/// What a text-to-image model learns to draw, by label.
fn captions(recipe: &Recipe) -> Result<Vec<String>> {
    let encoder = recipe.model.text_encoder.is_some();
    match (recipe.data.source, &recipe.data.path, &recipe.data.prompts) {
        (DataSource::Emoji, ..) => Ok(emoji_captions()),
        (DataSource::Teacher, _, Some(prompts)) => read_lines(prompts),
        (DataSource::Teacher, _, None) if !encoder => Ok(emoji_captions()),
        (DataSource::Teacher, _, None) => Err(Error::Usage(
            "data.prompts is not set; a text-to-image teacher draws what a text file says, one prompt a line".into(),
        )),
        (DataSource::Latents, Some(path), _) => {
            let captions = LatentSet::open(path)?.captions().to_vec();
            match captions.is_empty() {
                true => Err(Error::invalid(
                    path,
                    "holds latents with classes, and a text-to-image model needs captions; encode a folder of images with \
                     NAME.txt beside each",
                )),
                false => Ok(captions),
            }
        }
        _ => Err(Error::Usage(
            "a text-to-image model learns from captioned images; expected data.source = \"emoji\", \"latents\" with \
             captions, or \"teacher\" with data.prompts"
                .into(),
        )),
    }
}

/// Gives a text-to-image model the prompts of a run; any other model is returned as it is. What a text encoder makes of them
/// is kept in the run's folder, where there is one yet.
///
/// # Errors
/// Those of [`Labels::of`]; when the text encoder cannot be read or is another than the model was trained with, or the run
/// began with other prompts.
pub(super) fn with_prompts(
    model: Dit,
    recipe: &Recipe,
    sizes: &DitConfig,
    folder: Option<&RunFolder>,
    quiet: bool,
) -> Result<Dit> {
    let Some(text) = sizes.text() else { return Ok(model) };
    let labels = Labels::of(recipe, sizes)?;
    let note = |encoder: Option<&PromptEncoder>| {
        let text_encoder_sha256 = encoder.map(PromptEncoder::fingerprint).transpose()?;
        let precision = recipe.precision.resolved();
        let Labels { texts, shown, .. } = labels.clone();
        let record =
            Record { text_encoder_sha256, precision, max_tokens: text.tokens, prompts: texts, shown };
        folder.map_or(Ok(()), |folder| record.note(folder))
    };
    let prompts = match &recipe.model.text_encoder {
        None => {
            let prompts = embedded_prompts(&labels.texts, sizes)?;
            note(None)?;
            prompts
        }
        Some(encoder) => {
            let encoder = open_encoder(encoder, text)?;
            note(Some(&encoder))?;
            let cache = EmbeddingCache::open(&encoder, None, Precision::F16)?;
            match folder {
                Some(folder) => kept(&labels.texts, &cache, &folder.path(PROMPTS), quiet)?,
                None => fetched_prompts(&cache, &labels.texts, "", quiet)?,
            }
        }
    };
    prompts.check(sizes)?;
    Ok(model.with_prompts(Arc::new(prompts)))
}

/// The text encoder of a folder, for a model that reads this text.
fn open_encoder(folder: &Path, text: &TextConfig) -> Result<PromptEncoder> {
    let encoder = PromptEncoder::open(folder, Weights::Streamed, Caption::Clean)?;
    encoder.check_width(text.width)?;
    Ok(encoder.with_max_tokens(text.tokens))
}

/// Encodes what of the texts and the null prompt is not on disk yet.
fn complete(cache: &EmbeddingCache, texts: &[&str], quiet: bool) -> Result<()> {
    let mut progress = None;
    let on_pass = |done: usize, of: usize| {
        progress
            .get_or_insert_with(|| Progress::new("encode prompts", of as u64, 0, quiet))
            .set(done as u64, "");
    };
    cache.complete(texts, on_pass).map(drop)
}

/// Texts, and the null prompt behind them.
fn with_null<'a>(texts: &'a [String], null: &'a str) -> Vec<&'a str> {
    texts.iter().map(String::as_str).chain([null]).collect()
}

/// Prompts as a text encoder makes them, held in memory.
///
/// # Errors
/// Those of [`EmbeddingCache::fetch`].
pub(crate) fn fetched_prompts(
    cache: &EmbeddingCache,
    texts: &[String],
    null: &str,
    quiet: bool,
) -> Result<Prompts> {
    let texts = with_null(texts, null);
    complete(cache, &texts, quiet)?;
    let mut rows = cache.fetch(&texts)?;
    let Embedding { values: null, width } = rows.pop().expect("there is one embedding a text");
    Prompts::new(width, rows.into_iter().map(|row| row.values).collect(), null)
}

/// Prompts as a text encoder makes them, from `file` where it is there.
fn kept(texts: &[String], cache: &EmbeddingCache, file: &Path, quiet: bool) -> Result<Prompts> {
    if !file.exists() {
        let texts = with_null(texts, "");
        complete(cache, &texts, quiet)?;
        let mut sources = cache.sources(&texts)?;
        let null = sources.pop().expect("there is one source a text");
        Prompts::write(file, sources, null)?;
    }
    Prompts::open(file)
}

/// The prompts among those whose embeddings are compiled into the program, in any case.
///
/// # Errors
/// When one is not among them, or the model was trained with another text encoder.
pub(crate) fn embedded_prompts(texts: &[String], sizes: &DitConfig) -> Result<Prompts> {
    let EncodedTexts { texts: known, width, tokens, empty } = emoji_texts()?;
    let wanted = sizes.text().map_or(0, |text| text.width);
    if wanted != width {
        return Err(Error::Usage(format!(
            "this model reads text of width {wanted}, and the texts compiled into the program have {width}; in a recipe, \
             model.text-encoder names the folder that holds its tokenizer and text_encoder"
        )));
    }
    let by_text: HashMap<String, &Vec<f32>> =
        known.iter().map(|text| text.to_lowercase()).zip(&tokens).collect();
    let find = |text: &String| {
        by_text.get(&text.to_lowercase()).map(|tokens| tokens.to_vec()).ok_or_else(|| {
            let nearest = known.iter().min_by_key(|known| strsim::osa_distance(known, &text.to_lowercase()));
            Error::Usage(format!(
                "{text:?}: without a text encoder only texts are known whose embeddings are compiled into the program; the \
                 nearest of {} is {:?}",
                known.len(),
                nearest.map_or("", String::as_str)
            ))
        })
    };
    Prompts::new(width, texts.iter().map(find).collect::<Result<_>>()?, empty)
}

/// Gives a text-to-image model the captions of the embedded pictures; any other model is returned as it is.
///
/// # Errors
/// As [`embedded_prompts`].
pub(crate) fn with_embedded_captions(model: Dit, sizes: &DitConfig) -> Result<Dit> {
    match sizes.text() {
        None => Ok(model),
        Some(_) => Ok(model.with_prompts(Arc::new(embedded_prompts(&emoji_captions(), sizes)?))),
    }
}

/// What decided a run's prompts and their embeddings.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Record {
    /// Of tokenizer and text encoder; nothing of embeddings that are compiled in.
    text_encoder_sha256: Option<String>,
    /// Of the encoder's products.
    precision: PrecisionConfig,
    max_tokens: usize,
    /// By label.
    prompts: Vec<String>,
    /// Labels that evaluation draws in turn.
    shown: Vec<usize>,
}

impl Record {
    /// Notes this in a run's folder, in which nothing came of anything else yet.
    fn note(&self, folder: &RunFolder) -> Result<()> {
        let path = folder.path(PROMPTS_RECORD);
        let found: Option<Self> = if path.exists() { Some(folder.load_json(PROMPTS_RECORD)?) } else { None };
        match found {
            Some(found) if found == *self => return Ok(()),
            Some(_) if folder.has_work()? => {
                return Err(Error::Exists {
                    path,
                    detail: "tells of other prompts or another text encoder than this run has now; choose another --out, or \
                             delete the folder to start over"
                        .into(),
                });
            }
            _ => folder.remove(PROMPTS)?,
        }
        folder.save_json(PROMPTS_RECORD, self)
    }
}

/// SHA-256 of a run's prompts and of the text encoder, of a text-to-image model.
///
/// # Errors
/// Those of [`Labels::of`], and when the text encoder cannot be read.
pub(super) fn prompts_fingerprint(recipe: &Recipe, sizes: &DitConfig) -> Result<Option<String>> {
    let Some(text) = sizes.text() else { return Ok(None) };
    let encoder =
        recipe.model.text_encoder.as_deref().map(|folder| open_encoder(folder, text)).transpose()?;
    let encoder = encoder.as_ref().map(PromptEncoder::fingerprint).transpose()?;
    let texts = Labels::of(recipe, sizes)?.texts;
    Ok(Some(sha256(format!("{encoder:?}\n{}", texts.join("\n")).as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(count: usize, prompts: bool) -> Labels {
        let texts = (0..if prompts { count } else { 0 }).map(|i| format!("prompt {i}")).collect();
        // The last label is shown first.
        Labels { texts, learned: count, shown: (0..count).rev().collect() }
    }

    #[test]
    fn sheets_have_a_row_a_label_or_an_image() {
        let sheet = labels(3, false).sheet(7, 8);
        assert_eq!((sheet.columns, &sheet.images[..]), (2, &[0, 3, 1, 4, 2, 5][..]));
        assert_eq!(labels(3, true).sheet(7, 1).images, [0, 1, 2]);
        assert_eq!(labels(3, true).of_rows(7, 1), ["prompt 2", "prompt 1", "prompt 0"]);
        // Fewer images than labels, which are spread over them.
        assert_eq!(labels(9, false).sheet(3, 8), Sheet { columns: 8, images: vec![0, 1, 2] });
        assert_eq!(labels(9, true).sheet(3, 8), Sheet { columns: 1, images: vec![0, 1, 2] });
        assert_eq!(labels(9, true).of_rows(3, 8), ["prompt 8", "prompt 5", "prompt 2"]);
        // More labels than a sheet has rows.
        let sheet = labels(100, true).sheet(200, 8);
        assert_eq!((sheet.columns, sheet.images.len()), (2, 2 * SHEET_ROWS));
        assert_eq!(sheet.images[..4], [0, 100, 4, 104]);
        assert_eq!(labels(100, true).of_rows(200, 8)[1], "prompt 95");
    }
}
