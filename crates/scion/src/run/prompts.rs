use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::RunFolder;
use super::evaluate::labels;
use crate::checkpoint::Precision;
use crate::config::{DataSource, Recipe, read_lines};
use crate::data::LatentSet;
use crate::data::emoji::{EncodedTexts, emoji_captions, emoji_texts};
use crate::error::{Error, Result};
use crate::model::{Dit, DitConfig, Prompts};
use crate::text::{Caption, Embedding, EmbeddingCache, PromptEncoder, Weights};

/// Where a run keeps its prompts' embeddings, and what they are of.
const EMBEDDINGS: &str = "prompts.safetensors";
const RECORD: &str = "prompts.json";

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
) -> Result<Dit> {
    let Some(text) = sizes.text() else { return Ok(model) };
    let texts = Labels::of(recipe, sizes)?.texts;
    let encoder = recipe.model.text_encoder.as_ref().map(|folder| {
        Ok(PromptEncoder::open(folder, Weights::Streamed, Caption::Clean)?.with_max_tokens(text.tokens))
    });
    let encoder: Option<PromptEncoder> = encoder.transpose()?;
    if let Some(folder) = folder {
        let text_encoder_sha256 = encoder.as_ref().map(PromptEncoder::fingerprint).transpose()?;
        record(folder, &Record { text_encoder_sha256, max_tokens: text.tokens, prompts: texts.clone() })?;
    }
    let prompts = match (encoder, folder) {
        (None, _) => embedded_prompts(&texts, sizes)?,
        (Some(encoder), Some(folder)) => kept(&texts, &encoder, &folder.path(EMBEDDINGS))?,
        (Some(encoder), None) => {
            let mut rows = EmbeddingCache::open(&encoder, None, KEPT)?.fetch(&with_null(&texts))?;
            let Embedding { values: null, width } = rows.pop().expect("there is one embedding a text");
            Prompts::new(width, rows.into_iter().map(|row| row.values).collect(), null)?
        }
    };
    prompts.check(sizes)?;
    Ok(model.with_prompts(Arc::new(prompts)))
}

/// Texts, and the null prompt behind them.
fn with_null(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).chain([""]).collect()
}

/// The prompts among those whose embeddings are compiled into the program.
///
/// # Errors
/// When one is not among them, or the model was trained with another text encoder.
pub(crate) fn embedded_prompts(texts: &[String], sizes: &DitConfig) -> Result<Prompts> {
    let EncodedTexts { texts: known, width, tokens, empty } = emoji_texts()?;
    let wanted = sizes.text().map_or(0, |text| text.width);
    if wanted != width {
        return Err(Error::Usage(format!(
            "model.text-encoder is not set, and the texts compiled into the program have tokens of width {width}, but this \
             model takes width {wanted}; expected the folder that holds its tokenizer and text_encoder"
        )));
    }
    let mut by_text: HashMap<&str, Vec<f32>> = known.iter().map(String::as_str).zip(tokens).collect();
    let mut found = Vec::with_capacity(texts.len());
    for text in texts {
        let row = by_text.get_mut(text.as_str()).ok_or_else(|| {
            let nearest = known.iter().min_by_key(|known| strsim::osa_distance(known, text));
            Error::Usage(format!(
                "{text:?}: without a text encoder only texts are known whose embeddings are compiled into the program; the \
                 nearest of {} is {:?}",
                known.len(),
                nearest.map_or("", String::as_str)
            ))
        })?;
        found.push(row.clone());
    }
    Prompts::new(width, found, empty)
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

/// What decided the embeddings of a run's prompts.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Record {
    /// Of tokenizer and text encoder; nothing of embeddings that are compiled in.
    text_encoder_sha256: Option<String>,
    max_tokens: usize,
    /// By label.
    prompts: Vec<String>,
}

/// Notes what a run's prompts are, and that they are the same still.
fn record(folder: &RunFolder, found: &Record) -> Result<()> {
    if !folder.path(RECORD).exists() {
        return folder.save_json(RECORD, found);
    }
    if folder.load_json::<Record>(RECORD)? == *found {
        return Ok(());
    }
    Err(Error::Exists {
        path: folder.path(RECORD),
        detail: "tells of other prompts or another text encoder than this run has now; choose another --out, or delete the \
                 folder to start over"
            .into(),
    })
}

/// Precision of embeddings, on disk and off.
const KEPT: Precision = Precision::F16;

/// The prompts as a text encoder makes them, from `file` where it is there.
fn kept(texts: &[String], encoder: &PromptEncoder, file: &Path) -> Result<Prompts> {
    if !file.exists() {
        let cache = EmbeddingCache::open(encoder, None, KEPT)?;
        let mut sources = cache.sources(&with_null(texts))?;
        let null = sources.pop().expect("there is one source a text");
        Prompts::write(file, sources, null)?;
    }
    Prompts::open(file)
}
