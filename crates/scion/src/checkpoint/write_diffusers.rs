//! The diffusers layout: a folder with `config.json` and one safetensors file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::diffusers::{POS_EMBED, Pair, Piece, table};
use super::infer::DitShape;
use super::write::{Precision, TensorSource, write_safetensors};
use crate::atomic;
use crate::error::{Error, Result};
use crate::positions::sincos_positions;

/// Largest difference between a stored position table and the formula that counts as rounding, bf16's included.
const POSITION_TOLERANCE: f32 = 5e-3;

/// Writes a DiT, given under original names, as a folder that diffusers' `DiTTransformer2DModel` loads.
///
/// # Errors
/// What that class cannot express: unknown heads or image size, an MLP ratio other than 4, no null label, a grafted
/// operator, a position table other than DiT's own; and failed reads and writes.
pub fn write_diffusers(
    folder: &Path,
    tensors: &[TensorSource],
    shape: &DitShape,
    precision: Precision,
) -> Result<()> {
    let config = config(shape).map_err(|why| unfit(folder, &why))?;
    if let Some(positions) = tensors.iter().find(|tensor| tensor.name == POS_EMBED) {
        check_positions(folder, positions)?;
    }
    write(folder, tensors, &table(shape.depth), &config, precision)
}

/// Writes tensors under the names of a table, and a class's arguments.
pub(super) fn write(
    folder: &Path,
    tensors: &[TensorSource],
    pairs: &[Pair],
    config: &serde_json::Value,
    precision: Precision,
) -> Result<()> {
    let by_name: BTreeMap<&str, &TensorSource> = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    check_complete(folder, pairs, &by_name)?;
    let renamed: Vec<_> = pairs
        .iter()
        .map(|pair| renamed(folder, pair, by_name[pair.original.as_str()]))
        .collect::<Result<_>>()?;
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    let metadata = BTreeMap::from([("format".into(), "pt".into())]);
    let weights = folder.join("diffusion_pytorch_model.safetensors");
    write_safetensors(&weights, &renamed, precision, &metadata).inspect_err(|_| {
        // Takes away an empty folder only; one that holds anything stays.
        let _ = std::fs::remove_dir(folder);
    })?;
    // Last, so that a folder whose writing was cut short is seen to be incomplete.
    let path = folder.join("config.json");
    atomic::write(&path, format!("{config:#}\n").as_bytes())
}

pub(super) fn unfit(folder: &Path, why: &str) -> Error {
    Error::Tensors {
        path: folder.into(),
        detail: format!("the diffusers layout cannot hold this model: {why}"),
    }
}

/// The arguments of diffusers' class.
fn config(shape: &DitShape) -> Result<serde_json::Value, String> {
    let heads = shape.heads.ok_or("its number of attention heads is unknown (give --heads)")?;
    if heads == 0 || !shape.hidden.is_multiple_of(heads) {
        return Err(format!("{heads} heads do not divide the width {}", shape.hidden));
    }
    let tokens = shape.tokens.ok_or("its number of tokens is unknown")?;
    let grid = tokens.isqrt();
    if grid * grid != tokens {
        return Err(format!("{tokens} tokens are not a square grid"));
    }
    if shape.mlp_ratio != 4.0 {
        return Err(format!("its MLP ratio is {}, where diffusers has 4", shape.mlp_ratio));
    }
    if !shape.label_dropout {
        return Err("its label table has no null label".into());
    }
    Ok(serde_json::json!({
        "_class_name": "DiTTransformer2DModel",
        "_diffusers_version": "0.30.0",
        "activation_fn": "gelu-approximate",
        "attention_bias": true,
        "attention_head_dim": shape.hidden / heads,
        "dropout": 0.0,
        "in_channels": shape.in_channels,
        "norm_elementwise_affine": false,
        "norm_eps": 1e-6, // DiT's own; the class defaults to 1e-5
        "norm_num_groups": 32,
        "norm_type": "ada_norm_zero",
        "num_attention_heads": heads,
        "num_embeds_ada_norm": shape.num_classes,
        "num_layers": shape.depth,
        "out_channels": shape.out_channels,
        "patch_size": shape.patch,
        "sample_size": grid * shape.patch,
        "upcast_attention": false,
    }))
}

/// The layout drops the position table, so it must be the one that readers will generate.
fn check_positions(folder: &Path, positions: &TensorSource) -> Result<()> {
    let [1, tokens, dim] = positions.shape[..] else {
        return Err(unfit(
            folder,
            &format!("its pos_embed has shape {:?}; expected (1, T, D)", positions.shape),
        ));
    };
    let expected = sincos_positions(tokens.isqrt(), dim);
    let stored = positions.read(folder)?;
    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= POSITION_TOLERANCE;
    if expected.len() != stored.len() || !stored.iter().zip(&expected).all(close) {
        return Err(unfit(
            folder,
            "its pos_embed is not DiT's sine table, and the layout has no place for another",
        ));
    }
    Ok(())
}

fn check_complete(folder: &Path, pairs: &[Pair], by_name: &BTreeMap<&str, &TensorSource>) -> Result<()> {
    let needed: BTreeSet<&str> = pairs.iter().map(|pair| pair.original.as_str()).collect();
    let missing = needed.iter().find(|name| !by_name.contains_key(*name));
    let extra = by_name.keys().find(|name| **name != POS_EMBED && !needed.contains(*name));
    match (missing, extra) {
        (None, None) => Ok(()),
        (_, Some(name)) => Err(unfit(folder, &format!("it has no place for the tensor `{name}`"))),
        (Some(name), None) => Err(unfit(folder, &format!("the tensor `{name}` is missing"))),
    }
}

fn renamed<'a>(folder: &'a Path, pair: &Pair, tensor: &'a TensorSource<'a>) -> Result<TensorSource<'a>> {
    let name = pair.diffusers.clone();
    let Piece::Rows { place, of } = pair.piece else {
        return Ok(TensorSource::new(name, tensor.shape.clone(), move || tensor.read(folder)));
    };
    let mut shape = tensor.shape.clone();
    match shape.first_mut() {
        Some(rows) if *rows % of == 0 => *rows /= of,
        _ => {
            return Err(unfit(
                folder,
                &format!("`{}` of shape {shape:?} has no {of} equal parts", tensor.name),
            ));
        }
    }
    Ok(TensorSource::new(name, shape, move || {
        let mut values = tensor.read(folder)?;
        let len = values.len() / of;
        values.drain(..place * len);
        values.truncate(len);
        Ok(values)
    }))
}
