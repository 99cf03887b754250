use std::path::Path;

use burn::tensor::Device;

use super::audit::Audit;
use super::reference::Reference;
use super::set::{Contents, Images, Rows, contents, holds_statistics};
use crate::classifier::{Classifier, FEATURES, SIDE};
use crate::data::{FolderLayout, FolderOptions, Split, embedded, to_unit};
use crate::error::{Error, Result};
use crate::metrics::{Features, StatsFile};
use crate::run::FEATURE_SPACE;

/// Images passed to a network at a time.
const BLOCK: usize = 500;

/// Where the numbers that stand for an image come from.
pub enum FeatureSpace {
    /// Feature files: another program's features, whichever they are.
    Files,
    /// The embedded classifier of grey 28×28 images.
    Classifier(Box<Classifier>),
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
        }
    }

    /// What the Fréchet distance is called here.
    pub fn distance(&self) -> &'static str {
        match self {
            Self::Files | Self::Classifier(_) => "Fréchet",
        }
    }

    /// A set in this space.
    ///
    /// # Errors
    /// `Usage` if the set is not of the kind that the space takes; else what is wrong with its files.
    pub fn rows(&self, path: &Path, skip_broken: bool) -> Result<Rows> {
        let kind = contents(path)?;
        let misfit = |what: &str| Err(Error::Usage(format!("{} holds {what}", path.display())));
        match (self, kind) {
            (_, Contents::Statistics) => misfit("statistics without rows; give it as --reference"),
            (Self::Files, Contents::Features) => Rows::read(path),
            (Self::Files, Contents::Images) => misfit("images, where the other sets hold features"),
            (Self::Classifier(_), Contents::Features) => {
                misfit("features; give --reference, and feature files only")
            }
            (Self::Classifier(classifier), Contents::Images) => {
                let images = Images::open(path, &classifier_folder(skip_broken))?;
                let shape = images.shape();
                if (shape.channels, shape.height, shape.width) != (1, SIDE, SIDE) {
                    let detail = format!(
                        "images of {shape}; the embedded classifier judges 1×{SIDE}×{SIDE} ones, for others give \
                         feature files"
                    );
                    return misfit(&detail);
                }
                classified(classifier, &images)
            }
        }
    }

    /// A reference given by the user.
    ///
    /// # Errors
    /// As [`FeatureSpace::rows`], and those of [`StatsFile::read`].
    pub fn reference(&self, path: &Path, skip_broken: bool) -> Result<Reference> {
        let name = path.display().to_string();
        let stored = if holds_statistics(path)? { Some(StatsFile::read(path)?) } else { None };
        let rows = match (self, contents(path)?, &stored) {
            (_, Contents::Statistics, _) | (Self::Files, Contents::Images, Some(_)) => None,
            _ => Some(self.rows(path, skip_broken)?),
        };
        Reference::new(name, rows, stored)
    }

    /// The reference that the space brings along, if it does.
    ///
    /// # Errors
    /// When the program's embedded files are damaged.
    pub fn own_reference(&self) -> Result<Option<Reference>> {
        match self {
            Self::Files => Ok(None),
            Self::Classifier(classifier) => {
                let test = embedded::fashion_mnist(Split::Test)?;
                let rows = classified(classifier, &Images::of(test))?;
                Ok(Some(Reference::new("the embedded test images".into(), Some(rows), None)?))
            }
        }
    }
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
