//! One 8-bit image as image files hold it.

use std::io::Cursor;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

use super::image_set::ImageShape;
use crate::error::{Error, Result};

/// 8-bit image, rows of interleaved channels: [H, W, C].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raster {
    pub width: usize,
    pub height: usize,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// `height * width * channels` bytes.
    pub data: Vec<u8>,
}

impl Raster {
    /// Interleaves planes [C, H, W].
    ///
    /// # Panics
    /// If `planes` is not `shape.len()` bytes.
    pub fn from_planes(planes: &[u8], shape: ImageShape) -> Self {
        let ImageShape { channels, height, width } = shape;
        assert_eq!(planes.len(), shape.len(), "one image of shape {shape}");
        let area = height * width;
        let data = (0..area * channels).map(|i| planes[i % channels * area + i / channels]).collect();
        Self { width, height, channels, data }
    }

    /// Smaller: each square of `side` pixels becomes its mean; what does not fill a square is left out.
    #[must_use]
    pub fn reduced(&self, side: usize) -> Self {
        let (width, height, channels) = (self.width / side, self.height / side, self.channels);
        let value = |at: usize| {
            let (pixel, channel) = (at / channels, at % channels);
            let (left, top) = (pixel % width * side, pixel / width * side);
            let row = |y: usize| (left..left + side).map(move |x| (y * self.width + x) * channels + channel);
            let sum: usize = (top..top + side).flat_map(row).map(|from| usize::from(self.data[from])).sum();
            ((sum + side * side / 2) / (side * side)) as u8
        };
        Self { width, height, channels, data: (0..width * height * channels).map(value).collect() }
    }

    /// The same pixels as planes, [C, H, W].
    pub fn to_planes(&self) -> Vec<u8> {
        let mut planes = Vec::with_capacity(self.data.len());
        for channel in 0..self.channels {
            planes.extend(self.data.iter().skip(channel).step_by(self.channels));
        }
        planes
    }

    /// Encodes as PNG, grey or RGB.
    ///
    /// # Errors
    /// `Usage` if the fields disagree or the sides do not fit 32 bits.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let Self { width, height, channels, ref data } = *self;
        let usage = |detail: &str| {
            Error::Usage(format!(
                "cannot encode a {width}×{height} image with {channels} channels as PNG: {detail}"
            ))
        };
        let color = match channels {
            1 => ExtendedColorType::L8,
            3 => ExtendedColorType::Rgb8,
            _ => return Err(usage("expected 1 or 3 channels")),
        };
        if data.len() != width * height * channels {
            return Err(usage(&format!("it has {} bytes", data.len())));
        }
        let side = |n: usize| u32::try_from(n).map_err(|_| usage("a side is too long"));
        let mut png = Cursor::new(Vec::new());
        PngEncoder::new_with_quality(&mut png, CompressionType::Default, FilterType::Adaptive)
            .write_image(data, side(width)?, side(height)?, color)
            .map_err(|e| usage(&e.to_string()))?;
        Ok(png.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_and_png_round_trip() {
        for channels in [1, 3] {
            let shape = ImageShape { channels, height: 2, width: 3 };
            let planes: Vec<u8> = (0..shape.len() as u8).map(|i| i * 13).collect();
            let raster = Raster::from_planes(&planes, shape);
            assert_eq!(raster.to_planes(), planes);
            let decoded = image::load_from_memory(&raster.to_png().unwrap()).unwrap();
            assert_eq!(usize::from(decoded.color().channel_count()), channels);
            assert_eq!(decoded.into_bytes(), raster.data);
        }
    }

    #[test]
    fn impossible_images_are_refused() {
        let bad = |channels, bytes| Raster { width: 1, height: 1, channels, data: vec![0; bytes] }.to_png();
        assert!(bad(1, 1).is_ok());
        assert!(bad(2, 2).unwrap_err().to_string().contains("1 or 3 channels"));
        assert!(bad(3, 1).unwrap_err().to_string().contains("it has 1 bytes"));
        assert!(Raster { width: 0, height: 1, channels: 1, data: vec![] }.to_png().is_err());
    }
}
