//! The command line as a user meets it: the built program, its exit codes, messages and files.

mod analysis;
mod captioned;
mod checkpoints;
mod evaluation;
mod evaluation_sets;
mod generate;
mod geneval;
mod grafted;
mod latents;
mod locality;
mod messages;
mod neighbours;
mod pixart;
mod place;
mod prompted;
mod restructures;
mod runs;
mod sampling;
mod stages;
mod sweep;
mod text;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use scion::checkpoint::Checkpoint;

/// A class-conditional DiT for 12×12 images of one channel and five classes, three heads.
const SMALL_MODEL: &str = "dit/odd/model.pt";

fn scion(command: &str) -> Command {
    let mut program = assert_cmd::cargo::cargo_bin_cmd!("scion");
    program.args(["--quiet", command]).env("HF_HUB_OFFLINE", "1");
    program
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// What a command that succeeds prints.
fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (code, stdout, stderr) = (output.status.code(), text(output.stdout), text(output.stderr));
    assert_eq!(code, Some(0), "{command:?}\n{stdout}{stderr}");
    stdout
}

/// The one-paragraph message of a command that is refused with an exit code.
#[track_caller]
fn refused(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}\n{stderr}");
    let message = stderr.strip_suffix('\n').unwrap_or(&stderr);
    assert!(message.starts_with("error: ") && !message.contains("panicked"), "{command:?}\n{stderr}");
    assert!(!message.contains('\n'), "more than one paragraph: {command:?}\n{stderr}");
    message.to_string()
}

#[track_caller]
fn assert_names(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

/// Names of a folder's entries in order.
fn listing(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn read_tensor(file: &Path, name: &str) -> Vec<f32> {
    Checkpoint::open(file).unwrap().read_f32(name).unwrap()
}

/// A program started by a shell that lets no file grow beyond a few kilobytes, as on a full disk.
#[cfg(unix)]
fn on_full_disk(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"trap '' XFSZ; ulimit -f 8; exec "$0" "$@""#]);
    shell.arg(command.get_program()).args(command.get_args());
    shell
}
