use std::path::Path;

use burn::tensor::Device;
use clap::Args;

use crate::error::{Error, Result};
use crate::evaluate::{Contents, FeatureSpace, contents};
use crate::inception::{Inception, Preprocessing, locate};

/// Where features come from, for commands that compare images.
#[derive(Args)]
pub struct SpaceArguments {
    /// Compare in Inception's features, with this weight file; looked for in caches if only --preprocess is given
    #[arg(long)]
    inception: Option<String>,
    /// Compare in Inception's features, with images prepared as by this program; adm if only --inception is given
    #[arg(long, value_enum)]
    preprocess: Option<Preprocessing>,
}

impl SpaceArguments {
    /// The space that was asked for, or that the first set calls for.
    ///
    /// # Errors
    /// When the weights cannot be had, or the set holds neither images nor features.
    pub fn space(&self, first: &Path) -> Result<FeatureSpace> {
        if self.inception.is_some() || self.preprocess.is_some() {
            let network = Inception::open(&locate(self.inception.as_deref())?)?;
            let preprocessing = self.preprocess.unwrap_or(Preprocessing::Adm);
            return Ok(FeatureSpace::Inception(Box::new(network), preprocessing));
        }
        match contents(first)? {
            Contents::Features => Ok(FeatureSpace::Files),
            Contents::Statistics => {
                let detail =
                    format!("{} holds statistics without rows; give it as --reference", first.display());
                Err(Error::Usage(detail))
            }
            Contents::Images => FeatureSpace::classifier(&Device::flex()),
        }
    }
}
