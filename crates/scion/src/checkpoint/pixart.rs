//! PixArt-α and -Σ: the original layout's names, diffusers' beside them, and what tensors and `config.json` tell of the
//! architecture. Sources: PixArt-alpha/PixArt-sigma `diffusion/model/nets/{PixArtMS,PixArt_blocks}.py`,
//! huggingface/diffusers `scripts/convert_pixart_{alpha,sigma}_to_diffusers.py`, `transformers/pixart_transformer_2d.py`.

use std::path::Path;

use super::diffusers::{self, KINDS, Pair, Piece, THIRDS};
use super::write::{Precision, TensorSource};
use super::{Checkpoint, write_diffusers};
use crate::error::Result;

/// The null prompt's embedding, which the original keeps for dropped captions in training.
const NULL_EMBEDDING: &str = "y_embedder.y_embedding";

/// Tensors of the original layout that a model has no use for: its positions depend on the image's size, and its null
/// prompt is what the text encoder makes of an empty one.
pub(super) const SUPERFLUOUS: [&str; 2] = [diffusers::POS_EMBED, NULL_EMBEDDING];

/// Tensors by which the original layout is known.
pub(super) const MARKS: [&str; 4] = [
    "x_embedder.proj.weight",
    "y_embedder.y_proj.fc1.weight",
    "t_block.1.weight",
    "final_layer.linear.weight",
];

/// (original, diffusers) modules outside the blocks; each has a weight and a bias.
const OUTER: [(&str, &str); 7] = [
    ("x_embedder.proj", "pos_embed.proj"),
    ("t_embedder.mlp.0", "adaln_single.emb.timestep_embedder.linear_1"),
    ("t_embedder.mlp.2", "adaln_single.emb.timestep_embedder.linear_2"),
    ("t_block.1", "adaln_single.linear"),
    ("y_embedder.y_proj.fc1", "caption_projection.linear_1"),
    ("y_embedder.y_proj.fc2", "caption_projection.linear_2"),
    ("final_layer.linear", "proj_out"),
];

/// Those of a model that is told the image's size.
const SIZES: [(&str, &str); 4] = [
    ("csize_embedder.mlp.0", "adaln_single.emb.resolution_embedder.linear_1"),
    ("csize_embedder.mlp.2", "adaln_single.emb.resolution_embedder.linear_2"),
    ("ar_embedder.mlp.0", "adaln_single.emb.aspect_ratio_embedder.linear_1"),
    ("ar_embedder.mlp.2", "adaln_single.emb.aspect_ratio_embedder.linear_2"),
];

/// (original, diffusers) modules inside a block; each has a weight and a bias.
const INNER: [(&str, &str); 5] = [
    ("attn.proj", "attn1.to_out.0"),
    ("cross_attn.q_linear", "attn2.to_q"),
    ("cross_attn.proj", "attn2.to_out.0"),
    ("mlp.fc1", "ff.net.0.proj"),
    ("mlp.fc2", "ff.net.2"),
];

/// The halves of `cross_attn.kv_linear`, in order of its rows.
const HALVES: [&str; 2] = ["attn2.to_k", "attn2.to_v"];

/// Whether the names are those of a PixArt saved by diffusers.
pub(super) fn is_diffusers<'a>(mut names: impl Iterator<Item = &'a String>) -> bool {
    names.any(|name| name == "adaln_single.linear.weight")
}

