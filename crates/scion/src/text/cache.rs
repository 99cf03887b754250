//! Embeddings of prompts on disk: what was encoded once need not be encoded again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::encoder::Sequence;
use super::prompt::{Embedding, PromptEncoder};
use crate::checkpoint::{Checkpoint, Precision, TensorSource, write_safetensors};
use crate::download::{cache_folder, sha256};
use crate::error::{Error, Result};

/// The tensor in a file.
const TENSOR: &str = "embedding";
/// Header field with the prompt, as the tokenizer saw it.
const TEXT: &str = "text";
/// Floats of hidden states that a pass over the encoder may need at the most.
const PASS: usize = 1 << 27;

/// A folder of embeddings, of one encoder and tokenizer: one safetensors file a prompt, named by a hash of the prompt, its
/// limit of tokens and the precisions of products and of what is stored.
pub struct EmbeddingCache<'a> {
    encoder: &'a PromptEncoder,
    folder: PathBuf,
    precision: Precision,
}

impl<'a> EmbeddingCache<'a> {
    /// The cache below `root`, without one that in Scion's cache: `$SCION_CACHE/text`, else `$XDG_CACHE_HOME/scion/text`, else
    /// `~/.cache/scion/text`. Embeddings are rounded to `precision` before anyone sees them, so that they are the same the
    /// first time and later.
    ///
    /// # Errors
    /// `Usage` if there is no home folder to keep them in; when the encoder's files cannot be read, or the folder not be made.
    pub fn open(encoder: &'a PromptEncoder, root: Option<&Path>, precision: Precision) -> Result<Self> {
        let root = root.map(Path::to_path_buf).or_else(|| cache_folder("text"));
        let root = root.ok_or_else(|| {
            Error::Usage("there is no home folder to keep embeddings of prompts in; set SCION_CACHE".into())
        })?;
        let folder = root.join(encoder.fingerprint()?);
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
        Ok(Self { encoder, folder, precision })
    }

    /// Where the files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Encodes those prompts that are not on disk yet, in as few passes as memory allows, and tells how many they were;
    /// `on_pass` hears before the first pass and after each how many of how many are done.
    ///
    /// # Errors
    /// Those of [`PromptEncoder::encode`], and when the disk refuses a file.
    pub fn complete(&self, prompts: &[&str], mut on_pass: impl FnMut(usize, usize)) -> Result<usize> {
        let mut missing = BTreeMap::new();
        for prompt in prompts {
            let text = self.encoder.prepare(prompt)?;
            let tokens = self.encoder.tokens(&text)?;
            let path = self.path(&text);
            if !path.exists() {
                missing.insert(path, (text, tokens));
            }
        }
        let (count, most) = (missing.len(), PASS / self.encoder.width());
        if count == 0 {
            return Ok(0);
        }
        on_pass(0, count);
        let (mut pass, mut tokens, mut done) = (Vec::new(), 0, 0);
        for (path, (text, sequence)) in missing {
            if !pass.is_empty() && tokens + sequence.ids.len() > most {
                done += pass.len();
                self.encode(std::mem::take(&mut pass))?;
                on_pass(done, count);
                tokens = 0;
            }
            tokens += sequence.ids.len();
            pass.push((path, text, sequence));
        }
        self.encode(pass)?;
        on_pass(count, count);
        Ok(count)
    }

    /// Encodes texts in one pass, and keeps what comes of them.
    fn encode(&self, pass: Vec<(PathBuf, String, Sequence)>) -> Result<()> {
        let (mut places, mut sequences) = (Vec::new(), Vec::new());
        for (path, text, sequence) in pass {
            places.push((path, text));
            sequences.push(sequence);
        }
        let embeddings = self.encoder.encode_tokens(&sequences)?;
        places.iter().zip(&embeddings).try_for_each(|((path, text), found)| self.write(path, text, found))
    }

    /// The embeddings of prompts, in their order: read, or encoded and kept.
    ///
    /// # Errors
    /// Those of [`EmbeddingCache::complete`], and when a file is damaged.
    pub fn fetch(&self, prompts: &[&str]) -> Result<Vec<Embedding>> {
        self.complete(prompts, |_, _| {})?;
        prompts.iter().map(|prompt| self.read(&self.encoder.prepare(prompt)?)).collect()
    }

    /// The embeddings of prompts as tensors [tokens, width], in their order, each read when it is asked for.
    ///
    /// # Errors
    /// When one is not on disk ([`EmbeddingCache::complete`]), or damaged.
    pub fn sources(&self, prompts: &[&str]) -> Result<Vec<TensorSource<'_>>> {
        let source = |prompt: &&str| {
            let text = self.encoder.prepare(prompt)?;
            let (_, tokens) = self.open_file(&text)?;
            let shape = vec![tokens, self.encoder.width()];
            Ok(TensorSource::new(text.clone(), shape, move || Ok(self.read(&text)?.values)))
        };
        prompts.iter().map(source).collect()
    }

    fn path(&self, text: &str) -> PathBuf {
        let precision = match self.precision {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::BF16 => "bf16",
        };
        let products = match scion_kernels::precision() {
            scion_kernels::Precision::F32 => "f32",
            scion_kernels::Precision::Bf16 => "bf16",
        };
        let (hash, most) = (sha256(text.as_bytes()), self.encoder.max_tokens());
        self.folder.join(format!("{}-{most}-{products}-{precision}.safetensors", &hash[..32]))
    }

    fn write(&self, path: &Path, text: &str, embedding: &Embedding) -> Result<()> {
        let shape = vec![embedding.tokens(), embedding.width];
        let tensor = TensorSource::new(TENSOR.into(), shape, || Ok(embedding.values.clone()));
        let metadata = BTreeMap::from([(TEXT.to_owned(), text.to_owned())]);
        write_safetensors(path, &[tensor], self.precision, &metadata)
    }

    /// A prompt's file, and the number of its tokens.
    fn open_file(&self, text: &str) -> Result<(Checkpoint, usize)> {
        let path = self.path(text);
        let damaged =
            |detail: String| Error::invalid(&path, format!("{detail}; delete it to encode the prompt anew"));
        let file = Checkpoint::open(&path).map_err(|e| damaged(format!("is no whole embedding ({e})")))?;
        let width = self.encoder.width();
        let shape = file.entry(TENSOR).map_or(&[][..], |entry| &entry.shape[..]);
        if !matches!(shape, [tokens, columns] if *tokens > 0 && *columns == width) {
            return Err(damaged(format!("holds {TENSOR} {shape:?}; expected [tokens, {width}]")));
        }
        if file.metadata().get(TEXT).map(String::as_str) != Some(text) {
            return Err(damaged(format!("holds another prompt than {text:?}")));
        }
        let tokens = shape[0];
        Ok((file, tokens))
    }

    fn read(&self, text: &str) -> Result<Embedding> {
        Ok(Embedding { values: self.open_file(text)?.0.read_f32(TENSOR)?, width: self.encoder.width() })
    }
}
