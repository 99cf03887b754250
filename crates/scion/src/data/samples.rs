//! Sample files in the layout of ADM's evaluation (openai/guided-diffusion `evaluations/`): an `.npz` with
//! `arr_0`, u8 [N, H, W, C], and class labels, if any, in `arr_1`, i64 [N].

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::image_set::{ImageSet, ImageShape, Origins, UNLABELLED};
use super::raster::Raster;
use crate::error::{Error, Result};
use crate::metrics::npz::{Kind, NpyArray, NpyData, Npz, write_npz};

/// The header of a sample file; its pixels are read in blocks, since those of a full evaluation (50,000 images)
/// take gigabytes.
#[derive(Clone, Debug)]
pub struct SampleFile {
    path: PathBuf,
    count: usize,
    shape: ImageShape,
    kind: Kind,
    labels: Option<Vec<usize>>,
}

/// What became of float pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clipping {
    /// Values below 0 or above 255, which were clipped.
    pub clipped: usize,
}

impl SampleFile {
    /// Reads the header: `arr_0` is u8 or a float type, [N, H, W, 1 or 3]; `arr_1`, if there, i64 [N].
    ///
    /// # Errors
    /// `Io` or `Invalid`, naming the file and the array: not an npz, no `arr_0`, wrong type or shape.
    pub fn open(path: &Path) -> Result<Self> {
        let mut npz = Npz::open(path)?;
        let (found, kind) = npz.stream("arr_0", |values| Ok((values.shape().to_vec(), values.kind())))?;
        let (&[count, height, width, channels @ (1 | 3)], false) = (found.as_slice(), kind == Kind::I64)
        else {
            let detail = format!("arr_0 is {kind} {found:?}, expected u8 or floats, [N, H, W, 1 or 3]");
            return Err(Error::invalid(path, detail));
        };
        let shape = ImageShape { channels, height, width };
        if shape.is_empty() || count == 0 {
            let what = if count == 0 { "no images" } else { "images without pixels" };
            return Err(Error::invalid(path, format!("arr_0 has shape {found:?}: {what}")));
        }
        let labels = match npz.holds("arr_1") {
            true => Some(labels(path, &npz.array("arr_1")?, count)?),
            false => None,
        };
        Ok(Self { path: path.into(), count, shape, kind, labels })
    }

    /// Number of images.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The shape of every image.
    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    /// Class of each image, [N], where the file tells it.
    pub fn labels(&self) -> Option<&[usize]> {
        self.labels.as_deref()
    }

    /// Passes all images, u8 [n, C, H, W] with n at most `block`, in order. Float values are taken as 0 to 255,
    /// clipped and rounded.
    ///
    /// # Errors
    /// Those of `f`; `Invalid` where the data are damaged, a value is not a number, or float values lie between
    /// -1 and 1, so that they are no pixels from 0 to 255.
    pub fn for_each_block(&self, block: usize, mut f: impl FnMut(&[u8]) -> Result<()>) -> Result<Clipping> {
        let mut clipping = Clipping::default();
        let mut judged = false;
        // The archive's error and the caller's are of different types; the caller's waits here.
        let mut failed = Ok(());
        Npz::open(&self.path)?.stream("arr_0", |values| {
            for begin in (0..self.count).step_by(block) {
                let wanted = block.min(self.count - begin) * self.shape.len();
                let bytes = match self.kind {
                    Kind::U8 => values.next_bytes(wanted)?,
                    _ => {
                        let floats = values.next_f32(wanted)?;
                        if let Some(i) = floats.iter().position(|v| v.is_nan()) {
                            return Err(format!("not a number in image {}", begin + i / self.shape.len()));
                        }
                        if !judged {
                            judged = floats.iter().any(|v| *v != 0.0);
                            check_range(&floats)?;
                        }
                        clipping.clipped += floats.iter().filter(|v| !(0.0..=255.0).contains(*v)).count();
                        floats.into_iter().map(|v| v.clamp(0.0, 255.0).round() as u8).collect()
                    }
                };
                failed = f(&planes(&bytes, self.shape));
                if failed.is_err() {
                    break;
                }
            }
            Ok(())
        })?;
        failed.map(|()| clipping)
    }
}

