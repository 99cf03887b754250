//! T5's tokenizer as diffusers' PixArt-Σ pipeline runs it: the class `T5Tokenizer` of transformers 5.

use std::path::{Path, PathBuf};

use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::Precompiled;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::{AddedToken, Tokenizer as Pipeline};

use super::vocabulary::Vocabulary;
use crate::error::{Error, Result};

/// `</s>`, which ends every text.
const END: u32 = 1;
/// `<unk>`, which stands for what no piece covers.
const UNKNOWN: usize = 2;

/// A tokenizer, ready to take texts.
pub struct Tokenizer {
    pipeline: Pipeline,
    path: PathBuf,
}

/// A text's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokenized {
    /// Their ids, the last of them `</s>`.
    pub ids: Vec<u32>,
    /// How many tokens were cut off, so that the ids are as many as was asked for.
    pub left_out: usize,
}

impl Tokenized {
    /// Logs a warning if the text lost its end.
    pub fn warn_if_cut(&self, text: &str) {
        if self.left_out > 0 {
            let (start, kept) = (text.chars().take(40).collect::<String>(), self.ids.len());
            let all = kept + self.left_out;
            tracing::warn!("the prompt \"{start}…\" has {all} tokens; the last {} are left out", all - kept);
        }
    }
}

impl Tokenizer {
    /// Opens the tokenizer in a folder, or in the `tokenizer` folder of a pipeline: `tokenizer.json`, else `spiece.model`
    /// with the number of sentinels that `tokenizer_config.json` says, or 100.
    ///
    /// # Errors
    /// When there is none, or its file is damaged or of another kind of tokenizer.
    pub fn open(folder: &Path) -> Result<Self> {
        let inner = folder.join("tokenizer");
        let (path, vocabulary) = Vocabulary::read(if inner.is_dir() { &inner } else { folder })?;
        let pipeline = pipeline(vocabulary)
            .map_err(|e| Error::invalid(&path, format!("cannot be used as a tokenizer: {e}")))?;
        Ok(Self { pipeline, path })
    }

    /// The file with its vocabulary.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One more than the largest id it gives.
    pub fn vocabulary(&self) -> usize {
        self.pipeline.get_vocab_size(true)
    }

    /// The ids of a text, at most `most` of them with `</s>`: a longer text loses its end, as in the original.
    ///
    /// # Errors
    /// `Usage` if `most` is zero; `Invalid` if the vocabulary turns out to be damaged.
    pub fn encode(&self, text: &str, most: usize) -> Result<Tokenized> {
        if most == 0 {
            return Err(Error::Usage("a text has at least one token; expected a limit above 0".into()));
        }
        let encoding = self
            .pipeline
            .encode_fast(text, false)
            .map_err(|e| Error::invalid(&self.path, format!("cannot tokenize {text:?}: {e}")))?;
        let ids = encoding.get_ids();
        let kept = ids.len().min(most - 1);
        let left_out = ids.len() - kept;
        Ok(Tokenized { ids: ids[..kept].iter().copied().chain([END]).collect(), left_out })
    }
}

/// The steps of `T5Tokenizer`: symbols are found first; then characters are normalised, the text is split at white space,
/// and every word, begun with "▁", is cut into the pieces with the largest sum of scores. SentencePiece itself and the
/// slow tokenizer of transformers 4 differ where a control character is white space (U+0085) or where a character and its
/// combining marks are normalised together.
fn pipeline(vocabulary: Vocabulary) -> tokenizers::Result<Pipeline> {
    let mut pipeline = Pipeline::new(Unigram::from(vocabulary.pieces, Some(UNKNOWN), false)?);
    if !vocabulary.charsmap.is_empty() {
        pipeline.with_normalizer(Some(Precompiled::from(&vocabulary.charsmap)?))?;
    }
    let steps = vec![
        PreTokenizerWrapper::WhitespaceSplit(WhitespaceSplit),
        PreTokenizerWrapper::Metaspace(Metaspace::new('▁', PrependScheme::Always, true)),
    ];
    pipeline.with_pre_tokenizer(Some(Sequence::new(steps)));
    pipeline.add_special_tokens(vocabulary.symbols.into_iter().map(|text| AddedToken::from(text, true)))?;
    Ok(pipeline)
}
