use std::io::Write;
use std::path::PathBuf;

use burn::tensor::Device;
use clap::{Args, ValueEnum};

use super::reading::Reading;
use crate::checkpoint::{Checkpoint, Precision, ensure_absent};
use crate::config::Recipe;
use crate::error::{Error, Result};
use crate::model::{
    Architecture, Dit, load, original_layout_tells, save_diffusers, save_original, save_scion_as,
};
use crate::run::{with_checkpoint, with_stored_operators};

#[derive(Args)]
pub struct ConvertArguments {
    /// A file, a folder, hf://ORG/REPO/FILE, "embedded" or "embedded-emoji"
    input: String,
    /// The new file, or folder for diffusers
    output: PathBuf,
    /// The layout to write; in the original one, a name ending in .pt gives a PyTorch file
    #[arg(long, value_enum)]
    layout: LayoutChoice,
    /// Element type to write
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    #[command(flatten)]
    reading: Reading,
    /// Names of files with operators that were trained apart and are put into INPUT, one name for each [[graft]] entry of
    /// --recipe, with {block} for the block's index
    #[arg(long, value_name = "FILE", requires = "recipe")]
    operators: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LayoutChoice {
    /// The original code's: DiT's, or PixArt's for a PixArt
    #[value(name = "dit", aliases = ["original", "pixart"])]
    Original,
    /// A folder as diffusers writes it
    Diffusers,
    /// Scion's one file, with the architecture in its header
    Scion,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    F16,
    Bf16,
}

pub fn convert(arguments: &ConvertArguments) -> Result<()> {
    ensure_absent(&arguments.output)?;
    let pytorch = arguments.output.extension().is_some_and(|e| e == "pt" || e == "pth");
    if pytorch && arguments.layout != LayoutChoice::Original {
        return Err(Error::Usage(format!(
            "{}: only --layout dit makes PyTorch files; give the output another name",
            arguments.output.display()
        )));
    }
    let precision = match arguments.dtype {
        Dtype::F32 => Precision::F32,
        Dtype::F16 => Precision::F16,
        Dtype::Bf16 => Precision::BF16,
    };
    with_checkpoint(&arguments.input, |file| {
        let (model, architecture) = read(arguments, file)?;
        if !architecture.pairs.is_empty() && arguments.layout != LayoutChoice::Scion {
            return Err(Error::Usage(format!(
                "{}: only Scion's own layout has a place for blocks that run side by side; use --layout scion",
                arguments.input
            )));
        }
        let grafted = !architecture.grafts.is_empty();
        if grafted && arguments.layout == LayoutChoice::Diffusers {
            return Err(Error::Usage(
                "diffusers has no layout for grafted models or compressed keys and values; use --layout scion".into(),
            ));
        }
        if arguments.layout == LayoutChoice::Original && !original_layout_tells(&architecture) {
            tracing::warn!(
                "the original layout has no place for the architecture: keep the recipe of these grafts"
            );
        }
        let output = &arguments.output;
        match arguments.layout {
            LayoutChoice::Scion => save_scion_as(&model, &architecture, precision, output)?,
            LayoutChoice::Original => save_original(&model, &architecture.dit, precision, output)?,
            LayoutChoice::Diffusers => save_diffusers(&model, &architecture.dit, precision, output)?,
        }
        say!("wrote {}", output.display());
        Ok(())
    })
}

/// The model to write.
fn read(arguments: &ConvertArguments, file: &Checkpoint) -> Result<(Dit, Architecture)> {
    let (reading, device) = (&arguments.reading, Device::flex());
    match &reading.recipe {
        Some(path) if !arguments.operators.is_empty() => {
            let mut recipe = Recipe::read(path)?;
            recipe.model.heads = reading.heads.or(recipe.model.heads);
            with_stored_operators(file, &recipe, &arguments.operators, &device)
        }
        _ => {
            let architecture = reading.architecture(file)?;
            Ok((load(file, &architecture, &device)?, architecture))
        }
    }
}
