use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::{Args, ValueEnum};
use serde_json::Value;

use super::claim::{MAX_COUNT, claim, ensure_writable, settled_precision};
use super::precision::PrecisionChoice;
use super::reading::Reading;
use super::{Common, set_precision};
use crate::config::{PrecisionConfig, SampleConfig, SamplerConfig};
use crate::data::image_io::{GridOptions, grid, save_animation, save_folder, save_png};
use crate::data::samples::{SETTINGS, labels_in_turn, write_samples};
use crate::data::{DrawnLatents, ImageShape, Piece};
use crate::diffusion::GuidanceChannels;
use crate::error::{Error, Result};
use crate::latent::fingerprint as autoencoder_fingerprint;
use crate::model::{Architecture, Dit, DitConfig, fingerprint, load};
use crate::run::{
    Canvas, Progress, remove_parts, sample_film, sample_images, sample_in_parts, with_checkpoint,
};

#[derive(Args)]
pub struct SampleArguments {
    /// A file, a folder, hf://ORG/REPO/FILE, or "embedded"; several are drawn from the same noise side by side, a column each
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,
    /// A grid (.png), an array file (.npz), a folder of images, or latents (.safetensors)
    #[arg(long)]
    out: PathBuf,
    /// The folder of the autoencoder that decodes a latent model's samples
    #[arg(long)]
    vae: Option<PathBuf>,
    /// Also the first 50 images on their way from noise, as an animated PNG
    #[arg(long)]
    film: Option<PathBuf>,
    /// Number of images
    #[arg(long, default_value_t = 50)]
    count: usize,
    /// Draw this class only
    #[arg(long, conflicts_with = "classes")]
    class: Option<usize>,
    /// Draw these classes in turn; all by default
    #[arg(long, value_delimiter = ',')]
    classes: Vec<usize>,
    /// Scale of classifier-free guidance; 1 is none
    #[arg(long, default_value_t = 1.5)]
    cfg: f64,
    /// Guide all noise channels instead of the first three
    #[arg(long)]
    cfg_all: bool,
    /// Model calls an image
    #[arg(long, default_value_t = 25)]
    steps: usize,
    /// How noise is removed
    #[arg(long, value_enum, default_value_t = SamplerChoice::Ddim)]
    sampler: SamplerChoice,
    /// Images a batch; never changes an image
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Operand precision of products
    #[arg(long, value_enum, default_value_t = PrecisionChoice::F32)]
    precision: PrecisionChoice,
    #[command(flatten)]
    reading: Reading,
}

#[derive(Clone, Copy, ValueEnum)]
enum SamplerChoice {
    Ddpm,
    Ddim,
    #[value(name = "dpm-solver++")]
    DpmSolverPlusPlus,
}

/// Images drawn between two writes of a folder, so that an interrupted run goes on where it stopped.
const CHUNK: usize = 256;

pub fn sample(arguments: &SampleArguments, common: &Common) -> Result<()> {
    let form = arguments.out.extension().and_then(|e| e.to_str()).map(str::to_lowercase);
    check(arguments, form.as_deref())?;
    let places = [arguments.out.as_path(), &parts_folder(&arguments.out)];
    let precision = settled_precision(arguments.precision.config(), &places, SETTINGS);
    set_precision(precision);
    let seed = common.seed.unwrap_or(0);
    let [model] = &arguments.models[..] else { return side_by_side(arguments, seed, common.quiet) };
    opened(arguments, model, |model, architecture, classes, canvas| {
        let settings = settings(arguments, precision, &model, architecture, &classes, seed)?;
        let drawing = Drawing {
            model,
            sizes: &architecture.dit,
            sampling: config(arguments),
            seed,
            labels: labels_in_turn(&classes, arguments.count),
            canvas,
            settings,
            quiet: common.quiet,
        };
        match form.as_deref() {
            None => drawing.to_folder(&arguments.out)?,
            Some(form) => drawing.to_file(&arguments.out, form, classes.len())?,
        }
        arguments.film.as_ref().map_or(Ok(()), |film| drawing.film(film, classes.len()))
    })
}

