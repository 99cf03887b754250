//! The encoder of T5 (Raffel et al. 2020) and T5 v1.1, any size, as the `text_encoder` folder of a diffusers pipeline or a
//! folder of transformers holds it. Source of the computation: transformers `models/t5/modeling_t5.py`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::config::T5Config;
use super::layer::{Layer, rms_norm};
use super::position::PositionBias;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};

const TABLE: &str = "shared.weight";
/// The same table again, in files that transformers wrote before it left tied tensors out.
const TIED_TABLE: &str = "encoder.embed_tokens.weight";
const POSITIONS: &str = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
const LAST_NORM: &str = "encoder.final_layer_norm.weight";

/// Tokens that pass through a layer together: enough for full speed, and little memory beside a layer's weights.
const GROUP: usize = 1024;

/// How an encoder holds its weights. Either way the table of embeddings stays in its file, of which only the rows that
/// occur are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// All layers are read once, as f32: for encoding again and again.
    Resident,
    /// One layer at a time is read, and a whole batch goes through it before the next: for models larger than memory.
    Streamed,
}

/// The tokens of one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Rows of the embedding table.
    pub ids: Vec<u32>,
    /// Which tokens others may see: false for padding.
    pub mask: Vec<bool>,
}

impl Sequence {
    /// Tokens without padding.
    pub fn whole(ids: Vec<u32>) -> Self {
        Self { mask: vec![true; ids.len()], ids }
    }
}

/// An encoder, ready to encode.
pub struct T5Encoder {
    config: T5Config,
    file: Checkpoint,
    /// Name of the table of embeddings.
    table: &'static str,
    layers: Layers,
}

enum Layers {
    Resident(Vec<Layer>),
    Streamed,
}

impl T5Encoder {
    /// Opens a folder with `config.json` and the weights: safetensors or PyTorch files, sharded or not, f32, f16 or bf16.
    ///
    /// # Errors
    /// Those of [`T5Config::read`] and [`Checkpoint::open`]; `Tensors`, listing names, if a tensor is missing, left over or
    /// misshapen.
    pub fn open(folder: &Path, weights: Weights) -> Result<Self> {
        let config = T5Config::read(folder)?;
        let file = Checkpoint::open(folder)?;
        let count = file.names().count();
        if config.layers > count {
            let detail =
                format!("has {count} tensors, too few for the {} layers of config.json", config.layers);
            return Err(Error::Tensors { path: folder.into(), detail });
        }
        let table =
            if file.entry(TABLE).is_none() && file.entry(TIED_TABLE).is_some() { TIED_TABLE } else { TABLE };
        file.check(&expected(&config, &file, table))?;
        let layers = match weights {
            Weights::Streamed => Layers::Streamed,
            Weights::Resident => Layers::Resident(
                (0..config.layers).map(|layer| Layer::read(&file, &config, layer)).collect::<Result<_>>()?,
            ),
        };
        Ok(Self { config, file, table, layers })
    }

    /// The encoder's sizes.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// The file with its weights.
    pub(super) fn file(&self) -> &Checkpoint {
        &self.file
    }

