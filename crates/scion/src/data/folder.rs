//! Image folders: one sub-folder a class (sorted by name, as torchvision's `ImageFolder`), or a flat folder
//! of unlabelled images. PNG, JPEG and WebP, told by content; ADM crop to a square.

use std::fs;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageDecoder, ImageReader};
use rayon::prelude::*;

use super::crop::center_crop;
use super::image_set::{ImageSet, ImageShape, Origins, UNLABELLED};
use super::raster::Raster;
use crate::error::{Error, Result};

const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// How many broken files an error names before it only counts.
const NAMED_BROKEN: usize = 8;

/// How the folder is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderLayout {
    /// `DIR/CLASS/*.png`; labels follow the sorted class names. Folders below a class are not entered.
    Classes,
    /// `DIR/*.png`, every label 0 with the class name "unlabelled".
    Flat,
}

/// How to read an image folder.
#[derive(Clone, Debug)]
pub struct FolderOptions {
    /// Side of the square every image is cropped to.
    pub size: usize,
    /// Refuse images of another size instead of resizing and cropping them.
    pub exact: bool,
    /// 1 (grey, ITU-R 601 luma) or 3 (RGB; transparency is dropped).
    pub channels: usize,
    /// Leave broken images out, and report them, instead of refusing the folder.
    pub skip_broken: bool,
    /// Sets of at most this many bytes after cropping are held in memory; larger ones are decoded as needed.
    pub memory_limit: usize,
    pub layout: FolderLayout,
}

impl FolderOptions {
    /// RGB class folders at `size`, strict, in memory up to 1 GiB.
    pub fn new(size: usize) -> Self {
        Self {
            size,
            exact: false,
            channels: 3,
            skip_broken: false,
            memory_limit: 1 << 30,
            layout: FolderLayout::Classes,
        }
    }

    /// As [`FolderOptions::new`], for images that must have that size.
    pub fn exact(size: usize) -> Self {
        Self { exact: true, ..Self::new(size) }
    }
}

/// What was left out of a folder.
#[derive(Clone, Debug, Default)]
pub struct FolderReport {
    /// Files that are not valid images, each with the reason; only with `skip_broken`.
    pub broken: Vec<(PathBuf, String)>,
}

/// Opens an image folder.
///
/// A set that fits `memory_limit` is decoded at once, in parallel. A larger one has its headers read,
/// or, with `skip_broken`, is decoded once to find every broken file; without it, a damaged body shows
/// as an error when [`ImageSet::read`] reaches the file.
///
/// # Errors
/// `Usage` for a bad size or channel count. `Invalid`, naming the folder, if it is missing, has no class
/// folder, or a class has no image (before or after leaving out broken ones); if images are broken and
/// `skip_broken` is off, naming and counting them. `Io` if a folder cannot be listed.
pub fn open_folder(dir: &Path, options: &FolderOptions) -> Result<(ImageSet, FolderReport)> {
    let decoder = Decoder { exact: options.exact, ..Decoder::new(options.size, options.channels)? };
    let listing = match options.layout {
        FolderLayout::Classes => list_classes(dir)?,
        FolderLayout::Flat => list_flat(dir)?,
    };
    let bytes = listing.paths.len().saturating_mul(decoder.shape().len());
    let outcomes: Vec<Result<Vec<u8>, String>> = if bytes <= options.memory_limit {
        listing.paths.par_iter().map(|path| decoder.decode_or_reason(path)).collect()
    } else if options.skip_broken {
        listing.paths.par_iter().map(|path| decoder.decode_or_reason(path).map(|_| Vec::new())).collect()
    } else {
        listing.paths.par_iter().map(|path| open(path).map(|_| Vec::new())).collect()
    };
    assemble(dir, options, decoder, listing, outcomes)
}

/// Width and height of the first image of a flat folder that has a sound header.
///
/// # Errors
/// `Invalid`, naming the folder, if there is none; `Io` if it cannot be listed.
pub fn first_size(dir: &Path) -> Result<(usize, usize)> {
    let paths = images_in(dir)?;
    let first = paths.iter().find_map(|path| open(path).ok());
    let first = first.ok_or_else(|| Error::invalid(dir, "every image is broken"))?;
    let (width, height) = first.0.dimensions();
    Ok((width as usize, height as usize))
}

