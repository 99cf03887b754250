//! The folder that image generation fills and scorers read, GenEval's own layout:
//!
//! ```text
//! DIR/00000/metadata.jsonl      the first prompt, one JSON object
//!           samples/0000.png    its images
//!           grid.png            the same on one sheet, for people; may be missing
//! DIR/00001/…
//! ```

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::prompt::Prompt;
use crate::atomic;
use crate::data::Raster;
use crate::data::image_io::save_png;
use crate::error::{Error, Result};

const METADATA: &str = "metadata.jsonl";
const SAMPLES: &str = "samples";

/// A folder that images are to be written to.
#[derive(Clone, Debug)]
pub struct Layout {
    dir: PathBuf,
    prompts: Vec<Prompt>,
    images: usize,
}

impl Layout {
    /// Creates the folders of `prompts`, for `images` images each, or opens them where they exist.
    ///
    /// # Errors
    /// `Usage` without prompts or images; `Exists` if the folder holds other prompts, whose images would be scored
    /// with these; `Io` if it cannot be written.
    pub fn create(dir: &Path, prompts: Vec<Prompt>, images: usize) -> Result<Self> {
        if prompts.is_empty() || images == 0 {
            let found = format!("{} prompts and {images} images of each", prompts.len());
            return Err(Error::Usage(format!("geneval: {found}; expected at least one")));
        }
        let layout = Self { dir: dir.into(), prompts, images };
        fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        let known: HashSet<String> = (0..layout.prompts.len()).map(folder_name).collect();
        if let Some(other) = numbered(dir)?.into_iter().find(|name| !known.contains(name)) {
            let detail = format!("holds {other}, which is none of these {} prompts", layout.prompts.len());
            return Err(Error::Exists { path: dir.into(), detail });
        }
        (0..layout.prompts.len()).try_for_each(|prompt| layout.create_prompt(prompt))?;
        Ok(layout)
    }

    fn create_prompt(&self, prompt: usize) -> Result<()> {
        let folder = self.folder(prompt);
        let samples = folder.join(SAMPLES);
        fs::create_dir_all(&samples).map_err(|e| Error::io("create", &samples, e))?;
        let path = folder.join(METADATA);
        if !path.exists() {
            return atomic::write(&path, self.prompts[prompt].to_json().as_bytes());
        }
        let found = read_metadata(&path)?;
        if found == self.prompts[prompt] {
            return Ok(());
        }
        let detail = format!("is of \"{}\" instead of \"{}\"", found.prompt, self.prompts[prompt].prompt);
        Err(Error::Exists { path, detail })
    }

    /// The prompts, in the order of their folders.
    pub fn prompts(&self) -> &[Prompt] {
        &self.prompts
    }

    fn folder(&self, prompt: usize) -> PathBuf {
        self.dir.join(folder_name(prompt))
    }

    /// Where an image belongs; both are counted from 0.
    pub fn sample_path(&self, prompt: usize, image: usize) -> PathBuf {
        self.folder(prompt).join(SAMPLES).join(format!("{image:04}.png"))
    }

    /// Prompts and images that are still to be drawn, in order. A file that exists counts as drawn, so write each
    /// under another name first, as [`save_png`] does.
    pub fn missing(&self) -> Vec<(usize, usize)> {
        let all =
            (0..self.prompts.len()).flat_map(|prompt| (0..self.images).map(move |image| (prompt, image)));
        all.filter(|&(prompt, image)| !self.sample_path(prompt, image).exists()).collect()
    }

    /// Prompts whose images are all there, but not their `grid.png`.
    pub fn without_grid(&self) -> Vec<usize> {
        let drawn = |prompt: &usize| (0..self.images).all(|image| self.sample_path(*prompt, image).exists());
        (0..self.prompts.len()).filter(|&prompt| !self.grid_path(prompt).exists()).filter(drawn).collect()
    }

    fn grid_path(&self, prompt: usize) -> PathBuf {
        self.folder(prompt).join("grid.png")
    }

