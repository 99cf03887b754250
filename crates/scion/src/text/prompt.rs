//! From prompts to embeddings: tokenizer and encoder of one pipeline, checked against each other.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::caption::{Caption, prepare};
use super::encoder::{Sequence, T5Encoder, Weights};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// Tokens of a prompt that PixArt-Σ was trained with; longer ones lose their end.
pub const MAX_TOKENS: usize = 300;
/// Rows of each tensor that tell one model from another.
const SAMPLED_ROWS: usize = 4;

/// What the encoder makes of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// [tokens, width] row-major. There is no padding: a token's states do not depend on it, and what is conditioned on
    /// them masks it.
    pub values: Vec<f32>,
    /// Features of a token.
    pub width: usize,
}

impl Embedding {
    /// The number of tokens, `</s>` included.
    pub fn tokens(&self) -> usize {
        self.values.len() / self.width
    }
}

/// A text encoder with its tokenizer.
pub struct PromptEncoder {
    tokenizer: Tokenizer,
    encoder: T5Encoder,
    folder: PathBuf,
    caption: Caption,
    most: usize,
}

impl PromptEncoder {
    /// Opens `tokenizer` and `text_encoder` of a pipeline's folder. Prompts are prepared as `caption` says, and cut to
    /// [`MAX_TOKENS`].
    ///
    /// # Errors
    /// Those of [`Tokenizer::open`] and [`T5Encoder::open`]; `Invalid` if a folder is missing, or the tokenizer has pieces
    /// that the encoder has no embeddings for.
    pub fn open(folder: &Path, weights: Weights, caption: Caption) -> Result<Self> {
        let [tokens, encoder] = ["tokenizer", "text_encoder"].map(|part| folder.join(part));
        if let Some(missing) = [&tokens, &encoder].into_iter().find(|part| !part.is_dir()) {
            let detail = "is missing; expected a pipeline's folder with tokenizer/ and text_encoder/";
            return Err(Error::invalid(missing, detail));
        }
        let tokenizer = Tokenizer::open(&tokens)?;
        let encoder = T5Encoder::open(&encoder, weights)?;
        let (pieces, rows) = (tokenizer.vocabulary(), encoder.config().vocabulary);
        if pieces > rows {
            let detail = format!(
                "has {pieces} pieces, but the encoder beside it embeddings for {rows} (vocab_size in its config.json): \
                 they belong to different models"
            );
            return Err(Error::invalid(tokenizer.path(), detail));
        }
        Ok(Self { tokenizer, encoder, folder: folder.into(), caption, most: MAX_TOKENS })
    }

    /// The same with another limit on the tokens of a prompt.
    #[must_use]
    pub fn with_max_tokens(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// Tokens that a prompt is cut to.
    pub fn max_tokens(&self) -> usize {
        self.most
    }

    /// Features of a token.
    pub fn width(&self) -> usize {
        self.encoder.config().width
    }

    /// Checks that a model which reads text of a width can read this encoder's.
    ///
    /// # Errors
    /// When it cannot.
    pub fn check_width(&self, wanted: usize) -> Result<()> {
        let found = self.width();
        if found == wanted {
            return Ok(());
        }
        let detail = format!("makes tokens of width {found}; this model takes width {wanted}");
        Err(Error::invalid(self.folder.join("text_encoder"), detail))
    }

    /// A prompt as the tokenizer sees it.
    pub fn prepare(&self, prompt: &str) -> Result<String> {
        prepare(prompt, self.caption)
    }

    /// Encodes prompts in one pass, each prepared first; the empty prompt is one token, `</s>`. Warns of those that are cut.
    ///
    /// # Errors
    /// When the encoder's files cannot be read.
    pub fn encode(&self, prompts: &[&str]) -> Result<Vec<Embedding>> {
        let tokens = |prompt: &&str| self.tokens(&self.prepare(prompt)?);
        self.encode_tokens(&prompts.iter().map(tokens).collect::<Result<Vec<_>>>()?)
    }

    /// Encodes what [`PromptEncoder::tokens`] gave, in one pass.
    ///
    /// # Errors
    /// When the encoder's files cannot be read.
    pub(super) fn encode_tokens(&self, texts: &[Sequence]) -> Result<Vec<Embedding>> {
        let width = self.width();
        let encoded = self.encoder.encode(texts)?;
        Ok(encoded.into_iter().map(|values| Embedding { values, width }).collect())
    }

    /// The tokens of a prepared prompt; warns if it is cut.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub(super) fn tokens(&self, prompt: &str) -> Result<Sequence> {
        let tokens = self.tokenizer.encode(prompt, self.most)?;
        tokens.warn_if_cut(prompt);
        Ok(Sequence::whole(tokens.ids))
    }

    /// Tells this tokenizer and encoder from others, as 32 hexadecimal digits: a hash of their small files, the names and
    /// shapes of all tensors, and some rows of each. Reading every weight would take as long as encoding.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        let config = self.folder.join("text_encoder/config.json");
        for path in [self.tokenizer.path(), &config] {
            let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
        let file = self.encoder.file();
        for name in file.names() {
            let entry = file.entry(name).expect("listed names have entries");
            hash.update(format!("{name} {:?} {:?}\n", entry.dtype, entry.shape));
            let last = entry.shape[0] - 1;
            let rows: Vec<usize> = (0..SAMPLED_ROWS).map(|i| last * i / (SAMPLED_ROWS - 1)).collect();
            let values = file.read_rows(name, &rows)?;
            hash.update(bytemuck::cast_slice(&values));
        }
        Ok(hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect())
    }
}
