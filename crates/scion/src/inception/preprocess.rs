//! From 8-bit images to the network's input: the three ways in which FID programs resize and scale.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::data::ImageShape;
use crate::data::resample::{Filter, Span, Taps, taps};
use crate::error::{Error, Result};

/// Rows and columns of the network's input.
pub(super) const SIDE: usize = 299;

/// Which program's preprocessing is followed. Distances between features of different flavours mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Preprocessing {
    /// ADM's evaluator, whose graph does it (openai/guided-diffusion `evaluations/evaluator.py`): bilinear as in
    /// TensorFlow 1, where output position i reads from i·in/299, without smoothing; (x - 128)/128.
    Adm,
    /// mseitzer/pytorch-fid: bilinear between centres of pixels, (i + ½)·in/299 - ½, without smoothing; 2·x/255 - 1.
    PytorchFid,
    /// GaParmar/clean-fid (Parmar et al. 2022): Pillow's smoothing bicubic filter, not rounded to 8 bits, clipped to
    /// 0..255; (x - 128)/128.
    CleanFid,
}

impl Preprocessing {
    /// One image, u8 [C, H, W], as the network takes it: [299, 299, 3]. A grey image's channel is repeated.
    ///
    /// # Errors
    /// `Usage` if the bytes are not one image of 1 or 3 channels.
    pub fn prepare(self, shape: ImageShape, pixels: &[u8]) -> Result<Vec<f32>> {
        if pixels.len() != shape.len() {
            let detail = format!("inception: {} bytes are not an image of shape {shape}", pixels.len());
            return Err(Error::Usage(detail));
        }
        Ok(Preparation::new(self, shape)?.prepare(pixels))
    }
}

/// Prepares images of one shape.
pub(super) struct Preparation {
    preprocessing: Preprocessing,
    shape: ImageShape,
    rows: Vec<Taps<f64>>,
    columns: Vec<Taps<f64>>,
}

impl Preparation {
    /// # Errors
    /// `Usage` if images of that shape have no pixels, or other than 1 or 3 channels.
    pub(super) fn new(preprocessing: Preprocessing, shape: ImageShape) -> Result<Self> {
        if !matches!(shape.channels, 1 | 3) || shape.is_empty() {
            let detail = format!(
                "inception: images of shape {shape}, expected 1 or 3 channels and at least one pixel"
            );
            return Err(Error::Usage(detail));
        }
        let side = |length| match preprocessing {
            Preprocessing::Adm => bilinear(length, 0.0),
            Preprocessing::PytorchFid => bilinear(length, 0.5),
            Preprocessing::CleanFid => taps(length, Span::whole(SIDE), Filter::Bicubic),
        };
        Ok(Self { preprocessing, shape, rows: side(shape.height), columns: side(shape.width) })
    }

    /// As [`Preprocessing::prepare`], for whole images.
    pub(super) fn prepare(&self, pixels: &[u8]) -> Vec<f32> {
        let planes: Vec<Vec<f32>> = pixels
            .chunks_exact(self.shape.height * self.shape.width)
            .map(|plane| self.plane(plane))
            .collect();
        let mut out = vec![0.0; 3 * SIDE * SIDE];
        for (channel, plane) in planes.iter().cycle().take(3).enumerate() {
            out[channel..].iter_mut().step_by(3).zip(plane).for_each(|(slot, &value)| *slot = value);
        }
        out
    }

    /// One channel, resized and scaled.
    fn plane(&self, plane: &[u8]) -> Vec<f32> {
        let narrow: Vec<f32> = plane.chunks_exact(self.shape.width).flat_map(|row| self.row(row)).collect();
        let mut out = Vec::with_capacity(SIDE * SIDE);
        let mut sums = [0f64; SIDE];
        for tap in &self.rows {
            sums.fill(0.0);
            for (row, weight) in narrow.chunks_exact(SIDE).skip(tap.first).zip(&tap.weights) {
                sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += weight * f64::from(value));
            }
            out.extend(sums.map(|sum| self.scaled(sum as f32)));
        }
        out
    }

    fn row(&self, row: &[u8]) -> impl Iterator<Item = f32> {
        self.columns.iter().map(|tap| {
            let inputs = row[tap.first..].iter().zip(&tap.weights);
            inputs.map(|(&input, weight)| f64::from(input) * weight).sum::<f64>() as f32
        })
    }

    fn scaled(&self, value: f32) -> f32 {
        match self.preprocessing {
            Preprocessing::Adm => (value - 128.0) / 128.0,
            Preprocessing::PytorchFid => 2.0 * (value / 255.0) - 1.0,
            Preprocessing::CleanFid => (value.clamp(0.0, 255.0) - 128.0) / 128.0,
        }
    }
}

