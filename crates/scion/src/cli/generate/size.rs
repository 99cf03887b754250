use crate::error::{Error, Result};
use crate::generate::binned;

/// Sizes in pixels and in a latent's values, each height and width.
#[derive(Clone, Copy)]
pub struct Size {
    /// What the picture has in the end.
    pub wanted: [usize; 2],
    /// What the model draws.
    pub drawn: [usize; 2],
    /// The latent of that.
    pub latent: [usize; 2],
}

impl Size {
    /// Of a picture of `wanted` pixels, by a model of latents of `input_size` whose values stand for `factor` pixels each
    /// way: drawn in the nearest size that the model was trained on, unless it is to be `exact`.
    ///
    /// # Errors
    /// When a side is 0, or what is drawn is no whole number of latent values.
    pub fn of(
        [height, width]: [Option<usize>; 2],
        exact: bool,
        input_size: usize,
        factor: usize,
    ) -> Result<Self> {
        let side = input_size * factor;
        let wanted = [height.unwrap_or(side), width.unwrap_or(side)];
        if wanted.contains(&0) {
            return Err(Error::Usage("--height and --width must be at least 1".into()));
        }
        let nearest = if exact { None } else { binned(side, wanted) };
        let drawn = nearest.unwrap_or(wanted);
        if let Some(odd) = drawn.iter().find(|side| !side.is_multiple_of(factor)) {
            return Err(Error::Usage(format!(
                "sides of {odd} pixels cannot be drawn: expected multiples of {factor}"
            )));
        }
        Ok(Self { wanted, drawn, latent: drawn.map(|side| side / factor) })
    }
}
