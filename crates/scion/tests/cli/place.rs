//! A recipe and its data in a folder of their own.

use std::fs;
use std::path::PathBuf;

use assert_cmd::Command;

use super::{SMALL_MODEL, fixture, listing, scion};

/// A place with a recipe that grafts the small model on a folder of small images.
pub struct Place {
    pub root: tempfile::TempDir,
}

impl Place {
    /// Images are those of the fixtures, cat and dog, three each; other classes repeat the cats.
    pub fn new() -> Self {
        let place = Self { root: tempfile::tempdir().unwrap() };
        for (class, source) in
            [("cat", "cat"), ("dog", "dog"), ("eel", "cat"), ("fox", "cat"), ("owl", "cat")]
        {
            let from = fixture("data/folder").join(source);
            let to = place.path("images").join(class);
            fs::create_dir_all(&to).unwrap();
            for name in listing(&from) {
                fs::copy(from.join(&name), to.join(name)).unwrap();
            }
        }
        let recipe = format!(
            r#"seed = 5
[model]
checkpoint = {:?}
heads = 3
[data]
source = "image-folder"
path = {:?}
[[graft]]
target = "attention"
blocks = {{ interleaved = 0.5 }}
operator = {{ kind = "hyena-x" }}
[distill]
steps = 3
batch = 2
validation = 2
[finetune]
steps = 2
batch = 2
"#,
            fixture(SMALL_MODEL).canonicalize().unwrap(),
            place.path("images")
        );
        fs::write(place.recipe(), recipe).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn recipe(&self) -> PathBuf {
        self.path("recipe.toml")
    }

    pub fn edit(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.recipe()).unwrap();
        assert!(text.contains(from));
        fs::write(self.recipe(), text.replace(from, to)).unwrap();
    }

    /// A command on the recipe with its run in the folder `run`.
    pub fn run(&self, command: &str) -> Command {
        let mut program = scion(command);
        program.arg(self.recipe()).arg("--out").arg(self.path("run"));
        program
    }
}
