use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use scion_kernels::{PackedWeights, keep_awake};

use super::Canvas;
use crate::atomic;
use crate::config::SampleConfig;
use crate::data::Piece;
use crate::diffusion::{Guidance, GuidanceChannels, NoiseStream, Sampling, Step, sample_loop};
use crate::error::{Error, Result};
use crate::model::{Dit, DitConfig};

/// Draws one image a label, as values around [-1, 1], [N, C, H, W].
///
/// Image `i` of the result depends on the seed and on `first + i` alone, not on the batch size. `on_images`
/// hears how many images each finished batch adds.
///
/// # Errors
/// When the sampler cannot take the asked number of steps, or the model cannot be guided.
pub fn sample_images(
    model: &Dit,
    sizes: &DitConfig,
    config: &SampleConfig,
    seed: u64,
    labels: &[usize],
    first: u64,
    on_images: impl FnMut(usize),
) -> Result<Vec<f32>> {
    let predict = |x: &[f32], t: &[f32], y: &[usize]| model.predict(x, t, y);
    draw(predict, sizes.into(), config, seed, labels, first, on_images, |_| Ok(()))
}

/// The first images of [`sample_images`] on their way: what they are after every step, from noise to images, in the bytes
/// that `canvas` makes of them, [step][N, C, H, W].
///
/// # Errors
/// As [`sample_images`].
pub fn sample_film(
    model: &Dit,
    sizes: &DitConfig,
    config: &SampleConfig,
    seed: u64,
    labels: &[usize],
    canvas: &Canvas,
) -> Result<Vec<Vec<u8>>> {
    let mut frames: Vec<Vec<u8>> = Vec::new();
    let mut start = None;
    let predict = |x: &[f32], t: &[f32], y: &[usize]| model.predict(x, t, y);
    let on_step = |step: Step<'_>| {
        let frame = *start.get_or_insert(step.index) - step.index;
        frames.resize(frames.len().max(frame + 1), Vec::new());
        frames[frame].extend(canvas.bytes(step.x)?);
        Ok(())
    };
    draw(predict, sizes.into(), config, seed, labels, 0, |_| {}, on_step)?;
    Ok(frames)
}

/// What is drawn: images of one shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Template<'a> {
    /// [C, H, W]
    pub shape: [usize; 3],
    /// The label that guidance asks the model for beside an image's own.
    pub null: Option<usize>,
    /// Channels that guidance moves, unless the sampling settings say.
    pub guided: GuidanceChannels,
    /// x_T of all images, where it is not drawn from the seed.
    pub noise: Option<&'a [f32]>,
}

impl From<&DitConfig> for Template<'_> {
    fn from(sizes: &DitConfig) -> Self {
        let shape = [sizes.in_channels, sizes.input_size, sizes.input_size];
        let guided = match sizes.text() {
            Some(_) => GuidanceChannels::All,
            None => GuidanceChannels::FirstThree,
        };
        Self { shape, null: sizes.null_label(), guided, noise: None }
    }
}