/// Tells pixels from values in a sampler's range, [-1, 1], of which unclipped ones pass it by a little: few pixels but
/// black ones are so small.
fn check_range(floats: &[f32]) -> std::result::Result<(), String> {
    let drawn = floats.iter().filter(|v| **v != 0.0).count();
    let small = floats.iter().filter(|v| **v != 0.0 && v.abs() <= 2.0).count();
    if drawn > 0 && 10 * small >= 9 * drawn {
        return Err("no array of pixels: nearly all values lie between -2 and 2, expected 0 to 255".into());
    }
    Ok(())
}

/// Pixels of whole images, from [n, H, W, C] to [n, C, H, W].
fn planes(pixels: &[u8], shape: ImageShape) -> Vec<u8> {
    let ImageShape { channels, height, width } = shape;
    pixels
        .chunks_exact(shape.len())
        .flat_map(|image| Raster { width, height, channels, data: image.to_vec() }.to_planes())
        .collect()
}

/// Reads a sample file into memory. Without `arr_1` every label is 0, of the class "unlabelled"; with it, classes
/// are named by their numbers.
///
/// # Errors
/// As [`SampleFile::open`] and [`SampleFile::for_each_block`]; `Invalid` also where `arr_0` is not u8.
pub fn read_samples(path: &Path) -> Result<ImageSet> {
    let file = SampleFile::open(path)?;
    if file.kind != Kind::U8 {
        return Err(Error::invalid(path, format!("arr_0 is {}, expected u8", file.kind)));
    }
    let mut pixels = Vec::new();
    file.for_each_block(256, |block| {
        pixels.extend_from_slice(block);
        Ok(())
    })?;
    let SampleFile { count: n, shape, labels, .. } = file;
    let (labels, class_names) = match labels {
        Some(labels) => {
            let classes = labels.iter().max().map_or(0, |max| max + 1);
            (labels, (0..classes).map(|class| class.to_string()).collect())
        }
        None => (vec![0; n], vec![UNLABELLED.into()]),
    };
    let origins = Origins::Rows { source: path.display().to_string(), rows: (0..n).collect() };
    ImageSet::from_memory(shape, pixels, labels, class_names, origins)
}

/// Writes images [N, C, H, W] as a sample file, with labels [N] if given. The file is whole or absent.
///
/// # Errors
/// `Usage` if the lengths disagree; `Io` if it cannot be written.
pub fn write_samples(path: &Path, pixels: &[u8], shape: ImageShape, labels: Option<&[usize]>) -> Result<()> {
    let n = if shape.is_empty() { 0 } else { pixels.len() / shape.len() };
    let label_count = labels.map_or(n, <[usize]>::len);
    if n * shape.len() != pixels.len() || label_count != n {
        return Err(Error::Usage(format!(
            "sample file: {} pixel bytes and {label_count} labels for images of shape {shape}",
            pixels.len()
        )));
    }
    let mut rows = Vec::with_capacity(pixels.len());
    for image in pixels.chunks_exact(shape.len().max(1)) {
        rows.extend(Raster::from_planes(image, shape).data);
    }
    let images =
        NpyArray { shape: vec![n, shape.height, shape.width, shape.channels], data: NpyData::U8(rows) };
    match labels {
        None => write_npz(path, &[("arr_0", &images)]),
        Some(labels) => {
            let data = NpyData::I64(labels.iter().map(|&label| label as i64).collect());
            write_npz(path, &[("arr_0", &images), ("arr_1", &NpyArray { shape: vec![n], data })])
        }
    }
}

/// Beside the images of a folder that `scion sample` wrote: what decided them.
pub(crate) const SETTINGS: &str = "sample.json";

/// Labels of the first `count` images drawn of some classes in turn.
pub(crate) fn labels_in_turn(classes: &[usize], count: usize) -> Vec<usize> {
    classes.iter().copied().cycle().take(count).collect()
}

/// Labels of `count` images that are spread evenly over the classes, those of a class side by side.
pub(crate) fn labels_in_groups(count: usize, classes: usize) -> Vec<usize> {
    (0..count).map(|i| i * classes / count).collect()
}

/// Labels of the images in a folder, where it was written by `scion sample` and holds `count` images from the first
/// on.
pub(crate) fn labels_of_folder(folder: &Path, count: usize) -> Option<Vec<usize>> {
    let settings: Value = serde_json::from_str(&fs::read_to_string(folder.join(SETTINGS)).ok()?).ok()?;
    let classes: Vec<usize> = serde_json::from_value(settings.get("classes")?.clone()).ok()?;
    let whole = !classes.is_empty() && folder.join(format!("{:06}.png", count.checked_sub(1)?)).exists();
    whole.then(|| labels_in_turn(&classes, count))
}

