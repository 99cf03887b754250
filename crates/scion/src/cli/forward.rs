mod autoencoder;

use std::path::{Path, PathBuf};

use burn::Tensor;
use burn::tensor::{Device, TensorData};
use clap::Args;

use super::component::{Component, kind_of};
use super::encode_text::encode_text;
use super::reading::Reading;
use crate::checkpoint::{Checkpoint, Dtype, Precision, TensorSource, ensure_absent, write_safetensors};
use crate::error::{Error, Result};
use crate::model::{Architecture, Conditions, Text, TextConfig, load};
use crate::run::with_checkpoint;

#[derive(Args)]
pub struct ForwardArguments {
    /// A file, a folder, hf://ORG/REPO/FILE, "embedded" or "embedded-emoji"
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
    let model = Path::new(&arguments.model);
    match kind_of(model)? {
        Component::Transformer => transformer(arguments),
        Component::TextEncoder => encode_text(model, &arguments.inputs, &arguments.output),
        Component::Autoencoder => autoencoder::forward(model, &arguments.inputs, &arguments.output),
    }
}

fn transformer(arguments: &ForwardArguments) -> Result<()> {
    with_checkpoint(&arguments.model, |file| {
        let architecture = arguments.reading.architecture(file)?;
        let device = Device::flex();
        let inputs = Inputs::read(&arguments.inputs, &architecture, &device)?;
        let model = load(file, &architecture, &device)?;
        let out = match inputs.conditions {
            Read::Labels(labels) => model.forward(inputs.x, &inputs.t, &labels),
            Read::Text(text) => model.forward(inputs.x, &inputs.t, text),
        };
        let shape = out.dims().to_vec();
        let out: Vec<f32> = out.into_data().try_into_vec().expect("the model computes in f32");
        let source = TensorSource::new("out".into(), shape, || Ok(out.clone()));
        write_safetensors(&arguments.output, &[source], Precision::F32, &Default::default())
    })
}

/// What a model is run on.
struct Inputs {
    x: Tensor<4>,
    t: Vec<f32>,
    conditions: Read,
}

#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
enum Read {
    Labels(Vec<usize>),
    Text(Text),
}

impl Inputs {
    fn read(path: &Path, architecture: &Architecture, device: &Device) -> Result<Self> {
        let (sizes, file) = (&architecture.dit, InputFile { path, file: Checkpoint::open(path)? });
        let [x, t] = [file.shape("x")?, file.shape("t")?];
        let side = sizes.input_size;
        let any_size = sizes.text().is_some();
        let fits = matches!(x[..], [n, channels, height, width] if channels == sizes.in_channels
            && (any_size || [height, width] == [side; 2]) && t == [n]);
        if !fits {
            let size = if any_size { "H, W".into() } else { format!("{side}, {side}") };
            return Err(file.invalid(format!(
                "holds x {x:?} and t {t:?}; this model takes x [N, {}, {size}] and t [N]",
                sizes.in_channels
            )));
        }
        architecture.check_size(x[2], x[3])?;
        let conditions = match &sizes.conditions {
            Conditions::Classes { count, null } => {
                Read::Labels(file.labels(x[0], count + usize::from(*null))?)
            }
            Conditions::Text(text) => Read::Text(file.text(x[0], text, device)?),
        };
        let x = Tensor::from_data(TensorData::new(file.file.read_f32("x")?, x), device);
        Ok(Self { x, t: file.numbers("t")?, conditions })
    }
}

struct InputFile<'a> {
    path: &'a Path,
    file: Checkpoint,
}

impl InputFile<'_> {
    fn invalid(&self, detail: String) -> Error {
        Error::invalid(self.path, detail)
    }

    fn shape(&self, name: &str) -> Result<Vec<usize>> {
        self.file.entry(name).map(|entry| entry.shape.clone()).ok_or_else(|| {
            self.invalid(format!(
                "has no tensor {name}; expected x [N,C,H,W] and t [N], with y [N] for a class-conditional model, text [N,L,D] \
                 and mask [N,L] for a text-to-image model"
            ))
        })
    }

    /// Numbers of any type.
    fn numbers(&self, name: &str) -> Result<Vec<f32>> {
        match self.file.entry(name).map(|entry| entry.dtype) {
            Some(Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16) => self.file.read_f32(name),
            _ => Ok(self.file.read_i64(name)?.into_iter().map(|value| value as f32).collect()),
        }
    }

    fn labels(&self, count: usize, rows: usize) -> Result<Vec<usize>> {
        let y = self.shape("y")?;
        if y != [count] {
            return Err(self.invalid(format!("holds {count} images and y {y:?}; expected y [N]")));
        }
        let label = |y: i64| {
            usize::try_from(y).ok().filter(|&y| y < rows).ok_or_else(|| {
                self.invalid(format!("y holds label {y}, but the model's table has rows 0 to {}", rows - 1))
            })
        };
        self.file.read_i64("y")?.into_iter().map(label).collect()
    }

    fn text(&self, count: usize, config: &TextConfig, device: &Device) -> Result<Text> {
        let [text, mask] = [self.shape("text")?, self.shape("mask")?];
        match text[..] {
            [n, len, width] if n == count && len > 0 && width == config.width && mask == [n, len] => {
                let tokens = self.file.read_f32("text")?;
                Ok(Text::new(tokens, self.numbers("mask")?, [n, len, width], device))
            }
            _ => Err(self.invalid(format!(
                "holds {count} images, text {text:?} and mask {mask:?}; this model takes text [N, L, {}] and mask [N, L]",
                config.width
            ))),
        }
    }
}
