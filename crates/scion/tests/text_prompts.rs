//! Prompts through a pipeline's text side, to embeddings and their cache. The encoder is a random one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use flate2::read::GzDecoder;
use scion::checkpoint::{Precision, TensorSource, write_safetensors};
use scion::text::{Caption, EmbeddingCache, MAX_TOKENS, PromptEncoder, Weights};

const WIDTH: usize = 8;

/// A pipeline's folder with the fixture's tokenizer of 1,100 pieces, and an encoder of one layer and `rows` embeddings.
fn pipeline(rows: usize, seed: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let [tokenizer, encoder] = ["tokenizer", "text_encoder"].map(|part| folder.path().join(part));
    for part in [&tokenizer, &encoder] {
        fs::create_dir(part).unwrap();
    }
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/text/tokenizer/spiece.model.gz");
    let mut packed = GzDecoder::new(File::open(packed).unwrap());
    std::io::copy(&mut packed, &mut File::create(tokenizer.join("spiece.model")).unwrap()).unwrap();
    let config = format!(
        r#"{{"model_type": "t5", "vocab_size": {rows}, "d_model": {WIDTH}, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2}}"#
    );
    fs::write(encoder.join("config.json"), config).unwrap();
    let layer = "encoder.block.0.layer";
    let tensors: Vec<_> = [
        ("shared.weight".to_owned(), vec![rows, WIDTH]),
        (format!("{layer}.0.SelfAttention.q.weight"), vec![8, WIDTH]),
        (format!("{layer}.0.SelfAttention.k.weight"), vec![8, WIDTH]),
        (format!("{layer}.0.SelfAttention.v.weight"), vec![8, WIDTH]),
        (format!("{layer}.0.SelfAttention.o.weight"), vec![WIDTH, 8]),
        (format!("{layer}.0.SelfAttention.relative_attention_bias.weight"), vec![32, 2]),
        (format!("{layer}.0.layer_norm.weight"), vec![WIDTH]),
        (format!("{layer}.1.DenseReluDense.wi.weight"), vec![12, WIDTH]),
        (format!("{layer}.1.DenseReluDense.wo.weight"), vec![WIDTH, 12]),
        (format!("{layer}.1.layer_norm.weight"), vec![WIDTH]),
        ("encoder.final_layer_norm.weight".to_owned(), vec![WIDTH]),
    ]
    .into_iter()
    .map(|(name, shape)| {
        let count: usize = shape.iter().product();
        let value = move |i: usize| ((i * 7919 + seed) % 1000) as f32 / 500.0 - 1.0;
        TensorSource::new(name, shape, move || Ok((0..count).map(value).collect()))
    })
    .collect();
    write_safetensors(&encoder.join("model.safetensors"), &tensors, Precision::F32, &BTreeMap::new())
        .unwrap();
    folder
}

fn open(folder: &Path) -> PromptEncoder {
    PromptEncoder::open(folder, Weights::Streamed, Caption::Lower).unwrap()
}