/// Two neighbours for each position of the output, in the f32 arithmetic of both originals. `centre` is where in a pixel
/// its value holds.
fn bilinear(input: usize, centre: f32) -> Vec<Taps<f64>> {
    let scale = input as f32 / SIDE as f32;
    let one = |position: usize| {
        let at = ((position as f32 + centre) * scale - centre).max(0.0);
        let first = at as usize;
        let share = f64::from(at - first as f32);
        // At the border the nearest pixel counts.
        let weights = if first + 1 < input { vec![1.0 - share, share] } else { vec![1.0] };
        Taps { first: first.min(input - 1), weights }
    };
    (0..SIDE).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Preprocessing; 3] = [Preprocessing::Adm, Preprocessing::PytorchFid, Preprocessing::CleanFid];

    #[test]
    fn images_of_the_networks_size_are_only_scaled() {
        let shape = ImageShape { channels: 3, height: SIDE, width: SIDE };
        let pixels: Vec<u8> = (0..shape.len()).map(|i| (i * i % 251) as u8).collect();
        for preprocessing in ALL {
            let found = preprocessing.prepare(shape, &pixels).unwrap();
            for (i, &value) in found.iter().enumerate() {
                let pixel = f32::from(pixels[i % 3 * SIDE * SIDE + i / 3]);
                let expected = match preprocessing {
                    Preprocessing::PytorchFid => pixel / 127.5 - 1.0,
                    _ => pixel / 128.0 - 1.0,
                };
                assert!((value - expected).abs() < 1e-6, "{preprocessing:?} at {i}: {value}, not {expected}");
            }
        }
    }

    #[test]
    fn flavours_read_from_different_places() {
        // One row of two pixels, 0 and 200: where the ramp between them begins and ends tells the flavours apart.
        let shape = ImageShape { channels: 1, height: 1, width: 2 };
        let row = |preprocessing: Preprocessing| -> Vec<f32> {
            let image = preprocessing.prepare(shape, &[0, 200]).unwrap();
            image[..3 * SIDE].iter().step_by(3).map(|v| (v + 1.0) * 128.0).collect()
        };
        let adm = row(Preprocessing::Adm);
        assert!(adm[0] == 0.0 && adm[1] > 1.0 && adm[149] < 200.0 && adm[150] == 200.0);
        let fid = row(Preprocessing::PytorchFid);
        assert!(fid[74] == 0.0 && fid[75] > 0.0 && (fid[149] - 100.0 * 128.0 / 127.5).abs() < 1e-3);
        let clean = row(Preprocessing::CleanFid);
        // The cubic overshoots, and is clipped at 0 alone.
        assert!(clean[40] == 0.0 && clean.iter().all(|&v| v >= 0.0) && clean.iter().any(|&v| v > 201.0));
    }

    #[test]
    fn one_pixel_fills_the_input() {
        let shape = ImageShape { channels: 3, height: 1, width: 1 };
        for preprocessing in ALL {
            let found = preprocessing.prepare(shape, &[0, 128, 255]).unwrap();
            assert_eq!(found.len(), 3 * SIDE * SIDE);
            assert!(
                found.chunks_exact(3).all(|place| place == &found[..3] && place[0] == -1.0),
                "{preprocessing:?}"
            );
        }
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let message = |channels, height, bytes| {
            let shape = ImageShape { channels, height, width: 2 };
            Preprocessing::Adm.prepare(shape, &vec![0; bytes]).unwrap_err().to_string()
        };
        assert!(message(3, 2, 11).contains("11 bytes are not an image of shape [3, 2, 2]"));
        assert!(message(2, 1, 4).contains("expected 1 or 3 channels"));
        assert!(message(1, 0, 0).contains("at least one pixel"));
    }

    #[test]
    fn names_are_the_programs() {
        let names = serde_json::to_string(&ALL).unwrap();
        assert_eq!(names, r#"["adm","pytorch-fid","clean-fid"]"#);
    }
}
