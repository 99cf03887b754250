use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::Args;

use super::component::{Component, kind_of};
use super::encode_text::encode_text;
use super::reading::Reading;
use crate::checkpoint::{Checkpoint, Dtype, Precision, TensorSource, ensure_absent, write_safetensors};
use crate::error::{Error, Result};
use crate::model::{DitConfig, load};
use crate::run::with_checkpoint;

#[derive(Args)]
pub struct ForwardArguments {
    /// A file, a folder, hf://ORG/REPO/FILE, or "embedded"
    model: String,
    /// A safetensors file with what the model takes
    #[arg(long)]
    inputs: PathBuf,
    /// The safetensors file to write
    #[arg(long)]
    output: PathBuf,
    #[command(flatten)]
    reading: Reading,
}

pub fn forward(arguments: &ForwardArguments) -> Result<()> {
    ensure_absent(&arguments.output)?;
    let folder = Path::new(&arguments.model);
    match kind_of(folder)? {
        Component::TextEncoder => encode_text(folder, &arguments.inputs, &arguments.output),
        Component::Transformer => transformer(arguments),
    }
}

fn transformer(arguments: &ForwardArguments) -> Result<()> {
    with_checkpoint(&arguments.model, |file| {
        let architecture = arguments.reading.architecture(file)?;
        let inputs = Inputs::read(&arguments.inputs, &architecture.dit)?;
        let model = load(file, &architecture, &Device::flex())?;
        let out = model.predict(&inputs.x, &inputs.t, &inputs.y);
        let dit = &architecture.dit;
        let shape = vec![inputs.t.len(), dit.out_channels(), dit.input_size, dit.input_size];
        let source = TensorSource::new("out".into(), shape, || Ok(out.clone()));
        write_safetensors(&arguments.output, &[source], Precision::F32, &Default::default())
    })
}

/// What a model is run on.
struct Inputs {
    x: Vec<f32>,
    t: Vec<f32>,
    y: Vec<usize>,
}

impl Inputs {
    fn read(path: &Path, dit: &DitConfig) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let shape = |name: &str| {
            file.entry(name).map(|e| (e.dtype, e.shape.clone())).ok_or_else(|| {
                Error::invalid(path, format!("has no tensor {name}; expected x [N,C,H,W], t [N] and y [N]"))
            })
        };
        let ((_, x), (t_type, t), (_, y)) = (shape("x")?, shape("t")?, shape("y")?);
        let expected = [dit.in_channels, dit.input_size, dit.input_size];
        if x.len() != 4 || x[1..] != expected || t != [x[0]] || y != [x[0]] {
            return Err(Error::invalid(
                path,
                format!(
                    "holds x {x:?}, t {t:?} and y {y:?}; this model takes x [N, {}, {}, {}], t [N] and y [N]",
                    expected[0], expected[1], expected[2]
                ),
            ));
        }
        let rows = dit.num_classes + usize::from(dit.null_class);
        let label = |y: i64| {
            usize::try_from(y).ok().filter(|&y| y < rows).ok_or_else(|| {
                Error::invalid(
                    path,
                    format!("y holds label {y}, but the model's table has rows 0 to {}", rows - 1),
                )
            })
        };
        let t = if t_type == Dtype::F32 {
            file.read_f32("t")?
        } else {
            file.read_i64("t")?.into_iter().map(|t| t as f32).collect()
        };
        Ok(Self {
            x: file.read_f32("x")?,
            t,
            y: file.read_i64("y")?.into_iter().map(label).collect::<Result<_>>()?,
        })
    }
}
