//! Writing images: sheets for people, numbered PNG files for other programs.

use std::fs;
use std::path::Path;

use rayon::prelude::*;

use super::image_set::ImageShape;
use super::raster::Raster;
use crate::atomic;
use crate::error::{Error, Result};

/// Pixels between a sheet's images, unless told otherwise.
pub const GAP: usize = 2;

/// Height up to which images are small, and side above which they are large.
const SMALL: usize = 64;
const LARGE: usize = 512;

/// How a sheet of images is drawn.
#[derive(Clone, Copy, Debug)]
pub struct GridOptions {
    /// Images in a row.
    pub columns: usize,
    /// Pixels between neighbours, after scaling.
    pub gap: usize,
    /// Each pixel becomes a square of this side.
    pub scale: usize,
    /// Before that, each square of this side becomes a pixel, its mean.
    pub reduce: usize,
    /// Grey level of gaps and of empty places.
    pub background: u8,
}

impl GridOptions {
    /// White gaps of [`GAP`] pixels, no scaling.
    pub fn new(columns: usize) -> Self {
        Self { columns, gap: GAP, scale: 1, reduce: 1, background: 255 }
    }

    /// The same for people to look at: small images are drawn twice as large.
    pub fn to_look_at(columns: usize, shape: ImageShape) -> Self {
        Self { scale: if shape.height <= SMALL { 2 } else { 1 }, ..Self::new(columns) }
    }

    /// The same for a page of many: large images are drawn smaller as well.
    pub fn for_a_page(columns: usize, shape: ImageShape) -> Self {
        Self { reduce: shape.height.max(shape.width).div_ceil(LARGE), ..Self::to_look_at(columns, shape) }
    }
}

/// Lays images [N, C, H, W] out in rows, left to right; an incomplete last row is filled with background.
///
/// # Errors
/// `Usage` if there is no image, `pixels` is not a whole number of images, or columns or scale is 0.
pub fn grid(pixels: &[u8], shape: ImageShape, options: &GridOptions) -> Result<Raster> {
    let GridOptions { columns, gap, scale, reduce, background } = *options;
    if columns == 0 || scale == 0 || reduce == 0 {
        return Err(Error::Usage(format!(
            "image grid: {columns} columns, scale {scale}; expected at least 1 each"
        )));
    }
    let count = image_count(pixels, shape)?;
    if count == 0 {
        return Err(Error::Usage("image grid: no images".into()));
    }
    let columns = columns.min(count);
    let (cell_width, cell_height) = (shape.width / reduce * scale + gap, shape.height / reduce * scale + gap);
    let width = columns * cell_width - gap;
    let height = count.div_ceil(columns) * cell_height - gap;
    let mut sheet = Raster {
        width,
        height,
        channels: shape.channels,
        data: vec![background; width * height * shape.channels],
    };
    for (i, image) in pixels.chunks_exact(shape.len()).enumerate() {
        let image = Raster::from_planes(image, shape).reduced(reduce);
        paste(&mut sheet, &image, i % columns * cell_width, i / columns * cell_height, scale);
    }
    Ok(sheet)
}

/// Writes images [N, C, H, W] as `DIR/000000.png` onwards, the first numbered `first`, in parallel.
///
/// # Errors
/// `Usage` if `pixels` is not a whole number of images; `Io` if the folder or a file cannot be written.
pub fn save_folder(dir: &Path, pixels: &[u8], shape: ImageShape, first: usize) -> Result<()> {
    image_count(pixels, shape)?;
    fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
    pixels.par_chunks_exact(shape.len()).enumerate().try_for_each(|(i, image)| {
        save_png(&dir.join(format!("{:06}.png", first + i)), &Raster::from_planes(image, shape))
    })
}

/// Writes frames of one size as an animated PNG that plays for ever, a tenth of a second each and two for the last.
///
/// # Errors
/// `Usage` if there is no frame, they differ in size, or have other than 1 or 3 channels; `Io` if it cannot be written.
pub fn save_animation(path: &Path, frames: &[Raster]) -> Result<()> {
    let bytes = animation(frames).map_err(|detail| Error::Usage(format!("animation: {detail}")))?;
    atomic::write(path, &bytes)
}

fn animation(frames: &[Raster]) -> std::result::Result<Vec<u8>, String> {
    let Some((last, others)) = frames.split_last() else { return Err("no frames".into()) };
    let size = |frame: &Raster| (frame.width, frame.height, frame.channels);
    if others.iter().any(|frame| size(frame) != size(last)) {
        return Err("frames of different sizes".into());
    }
    let color = match last.channels {
        1 => png::ColorType::Grayscale,
        3 => png::ColorType::Rgb,
        other => return Err(format!("{other} channels; expected 1 or 3")),
    };
    let (mut bytes, side) = (Vec::new(), |n: usize| u32::try_from(n).map_err(|e| e.to_string()));
    let mut encoder = png::Encoder::new(&mut bytes, side(last.width)?, side(last.height)?);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    let told = |e: png::EncodingError| e.to_string();
    encoder.set_animated(side(frames.len())?, 0).map_err(told)?;
    encoder.set_frame_delay(1, 10).map_err(told)?;
    let mut writer = encoder.write_header().map_err(told)?;
    for frame in others {
        writer.write_image_data(&frame.data).map_err(told)?;
    }
    writer.set_frame_delay(2, 1).map_err(told)?;
    writer.write_image_data(&last.data).map_err(told)?;
    writer.finish().map_err(told)?;
    Ok(bytes)
}

