//! Where a T5 tokenizer's pieces come from: a SentencePiece model, or the JSON that transformers makes of one.

use std::path::{Path, PathBuf};

use base64::Engine;
use serde_json::Value;

use super::charsmap;
use super::sentencepiece::Model;
use crate::checkpoint::read_json;
use crate::error::{Error, Result};

/// Files that hold a vocabulary, the preferred first, as transformers has it.
const FILES: [&str; 2] = ["tokenizer.json", "spiece.model"];
/// The pieces that every T5 vocabulary begins with; their places are built into the models.
const FIRST: [&str; 3] = ["<pad>", "</s>", "<unk>"];
/// `<extra_id_0>` and so on that transformers adds where nothing tells their number.
const EXTRA_IDS: u64 = 100;

/// What tokenizes a text.
#[derive(Debug, PartialEq)]
pub(super) struct Vocabulary {
    /// Pieces in order of their ids, with their scores.
    pub(super) pieces: Vec<(String, f64)>,
    /// Compiled table that normalises characters; empty where they stay as they are.
    pub(super) charsmap: Vec<u8>,
    /// Texts that are tokens wherever they occur, before anything is normalised.
    pub(super) symbols: Vec<String>,
}

impl Vocabulary {
    /// Reads the vocabulary in a tokenizer's folder, and tells its file.
    ///
    /// # Errors
    /// When there is none, or the file cannot be read or is none of a T5 tokenizer.
    pub(super) fn read(folder: &Path) -> Result<(PathBuf, Self)> {
        let found = FILES.iter().map(|name| folder.join(name)).find(|file| file.is_file());
        let path = found
            .ok_or_else(|| Error::invalid(folder, format!("holds none of the files {}", FILES.join(", "))))?;
        let vocabulary = if path.ends_with(FILES[0]) {
            Self::from_json(&path)
        } else {
            let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
            let model = Model::read(&bytes).map_err(|why| Error::invalid(&path, why))?;
            Ok(Self::from_model(model, extra_ids(folder)?))
        }?;
        let first = vocabulary.pieces.iter().map(|(piece, _)| piece.as_str());
        if !first.clone().take(FIRST.len()).eq(FIRST) {
            let found: Vec<_> = first.take(FIRST.len()).collect();
            let detail =
                format!("begins with the pieces {found:?}; expected those of a T5 tokenizer, {FIRST:?}");
            return Err(Error::invalid(&path, detail));
        }
        if let Some(id) = vocabulary.pieces.iter().position(|(piece, _)| piece.is_empty()) {
            return Err(Error::invalid(&path, format!("has an empty text for piece {id}")));
        }
        if !vocabulary.charsmap.is_empty() {
            charsmap::check(&vocabulary.charsmap).map_err(|why| Error::invalid(&path, why))?;
        }
        Ok((path, vocabulary))
    }

    /// As transformers makes a tokenizer from `spiece.model`: sentinels are appended, the last of them first.
    fn from_model(model: Model, extra_ids: u64) -> Self {
        let symbols = model.pieces.iter().filter(|piece| piece.symbol).map(|piece| piece.text.clone());
        let mut symbols: Vec<_> = FIRST.map(str::to_owned).into_iter().chain(symbols).collect();
        let mut pieces: Vec<_> =
            model.pieces.into_iter().map(|piece| (piece.text, f64::from(piece.score))).collect();
        for index in (0..extra_ids).rev() {
            let sentinel = format!("<extra_id_{index}>");
            pieces.push((sentinel.clone(), 0.0));
            symbols.push(sentinel);
        }
        Self { pieces, charsmap: model.charsmap, symbols }
    }