    /// Writes `grid.png` of a prompt: its images one below the other, two black pixels around each, as GenEval's
    /// own generation does.
    ///
    /// # Errors
    /// `Io` or `Invalid` if an image is missing, broken, or of another size than the first.
    pub fn write_grid(&self, prompt: usize) -> Result<()> {
        const GAP: usize = 2;
        let paths = (0..self.images).map(|image| self.sample_path(prompt, image));
        let images = paths.map(|path| Ok((open_image(&path)?, path))).collect::<Result<Vec<_>>>()?;
        let (width, height) = (images[0].0.width, images[0].0.height);
        let sheet_width = width + 2 * GAP;
        let mut sheet =
            Raster { width: sheet_width, height: GAP, channels: 3, data: vec![0; 3 * GAP * sheet_width] };
        for (image, path) in &images {
            if (image.width, image.height) != (width, height) {
                let found = format!("is {}×{}, but the first is {width}×{height}", image.width, image.height);
                return Err(Error::invalid(path, found));
            }
            for row in image.data.chunks_exact(3 * width) {
                sheet.data.extend([0; 3 * GAP]);
                sheet.data.extend_from_slice(row);
                sheet.data.extend([0; 3 * GAP]);
            }
            sheet.data.extend(vec![0; 3 * GAP * sheet_width]);
            sheet.height += height + GAP;
        }
        save_png(&self.grid_path(prompt), &sheet)
    }
}

/// An image to be scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// `00000/samples/0000.png`, whatever the system separates folders with.
    pub key: String,
    pub path: PathBuf,
    /// Its prompt, an index into [`Folder::prompts`].
    pub prompt: usize,
}

/// A folder of images to be scored, by whatever program it was made.
#[derive(Clone, Debug)]
pub struct Folder {
    /// Prompts in the order of their folders' names.
    pub prompts: Vec<Prompt>,
    /// Images by folder and name.
    pub samples: Vec<Sample>,
    /// How many images each prompt has.
    counts: Vec<(String, usize)>,
}

impl Folder {
    /// Reads which images there are: files named by digits and `.png` in `samples` of folders named by digits.
    ///
    /// # Errors
    /// `Io`; `Invalid` if there is no such folder, no image in any, or a prompt is missing or malformed.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut folder = Self { prompts: Vec::new(), samples: Vec::new(), counts: Vec::new() };
        for name in numbered(dir)? {
            let inside = dir.join(&name);
            folder.prompts.push(read_metadata(&inside.join(METADATA))?);
            let files = files_of(&inside.join(SAMPLES))?;
            folder.counts.push((name.clone(), files.len()));
            folder.samples.extend(files.into_iter().map(|file| Sample {
                key: format!("{name}/{SAMPLES}/{file}"),
                path: inside.join(SAMPLES).join(file),
                prompt: folder.prompts.len() - 1,
            }));
        }
        if folder.samples.is_empty() {
            let detail =
                format!("holds no images; expected 00000/{METADATA}, 00000/{SAMPLES}/0000.png and so on");
            return Err(Error::invalid(dir, detail));
        }
        Ok(folder)
    }

    /// The prompt with the fewest images and that with the most, where they differ: each an example and its count.
    pub fn uneven(&self) -> Option<[&(String, usize); 2]> {
        let least = self.counts.iter().min_by_key(|(_, count)| count)?;
        let most = self.counts.iter().max_by_key(|(_, count)| count)?;
        (least.1 != most.1).then_some([least, most])
    }
}

fn folder_name(prompt: usize) -> String {
    format!("{prompt:05}")
}

/// An image as RGB.
pub(super) fn open_image(path: &Path) -> Result<Raster> {
    let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let image = image::load_from_memory(&bytes)
        .map_err(|e| Error::invalid(path, format!("is not an image that can be read: {e}")))?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    Ok(Raster { width, height, channels: 3, data: image.into_rgb8().into_raw() })
}

fn read_metadata(path: &Path) -> Result<Prompt> {
    let text = fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    Prompt::parse(&text).map_err(|detail| Error::invalid(path, detail))
}

/// Names of the folders in `dir` that are made of digits, in order.
fn numbered(dir: &Path) -> Result<Vec<String>> {
    Ok(names(dir)?.into_iter().filter(|name| is_number(name) && dir.join(name).is_dir()).collect())
}

/// Names of the images in `dir`, in order.
fn files_of(dir: &Path) -> Result<Vec<String>> {
    let image = |name: &String| name.strip_suffix(".png").is_some_and(is_number);
    Ok(names(dir)?.into_iter().filter(|name| image(name) && dir.join(name).is_file()).collect())
}

fn is_number(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
}

