//! Layers and their names, as in diffusers' `autoencoders/vae.py` and `unets/unet_2d_blocks.py`.

use super::config::AutoencoderConfig;
use crate::convolution::Geometry;

/// A layer to be loaded; names are those of a diffusers file.
#[derive(Clone, Debug)]
pub(super) enum Block {
    Convolution {
        name: String,
        geometry: Geometry,
    },
    /// x + conv2(silu(norm2(conv1(silu(norm1(x)))))), with a 1×1 convolution on x where the channels change.
    Residual {
        name: String,
        inputs: usize,
        outputs: usize,
    },
    /// One head over all places, behind a norm, added to its input.
    Attention {
        name: String,
        width: usize,
    },
    /// A convolution of silu(norm(x)), both named after `part`.
    Output {
        part: &'static str,
        geometry: Geometry,
    },
}

/// A tensor's name and shape.
pub(super) type Tensor = (String, Vec<usize>);

impl Block {
    /// Its tensors.
    pub(super) fn tensors(&self) -> Vec<Tensor> {
        match self {
            Self::Convolution { name, geometry } => convolution_tensors(name, geometry).into(),
            Self::Residual { name, inputs, outputs } => {
                let mut tensors = Vec::new();
                for (part, geometry) in [("1", square(*inputs, *outputs)), ("2", square(*outputs, *outputs))]
                {
                    tensors.extend(norm_tensors(&format!("{name}.norm{part}"), geometry.inputs));
                    tensors.extend(convolution_tensors(&format!("{name}.conv{part}"), &geometry));
                }
                if inputs != outputs {
                    let shortcut = Geometry::new(*inputs, *outputs, [1, 1]);
                    tensors.extend(convolution_tensors(&format!("{name}.conv_shortcut"), &shortcut));
                }
                tensors
            }
            Self::Attention { name, width } => {
                let mut tensors: Vec<Tensor> = norm_tensors(&format!("{name}.group_norm"), *width).into();
                for part in ["to_q", "to_k", "to_v", "to_out.0"] {
                    tensors.push((format!("{name}.{part}.weight"), vec![*width, *width]));
                    tensors.push((format!("{name}.{part}.bias"), vec![*width]));
                }
                tensors
            }
            Self::Output { part, geometry } => {
                let mut tensors: Vec<Tensor> =
                    norm_tensors(&format!("{part}.conv_norm_out"), geometry.inputs).into();
                tensors.extend(convolution_tensors(&format!("{part}.conv_out"), geometry));
                tensors
            }
        }
    }
}

/// 3×3, the map's size kept.
pub(super) fn square(inputs: usize, outputs: usize) -> Geometry {
    Geometry::new(inputs, outputs, [3, 3]).padded()
}

fn norm_tensors(name: &str, channels: usize) -> [Tensor; 2] {
    ["weight", "bias"].map(|kind| (format!("{name}.{kind}"), vec![channels]))
}

fn convolution_tensors(name: &str, g: &Geometry) -> [Tensor; 2] {
    let [rows, columns] = g.kernel;
    let weight = (format!("{name}.weight"), vec![g.outputs, g.inputs, rows, columns]);
    [weight, (format!("{name}.bias"), vec![g.outputs])]
}

fn convolution(name: impl Into<String>, geometry: Geometry) -> Block {
    Block::Convolution { name: name.into(), geometry }
}

/// From an image to mean and log-variance of its latent, [h, w, 2·latent channels].
pub(super) fn encoder(config: &AutoencoderConfig) -> Vec<Block> {
    let channels = &config.block_out_channels;
    let last = channels.len() - 1;
    let moments = 2 * config.latent_channels;
    let mut blocks = vec![convolution("encoder.conv_in", square(config.in_channels, channels[0]))];
    let mut inputs = channels[0];
    for (level, &outputs) in channels.iter().enumerate() {
        let name = format!("encoder.down_blocks.{level}");
        residuals(&mut blocks, &name, inputs, outputs, config.layers_per_block);
        if level < last {
            // Padded on one side only, as in the CompVis code.
            let geometry = Geometry::new(outputs, outputs, [3, 3]).padded_behind().halving();
            blocks.push(convolution(format!("{name}.downsamplers.0.conv"), geometry));
        }
        inputs = outputs;
    }
    middle(&mut blocks, "encoder", config);
    blocks.push(Block::Output { part: "encoder", geometry: square(channels[last], moments) });
    if config.use_quant_conv {
        blocks.push(convolution("quant_conv", Geometry::new(moments, moments, [1, 1])));
    }
    blocks
}

/// From a latent to its image.
pub(super) fn decoder(config: &AutoencoderConfig) -> Vec<Block> {
    let channels = &config.block_out_channels;
    let last = channels.len() - 1;
    let (latent, widest) = (config.latent_channels, channels[last]);
    let mut blocks = Vec::new();
    if config.use_post_quant_conv {
        blocks.push(convolution("post_quant_conv", Geometry::new(latent, latent, [1, 1])));
    }
    blocks.push(convolution("decoder.conv_in", square(latent, widest)));
    middle(&mut blocks, "decoder", config);
    let mut inputs = widest;
    for (level, &outputs) in channels.iter().rev().enumerate() {
        let name = format!("decoder.up_blocks.{level}");
        residuals(&mut blocks, &name, inputs, outputs, config.layers_per_block + 1);
        if level < last {
            blocks
                .push(convolution(format!("{name}.upsamplers.0.conv"), square(outputs, outputs).doubling()));
        }
        inputs = outputs;
    }
    blocks.push(Block::Output { part: "decoder", geometry: square(channels[0], config.out_channels) });
    blocks
}

fn residuals(blocks: &mut Vec<Block>, name: &str, mut inputs: usize, outputs: usize, count: usize) {
    for i in 0..count {
        blocks.push(Block::Residual { name: format!("{name}.resnets.{i}"), inputs, outputs });
        inputs = outputs;
    }
}

fn middle(blocks: &mut Vec<Block>, part: &str, config: &AutoencoderConfig) {
    let width = config.block_out_channels[config.block_out_channels.len() - 1];
    let residual = |i: usize| Block::Residual {
        name: format!("{part}.mid_block.resnets.{i}"),
        inputs: width,
        outputs: width,
    };
    blocks.push(residual(0));
    if config.mid_block_add_attention {
        blocks.push(Block::Attention { name: format!("{part}.mid_block.attentions.0"), width });
    }
    blocks.push(residual(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes of Stable Diffusion's autoencoder: 34,163,664 weights encode, 49,490,199 decode.
    #[test]
    fn sizes_are_the_published_ones() {
        let config = AutoencoderConfig {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            norm_num_groups: 32,
            mid_block_add_attention: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            sample_size: 512,
            scaling_factor: 0.18215,
            shift_factor: 0.0,
        };
        let count = |blocks: &[Block]| -> usize {
            let tensors = blocks.iter().flat_map(Block::tensors);
            tensors.map(|(_, shape)| shape.iter().product::<usize>()).sum()
        };
        assert_eq!((count(&encoder(&config)), count(&decoder(&config))), (34_163_664, 49_490_199));
    }
}
