//! Training batches that are a pure function of the step number, so that resuming is exact.
//!
//! Samples are numbered 0, 1, 2, … through an endless run of epochs; sample k is entry `k mod N` of epoch
//! `k / N`'s permutation. A batch may end one epoch and begin the next: no image is dropped.
//! Permutation e is drawn from ChaCha8(seed), stream e; the flip of sample k is word k of the last stream.

use std::sync::{Arc, Mutex, PoisonError};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::training_set::TrainingSet;
use crate::error::{Error, Result};

/// The stream of horizontal flips; no run reaches this epoch number.
const FLIP_STREAM: u64 = u64::MAX;
/// The stream of [`stratified_fraction`].
const FRACTION_STREAM: u64 = u64::MAX - 1;

/// A place in the endless sequence of samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub epoch: u64,
    /// Images of this epoch already used.
    pub offset: u64,
}

/// One training batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// [N, C, H, W]: pixels in [-1, 1], or scaled latents.
    pub images: Vec<f32>,
    /// [N, C, H, W].
    pub shape: [usize; 4],
    /// Class index of each image, [N].
    pub labels: Vec<usize>,
    /// Which image of the set each is, [N].
    pub indices: Vec<usize>,
    /// Whether each was mirrored left to right, [N].
    pub flipped: Vec<bool>,
}

/// An endless, seeded order of batches over a set.
#[derive(Debug)]
pub struct Batches {
    set: TrainingSet,
    seed: u64,
    flip: bool,
    /// The latest permutation; saves shuffling anew for each batch of an epoch.
    permutation: Mutex<Option<(u64, Arc<Vec<u32>>)>>,
}

impl Batches {
    /// Batches over `set`, each image mirrored with probability one half if `flip`.
    ///
    /// # Errors
    /// `Usage` if the set is empty or has more than 2^32 images, or holds latents that cannot be mirrored and must be.
    pub fn new(set: impl Into<TrainingSet>, seed: u64, flip: bool) -> Result<Self> {
        let set = set.into();
        if set.is_empty() || u32::try_from(set.len()).is_err() {
            return Err(Error::Usage(format!("training data: {} images, expected 1 to 2^32 - 1", set.len())));
        }
        if flip {
            set.check_flip()?;
        }
        Ok(Self { set, seed, flip, permutation: Mutex::new(None) })
    }

    /// The images drawn from.
    pub fn set(&self) -> &TrainingSet {
        &self.set
    }

    /// Where batch `step` (from 0) of size `batch_size` begins.
    pub fn position(&self, step: u64, batch_size: usize) -> Position {
        let sample = first_sample(step, batch_size);
        let n = self.set.len() as u128;
        Position { epoch: (sample / n) as u64, offset: (sample % n) as u64 }
    }

    /// Batch `step` (from 0).
    ///
    /// # Errors
    /// `Usage` for a batch size of 0; `Io` or `Invalid`, naming the file, if an image cannot be decoded.
    pub fn batch(&self, step: u64, batch_size: usize) -> Result<Batch> {
        if batch_size == 0 {
            return Err(Error::Usage("training data: batch size 0, expected at least 1".into()));
        }
        let indices = self.indices(self.position(step, batch_size), batch_size);
        let flipped = self.flips(step, batch_size);
        let shape = self.set.shape();
        Ok(Batch {
            images: self.set.values(&indices, &flipped, self.seed, first_sample(step, batch_size) as u64)?,
            shape: [batch_size, shape.channels, shape.height, shape.width],
            labels: indices.iter().map(|&i| self.set.labels()[i]).collect(),
            indices,
            flipped,
        })
    }

