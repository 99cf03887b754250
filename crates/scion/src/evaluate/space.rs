use std::path::Path;

use burn::tensor::Device;

use super::Options;
use super::audit::Audit;
use super::metric::Metric;
use super::reference::Reference;
use super::set::{Contents, Images, Rows, contents, holds_statistics};
use crate::classifier::{Classifier, FEATURE_SPACE, FEATURES, SIDE};
use crate::data::folder::first_size;
use crate::data::{FolderLayout, FolderOptions, Split, embedded, to_unit};
use crate::error::{Error, Result};
use crate::inception::{Inception, Preprocessing};
use crate::metrics::{Features, StatsFile};

/// Images passed to a network at a time.
const BLOCK: usize = 500;
/// The same for a large network, whose images are large too.
const SMALL_BLOCK: usize = 32;

/// Where the numbers that stand for an image come from.
pub enum FeatureSpace {
    /// Feature files: another program's features, whichever they are.
    Files,
    /// The embedded classifier of grey 28×28 images.
    Classifier(Box<Classifier>),
    /// The Inception network of FID, as one of the programs that publish numbers feeds it.
    Inception(Box<Inception>, Preprocessing),
}

impl FeatureSpace {
    /// The embedded classifier's.
    ///
    /// # Errors
    /// When the program's embedded files are damaged.
    pub fn classifier(device: &Device) -> Result<Self> {
        Ok(Self::Classifier(Box::new(Classifier::embedded(device)?)))
    }

    /// In a full phrase.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Files => "features of the files given",
            Self::Classifier(_) => FEATURE_SPACE,
            Self::Inception(_, Preprocessing::Adm) => "Inception, images prepared as by ADM's evaluation",
            Self::Inception(_, Preprocessing::PytorchFid) => "Inception, images prepared as by pytorch-fid",
            Self::Inception(_, Preprocessing::CleanFid) => "Inception, images prepared as by clean-fid",
        }
    }

    /// What the Fréchet distance is called here.
    pub fn distance(&self) -> &'static str {
        match self {
            Self::Files | Self::Classifier(_) => "Fréchet",
            Self::Inception(..) => "FID",
        }
    }

    /// A set in this space.
    ///
    /// # Errors
    /// `Usage` if the set is not of the kind that the space takes; else what is wrong with its files.
    pub fn rows(&self, path: &Path, skip_broken: bool) -> Result<Rows> {
        match (self, contents(path)?) {
            (_, Contents::Statistics) => misfit(path, "statistics without rows; give it as --reference"),
            (Self::Files | Self::Inception(..), Contents::Features) => Rows::read(path),
            (Self::Classifier(_), Contents::Features) => {
                misfit(path, "features; give --reference, and feature files only")
            }
            (_, Contents::Images) => self.rows_of(&self.images(path, skip_broken)?),
        }
    }

    /// The images of a file or folder, where the space takes them.
    ///
    /// # Errors
    /// As [`FeatureSpace::rows`].
    pub fn images(&self, path: &Path, skip_broken: bool) -> Result<Images> {
        match self {
            Self::Files => misfit(path, "images, where the other sets hold features"),
            Self::Inception(..) => Images::open(path, &any_folder(path, skip_broken)?),
            Self::Classifier(_) => {
                let images = Images::open(path, &classifier_folder(skip_broken))?;
                let shape = images.shape();
                if (shape.channels, shape.height, shape.width) != (1, SIDE, SIDE) {
                    let detail = format!(
                        "images of {shape}; the embedded classifier judges 1×{SIDE}×{SIDE} ones, for others give \
                         feature files"
                    );
                    return misfit(path, &detail);
                }
                Ok(images)
            }
        }
    }

    /// Images in this space.
    ///
    /// # Errors
    /// `Usage` where features come from files; what is wrong with the images' files.
    pub fn rows_of(&self, images: &Images) -> Result<Rows> {
        match self {
            Self::Files => Err(Error::Usage("images have no features in a space of feature files".into())),
            Self::Inception(network, preprocessing) => recognised(network, *preprocessing, images),
            Self::Classifier(classifier) => classified(classifier, images),
        }
    }

    /// Whether the embedded images are of the kind that the space is made for.
    pub fn knows_embedded(&self) -> bool {
        matches!(self, Self::Classifier(_))
    }

    /// A reference given by the user. Where it holds statistics, its images are left alone unless a metric looks at
    /// them.
    ///
    /// # Errors
    /// As [`FeatureSpace::rows`], and those of [`StatsFile::read`].
    pub fn reference(&self, path: &Path, options: &Options) -> Result<Reference> {
        let name = path.display().to_string();
        let stored = if holds_statistics(path)? { Some(StatsFile::read(path)?) } else { None };
        let asked = options.metrics.as_deref().unwrap_or(&Metric::ALL);
        let looked_at = stored.is_none() || asked.iter().any(|metric| metric.needs_reference_rows());
        let rows = match (self, contents(path)?, &stored) {
            (_, Contents::Statistics, _) | (Self::Files, Contents::Images, Some(_)) => None,
            _ => looked_at.then(|| self.rows(path, options.skip_broken)).transpose()?,
        };
        Reference::new(name, rows, stored)
    }

    /// The reference that the space brings along, if it does.
    ///
    /// # Errors
    /// When the program's embedded files are damaged.
    pub fn own_reference(&self) -> Result<Option<Reference>> {
        match self {
            Self::Files | Self::Inception(..) => Ok(None),
            Self::Classifier(classifier) => {
                let test = embedded::fashion_mnist(Split::Test)?;
                let rows = classified(classifier, &Images::of(test))?;
                Ok(Some(Reference::new("the embedded test images".into(), Some(rows), None)?))
            }
        }
    }
}