/// The table of [`diffusers::to_original`] for a model of `depth` blocks, which may be told the image's size.
pub(super) fn table(depth: usize, size_conditions: bool) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let mut add =
        |original: String, diffusers: String, piece| pairs.push(Pair { original, diffusers, piece });
    let sizes: &[_] = if size_conditions { &SIZES } else { &[] };
    for kind in KINDS {
        for (original, diffusers) in OUTER.iter().chain(sizes) {
            add(format!("{original}.{kind}"), format!("{diffusers}.{kind}"), Piece::Whole);
        }
    }
    add("final_layer.scale_shift_table".into(), "scale_shift_table".into(), Piece::Whole);
    for i in 0..depth {
        let (block, theirs) = (format!("blocks.{i}"), format!("transformer_blocks.{i}"));
        add(format!("{block}.scale_shift_table"), format!("{theirs}.scale_shift_table"), Piece::Whole);
        for kind in KINDS {
            for (original, modules) in [("attn.qkv", &THIRDS[..]), ("cross_attn.kv_linear", &HALVES[..])] {
                for (place, module) in modules.iter().enumerate() {
                    let piece = Piece::Rows { place, of: modules.len() };
                    add(format!("{block}.{original}.{kind}"), format!("{theirs}.{module}.{kind}"), piece);
                }
            }
            for (original, diffusers) in INNER {
                add(
                    format!("{block}.{original}.{kind}"),
                    format!("{theirs}.{diffusers}.{kind}"),
                    Piece::Whole,
                );
            }
        }
    }
    pairs
}

/// The table for reading: with all that any version of diffusers has written.
pub(super) fn reading_table(depth: usize) -> Vec<Pair> {
    let mut pairs = table(depth, true);
    let diffusers = "caption_projection.y_embedding".into();
    pairs.push(Pair { original: NULL_EMBEDDING.into(), diffusers, piece: Piece::Whole });
    pairs
}

/// What tensor shapes, and `config.json` where there is one, tell about a PixArt.
#[derive(Clone, Debug, PartialEq)]
pub struct PixartShape {
    /// Width D of the token stream.
    pub hidden: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads, where `config.json` or a published width tells; shapes alone do not.
    pub heads: Option<usize>,
    /// Side of a patch in latent pixels.
    pub patch: usize,
    /// Channels of the latent.
    pub in_channels: usize,
    /// Channels of the output: `in_channels`, doubled when the variance is learned.
    pub out_channels: usize,
    /// Hidden width of the first stored MLP over D; 4 when every block's MLP is replaced.
    pub mlp_ratio: f64,
    /// Width of the text encoder's tokens.
    pub text_width: usize,
    /// Tokens of a prompt, where the file stores the null prompt's embedding.
    pub text_tokens: Option<usize>,
    /// Whether the model is told the image's size and aspect ratio.
    pub size_conditions: bool,
    /// Side of the latent, where the file stores positions or its config gives it.
    pub input_size: Option<usize>,
    /// What positions are divided by, where the config gives it.
    pub interpolation: Option<f64>,
}

/// Parts of names that only models of the original's experiments with normalised queries and keys have.
const UNKNOWN: [&str; 2] = [".attn.q_norm.", ".attn.k_norm."];

