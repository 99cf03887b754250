//! Sample files in the layout of ADM's evaluation (openai/guided-diffusion `evaluations/`): an `.npz` with
//! `arr_0`, u8 [N, H, W, C], and class labels, if any, in `arr_1`, i64 [N].

use std::path::Path;

use super::image_set::{ImageSet, ImageShape, Origins, UNLABELLED};
use super::raster::Raster;
use crate::error::{Error, Result};
use crate::metrics::npz::{NpyArray, NpyData, Npz, write_npz};

/// Reads a sample file. Without `arr_1` every label is 0, of the class "unlabelled"; with it, classes are
/// named by their numbers.
///
/// # Errors
/// `Io` or `Invalid`, naming the file and the array: not an npz, no `arr_0`, wrong type or shape.
pub fn read_samples(path: &Path) -> Result<ImageSet> {
    let mut npz = Npz::open(path)?;
    let images = npz.array("arr_0")?;
    let (&[n, height, width, channels @ (1 | 3)], NpyData::U8(pixels)) =
        (images.shape.as_slice(), &images.data)
    else {
        let found = format!("{} {:?}", images.data.kind(), images.shape);
        return Err(Error::invalid(path, format!("arr_0 is {found}, expected u8 [N, H, W, 1 or 3]")));
    };
    let shape = ImageShape { channels, height, width };
    if shape.is_empty() {
        return Err(Error::invalid(
            path,
            format!("arr_0 has shape {:?}: images without pixels", images.shape),
        ));
    }
    let planes = pixels
        .chunks_exact(shape.len())
        .flat_map(|image| Raster { width, height, channels, data: image.to_vec() }.to_planes())
        .collect();
    let (labels, class_names) = match npz.names().iter().any(|name| name == "arr_1") {
        true => labels(path, &npz.array("arr_1")?, n)?,
        false => (vec![0; n], vec![UNLABELLED.into()]),
    };
    let origins = Origins::Rows { source: path.display().to_string(), rows: (0..n).collect() };
    ImageSet::from_memory(shape, planes, labels, class_names, origins)
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

fn labels(path: &Path, array: &NpyArray, n: usize) -> Result<(Vec<usize>, Vec<String>)> {
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
    let labels = values
        .iter()
        .map(|&label| usize::try_from(label).ok().filter(|&label| label < 1 << 20))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| Error::invalid(path, "arr_1 holds a label below 0 or above 2^20"))?;
    let classes = labels.iter().max().map_or(0, |max| max + 1);
    Ok((labels, (0..classes).map(|class| class.to_string()).collect()))
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
        assert!(message(&[("arr_0", &floats)]).contains("arr_0 is f32 [1, 1, 1, 1], expected u8"));
        assert!(message(&[("images", &floats)]).contains("no array arr_0; it holds images"));
        let pixels = NpyArray { shape: vec![1, 1, 1, 1], data: NpyData::U8(vec![0]) };
        let label = NpyArray { shape: vec![1], data: NpyData::I64(vec![-1]) };
        assert!(message(&[("arr_0", &pixels), ("arr_1", &label)]).contains("label below 0"));
        let many = NpyArray { shape: vec![2], data: NpyData::I64(vec![0, 0]) };
        assert!(message(&[("arr_0", &pixels), ("arr_1", &many)]).contains("expected [1]"));
    }
}