/// Names in a folder, in order; those that are no text are left out.
fn names(dir: &Path) -> Result<Vec<String>> {
    let read = |e| Error::io("read", dir, e);
    let entries = fs::read_dir(dir).map_err(read)?.collect::<Result<Vec<_>, _>>().map_err(read)?;
    let mut names: Vec<String> =
        entries.into_iter().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::super::prompt::official_prompts;
    use super::*;

    fn dot(level: u8) -> Raster {
        Raster { width: 1, height: 1, channels: 3, data: vec![level; 3] }
    }

    #[test]
    fn folders_are_filled_resumed_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let prompts = official_prompts()[..2].to_vec();
        let layout = Layout::create(folder.path(), prompts.clone(), 2).unwrap();
        assert_eq!(layout.missing(), [(0, 0), (0, 1), (1, 0), (1, 1)]);
        assert!(Folder::open(folder.path()).unwrap_err().to_string().contains("holds no images"));
        for (prompt, image) in [(0, 0), (1, 0), (0, 1)] {
            save_png(&layout.sample_path(prompt, image), &dot(9)).unwrap();
        }
        let again = Layout::create(folder.path(), prompts.clone(), 2).unwrap();
        assert_eq!((again.missing(), again.prompts()), (vec![(1, 1)], &prompts[..]));

        fs::write(folder.path().join("00000/samples/.0002.png.tmp"), b"").unwrap();
        fs::write(folder.path().join("settings.json"), b"").unwrap();
        let read = Folder::open(folder.path()).unwrap();
        assert_eq!(read.prompts, prompts);
        let keys: Vec<(&str, usize)> = read.samples.iter().map(|s| (s.key.as_str(), s.prompt)).collect();
        assert_eq!(
            keys,
            [("00000/samples/0000.png", 0), ("00000/samples/0001.png", 0), ("00001/samples/0000.png", 1)]
        );
        assert_eq!(read.samples[1].path, layout.sample_path(0, 1));
        assert_eq!(read.uneven(), Some([&("00001".to_owned(), 1), &("00000".to_owned(), 2)]));
    }

    #[test]
    fn other_prompts_are_not_mixed_in() {
        let folder = tempfile::tempdir().unwrap();
        let prompts = official_prompts();
        Layout::create(folder.path(), prompts[..3].to_vec(), 1).unwrap();
        let refusal =
            |prompts: &[Prompt]| Layout::create(folder.path(), prompts.to_vec(), 1).unwrap_err().to_string();
        assert!(refusal(&prompts[..2]).contains("holds 00002, which is none of these 2 prompts"));
        let message = refusal(&prompts[1..4]);
        assert!(
            message.contains("00000/metadata.jsonl") && message.contains("a photo of a bench"),
            "{message}"
        );
        assert!(refusal(&[]).contains("0 prompts"));
    }

    #[test]
    fn grids_stack_images_in_black_frames() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(folder.path(), official_prompts()[..1].to_vec(), 2).unwrap();
        for image in 0..2 {
            save_png(&layout.sample_path(0, image), &dot(7 + image as u8)).unwrap();
        }
        assert_eq!(layout.without_grid(), [0]);
        layout.write_grid(0).unwrap();
        assert_eq!(layout.without_grid(), [0; 0]);
        let grid = open_image(&folder.path().join("00000/grid.png")).unwrap();
        assert_eq!((grid.width, grid.height), (5, 8));
        let lit = grid.data.iter().enumerate().filter(|(_, level)| **level > 0);
        let places: Vec<(usize, u8)> = lit.map(|(at, &level)| (at / 3, level)).collect();
        assert_eq!(places, [(12, 7), (12, 7), (12, 7), (27, 8), (27, 8), (27, 8)]);

        let wide = Raster { width: 2, height: 1, channels: 3, data: vec![0; 6] };
        save_png(&layout.sample_path(0, 1), &wide).unwrap();
        assert!(layout.write_grid(0).unwrap_err().to_string().contains("0001.png: is 2×1"));
    }

    #[test]
    fn folders_without_prompts_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("00000/samples")).unwrap();
        assert!(Folder::open(folder.path()).unwrap_err().to_string().contains("metadata.jsonl"));
        fs::write(folder.path().join("00000/metadata.jsonl"), "{}").unwrap();
        assert!(Folder::open(folder.path()).unwrap_err().to_string().contains("missing field `tag`"));
    }
}
