//! The text encoder, its tokenizer and the preparation of captions against transformers and diffusers
//! (`scripts/fixtures/text.py`).

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use scion::checkpoint::Checkpoint;
use scion::text::{Caption, Sequence, T5Encoder, Tokenizer, Weights, prepare};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/text").join(name)
}

/// The texts of the fixture's batch, and the tokens of each.
fn inputs() -> (Vec<Sequence>, usize) {
    let file = Checkpoint::open(&fixture("inputs.safetensors")).unwrap();
    let tokens = file.entry("ids").unwrap().shape[1];
    let [ids, mask] = ["ids", "mask"].map(|name| file.read_i64(name).unwrap());
    let text = |(ids, mask): (&[i64], &[i64])| Sequence {
        ids: ids.iter().map(|id| *id as u32).collect(),
        mask: mask.iter().map(|seen| *seen == 1).collect(),
    };
    (ids.chunks(tokens).zip(mask.chunks(tokens)).map(text).collect(), tokens)
}

/// Largest difference over the largest expected magnitude.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let top = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    found
        .iter()
        .zip(expected)
        .map(|(f, e)| (f - e).abs())
        .fold(0f32, |m, d| if d > m || d.is_nan() { d } else { m })
        / top
}

#[test]
fn hidden_states_match_the_original() {
    let expected = Checkpoint::open(&fixture("expected.safetensors")).unwrap();
    let (texts, _) = inputs();
    for (folder, case) in
        [("f32", "f32"), ("sharded", "f32"), ("bin", "f32"), ("bf16", "bf16"), ("relu", "relu")]
    {
        let [resident, streamed] = [Weights::Resident, Weights::Streamed]
            .map(|weights| T5Encoder::open(&fixture(folder), weights).unwrap().encode(&texts).unwrap());
        assert!(resident == streamed, "{folder}: weights held and weights streamed give other bits");
        let wrong = error(&streamed.concat(), &expected.read_f32(case).unwrap());
        assert!(wrong < 1e-5, "{folder}: {wrong:.1e}");
    }
}

#[test]
fn a_text_depends_neither_on_padding_nor_on_other_texts() {
    let encoder = T5Encoder::open(&fixture("f32"), Weights::Resident).unwrap();
    let (mut texts, tokens) = inputs();
    let width = encoder.config().width;
    let all = encoder.encode(&texts).unwrap();
    // Enough copies for several groups.
    let many: Vec<_> = (0..50).flat_map(|_| texts.clone()).collect();
    let repeated = encoder.encode(&many).unwrap();
    assert!(repeated.chunks(texts.len()).all(|chunk| chunk == all));
    for (text, all) in texts.iter_mut().zip(&all) {
        let whole = text.mask.iter().rposition(|seen| *seen).unwrap() + 1;
        text.ids.truncate(whole);
        text.mask.truncate(whole);
        assert!(whole < tokens || text.ids.len() == tokens);
        let alone = encoder.encode(std::slice::from_ref(text)).unwrap();
        let wrong = error(&alone[0], &all[..whole * width]);
        assert!(wrong < 1e-6, "{whole} tokens: {wrong:.1e}");
    }
}

#[test]
fn impossible_texts_are_refused() {
    let encoder = T5Encoder::open(&fixture("f32"), Weights::Streamed).unwrap();
    let message = |text: Sequence| encoder.encode(&[text]).unwrap_err().to_string();
    assert!(message(Sequence::whole(vec![])).contains("text 0 has no tokens"));
    assert!(message(Sequence::whole(vec![3, 40])).contains("holds token 40"));
    let uneven = Sequence { ids: vec![1, 2], mask: vec![true] };
    assert!(message(uneven).contains("has 2 tokens, but its mask 1"));
    assert!(encoder.encode(&[]).unwrap().is_empty());
}

/// A copy of an encoder's folder, changed.
fn changed(folder: &str, change: impl Fn(&Path)) -> String {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(folder)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    change(copy.path());
    T5Encoder::open(copy.path(), Weights::Streamed).err().map_or("opened".into(), |e| e.to_string())
}

