use std::io::Write;
use std::path::Path;

use clap::Args;

use super::reading::Reading;
use crate::error::Result;
use crate::model::{Architecture, Conditions};
use crate::run::with_checkpoint;

#[derive(Args)]
pub struct InspectArguments {
    /// A file, a folder, hf://ORG/REPO/FILE, "embedded" or "embedded-emoji"
    model: String,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    #[command(flatten)]
    reading: Reading,
}

pub fn inspect(arguments: &InspectArguments) -> Result<()> {
    with_checkpoint(&arguments.model, |file| {
        say!("file:       {}", Path::new(&arguments.model).display());
        say!("layout:     {:?}", file.layout());
        say!("source:     {:?}", file.source().format);
        let count: usize = file.names().filter_map(|n| file.entry(n)).map(|e| e.numel()).sum();
        say!("tensors:    {} with {count} elements", file.names().count());
        match arguments.reading.architecture(file) {
            Ok(architecture) => describe(&architecture)?,
            Err(error) if arguments.reading.recipe.is_some() => return Err(error),
            Err(error) => say!("model:      not recognised ({error})"),
        }
        if arguments.tensors {
            for name in file.names() {
                let entry = file.entry(name).expect("listed names have entries");
                say!("  {name}  {:?} {:?}", entry.dtype, entry.shape);
            }
        }
        Ok(())
    })
}

fn describe(architecture: &Architecture) -> Result<()> {
    let dit = &architecture.dit;
    let (family, conditions) = match &dit.conditions {
        Conditions::Classes { count, .. } => ("DiT", format!("{count} classes")),
        Conditions::Text(text) => {
            let sizes = if text.size_conditions { " and image sizes" } else { "" };
            let prompts = format!("prompts of {} tokens of width {}{sizes}", text.tokens, text.width);
            ("PixArt", format!("{prompts}, positions over {}", text.interpolation))
        }
    };
    say!(
        "model:      {family}, width {}, {} blocks, {} heads, MLP ×{}, patch {} of {}×{}×{} ({} tokens), {conditions}",
        dit.hidden,
        dit.depth,
        dit.heads,
        dit.mlp_ratio,
        dit.patch,
        dit.in_channels,
        dit.input_size,
        dit.input_size,
        dit.tokens()
    );
    say!("parameters: {} (position table not counted)", architecture.parameters());
    say!("FLOPs:      {} an image", architecture.flops());
    if architecture.grafts.is_empty() {
        say!("grafts:     none");
    }
    for graft in &architecture.grafts {
        say!("graft:      block {} {}: {}", graft.block, graft.slot.name(), graft.operator.name());
    }
    for [first, second] in &architecture.pairs {
        say!("pair:       blocks {first} and {second} run side by side");
    }
    Ok(())
}
