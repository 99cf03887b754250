//! The sizes that PixArt draws: those it was trained on. An image of any other size is drawn in the nearest of them, resized
//! and cropped. Source: huggingface/diffusers `pipelines/pixart_alpha/pipeline_pixart_{alpha,sigma}.py`, `image_processor.py`.

use rayon::prelude::*;

/// One of them: a hundred times height over width, as rounded there, then height and width in sixteenths of the model's side.
type Bin = (u32, usize, usize);

/// Of models of 256, 512 and 1024 pixels.
#[rustfmt::skip]
const BINS: [Bin; 33] = [
    (25, 8, 32), (28, 8, 29), (32, 9, 28), (33, 9, 27), (35, 9, 26), (40, 10, 25), (42, 10, 24), (48, 11, 23),
    (50, 11, 22), (52, 11, 21), (57, 12, 21), (60, 12, 20), (68, 13, 19), (72, 13, 18), (78, 14, 18), (82, 14, 17),
    (88, 15, 17), (94, 15, 16), (100, 16, 16), (107, 16, 15), (113, 17, 15), (121, 17, 14), (129, 18, 14),
    (138, 18, 13), (146, 19, 13), (167, 20, 12), (175, 21, 12), (200, 22, 11), (209, 23, 11), (240, 24, 10),
    (250, 25, 10), (300, 27, 9), (400, 32, 8),
];

/// Of models of 2048 pixels.
#[rustfmt::skip]
const BINS_2048: [Bin; 40] = [
    (25, 8, 32), (26, 8, 31), (27, 8, 30), (28, 8, 29), (32, 9, 28), (33, 9, 27), (35, 9, 26), (40, 10, 25),
    (42, 10, 24), (48, 11, 23), (50, 11, 22), (52, 11, 21), (57, 12, 21), (60, 12, 20), (68, 13, 19), (72, 13, 18),
    (78, 14, 18), (82, 14, 17), (88, 15, 17), (94, 15, 16), (100, 16, 16), (107, 16, 15), (113, 17, 15),
    (121, 17, 14), (129, 18, 14), (138, 18, 13), (146, 19, 13), (167, 20, 12), (175, 21, 12), (200, 22, 11),
    (209, 23, 11), (240, 24, 10), (250, 25, 10), (289, 26, 9), (300, 27, 9), (311, 28, 9), (362, 29, 8),
    (375, 30, 8), (388, 31, 8), (400, 32, 8),
];

/// The height and width in pixels that a model of images of `side` pixels draws for a wanted height and width; none where
/// there is no table for such a model.
pub fn binned(side: usize, [height, width]: [usize; 2]) -> Option<[usize; 2]> {
    let bins: &[Bin] = match side {
        256 | 512 | 1024 => &BINS,
        2048 => &BINS_2048,
        _ => return None,
    };
    let wanted = height as f64 / width as f64;
    let distance = |bin: &Bin| (f64::from(bin.0) / 100.0 - wanted).abs();
    // Of two at one distance, the first.
    let nearest = bins.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)))?;
    Some([nearest.1 * side / 16, nearest.2 * side / 16])
}

/// An image [C, H, W] made as large as `to` needs, bilinear between pixel centres, and cropped to it around the centre.
pub fn resize_and_crop(image: &[f32], from: [usize; 2], to: [usize; 2]) -> Vec<f32> {
    if from == to {
        return image.to_vec();
    }
    let ratio = (to[0] as f64 / from[0] as f64).max(to[1] as f64 / from[1] as f64);
    let taps = [0, 1].map(|axis| {
        let resized = (from[axis] as f64 * ratio) as usize;
        let start = resized.saturating_sub(to[axis]) / 2;
        (start..start + to[axis]).map(|at| Tap::new(at, from[axis], resized)).collect::<Vec<_>>()
    });
    let [rows, columns] = &taps;
    let row = |plane: &[f32], tap: &Tap| -> Vec<f32> {
        let at = |row: usize, column: usize| plane[row * from[1] + column];
        let mixed = |c: &Tap| {
            tap.mix(
                c.mix(at(tap.low, c.low), at(tap.low, c.high)),
                c.mix(at(tap.high, c.low), at(tap.high, c.high)),
            )
        };
        columns.iter().map(mixed).collect()
    };
    image
        .par_chunks(from[0] * from[1])
        .flat_map_iter(|plane| rows.iter().flat_map(move |tap| row(plane, tap)))
        .collect()
}

/// Two neighbours of a position along a side.
struct Tap {
    low: usize,
    high: usize,
    share: f32,
}

impl Tap {
    fn new(at: usize, input: usize, output: usize) -> Self {
        let position = ((at as f32 + 0.5) * (input as f32 / output as f32) - 0.5).max(0.0);
        let low = (position as usize).min(input - 1);
        Self { low, high: (low + 1).min(input - 1), share: position - low as f32 }
    }

    fn mix(&self, low: f32, high: f32) -> f32 {
        low * (1.0 - self.share) + high * self.share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_ratio_is_drawn() {
        assert_eq!(binned(1024, [1024, 1024]), Some([1024, 1024]));
        assert_eq!(binned(1024, [720, 1280]), Some([768, 1344]));
        assert_eq!(binned(512, [1280, 720]), Some([672, 384]));
        assert_eq!(binned(256, [1, 100]), Some([128, 512]));
        assert_eq!(binned(2048, [1000, 300]), Some([3584, 1152]));
        assert_eq!(binned(64, [64, 64]), None);
        for (side, bins) in [(1024, &BINS[..]), (2048, &BINS_2048[..])] {
            for &(_, height, width) in bins {
                let size = [height * side / 16, width * side / 16];
                assert_eq!(binned(side, size), Some(size));
            }
        }
    }

    #[test]
    fn images_are_resized_between_pixel_centres_and_cropped_around_the_centre() {
        // One channel of 2×2 to 4×4: a quarter and three quarters between neighbours, the border held.
        let found = resize_and_crop(&[0.0, 4.0, 8.0, 12.0], [2, 2], [4, 4]);
        assert_eq!(found[..8], [0.0, 1.0, 3.0, 4.0, 2.0, 3.0, 5.0, 6.0]);
        // Twice as wide as high: the middle rows of what covers it.
        let found = resize_and_crop(&[0.0, 4.0, 8.0, 12.0], [2, 2], [2, 4]);
        assert_eq!(found, [2.0, 3.0, 5.0, 6.0, 6.0, 7.0, 9.0, 10.0]);
        assert_eq!(resize_and_crop(&[1.0, 2.0], [1, 2], [1, 2]), [1.0, 2.0]);
    }
}
