mod geneval;
mod output;
mod prompts;
mod size;

use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::{Args, ValueEnum};

use super::claim::{MAX_COUNT, ensure_ours, ensure_writable, settled_precision};
use super::precision::PrecisionChoice;
use super::{Common, set_precision};
use crate::checkpoint::ensure_absent;
use crate::config::{SampleConfig, SamplerConfig};
use crate::data::image_io::save_folder;
use crate::diffusion::GuidanceChannels;
use crate::error::{Error, Result};
use crate::generate::{Noise, Painter, PipelineFolder};
use crate::latent::Autoencoder;
use crate::model::{architecture_of, load};
use crate::run::{EMBEDDED_EMOJI, Progress, with_checkpoint};
use geneval::Gallery;
use output::{Decoder, Form, read_noise, write_latents, write_picture};
use prompts::{encoded, read_prompts};
use size::Size;

#[derive(Args)]
pub struct GenerateArguments {
    /// A pipeline's folder as diffusers writes it, with transformer, text_encoder, tokenizer, vae and scheduler; or
    /// "embedded-emoji", a small model that knows captions of emoji
    model: PathBuf,
    /// The prompt
    #[arg(required_unless_present_any = ["prompts", "geneval"], conflicts_with_all = ["prompts", "geneval"])]
    prompt: Option<String>,
    /// A text file with one prompt a line
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// GenEval's prompts, as "scion geneval prompts" writes them (.jsonl), or "embedded"; --out is a folder that is filled
    /// as GenEval has it, and gone on with where it lacks images
    #[arg(long, value_name = "PROMPTS", conflicts_with_all = ["prompts", "noise"])]
    geneval: Option<String>,
    /// What images are guided away from
    #[arg(long, default_value = "")]
    negative: String,
    /// A picture (.png), of several images a grid with a row a prompt; a folder of pictures; or latents (.safetensors)
    #[arg(long)]
    out: PathBuf,
    /// Images of each prompt; 1 by default, with --geneval 4
    #[arg(long)]
    count: Option<usize>,
    /// Height in pixels; the model's own by default
    #[arg(long)]
    height: Option<usize>,
    /// Width in pixels; the model's own by default
    #[arg(long)]
    width: Option<usize>,
    /// Draw the size as it is, instead of the nearest one that the model was trained on
    #[arg(long)]
    exact_size: bool,
    /// Scale of classifier-free guidance; 1 is none
    #[arg(long, default_value_t = 4.5)]
    cfg: f64,
    /// Model calls an image
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// How noise is removed
    #[arg(long, value_enum, default_value_t = SamplerChoice::DpmSolverPlusPlus)]
    sampler: SamplerChoice,
    /// Images a batch; changes an image by rounding at the most
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Another transformer than the folder's, such as a grafted one: a file or folder
    #[arg(long)]
    transformer: Option<String>,
    /// A safetensors file with the noise to begin from, latents [N,C,h,w], instead of the seed's
    #[arg(long)]
    noise: Option<PathBuf>,
    /// Leave prompts as they are but for the case, instead of cleaning them of addresses, markup and the like
    #[arg(long)]
    plain: bool,
    /// Operand precision of products
    #[arg(long, value_enum, default_value_t = PrecisionChoice::Auto)]
    precision: PrecisionChoice,
}

#[derive(Clone, Copy, ValueEnum)]
enum SamplerChoice {
    Ddpm,
    Ddim,
    #[value(name = "dpm-solver++")]
    DpmSolverPlusPlus,
}

pub fn generate(arguments: &GenerateArguments, common: &Common) -> Result<()> {
    let form = form(arguments)?;
    let config = config(arguments)?;
    let folder = opened(arguments)?;
    let (texts, conditions) = read_prompts(arguments)?;
    let (asked, out) = (arguments.precision.config(), arguments.out.as_path());
    let precision = match conditions {
        Some(_) => settled_precision(asked, &[out], geneval::SETTINGS),
        None => asked.resolved(),
    };
    set_precision(precision);
    // What fails fast comes first; the text encoder, the largest part, is gone before the transformer is read.
    let vae = match (&folder, form) {
        (None, _) | (_, Form::Latents) => None,
        (Some(folder), _) => Some(Autoencoder::open(&folder.component("vae")?, scion_kernels::precision())?),
    };
    let transformer = match (&arguments.transformer, &folder) {
        (Some(name), _) => name.clone(),
        (None, Some(folder)) => folder.component("transformer")?.to_string_lossy().into_owned(),
        (None, None) => EMBEDDED_EMOJI.into(),
    };
    with_checkpoint(&transformer, |file| {
        let architecture = architecture_of(file, None)?;
        let factor = match (&folder, &vae) {
            (None, _) => 1,
            (_, None) => FACTOR,
            (_, Some(vae)) => vae.config().factor(),
        };
        let sides = [arguments.height, arguments.width];
        let size = Size::of(sides, arguments.exact_size, architecture.dit.input_size, factor)?;
        Painter::check(&architecture, size.latent)?;
        let (prompts, encoder) =
            encoded(arguments, folder.as_ref(), &texts, &architecture.dit, common.quiet)?;
        let model = load(file, &architecture, &Device::flex())?;
        let painter = Painter::new(model, architecture, size.latent, prompts)?;
        let shape = painter.shape();
        let decoder = Decoder { vae, channels: shape[0], size };
        let (Some(prompts), Some(folder)) = (conditions, &folder) else {
            return draw(arguments, common, &painter, &config, &decoder, form);
        };
        let seed = common.seed.unwrap_or(0);
        let gallery = Gallery { painter: &painter, decoder: &decoder, sampling: &config, seed, precision };
        let settings = gallery.settings(arguments, &encoder, &folder.component("vae")?)?;
        gallery.fill(out, prompts, &settings, common.quiet)
    })?;
    say!("wrote {}", out.display());
    Ok(())
}