    /// The next `count` image indices from `position` on.
    fn indices(&self, position: Position, count: usize) -> Vec<usize> {
        let Position { mut epoch, offset } = position;
        let mut offset = offset as usize;
        let mut indices = Vec::with_capacity(count);
        while indices.len() < count {
            let permutation = self.permutation(epoch);
            let rest = &permutation[offset..];
            let take = rest.len().min(count - indices.len());
            indices.extend(rest[..take].iter().map(|&i| i as usize));
            (epoch, offset) = (epoch + 1, 0);
        }
        indices
    }

    fn permutation(&self, epoch: u64) -> Arc<Vec<u32>> {
        // The value is replaced whole, so a panic elsewhere cannot have left it half-written.
        let mut cached = self.permutation.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, permutation)) = cached.as_ref().filter(|(at, _)| *at == epoch) {
            return permutation.clone();
        }
        let mut order: Vec<u32> = (0..self.set.len() as u32).collect();
        shuffle(&mut order, &mut stream(self.seed, epoch));
        let order = Arc::new(order);
        *cached = Some((epoch, order.clone()));
        order
    }

    fn flips(&self, step: u64, batch_size: usize) -> Vec<bool> {
        if !self.flip {
            return vec![false; batch_size];
        }
        let mut rng = stream(self.seed, FLIP_STREAM);
        rng.set_word_pos(first_sample(step, batch_size));
        (0..batch_size).map(|_| rng.next_u32() >> 31 == 1).collect()
    }
}

/// A seeded choice of about `fraction` of the images, the same share of every class: of a class of n,
/// round(n·fraction) images, at least one. Ascending indices.
///
/// # Errors
/// `Usage` unless 0 < `fraction` <= 1.
pub fn stratified_fraction(labels: &[usize], fraction: f64, seed: u64) -> Result<Vec<usize>> {
    if !(fraction > 0.0 && fraction <= 1.0) {
        return Err(Error::Usage(format!("[data] fraction is {fraction}, expected above 0 and at most 1")));
    }
    let mut classes: Vec<Vec<usize>> = Vec::new();
    for (i, &label) in labels.iter().enumerate() {
        if label >= classes.len() {
            classes.resize_with(label + 1, Vec::new);
        }
        classes[label].push(i);
    }
    let mut rng = stream(seed, FRACTION_STREAM);
    let mut chosen = Vec::new();
    for mut members in classes {
        let share = (members.len() as f64 * fraction).round().max(1.0) as usize;
        shuffle(&mut members, &mut rng);
        members.truncate(share);
        chosen.extend(members);
    }
    chosen.sort_unstable();
    Ok(chosen)
}

/// A seeded choice of `count` images, as even over the classes as their sizes allow. Ascending indices.
pub fn spread(labels: &[usize], count: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..labels.len()).collect();
    shuffle(&mut order, &mut stream(seed, FRACTION_STREAM));
    let mut seen: Vec<usize> = Vec::new();
    // The n-th image of a class, in the shuffled order, is taken in the n-th round.
    let mut rounds: Vec<(usize, usize)> = order
        .into_iter()
        .map(|i| {
            if labels[i] >= seen.len() {
                seen.resize(labels[i] + 1, 0);
            }
            seen[labels[i]] += 1;
            (seen[labels[i]], i)
        })
        .collect();
    rounds.sort_by_key(|&(round, _)| round);
    let mut chosen: Vec<usize> = rounds.into_iter().take(count).map(|(_, i)| i).collect();
    chosen.sort_unstable();
    chosen
}

fn first_sample(step: u64, batch_size: usize) -> u128 {
    u128::from(step) * batch_size as u128
}

