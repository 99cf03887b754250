//! Classifier-free guidance (Ho & Salimans 2022).

use serde::{Deserialize, Serialize};

use super::gaussian::{Variance, check_len};
use crate::error::{Error, Result};

/// Which noise channels guidance acts on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuidanceChannels {
    /// Channels 0 to 2 of the noise, or all if there are fewer: DiT's published samples. The others keep the
    /// conditional value.
    #[default]
    FirstThree,
    /// Every noise channel: diffusers' DiT pipeline, PixArt.
    All,
}

/// Guidance of one strength: ε = ε_uncond + scale (ε_cond − ε_uncond) on the chosen noise channels.
///
/// The original samples a doubled batch \[cond; uncond\]. Its `forward_with_cfg` replaces the second half's x by the
/// first half's before the network sees it, so nothing that the second half becomes (through its own channel 3, sigma and
/// noise) ever reaches the first, and the second is thrown away at the end. Sampling therefore carries the first half
/// alone: a model closure gives the network x twice, once with each condition, and returns [`Guidance::combine`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guidance {
    /// 1 is the conditional model, 0 the unconditional one (on the guided channels).
    pub scale: f32,
    pub channels: GuidanceChannels,
}

impl Guidance {
    /// The guided output for latents of `shape` \[N, C, H, W\]: `cond` with its guided channels replaced. Both outputs are
    /// `[N, C, H, W]` or `[N, 2C, H, W]`; sigma channels are never guided.
    ///
    /// # Errors
    /// Outputs of different sizes, or of a size that `shape` does not explain.
    pub fn combine(&self, cond: &[f32], uncond: &[f32], shape: [usize; 4]) -> Result<Vec<f32>> {
        let [images, channels, height, width] = shape;
        let latents = shape.iter().product();
        if latents == 0 {
            return Err(Error::Usage(format!("guidance: latents of shape {shape:?} are empty")));
        }
        check_len("unconditional output", uncond.len(), cond.len())?;
        Variance::of_output(latents, cond.len())?;
        let guided = match self.channels {
            GuidanceChannels::FirstThree => channels.min(3) * height * width,
            GuidanceChannels::All => channels * height * width,
        };
        let size = cond.len() / images;
        let mut out = cond.to_vec();
        for (out, uncond) in out.chunks_exact_mut(size).zip(uncond.chunks_exact(size)) {
            for (c, &u) in out[..guided].iter_mut().zip(uncond) {
                *c = u + self.scale * (*c - u);
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One value a channel, so that the result shows which channels were guided.
    fn guide(channels: GuidanceChannels, shape: [usize; 4], cond: &[f32], uncond: &[f32]) -> Vec<f32> {
        Guidance { scale: 3.0, channels }.combine(cond, uncond, shape).unwrap()
    }

    #[test]
    fn the_fourth_channel_and_sigma_stay_conditional() {
        let (cond, uncond) = ([2.0; 16], [1.0; 16]);
        let per_image = [4.0, 4.0, 4.0, 2.0, 2.0, 2.0, 2.0, 2.0];
        assert_eq!(
            guide(GuidanceChannels::FirstThree, [2, 4, 1, 1], &cond, &uncond),
            [per_image, per_image].concat()
        );
        let per_image = [4.0, 4.0, 4.0, 4.0, 2.0, 2.0, 2.0, 2.0];
        assert_eq!(
            guide(GuidanceChannels::All, [2, 4, 1, 1], &cond, &uncond),
            [per_image, per_image].concat()
        );
    }

    #[test]
    fn fewer_than_three_channels_are_all_guided_but_sigma() {
        assert_eq!(
            guide(GuidanceChannels::FirstThree, [1, 1, 1, 2], &[2.0; 4], &[1.0; 4]),
            [4.0, 4.0, 2.0, 2.0]
        );
        assert_eq!(guide(GuidanceChannels::FirstThree, [1, 2, 1, 1], &[2.0; 2], &[1.0; 2]), [4.0, 4.0]);
    }

    #[test]
    fn mismatched_outputs_are_refused() {
        let guidance = Guidance { scale: 1.0, channels: GuidanceChannels::All };
        assert!(guidance.combine(&[0.0; 8], &[0.0; 4], [1, 4, 1, 1]).is_err());
        assert!(guidance.combine(&[0.0; 6], &[0.0; 6], [1, 4, 1, 1]).is_err());
        assert!(guidance.combine(&[], &[], [0, 4, 1, 1]).is_err());
    }
}