/// Loads a model and hands it over with the classes to draw and what becomes of its images.
fn opened<T>(
    arguments: &SampleArguments,
    name: &str,
    then: impl FnOnce(Dit, &Architecture, Vec<usize>, Canvas) -> Result<T>,
) -> Result<T> {
    with_checkpoint(name, |file| {
        let architecture = arguments.reading.architecture(file)?;
        let sizes = &architecture.dit;
        let classes = classes(arguments, sizes)?;
        let canvas = Canvas::of(sizes, arguments.vae.as_deref())?;
        let kept = arguments.out.extension().is_some_and(|form| form.eq_ignore_ascii_case("safetensors"));
        if kept != matches!(canvas, Canvas::Latents(_)) {
            return Err(Error::Usage(match kept {
                true => format!("{} is for latents, but this call draws pictures", arguments.out.display()),
                false => format!(
                    "this model makes latents of {} channels; give the folder of their autoencoder with --vae, or keep \
                     them as they are with --out NAME.safetensors",
                    sizes.in_channels
                ),
            }));
        }
        then(load(file, &architecture, &Device::flex())?, &architecture, classes, canvas)
    })
}

fn sizes(arguments: &SampleArguments, name: &str) -> Result<DitConfig> {
    with_checkpoint(name, |file| Ok(arguments.reading.architecture(file)?.dit))
}

/// A sheet with a row for every image and a column for every model, each row from the same noise.
fn side_by_side(arguments: &SampleArguments, seed: u64, quiet: bool) -> Result<()> {
    let (models, count) = (&arguments.models, arguments.count);
    let drawn = |name: &String| {
        let sizes = sizes(arguments, name)?;
        Ok([sizes.in_channels, sizes.input_size, sizes.classes()?])
    };
    let sizes = models.iter().map(drawn).collect::<Result<Vec<_>>>()?;
    if let Some((model, other)) = models.iter().zip(&sizes).find(|(_, other)| **other != sizes[0]) {
        let told = |[channels, side, classes]: &[usize; 3]| {
            format!("{channels}×{side}×{side} images of {classes} classes")
        };
        return Err(Error::Usage(format!(
            "{} draws {}, {model} {}; side by side they must be alike",
            models[0],
            told(&sizes[0]),
            told(other)
        )));
    }
    let mut progress = Progress::new("sample", (models.len() * count) as u64, 0, quiet);
    let (mut columns, mut drawn): (Vec<(ImageShape, Vec<u8>)>, u64) = (Vec::new(), 0);
    for name in models {
        columns.push(opened(arguments, name, |model, architecture, classes, canvas| {
            let (sampling, labels) = (config(arguments), labels_in_turn(&classes, count));
            let on_images = |images: usize| {
                drawn += images as u64;
                progress.set(drawn, "");
            };
            let images = sample_images(&model, &architecture.dit, &sampling, seed, &labels, 0, on_images)?;
            Ok((canvas.shape(), canvas.bytes(&images)?))
        })?);
    }
    let shape = columns[0].0;
    let image = |column: &[u8], i: usize| column[i * shape.len()..(i + 1) * shape.len()].to_vec();
    let rows = (0..count).flat_map(|i| columns.iter().flat_map(move |(_, column)| image(column, i)));
    let options = GridOptions::to_look_at(models.len(), shape);
    save_png(&arguments.out, &grid(&rows.collect::<Vec<u8>>(), shape, &options)?)?;
    say!("columns: {}", models.join(", "));
    Ok(())
}

/// All bytes as one piece.
fn whole(bytes: &[u8]) -> Piece<'_> {
    Box::new(|| Ok(bytes.to_vec()))
}

/// Images of a film.
const FILMED: usize = 50;

/// Classes that stand in a column each; where there are more, ten images make a row.
const CLASS_COLUMNS: usize = 16;

