//! Colours of objects, as CLIP and its like tell them: the text that is most alike the picture.

use std::collections::HashMap;
use std::path::Path;

use super::crop::prepare;
use super::network::Network;
use crate::checkpoint::Checkpoint;
use crate::data::Raster;
use crate::error::{Error, Result};
use crate::geneval::words::Color;

/// Texts of a colour: "a photo of a {colour} {class}", "a photo of a {colour}-colored {class}", "a photo of a
/// {colour} object".
const TEMPLATES: usize = 3;

/// An image encoder and the features of texts.
///
/// Input of the encoder: an image [1, 3, S, S], resized, cropped and normalised as OpenAI's CLIP wants it. Its first
/// output: features [1, D]. The texts' file holds for each class, under its name, the features of its texts, [10
/// colours, 3 templates, D]; colours in the order of [`Color::ALL`].
pub struct ColorClassifier {
    network: Network,
    side: usize,
    /// By class, [10, D] of length one.
    colors: HashMap<String, Vec<Vec<f32>>>,
}

impl ColorClassifier {
    /// Opens an encoder and the texts of `classes`.
    ///
    /// # Errors
    /// `Invalid` if the encoder is no such network; `Tensors` if a class's texts are missing or misshapen.
    pub fn open<'a>(encoder: &Path, texts: &Path, classes: impl Iterator<Item = &'a str>) -> Result<Self> {
        let network = Network::open(encoder)?;
        let side = match network.size() {
            Some([height, width]) if height == width => height,
            size => return Err(network.refused(format!("takes images of {size:?}; expected a fixed square"))),
        };
        let file = Checkpoint::open(texts)?;
        let colors = classes.map(|class| Ok((class.to_owned(), colors_of(&file, texts, class)?)));
        let colors = colors.collect::<Result<_>>()?;
        Ok(Self { network, side, colors })
    }

    /// The encoder's file.
    pub(super) fn path(&self) -> &Path {
        self.network.path()
    }

    /// The colour of an object of one of the classes that were opened.
    ///
    /// # Errors
    /// `Invalid` if the encoder fails, or its features have other dimensions than the texts'.
    pub(super) fn classify(&self, crop: &Raster, class: &str) -> Result<Color> {
        let outputs = self.network.run(&prepare(crop, self.side), [self.side; 2])?;
        let features = &outputs[0];
        let colors = &self.colors[class];
        if features.shape != [1, colors[0].len()] {
            let expected = format!("features of {:?}; expected [1, {}]", features.shape, colors[0].len());
            return Err(self.network.refused(format!("gives {expected} as the texts have")));
        }
        // The length of the image's features changes no order.
        let alike = |text: &Vec<f32>| text.iter().zip(&features.data).map(|(a, b)| a * b).sum::<f32>();
        let likeness: Vec<f32> = colors.iter().map(alike).collect();
        if likeness.iter().any(|value| !value.is_finite()) {
            return Err(self.network.refused("gives features that are not finite"));
        }
        let best = (0..likeness.len()).max_by(|&a, &b| likeness[a].total_cmp(&likeness[b]).then(b.cmp(&a)));
        Ok(Color::ALL[best.unwrap_or(0)])
    }
}

/// One direction a colour: the mean of the directions of its texts.
fn colors_of(file: &Checkpoint, path: &Path, class: &str) -> Result<Vec<Vec<f32>>> {
    let refused = |detail: String| Error::Tensors { path: path.into(), detail };
    let shape = match file.entry(class) {
        Some(entry) => entry.shape.clone(),
        None => {
            return Err(refused(format!("has no tensor \"{class}\", the features of that class's texts")));
        }
    };
    let dim = match shape[..] {
        [10, TEMPLATES, dim] if dim > 0 => dim,
        _ => return Err(refused(format!("\"{class}\" is {shape:?}; expected [10, {TEMPLATES}, D]"))),
    };
    let texts = file.read_f32(class)?;
    let color = |texts: &[f32]| {
        let mut sum = vec![0.0; dim];
        for text in texts.chunks_exact(dim) {
            sum.iter_mut().zip(unit(text)).for_each(|(sum, value)| *sum += value);
        }
        unit(&sum)
    };
    Ok(texts.chunks_exact(TEMPLATES * dim).map(color).collect())
}

fn unit(vector: &[f32]) -> Vec<f32> {
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(1e-12);
    vector.iter().map(|value| value / norm).collect()
}
