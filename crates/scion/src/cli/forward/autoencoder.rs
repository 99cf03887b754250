use std::path::Path;

use crate::checkpoint::{Checkpoint, Precision, TensorSource, write_safetensors};
use crate::error::{Error, Result};
use crate::latent::Autoencoder;

/// Encodes `image`, or decodes `latent`, image by image; neither scales for a diffusion model.
pub(super) fn forward(model: &Path, inputs: &Path, output: &Path) -> Result<()> {
    let file = Checkpoint::open(inputs)?;
    let expected = "expected image [N,C,H,W], in [-1, 1], or latent [N,C,h,w], not scaled";
    let held: Vec<&str> = ["image", "latent"].into_iter().filter(|name| file.entry(name).is_some()).collect();
    let &[name] = &held[..] else {
        return Err(Error::invalid(inputs, format!("holds {} of the tensors; {expected}", held.len())));
    };
    let shape = file.entry(name).map(|entry| entry.shape.clone()).unwrap_or_default();
    let &[count, channels, height, width] = &shape[..] else {
        return Err(Error::invalid(inputs, format!("holds {name} {shape:?}; {expected}")));
    };
    let autoencoder = Autoencoder::open(model, scion_kernels::precision())?;
    let config = autoencoder.config();
    let wanted = if name == "image" { config.in_channels } else { config.latent_channels };
    if channels != wanted || count * height * width == 0 {
        return Err(Error::invalid(
            inputs,
            format!("holds {name} {shape:?}; expected {wanted} channels, and no empty side"),
        ));
    }
    let values = file.read_f32(name)?;
    let (mut out, mut size) = (Vec::new(), vec![0; 3]);
    for one in values.chunks_exact(channels * height * width) {
        let made = if name == "image" {
            let latent = autoencoder.encode(one, [height, width])?;
            size = latent.shape.to_vec();
            latent.mean
        } else {
            size = vec![config.out_channels, height * config.factor(), width * config.factor()];
            autoencoder.decode(one, [height, width])?
        };
        out.extend(made);
    }
    let source = TensorSource::new("out".into(), [vec![count], size].concat(), || Ok(out.clone()));
    write_safetensors(output, &[source], Precision::F32, &Default::default())
}