    /// Encodes texts in one pass: for each its last hidden states, [tokens, `width`] row-major, those of padding tokens too.
    /// A text's states do not depend on the other texts.
    ///
    /// # Errors
    /// `Usage` for a text without tokens, a mask of another length, or a token that the table lacks; a failed read.
    pub fn encode(&self, texts: &[Sequence]) -> Result<Vec<Vec<f32>>> {
        texts.iter().enumerate().try_for_each(|(index, text)| self.check(index, text))?;
        let longest = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        if longest == 0 {
            return Ok(Vec::new());
        }
        let config = &self.config;
        let bias = PositionBias::new(&self.file.read_f32(POSITIONS)?, config, longest);
        let groups = groups(texts);
        let mut states =
            groups.iter().map(|group| self.embed(&texts[group.clone()])).collect::<Result<Vec<_>>>()?;
        for index in 0..config.layers {
            let read;
            let layer = match &self.layers {
                Layers::Resident(layers) => &layers[index],
                Layers::Streamed => {
                    read = Layer::read(&self.file, config, index)?;
                    &read
                }
            };
            for (group, states) in groups.iter().zip(&mut states) {
                let masks: Vec<&[bool]> = texts[group.clone()].iter().map(|text| &text.mask[..]).collect();
                layer.apply(config, states, &masks, &bias);
            }
        }
        let norm = self.file.read_f32(LAST_NORM)?;
        let mut encoded = Vec::with_capacity(texts.len());
        for (group, states) in groups.into_iter().zip(states) {
            let states = rms_norm(&states, &norm, config.eps);
            let mut rest = &states[..];
            for text in &texts[group] {
                let (own, others) = rest.split_at(text.ids.len() * config.width);
                encoded.push(own.to_vec());
                rest = others;
            }
        }
        Ok(encoded)
    }

    fn check(&self, index: usize, text: &Sequence) -> Result<()> {
        let wrong = |detail: String| Err(Error::Usage(format!("text encoder: text {index} {detail}")));
        if text.ids.is_empty() {
            return wrong("has no tokens; expected at least the one that ends it".into());
        }
        if text.ids.len() != text.mask.len() {
            return wrong(format!("has {} tokens, but its mask {}", text.ids.len(), text.mask.len()));
        }
        let rows = self.config.vocabulary;
        match text.ids.iter().find(|id| **id as usize >= rows) {
            Some(id) => {
                wrong(format!("holds token {id}, but the encoder's table has rows 0 to {}", rows - 1))
            }
            None => Ok(()),
        }
    }

    /// The embeddings of some texts' tokens, one text behind the other.
    fn embed(&self, texts: &[Sequence]) -> Result<Vec<f32>> {
        let ids = || texts.iter().flat_map(|text| &text.ids);
        let mut places: BTreeMap<usize, usize> = ids().map(|id| (*id as usize, 0)).collect();
        places.values_mut().enumerate().for_each(|(place, row)| *row = place);
        let rows: Vec<usize> = places.keys().copied().collect();
        let values = self.file.read_rows(self.table, &rows)?;
        let width = self.config.width;
        Ok(ids().flat_map(|id| &values[places[&(*id as usize)] * width..][..width]).copied().collect())
    }
}

/// Neighbouring texts of about [`GROUP`] tokens together.
fn groups(texts: &[Sequence]) -> Vec<Range<usize>> {
    let (mut groups, mut start, mut tokens) = (Vec::new(), 0, 0);
    for (index, text) in texts.iter().enumerate() {
        if tokens > 0 && tokens + text.ids.len() > GROUP {
            groups.push(start..index);
            (start, tokens) = (index, 0);
        }
        tokens += text.ids.len();
    }
    groups.push(start..texts.len());
    groups
}

/// Names and shapes of the tensors in the file.
fn expected(config: &T5Config, file: &Checkpoint, table: &str) -> Vec<(String, Vec<usize>)> {
    let embeddings = vec![config.vocabulary, config.width];
    let mut tensors = vec![
        (table.to_owned(), embeddings.clone()),
        (POSITIONS.to_owned(), vec![config.buckets, config.heads]),
        (LAST_NORM.to_owned(), vec![config.width]),
    ];
    if table == TABLE && file.entry(TIED_TABLE).is_some() {
        tensors.push((TIED_TABLE.to_owned(), embeddings));
    }
    tensors.extend((0..config.layers).flat_map(|layer| Layer::tensors(config, layer)));
    tensors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_whole_texts() {
        let text = |tokens| Sequence::whole(vec![0; tokens]);
        let texts: Vec<_> = [1000, 24, 1, 3000, 5, 5].map(text).into();
        assert_eq!(groups(&texts), [0..2, 2..3, 3..4, 4..6]);
        assert_eq!(groups(&texts[2..4]), [0..1, 1..2]);
    }
}