/// How a sheet of images whose classes come in turn is laid out: a column a class where they are few.
fn layout(classes: usize, count: usize, shape: ImageShape) -> GridOptions {
    let columns = if (2..=CLASS_COLUMNS).contains(&classes) { classes } else { 10 };
    GridOptions::to_look_at(count.min(columns), shape)
}

/// Images to be drawn.
struct Drawing<'a> {
    model: Dit,
    sizes: &'a DitConfig,
    sampling: SampleConfig,
    seed: u64,
    labels: Vec<usize>,
    canvas: Canvas,
    settings: Value,
    quiet: bool,
}

impl Drawing<'_> {
    /// Draws into a folder, going on behind the images that it holds.
    fn to_folder(&self, out: &Path) -> Result<()> {
        claim(out, SETTINGS, &self.settings, "images")?;
        let done = already_there(out, self.labels.len());
        let mut progress = Progress::new("sample", self.labels.len() as u64, done as u64, self.quiet);
        for start in (done..self.labels.len()).step_by(CHUNK) {
            let labels = &self.labels[start..self.labels.len().min(start + CHUNK)];
            let mut drawn = start as u64;
            let on_images = |count: usize| {
                drawn += count as u64;
                progress.set(drawn, "");
            };
            let (model, sizes, sampling) = (&self.model, self.sizes, &self.sampling);
            let images = sample_images(model, sizes, sampling, self.seed, labels, start as u64, on_images)?;
            save_folder(out, &self.canvas.bytes(&images)?, self.canvas.shape(), start)?;
        }
        Ok(())
    }

    /// Draws into one file. What an interrupted call had got to lies in a folder beside it.
    fn to_file(&self, out: &Path, form: &str, classes: usize) -> Result<()> {
        let parts = parts_folder(out);
        let mut progress = Progress::new("sample", self.labels.len() as u64, 0, self.quiet);
        let mut drawn = 0;
        let on_images = |count: usize| {
            drawn += count as u64;
            progress.set(drawn, "");
        };
        let Self { model, sizes, sampling, seed, labels, canvas, .. } = self;
        let in_parts = labels.len() > CHUNK;
        let pixels = if in_parts {
            claim(&parts, SETTINGS, &self.settings, "images")?;
            sample_in_parts(model, sizes, sampling, *seed, labels, 0, canvas, &parts, on_images)?.read()?
        } else {
            canvas.bytes(&sample_images(model, sizes, sampling, *seed, labels, 0, on_images)?)?
        };
        let shape = canvas.shape();
        match form {
            "png" => save_png(out, &grid(&pixels, shape, &layout(classes, labels.len(), shape))?)?,
            "npz" => write_samples(out, &pixels, shape, Some(labels))?,
            _ => DrawnLatents::write(out, [whole(&pixels)], shape, labels)?,
        }
        if in_parts { remove_parts(&parts) } else { Ok(()) }
    }

    /// Draws the first images again and keeps what they are after every step.
    fn film(&self, out: &Path, classes: usize) -> Result<()> {
        let labels = &self.labels[..self.labels.len().min(FILMED)];
        let frames = sample_film(&self.model, self.sizes, &self.sampling, self.seed, labels, &self.canvas)?;
        let shape = self.canvas.shape();
        let sheet = |pixels: &Vec<u8>| grid(pixels, shape, &layout(classes, labels.len(), shape));
        save_animation(out, &frames.iter().map(sheet).collect::<Result<Vec<_>>>()?)
    }
}

