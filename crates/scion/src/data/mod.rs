//! Images: where they come from, how they are cropped, in which order training sees them, and how
//! they are written back.
//!
//! Every source ends in one [`ImageSet`]: `embedded` (compiled in), `fashion_mnist` (the four IDX files,
//! found or downloaded), `folder` (PNG, JPEG and WebP files, ADM crop). [`Batches`] turns a set into
//! training batches that depend on the step number alone. Nothing here knows of models.

pub mod crop;
pub mod embedded;
pub mod fashion_mnist;
pub mod folder;
pub mod idx;
pub mod image_io;
pub mod image_set;
pub mod loader;
pub mod raster;
pub(crate) mod resample;
pub mod samples;

pub use fashion_mnist::{FashionMnist, Split};
pub use folder::{FolderLayout, FolderOptions, FolderReport, open_folder};
pub use image_set::{ImageSet, ImageShape, from_unit, to_unit};
pub use loader::{Batch, Batches, Position};
pub use raster::Raster;
