//! Images from prompts: a pipeline folder, the sizes it draws, and latents from encoded prompts.

mod bins;
mod folder;

use std::sync::Arc;

pub use bins::{binned, resize_and_crop};
pub use folder::PipelineFolder;

use crate::config::SampleConfig;
use crate::diffusion::Step;
use crate::error::{Error, Result};
use crate::model::{Architecture, Dit, NULL_PROMPT, Prompts};
use crate::run::{Template, draw};

/// A text-to-image model and the size of the latents that it draws.
#[derive(Debug)]
pub struct Painter {
    model: Dit,
    architecture: Architecture,
    size: [usize; 2],
}

/// Where latents begin.
#[derive(Clone, Copy, Debug)]
pub enum Noise<'a> {
    /// Noise of a seed: that of an image depends on the seed and its number alone.
    Seed(u64),
    /// This noise, [N, C, H, W].
    Given(&'a [f32]),
}

impl Painter {
    /// A painter of latents of a height and width.
    ///
    /// # Errors
    /// Those of [`Painter::check`].
    pub fn new(model: Dit, architecture: Architecture, size: [usize; 2]) -> Result<Self> {
        Self::check(&architecture, size)?;
        Ok(Self { model, architecture, size })
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

    /// The shape of a latent, [C, H, W].
    pub fn shape(&self) -> [usize; 3] {
        [self.architecture.dit.in_channels, self.size[0], self.size[1]]
    }

    /// Draws latents [N, C, H, W], `each` of every prompt; guidance moves away from the null prompt. `on_step` hears when a batch
    /// has done a step.
    ///
    /// # Errors
    /// When the model cannot read the prompts, the noise has another size, or the sampler cannot take the asked number of
    /// steps.
    pub fn latents(
        &self,
        prompts: Prompts,
        each: usize,
        config: &SampleConfig,
        noise: Noise,
        mut on_step: impl FnMut(),
    ) -> Result<Vec<f32>> {
        prompts.check(&self.architecture.dit)?;
        let labels: Vec<usize> = (0..prompts.len() * each).map(|image| image / each).collect();
        let model = self.model.clone().with_prompts(Arc::new(prompts));
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
        let template = Template { shape, null: Some(NULL_PROMPT), noise: given };
        let predict = |x: &[f32], t: &[f32], labels: &[usize]| model.predict_sized(x, self.size, t, labels);
        let seen = |_: Step<'_>| {
            on_step();
            Ok(())
        };
        draw(predict, template, config, seed, &labels, 0, |_| {}, seen)
    }
}