/// The pipeline's folder; none of the embedded model.
fn opened(arguments: &GenerateArguments) -> Result<Option<PipelineFolder>> {
    if arguments.model != Path::new(EMBEDDED_EMOJI) {
        return PipelineFolder::open(&arguments.model).map(Some);
    }
    if arguments.geneval.is_some() || !arguments.negative.is_empty() {
        return Err(Error::Usage(format!(
            "{EMBEDDED_EMOJI} has no text encoder: it knows the captions of its emoji, not --geneval's prompts or --negative"
        )));
    }
    Ok(None)
}

/// Pixels that a latent's value stands for along a side, where no autoencoder tells.
const FACTOR: usize = 8;

/// What is to be written, where it can be.
fn form(arguments: &GenerateArguments) -> Result<Form> {
    let out = &arguments.out;
    if arguments.geneval.is_none() {
        let form = Form::of(out)?;
        if form == Form::Folder {
            ensure_absent(out)?
        } else {
            ensure_writable(out)?
        }
        return Ok(form);
    }
    if let Some(end) = out.extension() {
        let end = end.to_string_lossy();
        return Err(Error::Usage(format!("--out ends in .{end}; --geneval fills a folder")));
    }
    ensure_ours(out, geneval::SETTINGS)?;
    Ok(Form::Folder)
}

fn config(arguments: &GenerateArguments) -> Result<SampleConfig> {
    let usual = if arguments.geneval.is_some() { geneval::IMAGES } else { 1 };
    let count = arguments.count.unwrap_or(usual);
    if !(1..=MAX_COUNT).contains(&count) || !(1..=MAX_COUNT).contains(&arguments.batch) {
        return Err(Error::Usage(format!(
            "--count {count} and --batch {}: expected at least 1 and at most {MAX_COUNT}",
            arguments.batch
        )));
    }
    if !arguments.cfg.is_finite() {
        return Err(Error::Usage(format!("--cfg {}: expected a finite scale", arguments.cfg)));
    }
    let config = SampleConfig {
        sampler: match arguments.sampler {
            SamplerChoice::Ddpm => SamplerConfig::Ddpm,
            SamplerChoice::Ddim => SamplerConfig::Ddim,
            SamplerChoice::DpmSolverPlusPlus => SamplerConfig::DpmSolverPlusPlus,
        },
        steps: arguments.steps,
        cfg: arguments.cfg,
        guidance: Some(GuidanceChannels::All),
        count,
        batch: arguments.batch,
    };
    config.schedule()?;
    Ok(config)
}

/// Draws all images, batch by batch; those of a folder are written when they are drawn.
fn draw(
    arguments: &GenerateArguments,
    common: &Common,
    painter: &Painter,
    config: &SampleConfig,
    decoder: &Decoder,
    form: Form,
) -> Result<()> {
    let (out, latent) = (&arguments.out, painter.shape());
    let given = arguments.noise.as_deref().map(|path| read_noise(path, latent)).transpose()?;
    let (images, len) = (painter.prompts() * config.count, latent.iter().product::<usize>());
    if let Some(found) = given.as_ref().map(|values| values.len() / len).filter(|&found| found != images) {
        return Err(Error::Usage(format!("--noise holds that of {found} images; expected {images}")));
    }
    let steps = images.div_ceil(config.batch) * config.steps;
    let mut progress = Progress::new("generate", steps as u64, 0, common.quiet);
    let (mut done, mut latents, mut pixels) = (0, Vec::new(), Vec::new());
    for start in (0..images).step_by(config.batch) {
        let numbers = start..images.min(start + config.batch);
        let noise = match &given {
            Some(values) => Noise::Given(&values[numbers.start * len..numbers.end * len]),
            None => Noise::Seed(common.seed.unwrap_or(0)),
        };
        let drawn = painter.latents(numbers, config, noise, || {
            done += 1;
            progress.set(done, "");
        })?;
        if form == Form::Latents {
            latents.extend(drawn);
            continue;
        }
        for latent in drawn.chunks_exact(len) {
            pixels.extend(decoder.pixels(latent)?);
        }
        if form == Form::Folder {
            save_folder(out, &std::mem::take(&mut pixels), decoder.shape(), start)?;
        }
    }
    match form {
        Form::Latents => write_latents(out, latents, latent),
        Form::Picture => write_picture(out, &pixels, decoder.shape(), config.count),
        Form::Folder => Ok(()),
    }
}
