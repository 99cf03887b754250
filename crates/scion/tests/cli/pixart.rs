//! Text-to-image models from the command line: what files hold, conversion, and one forward pass.

use std::fs;
use std::path::{Path, PathBuf};

use super::{assert_names, fixture, printed, read_tensor, refused, scion};

fn close(found: &[f32], expected: &[f32]) -> bool {
    let top = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-5 * top)
}

/// What `scion forward` makes of a case's inputs.
fn forward(model: &Path, case: &str, folder: &Path) -> Vec<f32> {
    let output = folder.join("out.safetensors");
    let _ = fs::remove_file(&output);
    let mut command = scion("forward");
    command.arg(model).arg("--inputs").arg(fixture(case).join("inputs.safetensors"));
    printed(command.arg("--output").arg(&output));
    read_tensor(&output, "out")
}

fn expected(case: &str) -> Vec<f32> {
    read_tensor(&fixture(case).join("expected.safetensors"), "out")
}

#[test]
fn every_layout_is_inspected_and_run() {
    let folder = tempfile::tempdir().unwrap();
    let source = fixture("pixart/square/transformer");
    let convert = |from: &Path, name: &str, layout: &str| -> PathBuf {
        let to = folder.path().join(name);
        printed(scion("convert").arg(from).arg(&to).args(["--layout", layout]));
        to
    };
    let one = convert(&source, "one.safetensors", "scion");
    let again = convert(&one, "again", "diffusers");
    let original = convert(&one, "original.pth", "pixart");
    for model in [&source, &one, &again] {
        assert!(close(&forward(model, "pixart/square", folder.path()), &expected("pixart/square")));
        let text = printed(scion("inspect").arg(model));
        assert_names(
            &text,
            &["PixArt, width 16", "2 heads", "prompts of 300 tokens of width 12", "positions over 2"],
        );
    }
    let text = printed(scion("inspect").arg(&original).arg("--tensors"));
    assert_names(
        &text,
        &["PixArt", "blocks.1.cross_attn.kv_linear.weight", "t_block.1.bias", "give --heads"],
    );
    let sizes = printed(scion("inspect").arg(fixture("pixart/sizes/model.pth")).args(["--heads", "3"]));
    assert_names(&sizes, &["prompts of 9 tokens of width 12 and image sizes"]);
    // Sides other than the model's own, and a sharded folder.
    assert!(close(&forward(&fixture("pixart/wide"), "pixart/wide", folder.path()), &expected("pixart/wide")));
}

#[test]
fn files_with_compressed_keys_tell_so() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("kv-compression/model.pth");
    let run = |model: &Path, case: &str, heads: &[&str]| {
        let output = folder.path().join("out.safetensors");
        let _ = fs::remove_file(&output);
        let mut command = scion("forward");
        command.arg(model).args(heads).arg("--inputs").arg(fixture(case).join("inputs.safetensors"));
        command.arg("--output").arg(&output);
        command
    };
    let out = || read_tensor(&folder.path().join("out.safetensors"), "out");
    let heads = ["--heads", "3"];
    let one = folder.path().join("one.safetensors");
    let convert = |to: &Path, layout: &str| {
        let mut command = scion("convert");
        command.arg(&model).arg(to).args(["--layout", layout]).args(heads);
        command
    };
    printed(&mut convert(&one, "scion"));
    for case in ["kv-compression/square", "kv-compression/wide"] {
        printed(&mut run(&model, case, &heads));
        assert!(close(&out(), &expected(case)), "{case}");
        printed(&mut run(&one, case, &[]));
        assert!(close(&out(), &expected(case)), "{case}, in Scion's layout");
    }
    let blocks = ["block 0 attention: kv-compression 2×2", "block 2 attention: kv-compression 2×2"];
    assert_names(&printed(scion("inspect").arg(&model).args(heads)), &blocks);
    assert_names(&printed(scion("inspect").arg(&one)), &blocks);
    // Of 5 × 2 tokens.
    let message = refused(&mut run(&one, "pixart/masked", &[]), 2);
    assert_names(&message, &["inputs of 10×4", "attention of block 0", "multiples of 2, found 5×2"]);
    let message = refused(&mut convert(&folder.path().join("diffusers"), "diffusers"), 2);
    assert_names(&message, &["diffusers", "compressed keys and values", "--layout scion"]);
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.safetensors");
    let run = |model: &str, inputs: &str| {
        let mut command = scion("forward");
        command.arg(fixture(model)).arg("--inputs").arg(fixture(inputs)).arg("--output").arg(&output);
        refused(&mut command, 1)
    };
    let message = run("pixart/square/transformer", "dit/tiny/inputs.safetensors");
    assert_names(&message, &["has no tensor text", "mask [N,L] for a text-to-image model"]);
    let message = run("pixart/square/transformer", "dit/odd/inputs.safetensors");
    assert_names(&message, &["this model takes x [N, 4, H, W]"]);
    let mut command = scion("sample");
    let message = refused(
        command.arg(fixture("pixart/square/transformer")).arg("--out").arg(folder.path().join("x.npz")),
        2,
    );
    assert_names(&message, &["text-to-image model", "scion generate"]);
}

#[test]
fn published_models_are_planned_for_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("recipe.toml");
    fs::write(
        &recipe,
        "[model]\npreset = \"pixart-sigma-2048\"\n[[graft]]\ntarget = \"attention\"\n\
         blocks = [8, 10, 12, 14, 16, 18, 20, 21, 22, 23, 24, 25, 26, 27]\noperator = { kind = \"hyena-x\" }\n",
    )
    .unwrap();
    let text = printed(scion("plan").arg(&recipe));
    assert_names(&text, &["16384 tokens an image", "parameters: 610856096 → "]);
    let unknown = fs::read_to_string(&recipe).unwrap().replace("sigma-2048", "sigma-4096");
    fs::write(&recipe, unknown).unwrap();
    assert_names(&refused(scion("plan").arg(&recipe), 2), &["pixart-sigma-4096", "pixart-sigma-1024"]);
}