fn misfit<T>(path: &Path, what: &str) -> Result<T> {
    Err(Error::Usage(format!("{} holds {what}", path.display())))
}

fn classifier_folder(skip_broken: bool) -> FolderOptions {
    FolderOptions {
        channels: 1,
        skip_broken,
        layout: FolderLayout::Flat,
        memory_limit: usize::MAX,
        ..FolderOptions::exact(SIDE)
    }
}

/// A folder of squares, all as large as the first image.
fn any_folder(path: &Path, skip_broken: bool) -> Result<FolderOptions> {
    if !path.is_dir() {
        return Ok(FolderOptions::new(1));
    }
    let (width, height) = first_size(path)?;
    if width != height {
        let detail = format!("images of {width}×{height} pixels; of folders only square ones are read");
        return Err(Error::invalid(path, detail));
    }
    Ok(FolderOptions { skip_broken, layout: FolderLayout::Flat, ..FolderOptions::exact(width) })
}

fn recognised(network: &Inception, preprocessing: Preprocessing, images: &Images) -> Result<Rows> {
    let shape = images.shape();
    let mut audit = Audit::of_images(shape);
    let mut extractor = network.extractor(preprocessing, images.len());
    let clipping = images.for_each_block(SMALL_BLOCK, |pixels| {
        audit.add(pixels);
        extractor.push(shape, pixels)
    })?;
    audit.clipping(clipping);
    let found = extractor.finish()?;
    Ok(Rows {
        probabilities: Some(network.probabilities(&found.pool)?),
        features: found.pool,
        spatial: Some(found.spatial),
        labels: images.labels().map(<[usize]>::to_vec),
        predicted: None,
        audit,
    })
}

fn classified(classifier: &Classifier, images: &Images) -> Result<Rows> {
    let mut audit = Audit::of_images(images.shape());
    let (mut features, mut predicted) = (Vec::new(), Vec::new());
    let clipping = images.for_each_block(BLOCK, |pixels| {
        audit.add(pixels);
        let found = classifier.classify(&to_unit(pixels))?;
        features.extend(found.features);
        predicted.extend(found.labels);
        Ok(())
    })?;
    audit.clipping(clipping);
    Ok(Rows {
        features: Features::new(FEATURES, features)?,
        spatial: None,
        probabilities: None,
        labels: images.labels().map(<[usize]>::to_vec),
        predicted: Some(predicted),
        audit,
    })
}