fn stream(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// Fisher-Yates. Written out because `rand` may change its own from one release to the next, and with it
/// the batches of a resumed run.
pub(crate) fn shuffle<T>(items: &mut [T], rng: &mut ChaCha8Rng) {
    for i in (1..items.len()).rev() {
        items.swap(i, below(rng, i + 1));
    }
}

/// Uniform in 0..n, by one 64-bit draw; the bias is under n / 2^64.
fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::super::image_set::{ImageSet, ImageShape, Origins, to_unit};
    use super::*;

    fn batches(n: usize, flip: bool) -> Batches {
        let shape = ImageShape { channels: 1, height: 1, width: 2 };
        let pixels = (0..n).flat_map(|i| [i as u8, 255 - i as u8]).collect();
        let origins = Origins::Rows { source: "test".into(), rows: (0..n).collect() };
        let set = ImageSet::from_memory(shape, pixels, vec![0; n], vec!["a".into()], origins).unwrap();
        Batches::new(set, 7, flip).unwrap()
    }

    #[test]
    fn every_epoch_sees_every_image_once_in_a_new_order() {
        let batches = batches(10, false);
        // Three steps of 10 cross no epoch; batches of 4 cross two, and must give the same sequence.
        let tens: Vec<usize> = (0..2).flat_map(|s| batches.batch(s, 10).unwrap().indices).collect();
        let fours: Vec<usize> = (0..5).flat_map(|s| batches.batch(s, 4).unwrap().indices).collect();
        assert_eq!(tens, fours);
        let (first, second) = tens.split_at(10);
        assert_ne!(first, second);
        for epoch in [first, second] {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_batch_depends_on_its_step_alone() {
        let walked = batches(10, true);
        (0..50).for_each(|step| drop(walked.batch(step, 4).unwrap()));
        assert_eq!(walked.batch(50, 4).unwrap(), batches(10, true).batch(50, 4).unwrap());
        assert_eq!(walked.position(4, 4), Position { epoch: 1, offset: 6 });
    }

    #[test]
    fn flips_mirror_about_half_whatever_the_batch_size() {
        let batches = batches(100, true);
        let whole = batches.batch(0, 2000).unwrap();
        let parts: Vec<bool> = (0..20).flat_map(|s| batches.batch(s, 100).unwrap().flipped).collect();
        assert_eq!(whole.flipped, parts);
        let count = parts.iter().filter(|flip| **flip).count();
        assert!((900..1100).contains(&count), "{count} of 2000 flipped");
        for ((pixels, &index), &flipped) in whole.images.chunks(2).zip(&whole.indices).zip(&whole.flipped) {
            let plain = to_unit(&[index as u8, 255 - index as u8]);
            let expected = if flipped { [plain[1], plain[0]] } else { [plain[0], plain[1]] };
            assert_eq!(pixels, expected);
        }
    }

    /// Pins the order: a change here breaks the resuming of runs in progress.
    #[test]
    fn the_order_is_stable_across_releases() {
        assert_eq!(batches(10, false).batch(0, 10).unwrap().indices, [4, 6, 2, 0, 8, 3, 7, 5, 9, 1]);
    }

    #[test]
    fn fractions_are_stratified_and_seeded() {
        let labels: Vec<usize> = (0..100).map(|i| usize::from(i % 10 == 0)).collect();
        let chosen = stratified_fraction(&labels, 0.1, 3).unwrap();
        assert_eq!(chosen.len(), 10);
        assert_eq!(chosen.iter().filter(|&&i| labels[i] == 1).count(), 1);
        assert_eq!(chosen, stratified_fraction(&labels, 0.1, 3).unwrap());
        assert_ne!(chosen, stratified_fraction(&labels, 0.1, 4).unwrap());
        assert_eq!(stratified_fraction(&labels, 0.01, 3).unwrap().len(), 2);
        assert_eq!(stratified_fraction(&labels, 1.0, 3).unwrap(), (0..100).collect::<Vec<_>>());
        assert!(
            stratified_fraction(&labels, 0.0, 3).is_err()
                && stratified_fraction(&labels, f64::NAN, 3).is_err()
        );
    }

    #[test]
    fn empty_sets_and_batches_are_refused() {
        assert!(batches(3, false).batch(0, 0).is_err());
        let empty = batches(3, false).set().subset(&[]).unwrap();
        assert!(Batches::new(empty, 0, false).is_err());
    }
}