/// [`sample_images`] of a model given as its `predict`, which sees a batch's images, and behind them the same again with the
/// null class where there is guidance; `on_step` sees every step of every batch.
#[allow(clippy::too_many_arguments)]
pub(crate) fn draw(
    mut predict: impl FnMut(&[f32], &[f32], &[usize]) -> Vec<f32>,
    template: Template,
    config: &SampleConfig,
    seed: u64,
    labels: &[usize],
    first: u64,
    mut on_images: impl FnMut(usize),
    mut on_step: impl FnMut(Step<'_>) -> Result<()>,
) -> Result<Vec<f32>> {
    if config.cfg != 1.0 && template.null.is_none() {
        return Err(Error::Usage(format!(
            "guidance of scale {} needs a null class, which this model was not trained with; use a scale of 1",
            config.cfg
        )));
    }
    let (schedule, sampler) = config.schedule()?;
    let weights = PackedWeights::default();
    let sampling = Sampling { sampler, clip_denoised: false };
    let len: usize = template.shape.iter().product();
    let mut images = Vec::with_capacity(labels.len() * len);
    for (batch, labels) in labels.chunks(config.batch).enumerate() {
        let start = first + (batch * config.batch) as u64;
        let mut streams: Vec<NoiseStream> =
            (0..labels.len()).map(|i| NoiseStream::new(seed, start + i as u64)).collect();
        let mut x_t = vec![0f32; labels.len() * len];
        match template.noise {
            Some(noise) => x_t.copy_from_slice(&noise[batch * config.batch * len..][..labels.len() * len]),
            None => {
                let images = x_t.chunks_exact_mut(len).zip(&mut streams);
                images.for_each(|(x, stream)| stream.fill_normal(x));
            }
        }
        let [channels, height, width] = template.shape;
        let shape = [labels.len(), channels, height, width];
        let noise = |image: usize, z: &mut [f32]| streams[image].fill_normal(z);
        let predict = |x: &[f32], t: usize| guided(&mut predict, template, config, x, t, labels, shape);
        let drawn = || sample_loop(&schedule, sampling, shape, x_t, noise, predict, &mut on_step);
        images.extend(keep_awake(|| weights.scope(drawn))?);
        on_images(labels.len());
    }
    Ok(images)
}

/// Most images of a part, and values above which it has fewer: parts of large images are noted on disk sooner.
const PART: usize = 256;
const PART_VALUES: usize = 1 << 18;

/// Images in parts on disk.
#[derive(Debug)]
pub struct Parts(Vec<PathBuf>);

impl Parts {
    /// The bytes of all images, [N, C, H, W].
    ///
    /// # Errors
    /// `Io` when a part cannot be read.
    pub fn read(&self) -> Result<Vec<u8>> {
        Ok(self.0.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?.concat())
    }

    /// What reads the bytes of each part in turn.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        self.0.iter().map(|path| -> Piece { Box::new(move || read(path)) })
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| Error::io("read", path, e))
}

/// As [`sample_images`] in the bytes that `canvas` makes of them, kept in `folder` part by part: called again after an
/// interruption, it goes on where it stopped. The caller removes the folder once the images are where they belong.
///
/// # Errors
/// Those of [`sample_images`], and `Io` when the folder cannot be read or written.
#[allow(clippy::too_many_arguments)]
pub fn sample_in_parts(
    model: &Dit,
    sizes: &DitConfig,
    config: &SampleConfig,
    seed: u64,
    labels: &[usize],
    first: u64,
    canvas: &Canvas,
    folder: &Path,
    mut on_images: impl FnMut(usize),
) -> Result<Parts> {
    fs::create_dir_all(folder).map_err(|e| Error::io("create the folder", folder, e))?;
    let part = PART.min(PART_VALUES / sizes.image_len()).max(1);
    let mut parts = Vec::new();
    for (number, labels) in labels.chunks(part).enumerate() {
        let done = number * part;
        let path = folder.join(format!("{done:06}.u8"));
        let whole = (labels.len() * canvas.image_bytes()) as u64;
        if fs::metadata(&path).is_ok_and(|found| found.len() == whole) {
            on_images(labels.len());
        } else {
            let first = first + done as u64;
            let drawn = sample_images(model, sizes, config, seed, labels, first, &mut on_images)?;
            atomic::write(&path, &canvas.bytes(&drawn)?)?;
        }
        parts.push(path);
    }
    Ok(Parts(parts))
}

/// Removes what [`sample_in_parts`] kept.
///
/// # Errors
/// `Io` when it is there and cannot be removed.
pub fn remove_parts(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", folder, e)),
        _ => Ok(()),
    }
}

/// The model's output at one timestep, guided where the scale asks for it.
fn guided(
    predict: &mut impl FnMut(&[f32], &[f32], &[usize]) -> Vec<f32>,
    template: Template,
    config: &SampleConfig,
    x: &[f32],
    t: usize,
    labels: &[usize],
    shape: [usize; 4],
) -> Result<Vec<f32>> {
    let Some(null) = template.null.filter(|_| config.cfg != 1.0) else {
        return Ok(predict(x, &vec![t as f32; labels.len()], labels));
    };
    let doubled = [x, x].concat();
    let null = vec![null; labels.len()];
    let both = predict(&doubled, &vec![t as f32; 2 * labels.len()], &[labels, &null].concat());
    let (conditional, unconditional) = both.split_at(both.len() / 2);
    let channels = config.guidance.unwrap_or(template.guided);
    Guidance { scale: config.cfg as f32, channels }.combine(conditional, unconditional, shape)
}
