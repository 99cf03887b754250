use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::space::SpaceArguments;
use crate::checkpoint::ensure_absent;
use crate::data::image_io::save_png;
use crate::data::{Split, embedded};
use crate::error::{Error, Result};
use crate::evaluate::{Contents, FeatureSpace, Images, Memorisation, Rows, contents, memorisation};

#[derive(Args)]
pub struct NeighboursArguments {
    /// A sample file (.npz with arr_0), a folder of images, or a feature file
    samples: PathBuf,
    /// What the model was trained on, as samples; the embedded training images by default
    #[arg(long)]
    training: Option<PathBuf>,
    /// Real images that it was not trained on, to compare with; the embedded test images where --training is left out
    #[arg(long)]
    held_out: Option<PathBuf>,
    #[command(flatten)]
    space: SpaceArguments,
    /// Training images shown for each sample
    #[arg(short, default_value_t = 5)]
    k: usize,
    /// Samples shown: those nearest to a training image
    #[arg(long, default_value_t = 10)]
    count: usize,
    /// A sheet of these samples and their training images (.png)
    #[arg(long)]
    out: Option<PathBuf>,
    /// Leave out images of a folder that cannot be read
    #[arg(long)]
    skip_broken: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A set's features, and its images where there are any.
struct Set {
    rows: Rows,
    images: Option<Images>,
}

impl Set {
    fn read(space: &FeatureSpace, path: &Path, skip_broken: bool) -> Result<Self> {
        if contents(path)? != Contents::Images {
            return Ok(Self { rows: space.rows(path, skip_broken)?, images: None });
        }
        let images = space.images(path, skip_broken)?;
        Ok(Self { rows: space.rows_of(&images)?, images: Some(images) })
    }

    fn embedded(space: &FeatureSpace, split: Split) -> Result<Self> {
        let images = Images::of(embedded::fashion_mnist(split)?);
        Ok(Self { rows: space.rows_of(&images)?, images: Some(images) })
    }
}

pub fn neighbours(arguments: &NeighboursArguments) -> Result<()> {
    if arguments.count == 0 {
        return Err(Error::Usage("--count 0: expected at least one sample".into()));
    }
    if let Some(out) = &arguments.out {
        if out.extension().is_none_or(|form| !form.eq_ignore_ascii_case("png")) {
            return Err(Error::Usage(format!("--out {}: expected a .png file", out.display())));
        }
        ensure_absent(out)?;
    }
    let space = arguments.space.space(&arguments.samples)?;
    let read = |path: &Path| Set::read(&space, path, arguments.skip_broken);
    let samples = read(&arguments.samples)?;
    let training = match &arguments.training {
        Some(path) => read(path)?,
        None if space.knows_embedded() => Set::embedded(&space, Split::Train)?,
        None => return Err(Error::Usage("nothing to compare with; give --training".into())),
    };
    let held_out = match &arguments.held_out {
        Some(path) => Some(read(path)?),
        None if space.knows_embedded() && arguments.training.is_none() => {
            Some(Set::embedded(&space, Split::Test)?)
        }
        None => None,
    };
    let held_out = held_out.as_ref().map(|set| &set.rows);
    let found = memorisation(&space, &samples.rows, &training.rows, held_out, arguments.k, arguments.count)?;
    if let Some(out) = &arguments.out {
        let (Some(own), Some(theirs)) = (&samples.images, &training.images) else {
            return Err(Error::Usage("--out shows images, but feature files hold none".into()));
        };
        save_png(out, &found.sheet(own, theirs)?)?;
    }
    if arguments.json {
        say!("{}", serde_json::to_string(&found).expect("distances are plain data"));
        return Ok(());
    }
    print(&found)
}

fn print(found: &Memorisation) -> Result<()> {
    let Memorisation { samples, training, copies, median, .. } = found;
    say!("feature space:    {}", found.feature_space);
    say!("samples:          {samples}, beside {training} training images");
    say!("copies:           {copies} samples equal a training image");
    say!("nearest training: median distance {median:.4}");
    if let Some(real) = &found.held_out {
        say!("held-out images:  {}, median distance {:.4}", real.images, real.median);
        say!(
            "suspicious:       {:.2}% of the samples are as near as 1% of the held-out images are ({:.4})",
            100.0 * real.share_below,
            real.threshold
        );
    }
    let closest = found.closest.iter().map(|c| {
        let near =
            c.neighbours.first().map_or(String::new(), |n| format!(" (to {}, {:.4})", n.index, n.distance));
        format!("{}{near}", c.sample)
    });
    say!("nearest samples:  {}", closest.collect::<Vec<_>>().join(", "));
    Ok(())
}