/// Fields of diffusers' config that the model allows one value of.
fn fixed() -> [(&'static str, serde_json::Value); 6] {
    [
        ("activation_fn", "gelu-approximate".into()),
        ("attention_bias", true.into()),
        ("attention_type", "default".into()),
        ("norm_elementwise_affine", false.into()),
        ("norm_eps", 1e-6.into()),
        ("norm_type", "ada_norm_single".into()),
    ]
}

impl Checkpoint {
    /// Whether the names are PixArt's.
    pub fn is_pixart(&self) -> bool {
        MARKS.iter().all(|name| self.entry(name).is_some())
    }

    /// Reads the architecture off the shapes of a PixArt's tensors and off diffusers' config.
    ///
    /// # Errors
    /// A tensor that is missing or has an impossible shape, or a config that asks for what this model cannot do, named.
    pub fn infer_pixart(&self) -> Result<PixartShape> {
        let (hidden, in_channels, patch) = self.patches()?;
        let depth = self.blocks()?;
        self.check_config()?;
        if let Some(name) = self.names().find(|name| UNKNOWN.iter().any(|part| name.contains(part))) {
            return Err(self.tensors_error(&format!(
                "has `{name}`, of attention with normalised queries and keys; this model knows only attention without"
            )));
        }
        let [_, text_width] = self.dims("y_embedder.y_proj.fc1.weight")?;
        let stored = |name| self.entry(name).is_some();
        let text_tokens = match stored(NULL_EMBEDDING) {
            true => Some(self.dims::<2>(NULL_EMBEDDING)?[0]),
            false => None,
        };
        let side = self.tokens(patch)?.map(|tokens| tokens.isqrt() * patch);
        let interpolation = self.config().and_then(|config| config.get("interpolation_scale")?.as_f64());
        Ok(PixartShape {
            hidden,
            depth,
            heads: self.heads(hidden)?,
            patch,
            in_channels,
            out_channels: self.out_channels(patch, in_channels)?,
            mlp_ratio: self.mlp_ratio(0..depth, hidden)?.unwrap_or(4.0),
            text_width,
            text_tokens,
            size_conditions: stored("csize_embedder.mlp.0.weight"),
            input_size: side,
            // diffusers' own default.
            interpolation: interpolation.or(self.config().and(side).map(|side| (side / 64).max(1) as f64)),
        })
    }

    /// Blocks of the `depth` whose attention compresses keys and values by a convolution, each with the side of the squares
    /// of tokens that it makes one of.
    ///
    /// # Errors
    /// A convolution over anything but squares, named.
    pub fn compressed_blocks(&self, depth: usize) -> Result<Vec<(usize, usize)>> {
        let name = |block: usize| format!("blocks.{block}.attn.sr.weight");
        let compressed = (0..depth).filter(|&block| self.entry(&name(block)).is_some());
        let side = |block: usize| match self.dims(&name(block))? {
            [_, 1, rows, columns] if rows == columns => Ok((block, rows)),
            [..] => Err(self.misshapen(&name(block), "(D, 1, f, f)")),
        };
        compressed.map(side).collect()
    }

    fn check_config(&self) -> Result<()> {
        let Some(config) = self.config() else { return Ok(()) };
        for (field, expected) in fixed() {
            match config.get(field) {
                Some(found) if !found.is_null() && *found != expected => {
                    return Err(self.tensors_error(&format!(
                        "config.json gives {field} {found}; this model knows {expected} alone"
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Writes a PixArt, given under original names, as a folder that diffusers' `PixArtTransformer2DModel` loads.
///
/// # Errors
/// What that class cannot express: unknown heads or image size, an MLP ratio other than 4, a grafted operator; and failed
/// reads and writes.
pub fn write_diffusers_pixart(
    folder: &Path,
    tensors: &[TensorSource],
    shape: &PixartShape,
    precision: Precision,
) -> Result<()> {
    let config = config(shape).map_err(|why| write_diffusers::unfit(folder, &why))?;
    write_diffusers::write(folder, tensors, &table(shape.depth, shape.size_conditions), &config, precision)
}

/// The arguments of diffusers' class.
fn config(shape: &PixartShape) -> Result<serde_json::Value, String> {
    let heads = shape.heads.ok_or("its number of attention heads is unknown (give --heads)")?;
    if heads == 0 || !shape.hidden.is_multiple_of(heads) {
        return Err(format!("{heads} heads do not divide the width {}", shape.hidden));
    }
    if shape.mlp_ratio != 4.0 {
        return Err(format!("its MLP ratio is {}, where diffusers has 4", shape.mlp_ratio));
    }
    let side = shape.input_size.ok_or("its image size is unknown")?;
    let mut config = serde_json::json!({
        "_class_name": "PixArtTransformer2DModel",
        "_diffusers_version": "0.30.0",
        "attention_head_dim": shape.hidden / heads,
        "caption_channels": shape.text_width,
        "cross_attention_dim": shape.hidden,
        "dropout": 0.0,
        "in_channels": shape.in_channels,
        "interpolation_scale": shape.interpolation.map(number),
        "norm_num_groups": 32,
        "num_attention_heads": heads,
        "num_embeds_ada_norm": 1000,
        "num_layers": shape.depth,
        "out_channels": shape.out_channels,
        "patch_size": shape.patch,
        "sample_size": side,
        "upcast_attention": false,
        "use_additional_conditions": shape.size_conditions, // the class would guess it from the size
    });
    for (field, value) in fixed() {
        config[field] = value;
    }
    Ok(config)
}

/// A whole number as one.
fn number(value: f64) -> serde_json::Value {
    if value.fract() == 0.0 { (value as u64).into() } else { value.into() }
}
