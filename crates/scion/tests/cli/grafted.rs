//! Grafted checkpoints of the published code: read as a recipe says, run, and refused where recipe and file disagree.

use std::fs;
use std::path::{Path, PathBuf};

use super::{assert_names, fixture, listing, printed, read_tensor, refused, scion};

/// The folders of `scripts/fixtures/grafted.py` that hold a whole grafted model.
const CASES: [&str; 8] =
    ["hyena-se", "hyena-x", "hyena-y", "sliding-window", "mamba2", "mlp-r3", "mlp-r6", "mlp-hyena-x"];
/// Where the published stage 1 leaves an operator.
const STAGE1: &str = "hyena_y/block_{block}/l1/scaled_pred=False/seed={block}/checkpoints/best_train.pt";

fn case(name: &str) -> PathBuf {
    fixture("grafted").join(name)
}

fn convert(input: &Path, output: &Path, recipe: &Path) -> assert_cmd::Command {
    let mut command = scion("convert");
    command.arg(input).arg(output).args(["--layout", "scion", "--recipe"]).arg(recipe);
    command
}

/// What a model makes of a case's inputs.
fn forward(model: &Path, case: &Path, recipe: Option<&Path>) -> Vec<f32> {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.safetensors");
    let mut command = scion("forward");
    command.arg(model).arg("--inputs").arg(case.join("inputs.safetensors")).arg("--output").arg(&output);
    if let Some(recipe) = recipe {
        command.arg("--recipe").arg(recipe);
    }
    printed(&mut command);
    read_tensor(&output, "out")
}

/// Largest difference over the largest expected magnitude.
fn error(found: &[f32], case: &Path) -> f32 {
    let expected = read_tensor(&case.join("expected.safetensors"), "out");
    assert_eq!(found.len(), expected.len());
    let top = expected.iter().fold(0f32, |top, v| top.max(v.abs()));
    found
        .iter()
        .zip(&expected)
        .map(|(f, e)| (f - e).abs())
        .fold(0f32, |m, d| if d > m || d.is_nan() { d } else { m })
        / top
}

/// A case's recipe with one thing changed.
fn changed(folder: &Path, case: &str, from: &str, to: &str) -> PathBuf {
    let text = fs::read_to_string(fixture("grafted").join(case).join("recipe.toml")).unwrap();
    assert!(text.contains(from), "{text}");
    let file = folder.join("changed.toml");
    fs::write(&file, text.replace(from, to)).unwrap();
    file
}

#[test]
fn outputs_match_the_published_code() {
    let folder = tempfile::tempdir().unwrap();
    for name in CASES {
        let case = case(name);
        let (model, recipe) = (case.join("model.pt"), case.join("recipe.toml"));
        let converted = folder.path().join(format!("{name}.safetensors"));
        printed(&mut convert(&model, &converted, &recipe));
        let found = forward(&converted, &case, None);
        assert!(error(&found, &case) < 1e-5, "{name}: off by {}", error(&found, &case));
        assert!(forward(&model, &case, Some(&recipe)) == found, "{name}: --recipe gives other outputs");
        let said = printed(scion("inspect").arg(&model).arg("--recipe").arg(&recipe));
        assert_names(&said, &["3 blocks, 2 heads, MLP ×4", "graft:      block"]);
        let back = folder.path().join(format!("{name}.pt"));
        printed(scion("convert").arg(&converted).arg(&back).args(["--layout", "dit"]));
        assert!(
            forward(&back, &case, Some(&recipe)) == found,
            "{name}: written back, it gives other outputs"
        );
    }
}

#[test]
fn settings_that_no_tensor_tells_come_from_the_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let narrow = changed(folder.path(), "sliding-window", "left = 4", "left = 1");
    let case = case("sliding-window");
    let found = forward(&case.join("model.pt"), &case, Some(&narrow));
    assert!(error(&found, &case) > 1e-3);
}

