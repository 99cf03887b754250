use crate::config::{SampleConfig, SamplerConfig};
use crate::diffusion::{Guidance, NoiseStream, Respacing, Sampler, Sampling, Schedule, sample_loop};
use crate::error::Result;
use crate::model::{Dit, DitConfig};

/// Draws one image a label, as values around [-1, 1], [N, C, H, W].
///
/// Image `i` of the result depends on the seed and on `first + i` alone, not on the batch size. `on_images`
/// hears how many images each finished batch adds.
///
/// # Errors
/// When the sampler cannot take the asked number of steps.
pub fn sample_images(
    model: &Dit,
    sizes: &DitConfig,
    config: &SampleConfig,
    seed: u64,
    labels: &[usize],
    first: u64,
    mut on_images: impl FnMut(usize),
) -> Result<Vec<f32>> {
    let full = Schedule::linear();
    let (schedule, sampler) = match config.sampler {
        SamplerConfig::Ddim => (full.ddim(config.steps)?, Sampler::Ddim { eta: 0.0 }),
        SamplerConfig::Ddpm => (full.respaced(&Respacing::Stride(config.steps))?, Sampler::Ddpm),
    };
    let sampling = Sampling { sampler, clip_denoised: false };
    let mut images = Vec::with_capacity(labels.len() * sizes.image_len());
    for (batch, labels) in labels.chunks(config.batch).enumerate() {
        let start = first + (batch * config.batch) as u64;
        let mut streams: Vec<NoiseStream> =
            (0..labels.len()).map(|i| NoiseStream::new(seed, start + i as u64)).collect();
        let mut x_t = vec![0f32; labels.len() * sizes.image_len()];
        x_t.chunks_exact_mut(sizes.image_len())
            .zip(&mut streams)
            .for_each(|(x, stream)| stream.fill_normal(x));
        let shape = [labels.len(), sizes.in_channels, sizes.input_size, sizes.input_size];
        let noise = |image: usize, z: &mut [f32]| streams[image].fill_normal(z);
        let predict = |x: &[f32], t: usize| guided(model, sizes, config, x, t, labels, shape);
        images.extend(sample_loop(&schedule, sampling, shape, x_t, noise, predict, |_| Ok(()))?);
        on_images(labels.len());
    }
    Ok(images)
}

/// The model's output at one timestep, guided where the scale asks for it.
fn guided(
    model: &Dit,
    sizes: &DitConfig,
    config: &SampleConfig,
    x: &[f32],
    t: usize,
    labels: &[usize],
    shape: [usize; 4],
) -> Result<Vec<f32>> {
    if config.cfg == 1.0 {
        return Ok(model.predict(x, &vec![t as f32; labels.len()], labels));
    }
    let doubled = [x, x].concat();
    let null = vec![sizes.num_classes; labels.len()];
    let both = model.predict(&doubled, &vec![t as f32; 2 * labels.len()], &[labels, &null].concat());
    let (conditional, unconditional) = both.split_at(both.len() / 2);
    Guidance { scale: config.cfg as f32, channels: config.guidance }.combine(
        conditional,
        unconditional,
        shape,
    )
}
