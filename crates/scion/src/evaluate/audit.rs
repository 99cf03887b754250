//! What can be seen of a set without any model: copies, and pixels that were not clipped.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use crate::data::ImageShape;
use crate::data::samples::Clipping;
use crate::metrics::Features;

/// Tells two images apart: half a SHA-256.
type Fingerprint = [u8; 16];

/// A set's copies and pixel values.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    fingerprints: Vec<Fingerprint>,
    /// Nothing for feature files.
    pub(super) pixels: Option<Pixels>,
}

/// Pixel values of a set of images.
#[derive(Clone, Copy, Debug)]
pub struct Pixels {
    pub shape: ImageShape,
    /// All pixel values.
    pub total: usize,
    pub lowest: u8,
    pub highest: u8,
    /// Values near one end of the range whose left and right neighbours are near the other: what values beyond
    /// the range leave behind when they wrap around in 8 bits.
    pub speckles: usize,
    /// Float values outside the range.
    pub clipped: usize,
}

/// How near to an end of the range counts for a speckle.
const END: u8 = 8;

impl Pixels {
    fn new(shape: ImageShape) -> Self {
        Self { shape, total: 0, lowest: u8::MAX, highest: 0, speckles: 0, clipped: 0 }
    }

    fn add(&mut self, pixels: &[u8]) {
        self.total += pixels.len();
        self.lowest = pixels.iter().copied().fold(self.lowest, u8::min);
        self.highest = pixels.iter().copied().fold(self.highest, u8::max);
        let (low, high) = (|v: u8| v < END, |v: u8| v > u8::MAX - END);
        let speckle =
            |w: &[u8]| (high(w[1]) && low(w[0]) && low(w[2])) || (low(w[1]) && high(w[0]) && high(w[2]));
        let rows = pixels.chunks_exact(self.shape.width);
        self.speckles += rows.map(|row| row.windows(3).filter(|w| speckle(w)).count()).sum::<usize>();
    }
}

impl Audit {
    /// Of images that follow in blocks.
    pub(super) fn of_images(shape: ImageShape) -> Self {
        Self { fingerprints: Vec::new(), pixels: Some(Pixels::new(shape)) }
    }

    /// Of feature rows: equal rows are taken for copies.
    pub(super) fn of_features(features: &Features) -> Self {
        let bytes = |row: &[f32]| row.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let fingerprints =
            features.as_slice().chunks_exact(features.dim()).map(|row| fingerprint(&bytes(row))).collect();
        Self { fingerprints, pixels: None }
    }

    /// Adds a block of images, u8 [n, C, H, W].
    pub(super) fn add(&mut self, pixels: &[u8]) {
        let Some(found) = &mut self.pixels else { return };
        found.add(pixels);
        self.fingerprints.extend(pixels.chunks_exact(found.shape.len()).map(fingerprint));
    }

    /// Notes what became of float values.
    pub(super) fn clipping(&mut self, clipping: Clipping) {
        if let Some(pixels) = &mut self.pixels {
            pixels.clipped = clipping.clipped;
        }
    }

    /// Number of images that are exact copies of an earlier one.
    pub fn copies(&self) -> usize {
        self.fingerprints.len() - self.fingerprints.iter().collect::<HashSet<_>>().len()
    }

    /// Number of images that are also in another set.
    pub fn shared(&self, other: &Self) -> usize {
        let theirs: HashSet<_> = other.fingerprints.iter().collect();
        self.fingerprints.iter().filter(|fingerprint| theirs.contains(fingerprint)).count()
    }

    /// Number of images.
    pub fn count(&self) -> usize {
        self.fingerprints.len()
    }

    /// Pixel values, where the set is of images.
    pub fn pixels(&self) -> Option<&Pixels> {
        self.pixels.as_ref()
    }
}

fn fingerprint(bytes: &[u8]) -> Fingerprint {
    Sha256::digest(bytes)[..16].try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Split, embedded};

    const SHAPE: ImageShape = ImageShape { channels: 1, height: 1, width: 4 };

    #[test]
    fn copies_are_counted_within_and_between() {
        let [mut a, mut b] = [(); 2].map(|()| Audit::of_images(SHAPE));
        a.add(&[1, 2, 3, 4, 1, 2, 3, 4]);
        a.add(&[1, 2, 3, 4, 5, 6, 7, 8]);
        b.add(&[5, 6, 7, 8, 4, 3, 2, 1]);
        assert_eq!((a.count(), a.copies(), b.copies()), (4, 2, 0));
        assert_eq!((a.shared(&b), b.shared(&a)), (1, 1));
        let rows = Features::new(2, vec![1.0, 2.0, 1.0, 2.0, 2.0, 1.0]).unwrap();
        assert_eq!(Audit::of_features(&rows).copies(), 1);
    }

    #[test]
    fn wrapped_values_are_speckles_and_real_ones_hardly_ever() {
        let mut wrapped = Audit::of_images(SHAPE);
        wrapped.add(&[252, 255, 3, 254, 0, 100, 255, 0]);
        let found = wrapped.pixels().unwrap();
        assert_eq!((found.speckles, found.lowest, found.highest, found.total), (1, 0, 255, 8));
        let set = embedded::fashion_mnist(Split::Test).unwrap();
        let mut real = Audit::of_images(set.shape());
        real.add(set.as_bytes().unwrap());
        let pixels = real.pixels().unwrap();
        let share = pixels.speckles as f64 / pixels.total as f64;
        assert!(share < 1e-4, "{share}");
    }
}