    /// From `tokenizer.json`: of its steps transformers takes the table of characters alone, and so do we.
    fn from_json(path: &Path) -> Result<Self> {
        let json = Value::Object(read_json(path)?);
        let kind = &json["model"]["type"];
        if kind != "Unigram" {
            return Err(Error::invalid(
                path,
                format!("model.type is {kind}; expected \"Unigram\", as T5 has it"),
            ));
        }
        let pieces: Vec<(String, f64)> = serde_json::from_value(json["model"]["vocab"].clone())
            .map_err(|e| Error::invalid(path, format!("model.vocab must list pieces with scores: {e}")))?;
        let pieces = pieces.into_iter().map(|(piece, score)| (piece, written(score))).collect();
        let normalizer = &json["normalizer"];
        let steps =
            normalizer["normalizers"].as_array().map_or(std::slice::from_ref(normalizer), Vec::as_slice);
        let precompiled = steps.iter().find(|step| step["type"] == "Precompiled");
        let charsmap = match precompiled.map(|step| &step["precompiled_charsmap"]) {
            Some(Value::String(text)) => base64::engine::general_purpose::STANDARD
                .decode(text)
                .map_err(|e| Error::invalid(path, format!("precompiled_charsmap is not base64: {e}")))?,
            _ => Vec::new(),
        };
        let added = json["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
        let symbols = added.iter().filter_map(|token| token["content"].as_str()).map(str::to_owned).collect();
        Ok(Self { pieces, charsmap, symbols })
    }
}

/// The score that was written: SentencePiece's are f32, and the reader of JSON may miss the last bit of an f64, which
/// would decide between cuts of equal scores.
fn written(score: f64) -> f64 {
    let single = f64::from(score as f32);
    if (score - single).abs() <= 2.0 * f64::EPSILON * score.abs() { single } else { score }
}

/// How many sentinels `tokenizer_config.json` says to add.
fn extra_ids(folder: &Path) -> Result<u64> {
    let path = folder.join("tokenizer_config.json");
    if !path.is_file() {
        return Ok(EXTRA_IDS);
    }
    let most = 1 << 16;
    match read_json(&path)?.get("extra_ids") {
        None | Some(Value::Null) => Ok(EXTRA_IDS),
        Some(value) => value.as_u64().filter(|count| *count <= most).ok_or_else(|| {
            Error::invalid(&path, format!("field extra_ids is {value}; expected a number up to {most}"))
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn both_files_give_the_same_vocabulary() {
        let folder = tempfile::tempdir().unwrap();
        let packed: &[u8] = include_bytes!("../../../../fixtures/text/tokenizer/spiece.model.gz");
        let mut model = Vec::new();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut model).unwrap();
        std::fs::write(folder.path().join("spiece.model"), model).unwrap();
        let (path, from_model) = Vocabulary::read(folder.path()).unwrap();
        assert!(path.ends_with("spiece.model"));
        assert_eq!(from_model.pieces.len(), 1100);
        let precompiled = serde_json::json!({
            "type": "Precompiled",
            "precompiled_charsmap": base64::engine::general_purpose::STANDARD.encode(&from_model.charsmap),
        });
        let added: Vec<_> =
            from_model.symbols.iter().map(|text| serde_json::json!({ "content": text })).collect();
        let sequence =
            serde_json::json!({ "type": "Sequence", "normalizers": [{ "type": "Strip" }, precompiled] });
        for normalizer in [precompiled.clone(), sequence] {
            let json = serde_json::json!({
                "added_tokens": added,
                "normalizer": normalizer,
                "model": { "type": "Unigram", "unk_id": 2, "vocab": from_model.pieces },
            });
            std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
            let (path, from_json) = Vocabulary::read(folder.path()).unwrap();
            assert!(path.ends_with("tokenizer.json"), "it comes first");
            assert!(from_json == from_model);
        }
    }

    #[test]
    fn the_number_of_sentinels_is_read() {
        let folder = tempfile::tempdir().unwrap();
        for (config, expected) in
            [("{}", Some(100)), (r#"{"extra_ids": 7}"#, Some(7)), (r#"{"extra_ids": -1}"#, None)]
        {
            std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
            assert_eq!(extra_ids(folder.path()).ok(), expected);
        }
        let model = Model { pieces: Vec::new(), charsmap: Vec::new() };
        let pieces = Vocabulary::from_model(model, 2).pieces;
        assert_eq!(pieces, ["<extra_id_1>", "<extra_id_0>"].map(|sentinel| (sentinel.to_owned(), 0.0)));
    }
}
