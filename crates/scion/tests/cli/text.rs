//! `tokenize`, and `forward` on the folder of a text encoder.

use std::fs::{self, File};

use flate2::read::GzDecoder;

use super::{assert_names, fixture, printed, read_tensor, refused, scion};

/// A pipeline's folder with the fixture's tokenizer.
fn pipeline() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("tokenizer")).unwrap();
    let mut packed = GzDecoder::new(File::open(fixture("text/tokenizer/spiece.model.gz")).unwrap());
    let mut file = File::create(folder.path().join("tokenizer/spiece.model")).unwrap();
    std::io::copy(&mut packed, &mut file).unwrap();
    folder
}

#[test]
fn prompts_become_lines_of_ids() {
    let folder = pipeline();
    let golden = GzDecoder::new(File::open(fixture("text/tokenizer/ids.jsonl.gz")).unwrap());
    let golden: Vec<(String, Vec<u32>)> = std::io::read_to_string(golden)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|(prompt, ids): &(String, Vec<u32>)| !prompt.contains('\n') && ids.len() <= 300)
        .collect();
    let prompts = folder.path().join("prompts.txt");
    fs::write(&prompts, golden.iter().map(|(prompt, _)| format!("{prompt}\n")).collect::<String>()).unwrap();
    let expected: String = golden
        .iter()
        .map(|(_, ids)| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ") + "\n")
        .collect();
    for place in [folder.path().to_path_buf(), folder.path().join("tokenizer")] {
        let found = printed(scion("tokenize").arg(place).arg("--prompts").arg(&prompts));
        assert!(found == expected);
    }
    let empty = folder.path().join("empty.txt");
    for (contents, expected) in [("", ""), ("\n", "1\n"), ("\n\n", "1\n1\n")] {
        fs::write(&empty, contents).unwrap();
        let found = printed(scion("tokenize").arg(folder.path()).arg("--prompts").arg(&empty));
        assert_eq!(found, expected, "{contents:?}");
    }
}

#[test]
fn long_prompts_are_cut_with_a_warning() {
    let folder = pipeline();
    let prompts = folder.path().join("prompts.txt");
    fs::write(&prompts, "word ".repeat(400)).unwrap();
    let output = scion("tokenize").arg(folder.path()).arg("--prompts").arg(&prompts).output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stdout.trim_end().split(' ').count(), 300);
    assert!(stdout.ends_with(" 1\n"));
    assert_names(&stderr, &["WARN", "word word", "are left out"]);
    let mut command = scion("tokenize");
    command.arg(folder.path()).arg("--prompts").arg(&prompts);
    assert_eq!(printed(command.args(["--max-tokens", "2"])).split(' ').count(), 2);
}

#[test]
fn what_cannot_be_tokenized_is_named() {
    let folder = pipeline();
    let prompts = folder.path().join("prompts.txt");
    let refused = |place: &std::path::Path, code| {
        refused(scion("tokenize").arg(place).arg("--prompts").arg(&prompts), code)
    };
    assert_names(&refused(folder.path(), 1), &["prompts.txt"]);
    fs::write(&prompts, b"fine\n\xff\n").unwrap();
    assert_names(&refused(folder.path(), 1), &["prompts.txt", "line 2 is not UTF-8"]);
    let none = tempfile::tempdir().unwrap();
    assert_names(&refused(none.path(), 1), &["tokenizer.json, spiece.model"]);
}

#[test]
fn text_encoders_run_forward() {
    let folder = tempfile::tempdir().unwrap();
    for case in ["f32", "sharded", "bin", "bf16"] {
        let output = folder.path().join(format!("{case}.safetensors"));
        let mut command = scion("forward");
        command.arg(fixture("text").join(case)).arg("--inputs").arg(fixture("text/inputs.safetensors"));
        printed(command.arg("--output").arg(&output));
        let golden = if case == "bf16" { "bf16" } else { "f32" };
        let expected = read_tensor(&fixture("text/expected.safetensors"), golden);
        let found = read_tensor(&output, "out");
        assert_eq!(found.len(), expected.len());
        let top = expected.iter().fold(0f32, |top, v| top.max(v.abs()));
        assert!(found.iter().zip(&expected).all(|(f, e)| (f - e).abs() < 1e-4 * top), "{case}");
    }
    let mut command = scion("forward");
    command.arg(fixture("text/f32")).arg("--inputs").arg(fixture("text/expected.safetensors"));
    let message = refused(command.arg("--output").arg(folder.path().join("none.safetensors")), 1);
    assert_names(&message, &["expected.safetensors", "has no tensor ids"]);
}