#[test]
fn operators_of_the_published_stage_1_are_put_into_the_teacher() {
    let folder = tempfile::tempdir().unwrap();
    let case = case("stage1");
    let (teacher, recipe) = (case.join("teacher.pt"), case.join("recipe.toml"));
    let output = folder.path().join("stage1.safetensors");
    let with = |files: &[&str]| {
        let mut command = convert(&teacher, &output, &recipe);
        files.iter().for_each(|file| {
            command.arg("--operators").arg(case.join(file));
        });
        command
    };
    let message =
        refused(&mut with(&["hyena_y/block_1/l1/scaled_pred=False/seed=1/checkpoints/best_train.pt"]), 2);
    assert_names(&message, &["names 2 blocks", "write {block}"]);
    assert_names(&refused(&mut with(&[STAGE1, STAGE1]), 2), &["2 times", "1 [[graft]] entries"]);
    let message = refused(&mut with(&["hyena_y/block_{block}/l2/best_train.pt"]), 1);
    assert_names(&message, &["cannot open", "block_1/l2"]);
    assert_names(&refused(&mut with(&["teacher.pt#{block}"]), 1), &["teacher.pt#1"]);
    assert_eq!(listing(folder.path()), [""; 0]);
    let other = changed(folder.path(), "stage1", r#""hyena-y", inner-kernel = 4"#, r#""hyena-se""#);
    let mut command = convert(&teacher, &output, &other);
    let message = refused(command.arg("--operators").arg(case.join(STAGE1)), 1);
    assert_names(
        &message,
        &["block_1/l1", "entry 1 says hyena-se in attention of block 1", "2 missing: short_filter"],
    );
    printed(&mut with(&[STAGE1]));
    let found = forward(&output, &case, None);
    assert!(error(&found, &case) < 1e-5, "off by {}", error(&found, &case));
}

#[test]
fn a_recipe_that_does_not_fit_is_refused_with_entry_and_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.safetensors");
    let refusal = |case: &str, from: &str, to: &str| {
        let recipe = changed(folder.path(), case, from, to);
        refused(&mut convert(&fixture("grafted").join(case).join("model.pt"), &output, &recipe), 1)
    };
    // The file holds a graft in block 2, the recipe does not.
    assert_names(
        &refusal("hyena-x", "[0, 2]", "[0]"),
        &[
            "model.pt",
            "no [[graft]] entry",
            "attention of block 2",
            "missing: blocks.2.attn.qkv.weight [24, 8]",
        ],
    );
    // The recipe names a block more than was grafted.
    assert_names(
        &refusal("hyena-x", "[0, 2]", "[0, 1, 2]"),
        &["[[graft]] entry 1", "hyena-x in attention of block 1", "unused: blocks.1.attn.proj.bias [8]"],
    );
    assert_names(
        &refusal("mlp-r3", "ratio = 3", "ratio = 6"),
        &["[[graft]] entry 1", "blocks.0.mlp.fc1.weight (expected [48, 8], found [24, 8])"],
    );
    assert_names(
        &refusal("hyena-y", "inner-kernel = 4", "inner-kernel = 3"),
        &["hyena-y in attention of block 1", "inner_filter.weight (expected [8, 1, 3], found [8, 1, 4])"],
    );
    let with_sizes = changed(folder.path(), "hyena-x", "heads = 2", "preset = \"dit-s-2-256\"");
    let message = refused(&mut convert(&case("hyena-x").join("model.pt"), &output, &with_sizes), 2);
    assert_names(&message, &["model.pt", "[model]", "hidden 8 instead of 384"]);
    let deeper = "sizes = { input_size = 8, patch = 2, in_channels = 4, hidden = 8, depth = 4, heads = 2, num_classes = 9 }";
    let with_sizes = changed(folder.path(), "hyena-x", "heads = 2", deeper);
    let message = refused(&mut convert(&case("hyena-x").join("model.pt"), &output, &with_sizes), 2);
    assert_names(&message, &["depth 3 instead of 4, num_classes 10 instead of 9"]);
    let recipe = case("hyena-x").join("recipe.toml");
    let message = refused(scion("inspect").args(["embedded", "--recipe"]).arg(&recipe), 2);
    assert_names(&message, &["header says", "leave out --recipe"]);
    assert!(!output.exists());
}

#[test]
fn the_mlp_ratio_is_that_of_an_mlp_that_was_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let case = case("mlp-r3");
    let model = case.join("model.pt");
    let ratio = |recipe: &Path, model: &Path| {
        let said = printed(scion("inspect").arg(model).arg("--recipe").arg(recipe));
        said.split("MLP ×").nth(1).unwrap().split(',').next().unwrap().to_string()
    };
    assert_eq!(ratio(&case.join("recipe.toml"), &model), "4");
    // Of a model without an MLP of its own, the ratio is DiT's, or the recipe's.
    let text =
        fs::read_to_string(case.join("recipe.toml")).unwrap().replace("blocks = [0, 1]", "blocks = [2]");
    let all =
        text + "\n[[graft]]\ntarget = \"mlp\"\nblocks = [0, 1]\noperator = { kind = \"mlp\", ratio = 3 }\n";
    let recipe = folder.path().join("all.toml");
    let sizes = "sizes = { input_size = 8, patch = 2, in_channels = 4, hidden = 8, depth = 3, heads = 2, num_classes = 10";
    for (model_section, expected) in [
        ("heads = 2".to_string(), "4"),
        (format!("{sizes} }}"), "4"),
        (format!("{sizes}, mlp_ratio = 2.5 }}"), "2.5"),
    ] {
        // A model whose last MLP has ratio 3 as well.
        let text = all.replace("heads = 2", &model_section);
        fs::write(&recipe, text.replacen("ratio = 3", "ratio = 4", 1)).unwrap();
        assert_eq!(ratio(&recipe, &model), expected);
    }
}