/// Keeps the good images of a listing, or refuses it.
fn assemble(
    dir: &Path,
    options: &FolderOptions,
    decoder: Decoder,
    listing: Listing,
    outcomes: Vec<Result<Vec<u8>, String>>,
) -> Result<(ImageSet, FolderReport)> {
    let (mut paths, mut labels, mut pixels) = (Vec::new(), Vec::new(), Vec::new());
    let mut report = FolderReport::default();
    for ((path, label), outcome) in listing.paths.into_iter().zip(listing.labels).zip(outcomes) {
        match outcome {
            Ok(image) => {
                pixels.extend(image);
                paths.push(path);
                labels.push(label);
            }
            Err(reason) => report.broken.push((path, reason)),
        }
    }
    if !report.broken.is_empty() && !options.skip_broken {
        return Err(Error::invalid(dir, broken_message(&report.broken)));
    }
    for (path, reason) in &report.broken {
        tracing::warn!(path = %path.display(), %reason, "left out a broken image");
    }
    let mut counts = vec![0usize; listing.class_names.len()];
    labels.iter().for_each(|&label| counts[label] += 1);
    if let Some(class) = counts.iter().position(|&count| count == 0) {
        let name = &listing.class_names[class];
        return Err(Error::invalid(dir, format!("every image of class {name} is broken; none is left")));
    }
    let set = if pixels.is_empty() {
        ImageSet::from_files(decoder, paths, labels, listing.class_names)?
    } else {
        ImageSet::from_memory(decoder.shape(), pixels, labels, listing.class_names, Origins::Files(paths))?
    };
    Ok((set, report))
}

fn broken_message(broken: &[(PathBuf, String)]) -> String {
    let named: Vec<_> =
        broken.iter().take(NAMED_BROKEN).map(|(path, why)| format!("{} ({why})", path.display())).collect();
    let more = match broken.len().saturating_sub(NAMED_BROKEN) {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    format!(
        "{} broken image(s): {}{more}; --skip-broken, or data.skip-broken in the recipe, leaves them out",
        broken.len(),
        named.join(", ")
    )
}

struct Listing {
    paths: Vec<PathBuf>,
    labels: Vec<usize>,
    class_names: Vec<String>,
}

fn list_classes(dir: &Path) -> Result<Listing> {
    let classes: Vec<PathBuf> = entries(dir)?.into_iter().filter(|path| path.is_dir()).collect();
    if classes.is_empty() {
        let hint = "no class folder inside; expected one sub-folder of images for each class";
        return Err(Error::invalid(dir, hint));
    }
    let mut listing = Listing { paths: Vec::new(), labels: Vec::new(), class_names: Vec::new() };
    for (label, class) in classes.iter().enumerate() {
        let images = images_in(class)?;
        listing.labels.extend(std::iter::repeat_n(label, images.len()));
        listing.paths.extend(images);
        listing.class_names.push(file_name(class));
    }
    Ok(listing)
}

fn list_flat(dir: &Path) -> Result<Listing> {
    let paths = images_in(dir)?;
    Ok(Listing { labels: vec![0; paths.len()], paths, class_names: vec![UNLABELLED.into()] })
}

/// The image files directly inside `dir`, sorted; an error if there is none.
fn images_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let is_image = |path: &PathBuf| {
        let extension =
            path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        EXTENSIONS.contains(&extension.as_str()) && path.is_file()
    };
    let images: Vec<PathBuf> = entries(dir)?.into_iter().filter(is_image).collect();
    if images.is_empty() {
        return Err(Error::invalid(dir, "no image (.png, .jpg, .jpeg or .webp) directly inside"));
    }
    Ok(images)
}

