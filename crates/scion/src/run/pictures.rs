use rayon::prelude::*;

use super::Canvas;
use super::prompts::Labels;
use crate::config::Recipe;
use crate::data::ImageSet;
use crate::data::emoji::emoji;
use crate::metrics::Accuracy;

/// Pictures among which an image's own must be.
const NEAREST: usize = 10;

/// What [`Pictures`] measures, for readers.
pub(super) const SETTING: &str = "share of the images of captions whose own picture is among the ten nearest of the 1,026 \
                                  embedded pictures, by squared differences of pixels; by chance 1%";

/// A judge of images of the embedded pictures' captions: which pictures does an image look like?
pub(super) struct Pictures {
    set: ImageSet,
    /// Of each label the picture that has it for a caption.
    of_label: Vec<Option<usize>>,
}

impl Pictures {
    /// The judge of a run's images, where they have a size of the pictures and captions among their prompts.
    pub fn of(recipe: &Recipe, labels: &Labels, canvas: &Canvas) -> Option<Self> {
        let Canvas::Pixels(shape) = canvas else { return None };
        if labels.texts.is_empty() || recipe.model.text_encoder.is_some() {
            return None;
        }
        let set = emoji(shape.height).ok().filter(|set| set.shape() == *shape)?;
        let picture =
            |text: &String| set.class_names().iter().position(|caption| *caption == text.to_lowercase());
        let of_label = labels.texts.iter().map(picture).collect();
        Some(Self { set, of_label })
    }

    /// How many of the images [N, C, H, W] of captions look like their own picture; nothing where none is of a caption.
    pub fn score(&self, pixels: &[u8], labels: &[usize]) -> Option<Accuracy> {
        let len = self.set.shape().len();
        let asked = pixels.chunks_exact(len).zip(labels);
        let asked: Vec<(&[u8], usize)> =
            asked.filter_map(|(image, &label)| Some((image, self.of_label[label]?))).collect();
        if asked.is_empty() {
            return None;
        }
        let pictures = self.set.as_bytes().unwrap_or_default();
        let near = |(image, own): &&(&[u8], usize)| {
            let to = |picture: usize| distance(image, &pictures[picture * len..][..len]);
            let own = to(*own);
            (0..self.set.len()).filter(|&picture| to(picture) < own).take(NEAREST).count() < NEAREST
        };
        let correct = asked.par_iter().filter(|image| near(image)).count();
        Some(Accuracy { correct, total: asked.len() })
    }
}

/// The sum of squared differences.
fn distance(a: &[u8], b: &[u8]) -> u64 {
    let squared = |(&a, &b): (&u8, &u8)| u64::from(a.abs_diff(b)).pow(2);
    a.iter().zip(b).map(squared).sum()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::data::ImageShape;
    use crate::model::DitConfig;

    #[test]
    fn pictures_look_like_themselves() {
        let recipe = "[model]\ncheckpoint = \"embedded-emoji\"\n[data]\nsource = \"emoji\"\n[evaluate]\n\
                      prompts = [\"cat\", \"a text without a picture\", \"grinning face\"]\n";
        let recipe = Recipe::parse(recipe, Path::new("recipe.toml")).unwrap();
        let sizes = DitConfig { input_size: 64, ..DitConfig::preset("pixart-alpha-256").unwrap() };
        let labels = Labels::of(&recipe, &sizes).unwrap();
        let shape = ImageShape { channels: 3, height: 64, width: 64 };
        let judge = Pictures::of(&recipe, &labels, &Canvas::Pixels(shape)).unwrap();
        let [cat, unknown, face] = labels.evaluated(3)[..] else { panic!("three prompts are shown") };
        let picture = |label: usize| judge.set.read(&[label]).unwrap();
        // Slightly changed, it is still nearest to itself; an image of another caption is not.
        let mut blurred = picture(cat);
        blurred.iter_mut().step_by(7).for_each(|pixel| *pixel = pixel.saturating_sub(20));
        let pixels = [blurred, picture(face), picture(cat), picture(face)].concat();
        let score = |labels: &[usize]| judge.score(&pixels[..labels.len() * shape.len()], labels);
        assert_eq!(score(&[cat, unknown, face, face]), Some(Accuracy { correct: 2, total: 3 }));
        assert_eq!(score(&[unknown]), None);
        let other = ImageShape { channels: 1, ..shape };
        assert!(Pictures::of(&recipe, &labels, &Canvas::Pixels(other)).is_none());
    }
}
