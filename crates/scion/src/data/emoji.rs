//! Captioned pictures compiled into the program, and what a text encoder made of their captions
//! (`assets/emoji/README.md` says what they are, under which licence, and how they were made).

use std::path::Path;

use safetensors::SafeTensors;

use super::image_set::Origins;
use super::{ImageSet, ImageShape};
use crate::error::{Error, Result};

/// Height and width of an embedded picture.
const SIDE: usize = 64;

const IMAGES: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/emoji/images.webp"));
const CAPTIONS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/emoji/captions.txt"));
const PROMPTS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/emoji/prompts.txt"));
const EMBEDDINGS: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/emoji/embeddings.safetensors"));

/// The pictures in colour, each a class of its own by the name of its caption, in a size that divides theirs: a pixel is the
/// mean of those in its square.
///
/// # Errors
/// `Usage` for another size; `Invalid` only if the program file itself is damaged.
pub fn emoji(side: usize) -> Result<ImageSet> {
    if side == 0 || !SIDE.is_multiple_of(side) {
        return Err(Error::Usage(format!(
            "the embedded pictures are {SIDE}×{SIDE}; a model of them takes a size that divides it, found {side}"
        )));
    }
    let damaged = |detail: String| Error::invalid(Path::new("embedded images.webp"), detail);
    let sheet = image::load_from_memory(IMAGES).map_err(|e| damaged(e.to_string()))?.into_rgb8();
    let captions = emoji_captions();
    let columns = sheet.width() as usize / SIDE;
    if columns * (sheet.height() as usize / SIDE) < captions.len() {
        return Err(damaged(format!("is too small for {} pictures", captions.len())));
    }
    let (shape, step) = (ImageShape { channels: 3, height: side, width: side }, SIDE / side);
    let mut pixels = Vec::with_capacity(captions.len() * shape.len());
    for i in 0..captions.len() {
        let (left, top) = (i % columns * SIDE, i / columns * SIDE);
        for channel in 0..3 {
            for at in 0..side * side {
                let (x, y) = (left + at % side * step, top + at / side * step);
                let inside = (0..step * step).map(|i| (x + i % step, y + i / step));
                let sum: usize =
                    inside.map(|(x, y)| usize::from(sheet.get_pixel(x as u32, y as u32)[channel])).sum();
                pixels.push(((sum + step * step / 2) / (step * step)) as u8);
            }
        }
    }
    let rows = (0..captions.len()).collect();
    let origins = Origins::Rows { source: "embedded emoji".into(), rows };
    ImageSet::from_memory(shape, pixels, (0..captions.len()).collect(), captions, origins)
}

/// The captions of [`emoji`], in its order.
pub fn emoji_captions() -> Vec<String> {
    CAPTIONS.lines().map(String::from).collect()
}

/// Texts and what an encoder made of them.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedTexts {
    /// The texts.
    pub texts: Vec<String>,
    /// Width of a token.
    pub width: usize,
    /// Of each text its tokens, row-major [L, width].
    pub tokens: Vec<Vec<f32>>,
    /// The tokens of the empty text.
    pub empty: Vec<f32>,
}

/// The captions of [`emoji`], in its order, then a few prompts of which there is no picture.
///
/// # Errors
/// `Invalid` only if the program file itself is damaged.
pub fn emoji_texts() -> Result<EncodedTexts> {
    let damaged = |detail: String| Error::invalid(Path::new("embedded embeddings.safetensors"), detail);
    let file = SafeTensors::deserialize(EMBEDDINGS).map_err(|e| damaged(e.to_string()))?;
    let tensor = |name: &str| file.tensor(name).map_err(|e| damaged(e.to_string()));
    let (tokens, lengths) = (tensor("tokens")?, tensor("lengths")?);
    let [_, width] = *tokens.shape() else { return Err(damaged("holds no rows of tokens".into())) };
    let values: Vec<f32> =
        tokens.data().as_chunks().0.iter().map(|&bytes| half::f16::from_le_bytes(bytes).to_f32()).collect();
    let mut rest = &values[..];
    let mut rows = Vec::new();
    for &length in lengths.data().as_chunks().0 {
        let len = i32::from_le_bytes(length) as usize * width;
        let (row, others) = rest.split_at_checked(len).ok_or_else(|| damaged("is too short".into()))?;
        rows.push(row.to_vec());
        rest = others;
    }
    let texts: Vec<String> = CAPTIONS.lines().chain(PROMPTS.lines()).map(String::from).collect();
    let empty = rows.pop().filter(|_| rows.len() == texts.len());
    let empty = empty.ok_or_else(|| damaged(format!("has no row for each of {} texts", texts.len() + 1)))?;
    Ok(EncodedTexts { texts, width, tokens: rows, empty })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_whole_and_on_white() {
        let set = emoji(64).unwrap();
        assert_eq!((set.len(), set.shape().len()), (1026, 3 * 64 * 64));
        assert_eq!(set.class_names()[0], "grinning face");
        let bytes = set.as_bytes().unwrap();
        let corners = bytes.chunks(set.shape().len()).filter(|image| image[0] == 255).count();
        assert!(corners > 1000, "{corners} white corners");
        // A grinning face is yellow: much red, less blue, around its middle.
        let at = |channel: usize| bytes[channel * 64 * 64 + 20 * 64 + 32];
        assert!(at(0) > 200 && at(2) < 120, "{} {} {}", at(0), at(1), at(2));
        let half = emoji(32).unwrap();
        let half = half.as_bytes().unwrap();
        let four = [0, 1, 64, 65].map(|i| u32::from(bytes[20 * 64 + 32 + i]));
        assert_eq!(u32::from(half[10 * 32 + 16]), (four.iter().sum::<u32>() + 2) / 4);
        assert!(emoji(48).unwrap_err().to_string().contains("64×64"));
    }

    #[test]
    fn every_text_has_tokens() {
        let EncodedTexts { texts, width, tokens, empty } = emoji_texts().unwrap();
        assert_eq!((width, texts.len(), empty.len()), (384, tokens.len(), 2 * 384));
        assert_eq!(texts[..1026], emoji_captions());
        assert!(tokens.iter().all(|row| row.len() >= 3 * width && row.iter().all(|v| v.is_finite())));
        assert!(texts.iter().enumerate().all(|(i, text)| !texts[..i].contains(text)));
    }
}