/// Everything in a folder except names that begin with a dot, sorted by name.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Err(Error::invalid(dir, "no such folder; expected a folder of images"));
    }
    let list = |e| Error::io("list", dir, e);
    let mut paths = fs::read_dir(dir)
        .map_err(list)?
        .map(|entry| Ok(entry.map_err(list)?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.retain(|path| !file_name(path).starts_with('.'));
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Decodes a file to 8 bits, converts its channels and crops it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decoder {
    size: usize,
    exact: bool,
    channels: usize,
}

impl Decoder {
    fn new(size: usize, channels: usize) -> Result<Self> {
        if size == 0 || !matches!(channels, 1 | 3) {
            return Err(Error::Usage(format!(
                "image folder: size {size} and {channels} channels, expected a positive size and 1 or 3 channels"
            )));
        }
        Ok(Self { size, exact: false, channels })
    }

    /// The shape of every decoded image.
    pub(super) fn shape(&self) -> ImageShape {
        ImageShape { channels: self.channels, height: self.size, width: self.size }
    }

    /// One image, [C, size, size].
    ///
    /// # Errors
    /// `Invalid`, naming the file.
    pub(super) fn decode(&self, path: &Path) -> Result<Vec<u8>> {
        self.decode_or_reason(path).map_err(|reason| Error::invalid(path, format!("broken image: {reason}")))
    }

    fn decode_or_reason(&self, path: &Path) -> Result<Vec<u8>, String> {
        let image = open(path)?.decode().map_err(one_line)?;
        let found = (image.width() as usize, image.height() as usize);
        if self.exact && found != (self.size, self.size) {
            return Err(format!("it has {}×{} pixels, expected {2}×{2}", found.0, found.1, self.size));
        }
        Ok(center_crop(&raster(image, self.channels), self.size).to_planes())
    }
}

/// Opens a file, told by content rather than by its name, and reads its header.
fn open(path: &Path) -> Result<HeaderRead, String> {
    let reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format).map_err(one_line)?;
    let decoder = reader.into_decoder().map_err(one_line)?;
    match decoder.dimensions() {
        (0, _) | (_, 0) => Err("it has no pixels".into()),
        _ => Ok(HeaderRead(Box::new(decoder))),
    }
}

/// A decoder's message without the line breaks that some have.
fn one_line(error: impl std::fmt::Display) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

struct HeaderRead(Box<dyn ImageDecoder>);

impl HeaderRead {
    fn decode(self) -> image::ImageResult<DynamicImage> {
        DynamicImage::from_decoder(self.0)
    }
}

/// 8-bit grey or RGB pixels. Grey from colour is Pillow's integer luma (ITU-R 601), not the 709 weights
/// of the `image` crate.
fn raster(image: DynamicImage, channels: usize) -> Raster {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let data = match channels {
        3 => image.into_rgb8().into_raw(),
        _ if image.color().has_color() => {
            let luma = |[r, g, b]: [u8; 3]| {
                ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
            };
            image.into_rgb8().pixels().map(|pixel| luma(pixel.0)).collect()
        }
        _ => image.into_luma8().into_raw(),
    };
    Raster { width, height, channels, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/data");

    fn fixture_folder() -> PathBuf {
        Path::new(FIXTURES).join("folder")
    }

    fn options(channels: usize) -> FolderOptions {
        FolderOptions { channels, ..FolderOptions::new(16) }
    }

    /// Copies the fixture folder, so that a test can damage it.
    fn copy_folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for class in ["cat", "dog"] {
            fs::create_dir(dir.path().join(class)).unwrap();
            for file in entries(&fixture_folder().join(class)).unwrap() {
                fs::copy(&file, dir.path().join(class).join(file.file_name().unwrap())).unwrap();
            }
        }
        dir
    }

    /// Golden pixels by Pillow: `convert("RGB" | "L")`, then `center_crop_arr` (`scripts/fixtures/data.py`).
    #[test]
    fn every_format_matches_pillow() {
        for (channels, mode) in [(3, "rgb"), (1, "l")] {
            let (set, report) = open_folder(&fixture_folder(), &options(channels)).unwrap();
            assert!(report.broken.is_empty());
            assert_eq!(set.class_names(), ["cat", "dog"]);
            assert_eq!(set.labels(), [0, 0, 0, 1, 1, 1]);
            for i in 0..set.len() {
                let origin = set.origin(i);
                let stem = Path::new(&origin).file_name().unwrap().to_string_lossy().into_owned();
                let expected =
                    fs::read(Path::new(FIXTURES).join(format!("folder-expected/{stem}.{mode}"))).unwrap();
                let found = set.read(&[i]).unwrap();
                assert_eq!(found.len(), expected.len(), "{stem}");
                let worst = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
                // JPEG decoders may round the inverse transform differently.
                let allowed = if stem.ends_with("jpg") { 2 } else { 0 };
                assert!(worst <= allowed, "{stem} as {mode}: off by {worst} levels");
            }
        }
    }

    #[test]
    fn lazy_sets_read_the_same_pixels() {
        let (eager, _) = open_folder(&fixture_folder(), &options(3)).unwrap();
        let (lazy, _) =
            open_folder(&fixture_folder(), &FolderOptions { memory_limit: 0, ..options(3) }).unwrap();
        assert!(eager.as_bytes().is_some() && lazy.as_bytes().is_none());
        assert_eq!(
            eager.read(&[5, 0, 3]).unwrap(),
            lazy.subset(&[5, 0, 3]).unwrap().read(&[0, 1, 2]).unwrap()
        );
        assert_eq!(lazy.into_memory().unwrap().as_bytes(), eager.as_bytes());
    }

    #[test]
    fn broken_images_are_named_or_left_out() {
        let dir = copy_folder();
        let png = entries(&dir.path().join("cat")).unwrap().into_iter().find(|p| p.ends_with("lossless.png"));
        let bytes = fs::read(png.as_ref().unwrap()).unwrap();
        fs::write(dir.path().join("cat/cut.png"), &bytes[..bytes.len() / 2]).unwrap();
        fs::write(dir.path().join("dog/text.jpg"), "not an image").unwrap();

        let message = open_folder(dir.path(), &options(3)).unwrap_err().to_string();
        assert!(message.contains("2 broken image(s)") && message.contains("cut.png"), "{message}");
        assert!(message.contains("text.jpg") && message.contains("--skip-broken"), "{message}");

        for memory_limit in [0, 1 << 30] {
            let skip = FolderOptions { skip_broken: true, memory_limit, ..options(3) };
            let (set, report) = open_folder(dir.path(), &skip).unwrap();
            assert_eq!((set.len(), report.broken.len()), (6, 2));
        }

        fs::remove_file(dir.path().join("dog/text.jpg")).unwrap();
        let lazy = FolderOptions { memory_limit: 0, ..options(3) };
        let (set, _) = open_folder(dir.path(), &lazy).unwrap();
        let message = set.into_memory().unwrap_err().to_string();
        assert!(message.contains("cut.png: broken image"), "{message}");
    }

    #[test]
    fn folders_without_images_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let message = |path: &Path| open_folder(path, &options(3)).unwrap_err().to_string();
        assert!(message(&dir.path().join("absent")).contains("absent: no such folder"));
        assert!(message(dir.path()).contains("no class folder"));
        fs::create_dir(dir.path().join("empty")).unwrap();
        fs::create_dir(dir.path().join(".cache")).unwrap();
        assert!(message(dir.path()).contains("empty: no image"));
        fs::write(dir.path().join("empty/a.png"), "x").unwrap();
        let skip = FolderOptions { skip_broken: true, ..options(3) };
        let left = open_folder(dir.path(), &skip).unwrap_err().to_string();
        assert!(left.contains("every image of class empty is broken"), "{left}");
    }

    #[test]
    fn flat_folders_have_one_unnamed_class() {
        let flat = FolderOptions { layout: FolderLayout::Flat, ..options(3) };
        let (set, _) = open_folder(&fixture_folder().join("cat"), &flat).unwrap();
        assert_eq!((set.len(), set.labels()), (3, [0, 0, 0].as_slice()));
    }
}
