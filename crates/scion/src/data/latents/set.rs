use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use super::shard::Shard;
use super::{FORMAT, LatentSettings, SETTINGS, SHARD, shard_name};
use crate::data::ImageShape;
use crate::data::image_set::UNLABELLED;
use crate::error::{Error, Result};
use crate::latent::LatentDistribution;

/// A folder of latents, or some of them; they stay on disk until they are read.
#[derive(Clone, Debug)]
pub struct LatentSet {
    folder: PathBuf,
    settings: Arc<LatentSettings>,
    shards: Arc<Vec<Shard>>,
    /// Places in the folder.
    rows: Vec<usize>,
    labels: Vec<usize>,
    captions: Vec<String>,
    class_names: Vec<String>,
}

impl LatentSet {
    /// Opens a folder that `scion encode` has finished.
    ///
    /// # Errors
    /// `Io` or `Invalid`, naming the file, if one is missing or damaged, or the work was not finished.
    pub fn open(folder: &Path) -> Result<Self> {
        let settings = read_settings(folder)?;
        let mut shards = Vec::new();
        let (mut labels, mut captions) = (Vec::new(), Vec::new());
        for number in 0..settings.count.div_ceil(SHARD) {
            let path = folder.join(shard_name(number));
            if !path.exists() {
                let detail =
                    "is missing: the images are not all encoded; give the same `scion encode` again to go on";
                return Err(Error::invalid(path, detail));
            }
            let count = SHARD.min(settings.count - number * SHARD);
            let (shard, told) = Shard::open(&path, count, &settings)?;
            shards.push(shard);
            labels.extend(told.labels);
            captions.extend(told.captions);
        }
        let class_names = settings.classes.clone().unwrap_or_else(|| vec![UNLABELLED.into()]);
        Ok(Self {
            folder: folder.into(),
            rows: (0..settings.count).collect(),
            settings: Arc::new(settings),
            shards: Arc::new(shards),
            labels,
            captions,
            class_names,
        })
    }

    /// What decided the latents.
    pub fn settings(&self) -> &LatentSettings {
        &self.settings
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Channels, rows and columns of a latent.
    pub fn shape(&self) -> ImageShape {
        let [channels, height, width] = self.settings.shape;
        ImageShape { channels, height, width }
    }

    /// Class of each image, [N]; all 0 where they have captions.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// Class names; a label is an index into them.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Caption of each image, [N]; none where they have classes.
    pub fn captions(&self) -> &[String] {
        &self.captions
    }

    /// The same with captions as classes, one an image.
    #[must_use]
    pub fn by_caption(self) -> Self {
        Self { labels: (0..self.captions.len()).collect(), class_names: self.captions.clone(), ..self }
    }

    /// The chosen images as a set of their own.
    ///
    /// # Errors
    /// `Usage` for an index outside the set.
    pub fn subset(&self, indices: &[usize]) -> Result<Self> {
        self.check_indices(indices)?;
        Ok(Self {
            rows: indices.iter().map(|&i| self.rows[i]).collect(),
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
            captions: indices.iter().filter_map(|&i| self.captions.get(i).cloned()).collect(),
            ..self.clone()
        })
    }

    /// What the encoder told of an image, or of its mirrored one.
    ///
    /// # Errors
    /// `Usage` for an index outside the set, or if there are no mirrored ones; `Io` if a shard cannot be read.
    pub fn distribution(&self, index: usize, mirrored: bool) -> Result<LatentDistribution> {
        self.check_indices(&[index])?;
        if mirrored && !self.settings.flip {
            let detail = "holds no mirrored images, which flip = true needs; encode them with --flip";
            return Err(Error::Usage(format!("{}: {detail}", self.folder.display())));
        }
        let row = self.rows[index];
        let [mean, logvar] = self.shards[row / SHARD].read(row % SHARD, mirrored)?;
        Ok(LatentDistribution { shape: self.settings.shape, mean, logvar })
    }

    /// Latents as a diffusion model sees them, [indices.len(), C, h, w]: that of `indices[i]`, or of its mirrored image, is
    /// drawn with the noise that belongs to (`seed`, `first + i`).
    ///
    /// # Errors
    /// As [`LatentSet::distribution`].
    pub fn read(&self, indices: &[usize], mirrored: &[bool], seed: u64, first: u64) -> Result<Vec<f32>> {
        let (scale, shift) = (self.settings.scaling_factor, self.settings.shift_factor);
        let mut out = vec![0f32; indices.len() * self.shape().len()];
        let slots = out.par_chunks_exact_mut(self.shape().len()).zip(indices).zip(mirrored).enumerate();
        slots.try_for_each(|(i, ((slot, &index), &mirrored))| {
            let latent = self.distribution(index, mirrored)?.sample(seed, first + i as u64);
            let scaled = latent.into_iter().map(|z| ((f64::from(z) - shift) * scale) as f32);
            slot.iter_mut().zip(scaled).for_each(|(slot, z)| *slot = z);
            Ok::<(), Error>(())
        })?;
        Ok(out)
    }

    fn check_indices(&self, indices: &[usize]) -> Result<()> {
        match indices.iter().find(|&&i| i >= self.len()) {
            Some(i) => Err(Error::Usage(format!(
                "{}: latent {i} asked for, but the set holds {}",
                self.folder.display(),
                self.len()
            ))),
            None => Ok(()),
        }
    }
}

fn read_settings(folder: &Path) -> Result<LatentSettings> {
    let path = folder.join(SETTINGS);
    if !path.is_file() {
        let detail = format!("holds no {SETTINGS}; expected a folder that `scion encode` wrote");
        return Err(Error::invalid(folder, detail));
    }
    let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    let settings: LatentSettings =
        serde_json::from_str(&text).map_err(|e| Error::invalid(&path, format!("is damaged: {e}")))?;
    if settings.format != FORMAT {
        let detail = format!("is of format {}; this version reads {FORMAT}", settings.format);
        return Err(Error::invalid(&path, detail));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::super::{EncodedImage, LatentDtype, write_shard};
    use super::*;

    fn settings(count: usize, flip: bool, classes: bool) -> LatentSettings {
        LatentSettings {
            format: FORMAT,
            model: "vae".into(),
            vae_sha256: "00".into(),
            scaling_factor: 0.5,
            shift_factor: 1.0,
            size: 8,
            shape: [2, 1, 2],
            dtype: LatentDtype::F16,
            precision: "f32".into(),
            flip,
            count,
            images_sha256: "11".into(),
            classes: classes.then(|| vec!["a".into(), "b".into()]),
        }
    }

    fn image(i: usize, settings: &LatentSettings) -> EncodedImage {
        let latent = |sign: f32| LatentDistribution {
            shape: [2, 1, 2],
            mean: (0..4).map(|c| sign * (i * 4 + c) as f32).collect(),
            logvar: vec![-30.0, -30.0, -30.0, 0.0],
        };
        EncodedImage {
            file: format!("{i}.png"),
            label: i % 2,
            caption: settings.classes.is_none().then(|| format!("image {i}")),
            latent: latent(1.0),
            flipped: settings.flip.then(|| latent(-1.0)),
        }
    }

    fn folder(settings: &LatentSettings) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(SETTINGS), serde_json::to_string(settings).unwrap()).unwrap();
        let images: Vec<_> = (0..settings.count).map(|i| image(i, settings)).collect();
        for (number, images) in images.chunks(SHARD).enumerate() {
            write_shard(&folder.path().join(shard_name(number)), images, settings).unwrap();
        }
        folder
    }

