use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::network::{PIXELS, SIDE};

/// Largest shift in pixels, each way.
const REACH: usize = 2;
/// The stream of shifts; those of the data loader's own choices lie elsewhere.
const STREAM: u64 = 1 << 63;

/// Shifts each image by up to two pixels along both axes, the border's pixels moving in. Image `first + i` of the
/// run always gets the same shift.
pub(super) fn shift(images: &mut [f32], seed: u64, first: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(STREAM);
    rng.set_word_pos(2 * u128::from(first));
    for image in images.chunks_exact_mut(PIXELS) {
        let mut draw = || rng.next_u32() as usize % (2 * REACH + 1);
        let (down, right) = (draw(), draw());
        shift_one(image, down, right);
    }
}

/// Reads the pixel at row `y + down - 2`, column `x + right - 2`, clamped into the image, for each (y, x).
fn shift_one(image: &mut [f32], down: usize, right: usize) {
    let source = image.to_vec();
    let near = |at: usize, by: usize| (at + by).saturating_sub(REACH).min(SIDE - 1);
    for (at, pixel) in image.iter_mut().enumerate() {
        *pixel = source[near(at / SIDE, down) * SIDE + near(at % SIDE, right)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifts_move_every_pixel_alike_and_repeat_the_border() {
        let source: Vec<f32> = (0..PIXELS).map(|i| i as f32).collect();
        let mut image = source.clone();
        shift_one(&mut image, REACH, REACH);
        assert_eq!(image, source);
        shift_one(&mut image, REACH + 2, REACH - 1);
        assert_eq!(image[5 * SIDE + 9], source[7 * SIDE + 8]);
        assert_eq!(image[27 * SIDE], source[27 * SIDE]);
    }

    #[test]
    fn a_shift_depends_on_the_image_number_alone() {
        let images: Vec<f32> = (0..4 * PIXELS).map(|i| i as f32).collect();
        let (mut whole, mut tail) = (images.clone(), images[2 * PIXELS..].to_vec());
        shift(&mut whole, 1, 10);
        shift(&mut tail, 1, 12);
        assert_eq!(whole[2 * PIXELS..], tail);
        assert_ne!(whole, images);
    }
}
