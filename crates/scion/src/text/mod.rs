//! Prompts as a diffusion transformer takes them: the T5 encoder with its tokenizer, captions as PixArt prepares them, and
//! a cache of finished embeddings. Knows texts and tensors; nothing of images or of the models that are conditioned.

mod attention;
mod cache;
mod caption;
mod charsmap;
mod config;
mod encoder;
mod layer;
mod position;
mod prompt;
mod sentencepiece;
mod tokenizer;
mod vocabulary;

pub use cache::EmbeddingCache;
pub use caption::{Caption, prepare};
pub use config::{FeedForward, T5Config};
pub use encoder::{Sequence, T5Encoder, Weights};
pub use prompt::{Embedding, MAX_TOKENS, PromptEncoder};
pub use tokenizer::{Tokenized, Tokenizer};
