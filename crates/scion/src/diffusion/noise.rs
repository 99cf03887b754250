//! Random numbers that depend on (seed, image index) alone, so that neither batch size nor the number of workers can
//! change a sample.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// What a stream's numbers are for. Streams of different purposes are independent: drawing a label at random or giving one
/// leaves the image's noise as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// x_T and every sampling step's noise.
    Sampling,
    /// The choice of a class.
    Label,
    /// A training sample's timestep, noise and label dropout; the index counts samples seen.
    Training,
    /// The draw of a latent from what an encoder tells of it.
    Latent,
}

/// The random stream of one image: ChaCha with 8 rounds, keyed by the seed and purpose, the index as stream number.
#[derive(Debug, Clone)]
pub struct NoiseStream {
    rng: ChaCha8Rng,
}

impl NoiseStream {
    /// The sampling noise of image `index`.
    pub fn new(seed: u64, index: u64) -> Self {
        Self::with_purpose(seed, index, Purpose::Sampling)
    }

    /// The stream of image `index` for `purpose`.
    pub fn with_purpose(seed: u64, index: u64, purpose: Purpose) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8] = match purpose {
            Purpose::Sampling => 0,
            Purpose::Label => 1,
            Purpose::Training => 2,
            Purpose::Latent => 3,
        };
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(index);
        Self { rng }
    }

    /// Fills `out` with standard normal values (ziggurat in f64, rounded to f32).
    pub fn fill_normal(&mut self, out: &mut [f32]) {
        for value in out {
            let normal: f64 = StandardNormal.sample(&mut self.rng);
            *value = normal as f32;
        }
    }

    /// A whole number uniform over 0..`bound` (0 if `bound` is 0): the high word of a 64-bit draw times `bound`, whose bias
    /// is below bound/2⁶⁴.
    pub fn uniform_below(&mut self, bound: usize) -> usize {
        ((u128::from(self.rng.next_u64()) * bound as u128) >> 64) as usize
    }

    /// A real number uniform over [0, 1), a multiple of 2⁻⁵³.
    pub fn uniform(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normals(mut stream: NoiseStream, n: usize) -> Vec<f32> {
        let mut out = vec![0.0; n];
        stream.fill_normal(&mut out);
        out
    }

    #[test]
    fn streams_differ_by_seed_index_and_purpose_only() {
        let base = normals(NoiseStream::new(1, 5), 8);
        assert_eq!(base, normals(NoiseStream::new(1, 5), 8));
        assert_ne!(base, normals(NoiseStream::new(2, 5), 8));
        assert_ne!(base, normals(NoiseStream::new(1, 6), 8));
        assert_ne!(base, normals(NoiseStream::with_purpose(1, 5, Purpose::Label), 8));
    }

    #[test]
    fn published_seeds_keep_their_samples() {
        // A new release of the generator or of the ziggurat must not change what a seed gives.
        let found = [normals(NoiseStream::new(0, 0), 2), normals(NoiseStream::new(100, 49_999), 2)].concat();
        assert_eq!(found, [1.3776972, 0.4053468, -0.34213534, -1.4942855]);
        let mut labels = NoiseStream::with_purpose(0, 0, Purpose::Label);
        assert_eq!([0; 4].map(|_: i32| labels.uniform_below(1000)), [249, 318, 370, 604]);
    }

    #[test]
    fn filling_in_pieces_is_filling_at_once() {
        let mut stream = NoiseStream::new(3, 0);
        let mut pieces = vec![0.0; 7];
        let (head, tail) = pieces.split_at_mut(3);
        stream.fill_normal(head);
        stream.fill_normal(tail);
        assert_eq!(pieces, normals(NoiseStream::new(3, 0), 7));
    }

    #[test]
    fn normals_have_the_moments_of_a_normal() {
        let values: Vec<f64> = normals(NoiseStream::new(0, 0), 200_000).into_iter().map(f64::from).collect();
        let moment = |k: i32| values.iter().map(|v| v.powi(k)).sum::<f64>() / values.len() as f64;
        // Five standard errors of each sample moment.
        for (k, expected, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
            let bound = 5.0 * f64::sqrt(variance / values.len() as f64);
            assert!((moment(k) - expected).abs() < bound, "moment {k}: {}", moment(k));
        }
    }

    #[test]
    fn uniform_draws_cover_their_range_evenly() {
        let mut stream = NoiseStream::with_purpose(0, 0, Purpose::Label);
        let mut counts = [0_i32; 7];
        (0..70_000).for_each(|_| counts[stream.uniform_below(7)] += 1);
        assert!(counts.iter().all(|count| (count - 10_000).abs() < 500), "{counts:?}");
        assert_eq!(stream.uniform_below(0), 0);
        let mean = (0..10_000).map(|_| stream.uniform()).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }
}
