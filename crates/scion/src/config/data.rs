//! How a teacher draws the images that its copy learns from.

use super::{DataConfig, DataSource, Recipe, SampleConfig};

/// Images that a teacher draws unless the recipe says how many.
const TEACHER_IMAGES: usize = 10_000;

/// More images are a slip of the keyboard.
const MAX_DRAWN: usize = 1 << 24;

impl DataConfig {
    /// How the teacher's images are drawn, for the source that draws them.
    pub fn drawn(&self, sample: &SampleConfig) -> SampleConfig {
        SampleConfig {
            count: self.count.unwrap_or(TEACHER_IMAGES),
            steps: self.steps.unwrap_or(sample.steps),
            // Guided images are less varied than what the teacher learned from; of prompts they are what is wanted.
            cfg: self.cfg.unwrap_or(if self.prompts.is_some() { sample.cfg } else { 1.0 }),
            ..sample.clone()
        }
    }

    /// Writes out what is left to defaults.
    pub(super) fn resolve(&mut self, sample: &SampleConfig) {
        if self.source == DataSource::Teacher {
            let SampleConfig { count, steps, cfg, .. } = self.drawn(sample);
            (self.count, self.steps, self.cfg) = (Some(count), Some(steps), Some(cfg));
        }
    }

    /// Checks that the settings are possible and fit the rest of the recipe.
    pub(super) fn check(&self, recipe: &Recipe) -> Result<(), String> {
        if !(self.fraction > 0.0 && self.fraction <= 1.0) {
            return Err(format!("fraction must lie in (0, 1], found {}", self.fraction));
        }
        if self.source == DataSource::Latents && self.path.is_none() {
            return Err(
                "path is not set; source = \"latents\" needs the folder that `scion encode` wrote".into()
            );
        }
        if matches!(self.source, DataSource::Embedded | DataSource::Emoji) && self.path.is_some() {
            return Err("path is set, but this source is compiled in and reads no files".into());
        }
        if self.source != DataSource::Teacher {
            let set = [
                ("count", self.count.is_some()),
                ("steps", self.steps.is_some()),
                ("cfg", self.cfg.is_some()),
                ("prompts", self.prompts.is_some()),
            ];
            return match set.iter().find(|(_, there)| *there) {
                Some((name, _)) => {
                    Err(format!("{name} says how a teacher draws; expected source = \"teacher\" with it"))
                }
                None => Ok(()),
            };
        }
        if self.path.is_some() {
            return Err("path is set, but source = \"teacher\" reads no files".into());
        }
        if recipe.model.checkpoint.is_none() || recipe.pretrain.is_some() {
            return Err(
                "source = \"teacher\" needs a trained model: expected model.checkpoint, and no [pretrain]"
                    .into(),
            );
        }
        if let Some(count) = self.count.filter(|&count| count > MAX_DRAWN) {
            return Err(format!("count must be at most {MAX_DRAWN}, found {count}"));
        }
        // How many images are enough is a question of the model's classes, not of distances with errors.
        SampleConfig { count: recipe.sample.count, ..self.drawn(&recipe.sample) }.check()
    }
}