/// Refuses before any work what would fail after it.
fn check(arguments: &SampleArguments, form: Option<&str>) -> Result<()> {
    if let Some(other) = form.filter(|form| !["png", "npz", "safetensors"].contains(form)) {
        return Err(Error::Usage(format!(
            "--out ends in .{other}; expected .png, .npz, .safetensors or a folder"
        )));
    }
    if form == Some("safetensors") && arguments.film.is_some() {
        return Err(Error::Usage("--film shows pictures, and --out NAME.safetensors keeps latents".into()));
    }
    if arguments.count > MAX_COUNT || arguments.batch == 0 || arguments.batch > MAX_COUNT {
        return Err(Error::Usage(format!(
            "--count {} and --batch {}: expected at most {MAX_COUNT} images, and a batch of at least 1",
            arguments.count, arguments.batch
        )));
    }
    if arguments.count == 0 || arguments.steps == 0 || !arguments.cfg.is_finite() {
        return Err(Error::Usage(format!(
            "--count {}, --steps {} and --cfg {}: expected at least one image, one step and a finite scale",
            arguments.count, arguments.steps, arguments.cfg
        )));
    }
    if let Some(film) = &arguments.film {
        if film.extension().is_none_or(|form| !form.eq_ignore_ascii_case("png")) {
            return Err(Error::Usage(format!("--film {}: expected a .png file", film.display())));
        }
        if *film == arguments.out {
            return Err(Error::Usage("--film and --out name the same file".into()));
        }
        ensure_writable(film)?;
    }
    if arguments.models.len() > 1 && (form != Some("png") || arguments.film.is_some()) {
        return Err(Error::Usage(
            "several models make one sheet: expected --out X.png, and no --film".into(),
        ));
    }
    if form.is_some() { ensure_writable(&arguments.out) } else { Ok(()) }
}

fn config(arguments: &SampleArguments) -> SampleConfig {
    SampleConfig {
        sampler: match arguments.sampler {
            SamplerChoice::Ddpm => SamplerConfig::Ddpm,
            SamplerChoice::Ddim => SamplerConfig::Ddim,
            SamplerChoice::DpmSolverPlusPlus => SamplerConfig::DpmSolverPlusPlus,
        },
        steps: arguments.steps,
        cfg: arguments.cfg,
        guidance: Some(if arguments.cfg_all { GuidanceChannels::All } else { GuidanceChannels::FirstThree }),
        count: arguments.count,
        batch: arguments.batch,
    }
}

/// The classes that are drawn in turn.
fn classes(arguments: &SampleArguments, sizes: &DitConfig) -> Result<Vec<usize>> {
    let count = sizes.classes()?;
    let classes = match (arguments.class, &arguments.classes[..]) {
        (Some(class), _) => vec![class],
        (None, []) => (0..count).collect(),
        (None, chosen) => chosen.to_vec(),
    };
    if let Some(far) = classes.iter().find(|&&c| c >= count) {
        return Err(Error::Usage(format!(
            "class {far} does not exist: the model has classes 0 to {}",
            count - 1
        )));
    }
    Ok(classes)
}

/// Where the images of an unfinished file are kept.
fn parts_folder(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!("{name}.parts"))
}

/// Everything that decides an image besides its number.
///
/// # Errors
/// When the autoencoder cannot be read.
fn settings(
    arguments: &SampleArguments,
    precision: PrecisionConfig,
    model: &Dit,
    architecture: &Architecture,
    classes: &[usize],
    seed: u64,
) -> Result<Value> {
    let sampling = config(arguments);
    let mut settings = serde_json::json!({
        "model": arguments.models[0],
        "weights-sha256": fingerprint(model),
        "heads": architecture.dit.heads,
        "seed": seed,
        "classes": classes,
        "sampler": sampling.sampler,
        "steps": sampling.steps,
        "cfg": sampling.cfg,
        "guidance": sampling.guidance,
        "precision": precision,
    });
    // A Scion file tells its grafts; of any other the weights do not tell all of them, such as a window's reach.
    if arguments.reading.recipe.is_some() {
        settings["grafts"] = serde_json::json!(architecture.grafts);
    }
    if let Some(vae) = &arguments.vae {
        settings["vae-sha256"] = autoencoder_fingerprint(vae)?.into();
    }
    Ok(settings)
}

/// How many images from the first on a folder holds already, in whole chunks.
fn already_there(folder: &Path, count: usize) -> usize {
    let present = (0..count).take_while(|i| folder.join(format!("{i:06}.png")).exists()).count();
    if present == count { count } else { present / CHUNK * CHUNK }
}
