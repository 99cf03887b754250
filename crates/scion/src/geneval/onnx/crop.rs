//! Objects cut out of their pictures, as the colour classifier is shown them.

use super::Mask;
use crate::data::Raster;
use crate::data::crop::resize;
use crate::data::resample::{Filter, Span};

/// What pixels beside the object become: #999.
const BLANK: [u8; 3] = [0x99; 3];

/// The part of an RGB image inside `bounds` (left, top, right, bottom), which are rounded as Python does, to the even
/// neighbour. Pixels outside the mask are grey, those beyond the image black, as Pillow's `crop` has it. A box of
/// less than a pixel is one pixel.
pub(super) fn crop(image: &Raster, bounds: [f32; 4], mask: Option<&Mask>) -> Raster {
    let [left, top, right, bottom] = bounds.map(|bound| bound.round_ties_even() as isize);
    let (width, height) = ((right - left).max(1), (bottom - top).max(1));
    let mut data = Vec::with_capacity(3 * (width * height) as usize);
    for y in top..top + height {
        for x in left..left + width {
            data.extend_from_slice(&pixel(image, x, y, mask));
        }
    }
    Raster { width: width as usize, height: height as usize, channels: 3, data }
}

fn pixel(image: &Raster, x: isize, y: isize, mask: Option<&Mask>) -> [u8; 3] {
    let inside = |at: isize, side: usize| usize::try_from(at).ok().filter(|at| *at < side);
    let (Some(x), Some(y)) = (inside(x, image.width), inside(y, image.height)) else { return [0; 3] };
    if mask.is_some_and(|mask| !mask.covers(x, y, image)) {
        return BLANK;
    }
    let at = 3 * (y * image.width + x);
    [image.data[at], image.data[at + 1], image.data[at + 2]]
}

/// Mean and standard deviation of the pixels that OpenAI's CLIP was trained on.
const MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
const DEVIATION: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];

/// An RGB image as CLIP takes it, [3, S, S]: the shorter side resized to S (bicubic), the centre cut out, pixels
/// normalised.
pub(super) fn prepare(image: &Raster, side: usize) -> Vec<f32> {
    let shorter = image.width.min(image.height);
    let span = |length: usize| {
        let full = side * length / shorter;
        Span { full, first: ((full - side) as f64 / 2.0).round_ties_even() as usize, len: side }
    };
    let square = resize(image, span(image.width), span(image.height), Filter::Bicubic);
    let area = side * side;
    let value = |(at, level): (usize, u8)| {
        ((f64::from(level) / 255.0 - MEAN[at / area]) / DEVIATION[at / area]) as f32
    };
    square.to_planes().into_iter().enumerate().map(value).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn fixture(name: &str) -> Value {
        let path = format!("{}/../../fixtures/geneval/{name}", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn raster(of: &Value) -> Raster {
        let text = of["pixels"].as_str().unwrap();
        let data =
            (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect();
        let side = |key: &str| of[key].as_u64().unwrap() as usize;
        Raster { width: side("width"), height: side("height"), channels: 3, data }
    }

    /// `ImageCrops` of the official program on the same boxes (`scripts/fixtures/geneval.py`).
    #[test]
    fn crops_are_those_of_the_official_program() {
        let fixture = fixture("crops.json");
        let image = raster(&fixture["image"]);
        let rows = fixture["mask"].as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap());
        let inside = rows.map(|value| value == 1).collect();
        let mask = Mask { width: image.width, height: image.height, inside };
        let crops = fixture["crops"].as_array().unwrap();
        assert_eq!(crops.len(), 10);
        for case in crops {
            let bounds: Vec<f32> =
                case["box"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
            let mask = case["masked"].as_bool().unwrap().then_some(&mask);
            let found = crop(&image, bounds.try_into().unwrap(), mask);
            assert_eq!(found, raster(case), "{}", case["box"]);
        }
        assert_eq!(crop(&image, [3.0, 3.0, 3.2, 3.2], None).data.len(), 3);
    }

    #[test]
    fn preparation_is_that_of_open_clip() {
        for case in fixture("clip.json").as_array().unwrap() {
            let found = prepare(&raster(case), 8);
            let expected = case["expected"].as_array().unwrap();
            assert_eq!(found.len(), expected.len());
            for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
                let (width, height) = (&case["width"], &case["height"]);
                let distance = (f64::from(*found) - expected.as_f64().unwrap()).abs();
                // One level of 255 is 0.015: Pillow 13 resizes tall images in another order of passes.
                assert!(distance < 0.016, "{width}×{height}, value {at}: {found} instead of {expected}");
            }
        }
    }
}