fn labels(path: &Path, array: &NpyArray, n: usize) -> Result<Vec<usize>> {
    let NpyData::I64(values) = &array.data else {
        return Err(Error::invalid(path, format!("arr_1 (labels) is {}, expected i64", array.data.kind())));
    };
    if array.shape != [n] {
        return Err(Error::invalid(
            path,
            format!("arr_1 (labels) has shape {:?}, expected [{n}]", array.shape),
        ));
    }
    // ImageNet-21k, the largest labelled set in use, has under 2^15 classes.
    values
        .iter()
        .map(|&label| usize::try_from(label).ok().filter(|&label| label < 1 << 20))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| Error::invalid(path, "arr_1 holds a label below 0 or above 2^20"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples.npz");
        let shape = ImageShape { channels: 3, height: 1, width: 2 };
        let pixels: Vec<u8> = (0..12).collect();
        write_samples(&path, &pixels, shape, Some(&[4, 1])).unwrap();
        let set = read_samples(&path).unwrap();
        assert_eq!((set.shape(), set.as_bytes(), set.labels()), (shape, Some(&pixels[..]), &[4, 1][..]));
        assert_eq!(set.class_names().len(), 5);

        write_samples(&path, &pixels, shape, None).unwrap();
        assert_eq!(read_samples(&path).unwrap().labels(), [0, 0]);
    }

    #[test]
    fn wrong_arrays_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples.npz");
        let message = |arrays: &[(&str, &NpyArray)]| {
            write_npz(&path, arrays).unwrap();
            read_samples(&path).unwrap_err().to_string()
        };
        let floats = NpyArray { shape: vec![1, 1, 1, 1], data: NpyData::F32(vec![0.0]) };
        assert!(message(&[("arr_0", &floats)]).contains("arr_0 is f32, expected u8"));
        let flat = NpyArray { shape: vec![4], data: NpyData::U8(vec![0; 4]) };
        assert!(message(&[("arr_0", &flat)]).contains("arr_0 is u8 [4], expected u8 or floats, [N, H"));
        let none = NpyArray { shape: vec![0, 2, 2, 1], data: NpyData::U8(vec![]) };
        assert!(message(&[("arr_0", &none)]).contains("no images"));
        assert!(message(&[("images", &floats)]).contains("no array arr_0; it holds images"));
        let pixels = NpyArray { shape: vec![1, 1, 1, 1], data: NpyData::U8(vec![0]) };
        let label = NpyArray { shape: vec![1], data: NpyData::I64(vec![-1]) };
        assert!(message(&[("arr_0", &pixels), ("arr_1", &label)]).contains("label below 0"));
        let many = NpyArray { shape: vec![2], data: NpyData::I64(vec![0, 0]) };
        assert!(message(&[("arr_0", &pixels), ("arr_1", &many)]).contains("expected [1]"));
    }

    #[test]
    fn float_pixels_are_clipped_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples.npz");
        let read = |values: Vec<f32>| {
            let array = NpyArray { shape: vec![values.len(), 1, 1, 1], data: NpyData::F32(values) };
            write_npz(&path, &[("arr_0", &array)]).unwrap();
            let mut pixels = Vec::new();
            let clipping = SampleFile::open(&path).unwrap().for_each_block(2, |block| {
                pixels.extend_from_slice(block);
                Ok(())
            });
            clipping.map(|clipping| (pixels, clipping))
        };
        let (pixels, clipping) = read(vec![-3.0, 0.6, 254.4, 255.0, 300.0]).unwrap();
        assert_eq!((pixels, clipping), (vec![0, 1, 254, 255, 255], Clipping { clipped: 2 }));
        let nan = read(vec![100.0, 2.0, 3.0, f32::NAN]).unwrap_err().to_string();
        assert!(nan.contains("arr_0 is not a number in image 3"), "{nan}");
        let unit = read(vec![-1.0, 1.02]).unwrap_err().to_string();
        assert!(unit.contains("between -2 and 2, expected 0 to 255"), "{unit}");
    }
}
