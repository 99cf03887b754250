use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use sha2::{Digest, Sha256};

use super::claim::claim;
use super::precision::PrecisionChoice;
use super::{Common, set_precision};
use crate::data::latents::{
    EncodedImage, FORMAT, LatentDtype, LatentSettings, SETTINGS, SHARD, shard_name, write_shard,
};
use crate::data::{FolderLayout, FolderOptions, ImageSet, open_folder, to_unit};
use crate::error::{Error, Result};
use crate::latent::{Autoencoder, LatentDistribution, fingerprint};
use crate::run::{Progress, kebab};

#[derive(Args)]
pub struct EncodeArguments {
    /// A folder with a sub-folder of images for each class, or of images with a caption NAME.txt beside each
    images: PathBuf,
    /// The autoencoder's folder
    #[arg(long)]
    vae: PathBuf,
    /// The folder to write
    #[arg(long)]
    out: PathBuf,
    /// Side of the square that every image is resized and cropped to
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Encode each image mirrored as well, for training with flip = true
    #[arg(long)]
    flip: bool,
    /// Element type of what is stored
    #[arg(long, value_enum, default_value_t = Dtype::F16)]
    dtype: Dtype,
    /// Leave out images that cannot be read instead of stopping
    #[arg(long)]
    skip_broken: bool,
    /// Operand precision of products
    #[arg(long, value_enum, default_value_t = PrecisionChoice::F32)]
    precision: PrecisionChoice,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    F16,
    F32,
}

pub fn encode(arguments: &EncodeArguments, common: &Common) -> Result<()> {
    let precision = arguments.precision.config().resolved();
    set_precision(precision);
    let autoencoder = Autoencoder::open(&arguments.vae, precision.operands())?;
    let (config, size) = (autoencoder.config(), arguments.size);
    if size == 0 || !size.is_multiple_of(config.factor()) {
        let detail =
            format!("--size {size}: expected a multiple of {}, the autoencoder's factor", config.factor());
        return Err(Error::Usage(detail));
    }
    let images = Images::open(arguments, config.in_channels)?;
    let side = size / config.factor();
    let settings = LatentSettings {
        format: FORMAT,
        model: arguments.vae.display().to_string(),
        vae_sha256: fingerprint(&arguments.vae)?,
        scaling_factor: config.scaling_factor,
        shift_factor: config.shift_factor,
        size,
        shape: [config.latent_channels, side, side],
        dtype: match arguments.dtype {
            Dtype::F16 => LatentDtype::F16,
            Dtype::F32 => LatentDtype::F32,
        },
        precision: kebab(&precision),
        flip: arguments.flip,
        count: images.set.len(),
        images_sha256: images.fingerprint(),
        classes: images.captions.is_none().then(|| images.set.class_names().to_vec()),
    };
    let json = serde_json::to_value(&settings).expect("settings are plain data");
    claim(&arguments.out, SETTINGS, &json, "latents")?;
    write_shards(&autoencoder, &images, &settings, &arguments.out, common.quiet)?;
    say!("{} images in {}", settings.count, arguments.out.display());
    Ok(())
}

/// Writes the shards that are not there yet.
fn write_shards(
    autoencoder: &Autoencoder,
    images: &Images,
    settings: &LatentSettings,
    out: &Path,
    quiet: bool,
) -> Result<()> {
    let shards = settings.count.div_ceil(SHARD);
    let range = |number: usize| number * SHARD..settings.count.min((number + 1) * SHARD);
    let missing: Vec<usize> = (0..shards).filter(|&number| !out.join(shard_name(number)).exists()).collect();
    let left: usize = missing.iter().map(|&number| range(number).len()).sum();
    let mut done = (settings.count - left) as u64;
    let mut progress = Progress::new("encode", settings.count as u64, done, quiet);
    for number in missing {
        let mut encoded = Vec::with_capacity(SHARD);
        for index in range(number) {
            encoded.push(images.encode(autoencoder, index, settings.flip)?);
            done += 1;
            progress.set(done, "");
        }
        write_shard(&out.join(shard_name(number)), &encoded, settings)?;
    }
    Ok(())
}

/// The images of a folder.
struct Images {
    set: ImageSet,
    /// Their names inside the folder.
    files: Vec<String>,
    /// Their captions, where they have no classes.
    captions: Option<Vec<String>>,
}

impl Images {
    fn open(arguments: &EncodeArguments, channels: usize) -> Result<Self> {
        let folder = &arguments.images;
        let layout = if has_folders(folder)? { FolderLayout::Classes } else { FolderLayout::Flat };
        let options = FolderOptions {
            channels,
            skip_broken: arguments.skip_broken,
            // Each image is needed once.
            memory_limit: 0,
            layout,
            ..FolderOptions::new(arguments.size)
        };
        let (set, report) = open_folder(folder, &options)?;
        if !report.broken.is_empty() {
            tracing::warn!("{} broken images left out", report.broken.len());
        }
        let paths: Vec<PathBuf> = (0..set.len()).map(|i| set.origin(i).into()).collect();
        let name = |path: &PathBuf| path.strip_prefix(folder).unwrap_or(path).display().to_string();
        let captions = match layout {
            FolderLayout::Classes => None,
            FolderLayout::Flat => Some(paths.iter().map(|path| caption(path)).collect::<Result<_>>()?),
        };
        Ok(Self { files: paths.iter().map(name).collect(), set, captions })
    }

    /// SHA-256 of names and labels or captions, in order.
    fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for (i, file) in self.files.iter().enumerate() {
            let told = match &self.captions {
                Some(captions) => captions[i].clone(),
                None => self.set.labels()[i].to_string(),
            };
            // Neither a name nor a caption holds a zero byte.
            hash.update(format!("{file}\0{told}\0"));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn encode(&self, autoencoder: &Autoencoder, index: usize, flip: bool) -> Result<EncodedImage> {
        let shape = self.set.shape();
        let mut pixels = self.set.read(&[index])?;
        let latent = |pixels: &[u8]| -> Result<LatentDistribution> {
            autoencoder.encode(&to_unit(pixels), [shape.height, shape.width])
        };
        let plain = latent(&pixels)?;
        pixels.chunks_exact_mut(shape.width).for_each(<[u8]>::reverse);
        Ok(EncodedImage {
            file: self.files[index].clone(),
            label: self.set.labels()[index],
            caption: self.captions.as_ref().map(|captions| captions[index].clone()),
            latent: plain,
            flipped: flip.then(|| latent(&pixels)).transpose()?,
        })
    }
}

/// Whether a folder holds folders, which then are classes.
fn has_folders(folder: &Path) -> Result<bool> {
    if !folder.is_dir() {
        return Err(Error::invalid(folder, "no such folder; expected a folder of images"));
    }
    let list = |e| Error::io("list", folder, e);
    let entries = fs::read_dir(folder).map_err(list)?.collect::<std::io::Result<Vec<_>>>().map_err(list)?;
    let visible = |name: &str| !name.starts_with('.');
    Ok(entries.iter().any(|entry| entry.path().is_dir() && visible(&entry.file_name().to_string_lossy())))
}

/// The caption beside an image, without the space around it.
fn caption(image: &Path) -> Result<String> {
    let path = image.with_extension("txt");
    if !path.exists() {
        let detail = "is missing: images that lie in no class's folder need a caption beside each, NAME.txt for NAME.png";
        return Err(Error::invalid(path, detail));
    }
    let text = fs::read_to_string(&path).map_err(|e| Error::io("read the caption", &path, e))?;
    Ok(text.trim().to_string())
}
