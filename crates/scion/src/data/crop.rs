//! The crop of ADM and DiT training (`center_crop_arr` in DiT's `train.py`), bit for bit as Pillow computes
//! it: halve with a box filter while the shorter side is at least 2·S, bring the shorter side to S with
//! an antialiased bicubic, cut out the centre.
//!
//! Pillow resamples 8-bit images in two passes, horizontal first, with 22-bit fixed-point weights and
//! a rounding to 8 bits after each pass (`src/libImaging/Resample.c`). The `image` crate's `CatmullRom`
//! differs from it by up to 14 levels on the fixtures, hence this one. Pillow 13 takes the vertical
//! pass first for some tall images; Pillow 9.5, of the time of DiT's release, does not, and is followed here.

use super::raster::Raster;

/// ADM centre crop to `size`×`size`. The image must have at least one pixel and `size` be positive.
pub fn center_crop(image: &Raster, size: usize) -> Raster {
    let mut halved = None;
    while shorter_side(halved.as_ref().unwrap_or(image)) >= 2 * size {
        let from = halved.as_ref().unwrap_or(image);
        let (width, height) = (from.width / 2, from.height / 2);
        let whole = Span { full: width, first: 0, len: width };
        halved = Some(resize(from, whole, Span { full: height, first: 0, len: height }, Filter::Box));
    }
    let image = halved.as_ref().unwrap_or(image);
    let scale = size as f64 / shorter_side(image) as f64;
    // Only the centre is computed: each output pixel of a resize is independent of the others.
    let centre = |side: usize| {
        // Python's round() goes to the even neighbour.
        let full = (side as f64 * scale).round_ties_even() as usize;
        Span { full, first: (full - size) / 2, len: size }
    };
    resize(image, centre(image.width), centre(image.height), Filter::Bicubic)
}

fn shorter_side(image: &Raster) -> usize {
    image.width.min(image.height)
}

/// Output positions `first..first + len` of a side resized to `full` positions.
#[derive(Clone, Copy)]
struct Span {
    full: usize,
    first: usize,
    len: usize,
}

#[derive(Clone, Copy)]
enum Filter {
    Box,
    /// Keys' cubic with a = -0.5.
    Bicubic,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Self::Box => 0.5,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let distance = x.abs();
        match self {
            Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bicubic if distance < 1.0 => ((A + 2.0) * distance - (A + 3.0)) * distance * distance + 1.0,
            Self::Bicubic if distance < 2.0 => (((distance - 5.0) * distance + 8.0) * distance - 4.0) * A,
            Self::Bicubic => 0.0,
        }
    }
}

const PRECISION_BITS: i32 = 22;

/// The input positions that make one output position: `first`, and a fixed-point weight each.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Weights for each position of `span`, from a side of `input` positions.
fn taps(input: usize, span: Span, filter: Filter) -> Vec<Taps> {
    let scale = input as f64 / span.full as f64;
    let filter_scale = scale.max(1.0);
    let support = filter.support() * filter_scale;
    let one = |position: usize| {
        let center = (position as f64 + 0.5) * scale;
        // `as usize` truncates and clamps below at zero, as Pillow's C does in two steps.
        let first = (center - support + 0.5) as usize;
        let end = ((center + support + 0.5) as usize).min(input);
        let weights: Vec<f64> =
            (first..end).map(|x| filter.weight((x as f64 - center + 0.5) * (1.0 / filter_scale))).collect();
        let total: f64 = weights.iter().sum();
        let fixed = |w: f64| {
            let scaled = (w / total) * f64::from(1 << PRECISION_BITS);
            (scaled + 0.5f64.copysign(scaled)) as i32
        };
        Taps { first, weights: weights.into_iter().map(fixed).collect() }
    };
    (span.first..span.first + span.len).map(one).collect()
}

fn resize(image: &Raster, columns: Span, rows: Span, filter: Filter) -> Raster {
    // Pillow skips a pass that would change nothing; its weights would be exactly one and zero anyway.
    let narrow = horizontal(image, &taps(image.width, columns, filter));
    vertical(&narrow, &taps(image.height, rows, filter))
}

fn horizontal(image: &Raster, taps: &[Taps]) -> Raster {
    let channels = image.channels;
    let mut data = Vec::with_capacity(image.height * taps.len() * channels);
    for row in image.data.chunks_exact(image.width * channels) {
        for tap in taps {
            for channel in 0..channels {
                let inputs = row[tap.first * channels + channel..].iter().step_by(channels);
                data.push(weighted(inputs, &tap.weights));
            }
        }
    }
    Raster { width: taps.len(), height: image.height, channels, data }
}

fn vertical(image: &Raster, taps: &[Taps]) -> Raster {
    let stride = image.width * image.channels;
    let mut data = Vec::with_capacity(taps.len() * stride);
    for tap in taps {
        for column in 0..stride {
            let inputs = image.data[tap.first * stride + column..].iter().step_by(stride);
            data.push(weighted(inputs, &tap.weights));
        }
    }
    Raster { width: image.width, height: taps.len(), channels: image.channels, data }
}

/// Fixed-point weighted sum, rounded and clamped to 8 bits.
fn weighted<'a>(inputs: impl Iterator<Item = &'a u8>, weights: &[i32]) -> u8 {
    let half = 1 << (PRECISION_BITS - 1);
    let sum: i32 = inputs.zip(weights).map(|(&input, &weight)| i32::from(input) * weight).sum();
    ((sum + half) >> PRECISION_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/data/crop");

    fn load(name: &str) -> Raster {
        let image = image::open(Path::new(FIXTURES).join(name)).unwrap();
        let (width, height) = (image.width() as usize, image.height() as usize);
        let channels = usize::from(image.color().channel_count());
        Raster { width, height, channels, data: image.into_bytes() }
    }

    /// Golden images by Pillow, through `center_crop_arr` (`scripts/fixtures/data.py`).
    #[test]
    fn crop_equals_pillow_bit_for_bit() {
        for (name, size) in
            [("wide", 16), ("tall", 24), ("exact", 32), ("small", 32), ("grey", 20), ("big", 13)]
        {
            let expected = load(&format!("{name}.{size}.png"));
            let found = center_crop(&load(&format!("{name}.png")), size);
            let worst = found.data.iter().zip(&expected.data).map(|(a, b)| a.abs_diff(*b)).max();
            assert_eq!(worst, Some(0), "{name} to {size}: greatest difference in levels");
            assert_eq!(found, expected, "{name} to {size}");
        }
    }

    #[test]
    fn extreme_shapes_do_not_fail() {
        let line = Raster { width: 4000, height: 1, channels: 1, data: vec![9; 4000] };
        assert_eq!(center_crop(&line, 8).data, vec![9; 64]);
        let dot = Raster { width: 1, height: 1, channels: 3, data: vec![1, 2, 3] };
        assert_eq!(center_crop(&dot, 2).to_planes(), [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]);
        assert_eq!(center_crop(&dot, 1), dot);
    }
}
