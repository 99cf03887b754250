//! Images from prompts: a pipeline folder, the sizes it draws, and latents from encoded prompts.

mod bins;
mod folder;

use std::ops::Range;
use std::sync::Arc;

pub use bins::{binned, resize_and_crop};
pub use folder::PipelineFolder;

use crate::config::SampleConfig;
use crate::diffusion::{GuidanceChannels, Step};
use crate::download::sha256;
use crate::error::{Error, Result};
use crate::model::{Architecture, Dit, NULL_PROMPT, Prompts, fingerprint};
use crate::run::{Template, draw};

/// A text-to-image model, the prompts that it reads and the size of the latents that it draws.
#[derive(Debug)]
pub struct Painter {
    model: Dit,
    architecture: Architecture,
    size: [usize; 2],
    prompts: usize,
}

/// Where latents begin.
#[derive(Clone, Copy, Debug)]
pub enum Noise<'a> {
    /// Noise of a seed: that of an image depends on the seed and its number alone.
    Seed(u64),
    /// This noise of the images that are drawn, [N, C, H, W].
    Given(&'a [f32]),
}

impl Painter {
    /// A painter of latents of a height and width, of these prompts; guidance moves away from the null prompt.
    ///
    /// # Errors
    /// Those of [`Painter::check`], and when the model cannot read the prompts.
    pub fn new(model: Dit, architecture: Architecture, size: [usize; 2], prompts: Prompts) -> Result<Self> {
        Self::check(&architecture, size)?;
        prompts.check(&architecture.dit)?;
        let count = prompts.len();
        Ok(Self { model: model.with_prompts(Arc::new(prompts)), architecture, size, prompts: count })
    }

    /// Whether a model can paint latents of a height and width.
    ///
    /// # Errors
    /// When the model is not conditioned on text, or does not run on that size.
    pub fn check(architecture: &Architecture, size: [usize; 2]) -> Result<()> {
        if architecture.dit.text().is_none() {
            return Err(Error::Usage(
                "this model is conditioned on classes and reads no prompts; draw from it with scion sample"
                    .into(),
            ));
        }
        architecture.check_size(size[0], size[1])
    }

    /// Number of prompts.
    pub fn prompts(&self) -> usize {
        self.prompts
    }

    /// The shape of a latent, [C, H, W].
    pub fn shape(&self) -> [usize; 3] {
        [self.architecture.dit.in_channels, self.size[0], self.size[1]]
    }

    /// SHA-256 of the model's architecture and weights.
    pub fn fingerprint(&self) -> String {
        let architecture = serde_json::to_string(&self.architecture).expect("architectures are plain data");
        sha256(format!("{architecture}{}", fingerprint(&self.model)).as_bytes())
    }

    /// Draws the latents [N, C, H, W] of the images with these numbers. Each prompt has `config.count` images, numbered one
    /// behind the other; an image depends on the noise and its number alone. `on_step` hears when a batch has done a step.
    ///
    /// # Errors
    /// When there are no images of these numbers, the noise has another size, or the sampler cannot take the asked number of
    /// steps.
    pub fn latents(
        &self,
        numbers: Range<usize>,
        config: &SampleConfig,
        noise: Noise,
        mut on_step: impl FnMut(),
    ) -> Result<Vec<f32>> {
        let all = self.prompts * config.count;
        if numbers.end > all {
            return Err(Error::Usage(format!(
                "image {} does not exist: {} prompts with {} images each have {all}",
                numbers.end - 1,
                self.prompts,
                config.count
            )));
        }
        let first = numbers.start as u64;
        let labels: Vec<usize> = numbers.map(|number| number / config.count).collect();
        let shape = self.shape();
        let (seed, given) = match noise {
            Noise::Seed(seed) => (seed, None),
            Noise::Given(values) => (0, Some(values)),
        };
        let len = labels.len() * shape.iter().product::<usize>();
        if let Some(values) = given.filter(|values| values.len() != len) {
            return Err(Error::Usage(format!(
                "the given noise holds {} values; {} latents of {shape:?} have {len}",
                values.len(),
                labels.len()
            )));
        }
        let template =
            Template { shape, null: Some(NULL_PROMPT), guided: GuidanceChannels::All, noise: given };
        let predict =
            |x: &[f32], t: &[f32], labels: &[usize]| self.model.predict_sized(x, self.size, t, labels);
        let seen = |_: Step<'_>| {
            on_step();
            Ok(())
        };
        draw(predict, template, config, seed, &labels, first, |_| {}, seen)
    }
}
