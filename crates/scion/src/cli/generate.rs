use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::{Args, ValueEnum};

use super::precision::PrecisionChoice;
use super::{Common, set_precision};
use crate::checkpoint::{Checkpoint, Precision, TensorSource, ensure_absent, write_safetensors};
use crate::config::{SampleConfig, SamplerConfig};
use crate::data::image_io::{GridOptions, grid, save_folder, save_png};
use crate::data::{ImageShape, from_unit};
use crate::diffusion::GuidanceChannels;
use crate::error::{Error, Result};
use crate::generate::{Noise, Painter, PipelineFolder, binned, resize_and_crop};
use crate::latent::Autoencoder;
use crate::model::{Prompts, architecture_of, load};
use crate::run::{Progress, with_checkpoint};
use crate::text::{Caption, Embedding, EmbeddingCache, PromptEncoder, Weights};

#[derive(Args)]
pub struct GenerateArguments {
    /// A pipeline's folder as diffusers writes it, with transformer, text_encoder, tokenizer, vae and scheduler
    model: PathBuf,
    /// The prompt
    #[arg(required_unless_present = "prompts", conflicts_with = "prompts")]
    prompt: Option<String>,
    /// A text file with one prompt a line
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// What images are guided away from
    #[arg(long, default_value = "")]
    negative: String,
    /// A picture (.png), of several images a grid with a row a prompt; a folder of pictures; or latents (.safetensors)
    #[arg(long)]
    out: PathBuf,
    /// Images of each prompt
    #[arg(long, default_value_t = 1)]
    count: usize,
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
    /// Images a batch; never changes an image
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
    ensure_absent(&arguments.out)?;
    let form = form(&arguments.out)?;
    let config = config(arguments)?;
    let folder = PipelineFolder::open(&arguments.model)?;
    let prompts = read_prompts(arguments)?;
    set_precision(arguments.precision.config());
    // What fails fast comes first; the text encoder, the largest part, is gone before the transformer is read.
    let vae = match form {
        Form::Latents => None,
        Form::Picture | Form::Folder => {
            Some(Autoencoder::open(&folder.component("vae")?, scion_kernels::precision())?)
        }
    };
    let transformer = match &arguments.transformer {
        Some(name) => name.clone(),
        None => folder.component("transformer")?.to_string_lossy().into_owned(),
    };
    with_checkpoint(&transformer, |file| {
        let architecture = architecture_of(file, None)?;
        let factor = vae.as_ref().map_or(FACTOR, |vae| vae.config().factor());
        let size = Size::of(arguments, architecture.dit.input_size, factor)?;
        Painter::check(&architecture, size.latent)?;
        let prompts = encoded(arguments, &folder, &prompts)?;
        let painter = Painter::new(load(file, &architecture, &Device::flex())?, architecture, size.latent)?;
        let latents = draw(arguments, common, &painter, prompts, &config)?;
        let shape = painter.shape();
        match vae {
            None => write_latents(&arguments.out, latents, shape),
            Some(vae) => write_pictures(arguments, common, &vae, &latents, shape, &size),
        }
    })?;
    say!("wrote {}", arguments.out.display());
    Ok(())
}

/// Pixels that a latent's value stands for along a side, where no autoencoder tells.
const FACTOR: usize = 8;

/// What `--out` asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Picture,
    Folder,
    Latents,
}

fn form(out: &Path) -> Result<Form> {
    match out.extension().and_then(|e| e.to_str()).map(str::to_lowercase).as_deref() {
        Some("png") => Ok(Form::Picture),
        Some("safetensors") => Ok(Form::Latents),
        None => Ok(Form::Folder),
        Some(other) => {
            Err(Error::Usage(format!("--out ends in .{other}; expected .png, .safetensors or a folder")))
        }
    }
}

fn config(arguments: &GenerateArguments) -> Result<SampleConfig> {
    if arguments.count == 0 || arguments.batch == 0 || !arguments.cfg.is_finite() {
        return Err(Error::Usage("--count and --batch must be at least 1, --cfg finite".into()));
    }
    let config = SampleConfig {
        sampler: match arguments.sampler {
            SamplerChoice::Ddpm => SamplerConfig::Ddpm,
            SamplerChoice::Ddim => SamplerConfig::Ddim,
            SamplerChoice::DpmSolverPlusPlus => SamplerConfig::DpmSolverPlusPlus,
        },
        steps: arguments.steps,
        cfg: arguments.cfg,
        guidance: GuidanceChannels::All,
        count: arguments.count,
        batch: arguments.batch,
    };
    config.schedule()?;
    Ok(config)
}

fn read_prompts(arguments: &GenerateArguments) -> Result<Vec<String>> {
    let Some(path) = &arguments.prompts else { return Ok(arguments.prompt.iter().cloned().collect()) };
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let lines: Vec<String> =
        text.lines().filter(|line| !line.trim().is_empty()).map(str::to_string).collect();
    if lines.is_empty() {
        return Err(Error::invalid(path, "holds no prompt; expected one a line"));
    }
    Ok(lines)
}