fn edit(folder: &Path, from: &str, to: &str) {
    let path = folder.join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn broken_folders_say_what_is_wrong() {
    let remove = |name: &'static str| move |folder: &Path| fs::remove_file(folder.join(name)).unwrap();
    let message = changed("sharded", remove("model-00002-of-00003.safetensors"));
    assert!(message.contains("model-00002-of-00003.safetensors"), "{message}");
    let message = changed("bin", remove("pytorch_model-00001-of-00002.bin"));
    assert!(message.contains("pytorch_model-00001-of-00002.bin"), "{message}");
    let message = changed("f32", remove("model.safetensors"));
    assert!(message.contains("holds none of the weight files"), "{message}");
    let message = changed("f32", remove("config.json"));
    assert!(message.contains("config.json"), "{message}");
    let message = changed("f32", |folder| edit(folder, "\"num_layers\": 2", "\"num_layers\": 3"));
    assert!(
        message.contains("9 missing: encoder.block.2.layer.0.SelfAttention.q.weight [15, 16]"),
        "{message}"
    );
    let message = changed("f32", |folder| edit(folder, "\"num_layers\": 2", "\"num_layers\": 99999"));
    assert!(message.contains("too few for the 99999 layers"), "{message}");
    let message = changed("f32", |folder| edit(folder, "\"d_kv\": 5", "\"d_kv\": 6"));
    assert!(
        message.contains("misshapen") && message.contains("expected [18, 16], found [15, 16]"),
        "{message}"
    );
    let message = changed("f32", |folder| edit(folder, "\"gated-gelu\"", "\"gated-silu\""));
    assert!(message.contains("feed_forward_proj is \"gated-silu\""), "{message}");
}

/// A folder with the fixture's SentencePiece model.
fn tokenizer_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut packed = GzDecoder::new(File::open(fixture("tokenizer/spiece.model.gz")).unwrap());
    let mut file = File::create(folder.path().join("spiece.model")).unwrap();
    std::io::copy(&mut packed, &mut file).unwrap();
    folder
}

/// Prompts with the ids that the original gives.
fn prompts() -> Vec<(String, Vec<u32>)> {
    let file = BufReader::new(GzDecoder::new(File::open(fixture("tokenizer/ids.jsonl.gz")).unwrap()));
    file.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
}

#[test]
fn token_ids_are_the_originals() {
    let folder = tokenizer_folder();
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    assert_eq!(tokenizer.vocabulary(), 1100);
    let prompts = prompts();
    assert!(prompts.len() > 2500);
    for (prompt, expected) in &prompts {
        let found = tokenizer.encode(prompt, 10_000).unwrap();
        assert_eq!((&found.ids, found.left_out), (expected, 0), "{prompt:?}");
    }
    let (long, ids) = prompts.iter().max_by_key(|(_, ids)| ids.len()).unwrap();
    let cut = tokenizer.encode(long, 300).unwrap();
    assert_eq!((cut.ids.len(), cut.left_out), (300, ids.len() - 300));
    assert_eq!((&cut.ids[..299], cut.ids[299]), (&ids[..299], 1));
    assert_eq!(tokenizer.encode("", 300).unwrap().ids, [1]);
    assert_eq!(tokenizer.encode("a b", 1).unwrap().ids, [1]);
    assert!(tokenizer.encode("a", 0).is_err());
}

#[test]
fn captions_are_prepared_as_the_original_does() {
    let packed = GzDecoder::new(File::open(fixture("captions.json.gz")).unwrap());
    let rows: Vec<[String; 3]> = serde_json::from_reader(packed).unwrap();
    assert!(rows.len() > 500);
    let wrong: Vec<_> = rows
        .iter()
        .filter_map(|[caption, lower, clean]| {
            let found = [Caption::Lower, Caption::Clean].map(|how| prepare(caption, how).unwrap());
            (found != [lower, clean].map(String::clone)).then_some((caption, found, lower, clean))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
