//! Images: where they come from, how they are cropped, in which order training sees them, and how
//! they are written back.
//!
//! Every source of pixels ends in one [`ImageSet`]: `embedded` (compiled in), `fashion_mnist` (the four IDX files,
//! found or downloaded), `folder` (PNG, JPEG and WebP files, ADM crop); latents of images are a [`LatentSet`], those
//! that a model drew [`DrawnLatents`]. [`Batches`]
//! turns either, as a [`TrainingSet`], into training batches that depend on the step number alone. Nothing here knows of
//! models.

pub mod crop;
mod drawn;
pub mod embedded;
pub mod emoji;
pub mod fashion_mnist;
pub mod folder;
pub mod idx;
pub mod image_io;
pub mod image_set;
pub mod latents;
pub mod loader;
pub mod raster;
pub(crate) mod resample;
pub mod samples;
pub mod training_set;

pub use drawn::{DrawnLatents, Piece};
pub use fashion_mnist::{FashionMnist, Split};
pub use folder::{FolderLayout, FolderOptions, FolderReport, open_folder};
pub use image_set::{ImageSet, ImageShape, from_unit, to_unit};
pub use latents::LatentSet;
pub use loader::{Batch, Batches, Position};
pub use raster::Raster;
pub use training_set::TrainingSet;