    #[test]
    fn latents_are_read_scaled_and_drawn_anew() {
        let folder = folder(&settings(SHARD + 3, true, true));
        let set = LatentSet::open(folder.path()).unwrap();
        assert_eq!(
            (set.len(), set.labels()[257], set.class_names()),
            (259, 1, &["a".to_string(), "b".into()][..])
        );
        // Of four values, three are certain: (z - 1) / 2.
        let read = |seed, first| set.read(&[1, 258, 1], &[false, true, false], seed, first).unwrap();
        let found = read(3, 0);
        let close = |a: f32, b: f32| (a - b).abs() < 1e-3 * b.abs().max(1.0);
        for (value, expected) in found[..3].iter().zip([1.5, 2.0, 2.5]) {
            assert!(close(*value, expected), "{found:?}");
        }
        assert!(close(found[4], (-1032.0 - 1.0) / 2.0), "{found:?}");
        // The same image is drawn differently in another place, and the same in the same.
        let certain = found[..3].iter().zip(&found[8..11]).all(|(a, b)| close(*a, *b));
        assert!(certain && (found[3] - found[11]).abs() > 1e-3, "{found:?}");
        assert_eq!(found, read(3, 0));
        assert_ne!(found, read(4, 0));
        assert_eq!(found[8..], read(3, 2)[..4]);
        let few = set.subset(&[258, 0]).unwrap();
        assert_eq!((few.len(), few.labels()), (2, &[0, 0][..]));
        assert_eq!(few.read(&[0], &[true], 3, 1).unwrap(), found[4..8]);
        assert!(few.read(&[2], &[false], 0, 0).unwrap_err().to_string().contains("latent 2"));
    }

    #[test]
    fn captions_stand_for_labels() {
        let folder = folder(&settings(3, false, false));
        let set = LatentSet::open(folder.path()).unwrap().subset(&[2, 0]).unwrap();
        assert_eq!(set.captions(), ["image 2", "image 0"]);
        assert_eq!((set.labels(), set.class_names()), (&[0, 0][..], &[UNLABELLED.to_string()][..]));
        assert!(set.read(&[0], &[true], 0, 0).unwrap_err().to_string().contains("--flip"));
        let set = LatentSet::open(folder.path()).unwrap().by_caption().subset(&[2, 0]).unwrap();
        assert_eq!((set.labels(), &set.class_names()[2][..]), (&[2, 0][..], "image 2"));
    }

    #[test]
    fn unfinished_and_damaged_folders_are_refused() {
        let message = |folder: &Path| LatentSet::open(folder).unwrap_err().to_string();
        let empty = tempfile::tempdir().unwrap();
        assert!(message(empty.path()).contains("holds no latents.json"));
        let folder = folder(&settings(SHARD + 1, false, true));
        let (first, last) = (folder.path().join(shard_name(0)), folder.path().join(shard_name(1)));
        let bytes = fs::read(&last).unwrap();
        fs::remove_file(&last).unwrap();
        assert!(message(folder.path()).contains("shard-00001.safetensors: is missing"));
        fs::write(&last, &bytes[..bytes.len() - 1]).unwrap();
        assert!(message(folder.path()).contains("truncated"));
        fs::copy(&first, &last).unwrap();
        assert!(message(folder.path()).contains("mean (expected [1, 2, 1, 2], found [256, 2, 1, 2])"));
        let text = fs::read_to_string(folder.path().join(SETTINGS)).unwrap();
        fs::write(folder.path().join(SETTINGS), text.replace("\"format\":1", "\"format\":7")).unwrap();
        assert!(message(folder.path()).contains("is of format 7"));
        fs::write(folder.path().join(SETTINGS), "{}").unwrap();
        assert!(message(folder.path()).contains("is damaged"));
    }
}
