//! The crop of ADM and DiT training (`center_crop_arr` in DiT's `train.py`), bit for bit as Pillow computes
//! it: halve with a box filter while the shorter side is at least 2·S, bring the shorter side to S with
//! an antialiased bicubic, cut out the centre.
//!
//! Pillow resamples 8-bit images in two passes, horizontal first, with 22-bit fixed-point weights and
//! a rounding to 8 bits after each pass (`src/libImaging/Resample.c`). The `image` crate's `CatmullRom`
//! differs from it by up to 14 levels on the fixtures, hence this one. Pillow 13 takes the vertical
//! pass first for some tall images; Pillow 9.5, of the time of DiT's release, does not, and is followed here.

use super::raster::Raster;
use super::resample::{Filter, Span, Taps, taps};

/// ADM centre crop to `size`×`size`. The image must have at least one pixel and `size` be positive.
pub fn center_crop(image: &Raster, size: usize) -> Raster {
    let mut halved = None;
    while shorter_side(halved.as_ref().unwrap_or(image)) >= 2 * size {
        let from = halved.as_ref().unwrap_or(image);
        let (width, height) = (from.width / 2, from.height / 2);
        halved = Some(resize(from, Span::whole(width), Span::whole(height), Filter::Box));
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

const PRECISION_BITS: i32 = 22;

/// Fixed-point weights for each position of `span`, from a side of `input` positions.
fn fixed_taps(input: usize, span: Span, filter: Filter) -> Vec<Taps<i32>> {
    let fixed = |weight: f64| {
        let scaled = weight * f64::from(1 << PRECISION_BITS);
        (scaled + 0.5f64.copysign(scaled)) as i32
    };
    let round = |Taps { first, weights }: Taps<f64>| Taps {
        first,
        weights: weights.into_iter().map(fixed).collect(),
    };
    taps(input, span, filter).into_iter().map(round).collect()
}

/// Resizes to the given columns and rows, as Pillow does.
pub(crate) fn resize(image: &Raster, columns: Span, rows: Span, filter: Filter) -> Raster {
    // Pillow skips a pass that would change nothing; its weights would be exactly one and zero anyway.
    let narrow = horizontal(image, &fixed_taps(image.width, columns, filter));
    vertical(&narrow, &fixed_taps(image.height, rows, filter))
}

fn horizontal(image: &Raster, taps: &[Taps<i32>]) -> Raster {
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

fn vertical(image: &Raster, taps: &[Taps<i32>]) -> Raster {
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
