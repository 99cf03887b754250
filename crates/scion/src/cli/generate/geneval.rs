use std::path::Path;

use serde_json::{Value, json};

use super::super::claim::claim;
use super::GenerateArguments;
use super::output::Decoder;
use crate::config::{PrecisionConfig, SampleConfig};
use crate::data::Raster;
use crate::data::image_io::save_png;
use crate::error::Result;
use crate::generate::{Noise, Painter};
use crate::geneval::{Layout, Prompt};
use crate::latent::fingerprint;
use crate::run::Progress;

/// Beside the images: what decided them.
pub const SETTINGS: &str = "generate.json";
/// Images of each prompt in the published protocol.
pub const IMAGES: usize = 4;

/// Images that shall lie in a folder as GenEval has them.
pub struct Gallery<'a> {
    pub painter: &'a Painter,
    pub decoder: &'a Decoder,
    pub sampling: &'a SampleConfig,
    pub seed: u64,
    pub precision: PrecisionConfig,
}

impl Gallery<'_> {
    /// Everything that decides an image besides its prompt and number, given the fingerprint of the text encoder and the
    /// folder of the autoencoder.
    ///
    /// # Errors
    /// When the autoencoder cannot be read.
    pub fn settings(&self, arguments: &GenerateArguments, encoder: &str, vae: &Path) -> Result<Value> {
        let (size, sampling) = (&self.decoder.size, self.sampling);
        Ok(json!({
            "model": arguments.model.display().to_string(),
            "transformer-sha256": self.painter.fingerprint(),
            "text-encoder-sha256": encoder,
            "vae-sha256": fingerprint(vae)?,
            "count": sampling.count,
            "negative": arguments.negative,
            "plain": arguments.plain,
            "size": size.wanted,
            "drawn-size": size.drawn,
            "seed": self.seed,
            "sampler": sampling.sampler,
            "steps": sampling.steps,
            "cfg": sampling.cfg,
            "precision": self.precision,
        }))
    }

    /// Draws the images that the folder lacks, those that [`Painter::latents`] numbers, and writes each when it is decoded, so
    /// that the same call goes on where one was interrupted.
    ///
    /// # Errors
    /// When the folder holds something else, images of other settings or of other prompts, or cannot be written.
    pub fn fill(&self, out: &Path, prompts: Vec<Prompt>, settings: &Value, quiet: bool) -> Result<()> {
        claim(out, SETTINGS, settings, "images")?;
        let (each, batch, steps) = (self.sampling.count, self.sampling.batch, self.sampling.steps);
        let images = prompts.len() * each;
        let layout = Layout::create(out, prompts, each)?;
        let mut missing = vec![false; images];
        layout.missing().into_iter().for_each(|(prompt, image)| missing[prompt * each + image] = true);
        // Whole batches, so that an image has the same neighbours again, to the last bit.
        let (begun, done): (Vec<usize>, Vec<usize>) = (0..images)
            .step_by(batch)
            .partition(|&start| missing[start..images.min(start + batch)].contains(&true));
        let mut count = (done.len() * steps) as u64;
        let total = ((begun.len() + done.len()) * steps) as u64;
        let mut progress = Progress::new("generate", total, count, quiet);
        write_grids(&layout)?;
        for start in begun {
            let numbers = start..images.min(start + batch);
            let latents =
                self.painter.latents(numbers.clone(), self.sampling, Noise::Seed(self.seed), || {
                    count += 1;
                    progress.set(count, "");
                })?;
            let len = latents.len() / numbers.len();
            for (number, latent) in numbers.zip(latents.chunks_exact(len)).filter(|(n, _)| missing[*n]) {
                let pixels = self.decoder.pixels(latent)?;
                let picture = Raster::from_planes(&pixels, self.decoder.shape());
                save_png(&layout.sample_path(number / each, number % each), &picture)?;
            }
            write_grids(&layout)?;
        }
        Ok(())
    }
}

/// Writes the sheets of prompts that are complete.
fn write_grids(layout: &Layout) -> Result<()> {
    layout.without_grid().into_iter().try_for_each(|prompt| layout.write_grid(prompt))
}
