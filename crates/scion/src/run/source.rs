use std::sync::Arc;

use crate::config::{DataConfig, DataSource};
use crate::data::fashion_mnist::default_cache;
use crate::data::loader::stratified_fraction;
use crate::data::{FashionMnist, FolderOptions, ImageSet, Split, embedded, open_folder};
use crate::error::{Error, Result};
use crate::model::DitConfig;

/// The training images that `[data]` names, which must have the model's size, channels and classes; `seed` picks
/// those of a fraction.
///
/// # Errors
/// When they cannot be found or read, or do not fit the model.
pub fn training_images(data: &DataConfig, sizes: &DitConfig, seed: u64) -> Result<Arc<ImageSet>> {
    let set = match (data.source, &data.path) {
        (DataSource::Embedded, _) => embedded::fashion_mnist(Split::Train)?,
        (DataSource::FashionMnist, Some(path)) => FashionMnist::open(path)?.read(Split::Train)?,
        (DataSource::FashionMnist, None) => {
            let cache = default_cache().ok_or_else(|| {
                Error::Usage("data.path is not set, and there is no home folder to keep a download in".into())
            })?;
            FashionMnist::find_or_download(&cache)?.read(Split::Train)?
        }
        (DataSource::ImageFolder, Some(path)) => {
            let options = FolderOptions {
                channels: sizes.in_channels,
                skip_broken: data.skip_broken,
                ..FolderOptions::new(sizes.input_size)
            };
            let (set, report) = open_folder(path, &options)?;
            if !report.broken.is_empty() {
                tracing::warn!("{} broken images left out", report.broken.len());
            }
            set
        }
        (DataSource::ImageFolder, None) => {
            return Err(Error::Usage("data.source is image-folder, but data.path is not set".into()));
        }
    };
    check_fit(&set, sizes)?;
    if data.fraction < 1.0 {
        let chosen = stratified_fraction(set.labels(), data.fraction, seed)?;
        return Ok(Arc::new(set.subset(&chosen)?));
    }
    Ok(Arc::new(set))
}

/// The first and last of some names.
fn ends(names: &[String]) -> String {
    match names {
        [first, .., last] => format!("{first} to {last}"),
        _ => names.concat(),
    }
}

fn check_fit(set: &ImageSet, sizes: &DitConfig) -> Result<()> {
    let (shape, side) = (set.shape(), sizes.input_size);
    if (shape.channels, shape.height, shape.width) != (sizes.in_channels, side, side) {
        return Err(Error::Usage(format!(
            "the images are {shape}, but the model takes {} channels of {side}×{side}",
            sizes.in_channels
        )));
    }
    // Labels are places in the sorted list of class folders: one folder too few would shift all behind it.
    if set.class_names().len() != sizes.num_classes {
        return Err(Error::Usage(format!(
            "the images have {} classes ({}), but the model {}; expected one folder for each of its classes",
            set.class_names().len(),
            ends(set.class_names()),
            sizes.num_classes
        )));
    }
    Ok(())
}