/// Writes one PNG file. A kill leaves it whole or absent: a folder of samples goes on from the files it has.
///
/// # Errors
/// `Io` if it cannot be written; `Usage` as [`Raster::to_png`].
pub fn save_png(path: &Path, image: &Raster) -> Result<()> {
    let bytes = image.to_png()?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.tmp"));
    fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path)).map_err(|e| {
        // Where this fails too, the first error says what is wrong.
        let _ = fs::remove_file(&temporary);
        Error::io("write", path, e)
    })
}

fn image_count(pixels: &[u8], shape: ImageShape) -> Result<usize> {
    if shape.is_empty() || !pixels.len().is_multiple_of(shape.len()) {
        let bytes = pixels.len();
        return Err(Error::Usage(format!("{bytes} pixel bytes are not a whole number of {shape} images")));
    }
    Ok(pixels.len() / shape.len())
}

fn paste(sheet: &mut Raster, image: &Raster, left: usize, top: usize, scale: usize) {
    let channels = image.channels;
    for y in 0..image.height * scale {
        let from = &image.data[y / scale * image.width * channels..][..image.width * channels];
        let to = &mut sheet.data[((top + y) * sheet.width + left) * channels..][..from.len() * scale];
        for (block, pixel) in to.chunks_exact_mut(channels * scale).zip(from.chunks_exact(channels)) {
            block.chunks_exact_mut(channels).for_each(|target| target.copy_from_slice(pixel));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOTS: ImageShape = ImageShape { channels: 1, height: 1, width: 1 };

    #[test]
    fn large_images_are_drawn_smaller() {
        let shape = ImageShape { channels: 1, height: 2, width: 5 };
        let options = GridOptions { reduce: 2, ..GridOptions::new(1) };
        // The last column fills no square.
        let sheet = grid(&[0, 1, 8, 10, 99, 1, 1, 10, 12, 99], shape, &options).unwrap();
        assert_eq!((sheet.width, sheet.height, &sheet.data[..]), (2, 1, &[1, 10][..]));
        let large = ImageShape { channels: 3, height: 2048, width: 2048 };
        assert_eq!(
            (GridOptions::for_a_page(1, large).reduce, GridOptions::to_look_at(1, large).reduce),
            (4, 1)
        );
    }

    #[test]
    fn grid_places_scales_and_pads() {
        let options = GridOptions { columns: 2, gap: 1, scale: 2, reduce: 1, background: 9 };
        let sheet = grid(&[1, 2, 3], DOTS, &options).unwrap();
        assert_eq!((sheet.width, sheet.height), (5, 5));
        #[rustfmt::skip]
        assert_eq!(sheet.data, [
            1, 1, 9, 2, 2,
            1, 1, 9, 2, 2,
            9, 9, 9, 9, 9,
            3, 3, 9, 9, 9,
            3, 3, 9, 9, 9,
        ]);
    }

    #[test]
    fn grid_keeps_colours_together() {
        let shape = ImageShape { channels: 3, height: 1, width: 2 };
        let sheet = grid(&[1, 2, 3, 4, 5, 6], shape, &GridOptions::new(8)).unwrap();
        assert_eq!((sheet.width, sheet.data.as_slice()), (2, [1, 3, 5, 2, 4, 6].as_slice()));
    }

    #[test]
    fn impossible_grids_are_refused() {
        assert!(grid(&[], DOTS, &GridOptions::new(1)).is_err());
        assert!(grid(&[1], DOTS, &GridOptions::new(0)).is_err());
        let pair = ImageShape { width: 2, ..DOTS };
        assert!(grid(&[1], pair, &GridOptions::new(1)).unwrap_err().to_string().contains("whole number"));
    }

    #[test]
    fn animations_hold_every_frame() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("film.png");
        let frame = |level: u8| Raster { width: 3, height: 2, channels: 1, data: vec![level; 6] };
        save_animation(&path, &[frame(1), frame(2), frame(3)]).unwrap();
        let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(&path).unwrap()));
        let mut reader = decoder.read_info().unwrap();
        assert_eq!(reader.info().animation_control().unwrap().num_frames, 3);
        for level in 1..=3 {
            let mut pixels = vec![0; 6];
            reader.next_frame(&mut pixels).unwrap();
            assert_eq!(pixels, [level; 6]);
        }
        let wide = Raster { width: 6, height: 1, ..frame(1) };
        assert!(
            save_animation(&path, &[frame(1), wide]).unwrap_err().to_string().contains("different sizes")
        );
        assert!(save_animation(&path, &[]).is_err());
    }

    #[test]
    fn saved_folders_open_again() {
        let dir = tempfile::tempdir().unwrap();
        save_folder(&dir.path().join("new/out"), &[10, 20], DOTS, 7).unwrap();
        let names = ["000007.png", "000008.png"];
        let level = |name: &str| image::open(dir.path().join("new/out").join(name)).unwrap().into_bytes();
        assert_eq!(names.map(level), [[10], [20]]);
    }
}