/// Sizes in pixels and in a latent's values, each height and width.
struct Size {
    wanted: [usize; 2],
    drawn: [usize; 2],
    latent: [usize; 2],
}

impl Size {
    fn of(arguments: &GenerateArguments, input_size: usize, factor: usize) -> Result<Self> {
        let side = input_size * factor;
        let wanted = [arguments.height.unwrap_or(side), arguments.width.unwrap_or(side)];
        if wanted.contains(&0) {
            return Err(Error::Usage("--height and --width must be at least 1".into()));
        }
        let nearest = if arguments.exact_size { None } else { binned(side, wanted) };
        let drawn = nearest.unwrap_or(wanted);
        if let Some(odd) = drawn.iter().find(|side| !side.is_multiple_of(factor)) {
            return Err(Error::Usage(format!(
                "sides of {odd} pixels cannot be drawn: expected multiples of {factor}"
            )));
        }
        Ok(Self { wanted, drawn, latent: drawn.map(|side| side / factor) })
    }
}

/// The prompts, and the negative one for guidance, as the text encoder makes them.
fn encoded(arguments: &GenerateArguments, folder: &PipelineFolder, prompts: &[String]) -> Result<Prompts> {
    let caption = if arguments.plain { Caption::Lower } else { Caption::Clean };
    let encoder = PromptEncoder::open(&arguments.model, Weights::Streamed, caption)?
        .with_max_tokens(folder.prompt_tokens());
    let texts: Vec<&str> = prompts.iter().chain([&arguments.negative]).map(String::as_str).collect();
    let mut found = EmbeddingCache::open(&encoder, None, Precision::F32)?.fetch(&texts)?;
    let Embedding { values: null, width } = found.pop().expect("there is one embedding a text");
    Prompts::new(width, found.into_iter().map(|embedding| embedding.values).collect(), null)
}

fn draw(
    arguments: &GenerateArguments,
    common: &Common,
    painter: &Painter,
    prompts: Prompts,
    config: &SampleConfig,
) -> Result<Vec<f32>> {
    let given = arguments.noise.as_deref().map(|path| noise(path, painter.shape())).transpose()?;
    let noise = match &given {
        Some(values) => Noise::Given(values),
        None => Noise::Seed(common.seed.unwrap_or(0)),
    };
    let batches = (prompts.len() * arguments.count).div_ceil(config.batch);
    let mut progress = Progress::new("generate", (batches * config.steps) as u64, 0, common.quiet);
    let mut done = 0;
    painter.latents(prompts, arguments.count, config, noise, || {
        done += 1;
        progress.set(done, "");
    })
}

/// The tensor in files of noise and of latents.
const LATENTS: &str = "latents";

fn noise(path: &Path, [channels, height, width]: [usize; 3]) -> Result<Vec<f32>> {
    let file = Checkpoint::open(path)?;
    let shape = file.entry(LATENTS).map(|entry| entry.shape.clone()).unwrap_or_default();
    match shape[..] {
        [_, c, h, w] if [c, h, w] == [channels, height, width] => file.read_f32(LATENTS),
        _ => Err(Error::invalid(
            path,
            format!("holds {LATENTS} {shape:?}; expected {LATENTS} [N, {channels}, {height}, {width}]"),
        )),
    }
}

fn write_latents(out: &Path, latents: Vec<f32>, shape: [usize; 3]) -> Result<()> {
    let count = latents.len() / shape.iter().product::<usize>();
    let shape = [vec![count], shape.to_vec()].concat();
    let source = TensorSource::new(LATENTS.into(), shape, || Ok(latents.clone()));
    write_safetensors(out, &[source], Precision::F32, &Default::default())
}

fn write_pictures(
    arguments: &GenerateArguments,
    common: &Common,
    vae: &Autoencoder,
    latents: &[f32],
    shape: [usize; 3],
    size: &Size,
) -> Result<()> {
    let len: usize = shape.iter().product();
    let mut progress = Progress::new("decode", (latents.len() / len) as u64, 0, common.quiet);
    let mut pixels = Vec::new();
    for (number, latent) in latents.chunks_exact(len).enumerate() {
        let image = vae.decode_scaled(latent, size.latent)?;
        pixels.extend(from_unit(&resize_and_crop(&image, size.drawn, size.wanted)));
        progress.set(number as u64 + 1, "");
    }
    let [height, width] = size.wanted;
    let shape = ImageShape { channels: vae.config().out_channels, height, width };
    match form(&arguments.out)? {
        Form::Folder => save_folder(&arguments.out, &pixels, shape, 0),
        // One a row is what a prompt has; a single image is its own grid.
        _ if latents.len() == len => {
            save_png(&arguments.out, &crate::data::Raster::from_planes(&pixels, shape))
        }
        _ => save_png(&arguments.out, &grid(&pixels, shape, &GridOptions::new(arguments.count))?),
    }
}