#[test]
fn prompts_are_encoded_without_padding() {
    let folder = pipeline(1104, 0);
    let encoder = open(folder.path());
    let long = "word ".repeat(400);
    let found = encoder.encode(&["", "A cat", " a CAT ", &long]).unwrap();
    assert_eq!(found[0].tokens(), 1);
    assert_eq!(found[1], found[2]);
    assert!((3..8).contains(&found[1].tokens()) && found[1].values.len() == found[1].tokens() * WIDTH);
    assert_eq!(found[3].tokens(), MAX_TOKENS);
    let resident = PromptEncoder::open(folder.path(), Weights::Resident, Caption::Lower).unwrap();
    assert_eq!(resident.encode(&["A cat"]).unwrap()[0], found[1]);
    let short = open(folder.path()).with_max_tokens(5).encode(&[&long]).unwrap();
    assert_eq!(short[0].tokens(), 5);
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let message = |folder: &Path| {
        PromptEncoder::open(folder, Weights::Streamed, Caption::Lower).err().unwrap().to_string()
    };
    let folder = pipeline(1099, 0);
    let small = message(folder.path());
    assert!(small.contains("has 1100 pieces") && small.contains("embeddings for 1099"), "{small}");
    fs::remove_file(folder.path().join("tokenizer/spiece.model")).unwrap();
    let missing = message(folder.path());
    assert!(missing.contains("holds none of the files tokenizer.json, spiece.model"), "{missing}");
    fs::remove_dir(folder.path().join("tokenizer")).unwrap();
    let missing = message(folder.path());
    assert!(missing.contains("tokenizer: is missing"), "{missing}");
    fs::create_dir(folder.path().join("tokenizer")).unwrap();
    for (file, contents, expected) in [
        ("spiece.model", "not a model", "damaged or no SentencePiece model"),
        ("tokenizer.json", r#"{"model": {"type": "BPE"}}"#, "model.type is \"BPE\""),
        (
            "tokenizer.json",
            r#"{"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}"#,
            "begins with the pieces [\"a\"]",
        ),
        (
            "tokenizer.json",
            r#"{"model": {"type": "Unigram", "vocab": [["<pad>", 0], ["</s>", 0], ["<unk>", 0], ["", 0]]}}"#,
            "empty text for piece 3",
        ),
        (
            "tokenizer.json",
            r#"{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="},
                "model": {"type": "Unigram", "vocab": [["<pad>", 0], ["</s>", 0], ["<unk>", 0]]}}"#,
            "precompiled_charsmap is damaged",
        ),
        ("tokenizer.json", r#"{"model": {"type": "Unigram", "vocab": 3}}"#, "model.vocab"),
    ] {
        fs::write(folder.path().join("tokenizer").join(file), contents).unwrap();
        let message = message(folder.path());
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn embeddings_are_kept_and_found_again() {
    let [folder, root] = [pipeline(1104, 0), tempfile::tempdir().unwrap()];
    let encoder = open(folder.path());
    let prompts = ["a cat", "a dog", "A cat", ""];
    let direct = encoder.encode(&prompts).unwrap();
    let cache = EmbeddingCache::open(&encoder, Some(root.path()), Precision::F32).unwrap();
    assert_eq!(cache.complete(&prompts[..1], |_, _| {}).unwrap(), 1);
    assert_eq!(cache.complete(&prompts, |_, _| {}).unwrap(), 2);
    assert_eq!(cache.fetch(&prompts).unwrap(), direct);
    assert_eq!(
        (cache.complete(&prompts, |_, _| {}).unwrap(), fs::read_dir(cache.folder()).unwrap().count()),
        (0, 3)
    );
    // Rounded the first time as well.
    let rounded = EmbeddingCache::open(&encoder, Some(root.path()), Precision::BF16).unwrap();
    let first = rounded.fetch(&prompts[..1]).unwrap();
    assert_eq!(rounded.fetch(&prompts[..1]).unwrap(), first);
    assert!(first[0] != direct[0]);
    let near = |a: f32, b: f32| (a - b).abs() <= b.abs() / 256.0;
    assert!(first[0].values.iter().zip(&direct[0].values).all(|(a, b)| near(*a, *b)));
    // Other weights, and another limit, are other embeddings.
    let other = pipeline(1104, 1);
    let other = open(other.path());
    assert_ne!(encoder.fingerprint().unwrap(), other.fingerprint().unwrap());
    assert_eq!(encoder.fingerprint().unwrap(), open(folder.path()).fingerprint().unwrap());
    let short = open(folder.path()).with_max_tokens(2);
    let short = EmbeddingCache::open(&short, Some(root.path()), Precision::F32).unwrap();
    assert_eq!(short.fetch(&prompts[..1]).unwrap()[0].tokens(), 2);
}

#[test]
fn damaged_embeddings_are_named() {
    let [folder, root] = [pipeline(1104, 0), tempfile::tempdir().unwrap()];
    let encoder = open(folder.path());
    let cache = EmbeddingCache::open(&encoder, Some(root.path()), Precision::F32).unwrap();
    cache.complete(&["a cat", "a dog"], |_, _| {}).unwrap();
    let mut files: Vec<_> =
        fs::read_dir(cache.folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    fs::copy(&files[0], &files[1]).unwrap();
    let swapped = cache.fetch(&["a cat", "a dog"]).unwrap_err().to_string();
    assert!(swapped.contains("holds another prompt") && swapped.contains("delete it"), "{swapped}");
    for file in &files {
        fs::write(file, b"short").unwrap();
    }
    let short = cache.fetch(&["a cat"]).unwrap_err().to_string();
    assert!(short.contains("is no whole embedding") && short.contains("delete it"), "{short}");
}
