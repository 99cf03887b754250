//! Models from and to checkpoint files.

use std::path::Path;

use burn::tensor::Device;

use super::{Architecture, Conditions, Dit, DitConfig, Replacement, TextConfig, native_shape, parameters};
use crate::checkpoint::{
    Checkpoint, DitShape, Layout, PixartShape, Precision, TensorSource, write_diffusers,
    write_diffusers_pixart, write_dit, write_scion,
};
use crate::error::{Error, Result};
use crate::model::apply_weights;
use crate::operator::{Init, KvCompressionConfig, Operator, OperatorConfig, Slot};

/// A model's parameters as a writer takes them: names and shapes of the original layout.
pub fn tensor_sources(model: &Dit, patch: usize) -> Vec<TensorSource<'static>> {
    let mut sources = Vec::new();
    parameters(model, |name, data| {
        let shape = native_shape(&name, data.shape(), patch);
        let values: Vec<f32> = data.try_into_vec().expect("parameters are f32");
        sources.push(TensorSource::new(name, shape, move || Ok(values.clone())));
    });
    sources
}

/// Writes Scion's one-file format in f32: weights, and the architecture in the header.
///
/// # Errors
/// When the file cannot be written.
pub fn save_scion(model: &Dit, architecture: &Architecture, path: &Path) -> Result<()> {
    save_scion_as(model, architecture, Precision::F32, path)
}

/// [`save_scion`] in a chosen precision.
///
/// # Errors
/// When the file cannot be written, or a value does not fit the precision.
pub fn save_scion_as(
    model: &Dit,
    architecture: &Architecture,
    precision: Precision,
    path: &Path,
) -> Result<()> {
    let json = serde_json::to_string(architecture).expect("architectures are plain data");
    write_scion(path, &tensor_sources(model, architecture.dit.patch), &json, precision)
}

/// The architecture of an opened checkpoint: from a Scion file's header, else from the shapes, which of all operators tell
/// PixArt's compressed keys and values alone.
///
/// # Errors
/// When the header is damaged, the shapes are not those of a DiT or PixArt, or nothing tells the head count.
pub fn architecture_of(file: &Checkpoint, heads: Option<usize>) -> Result<Architecture> {
    if file.layout() == Layout::Scion {
        let json = file
            .model_json()
            .ok_or_else(|| Error::invalid(file.path(), "has no architecture in its header"))?;
        let damaged = |detail: String| {
            Error::invalid(file.path(), format!("the architecture in its header is damaged: {detail}"))
        };
        let told: Architecture = serde_json::from_str(json).map_err(|e| damaged(e.to_string()))?;
        if let Some(heads) = heads.filter(|&heads| heads != told.dit.heads) {
            return Err(Error::Usage(format!(
                "{}: --heads {heads}, but its header says {} attention heads",
                file.path().display(),
                told.dit.heads
            )));
        }
        let Architecture { dit, grafts, pairs } = told;
        let edited = |()| Architecture::native(dit.clone()).with_grafts(grafts)?.with_pairs(pairs);
        return dit.check().and_then(edited).map_err(|e| damaged(e.to_string()));
    }
    let sizes = if file.is_pixart() { pixart_sizes(file, heads)? } else { dit_sizes(file, heads)? };
    sizes.check()?;
    let compressed = if file.is_pixart() { file.compressed_blocks(sizes.depth)? } else { Vec::new() };
    let grafts = compressed.into_iter().map(|(block, factor)| {
        let operator = OperatorConfig::KvCompression(KvCompressionConfig { heads: sizes.heads, factor });
        Replacement { block, slot: Slot::Attention, operator }
    });
    let grafts = grafts.collect();
    Architecture::native(sizes).with_grafts(grafts).map_err(|e| Error::invalid(file.path(), e.to_string()))
}

/// Whether [`architecture_of`] finds in the original layout whatever was grafted.
pub fn original_layout_tells(architecture: &Architecture) -> bool {
    let Architecture { dit, grafts, .. } = architecture;
    grafts.iter().all(|graft| match &graft.operator {
        OperatorConfig::KvCompression(c) => dit.text().is_some() && c.heads == dit.heads,
        _ => false,
    })
}

/// What a file does not tell.
fn untold(file: &Checkpoint, what: &str) -> Error {
    Error::Usage(format!("{}: nothing tells {what}", file.path().display()))
}

fn told_heads(file: &Checkpoint, given: Option<usize>, told: Option<usize>, hidden: usize) -> Result<usize> {
    let what = format!("the number of attention heads at width {hidden}; give --heads");
    given.or(told).ok_or_else(|| untold(file, &what))
}

const IMAGE_SIZE: &str = "the image size of this model";

fn dit_sizes(file: &Checkpoint, heads: Option<usize>) -> Result<DitConfig> {
    let shape = file.infer_dit()?;
    let heads = told_heads(file, heads, shape.heads, shape.hidden)?;
    let tokens = shape.tokens.ok_or_else(|| untold(file, IMAGE_SIZE))?;
    Ok(DitConfig {
        input_size: (tokens as f64).sqrt().round() as usize * shape.patch,
        patch: shape.patch,
        in_channels: shape.in_channels,
        hidden: shape.hidden,
        depth: shape.depth,
        heads,
        mlp_ratio: shape.mlp_ratio,
        learn_sigma: shape.learn_sigma(),
        conditions: Conditions::Classes { count: shape.num_classes, null: shape.label_dropout },
    })
}

fn pixart_sizes(file: &Checkpoint, heads: Option<usize>) -> Result<DitConfig> {
    let shape = file.infer_pixart()?;
    let heads = told_heads(file, heads, shape.heads, shape.hidden)?;
    let input_size = shape.input_size.ok_or_else(|| untold(file, IMAGE_SIZE))?;
    Ok(DitConfig {
        input_size,
        patch: shape.patch,
        in_channels: shape.in_channels,
        hidden: shape.hidden,
        depth: shape.depth,
        heads,
        mlp_ratio: shape.mlp_ratio,
        learn_sigma: shape.out_channels == 2 * shape.in_channels,
        conditions: Conditions::Text(TextConfig {
            width: shape.text_width,
            // Σ's; α's models of 1024 pixels are the ones that are told sizes.
            tokens: shape.text_tokens.unwrap_or(if shape.size_conditions { 120 } else { 300 }),
            // All published models have one unit of it for 512 pixels.
            interpolation: shape.interpolation.unwrap_or(input_size as f64 / 64.0),
            size_conditions: shape.size_conditions,
        }),
    })
}

/// Writes the original layout: PyTorch's when the name ends in `.pt` or `.pth`, else safetensors. PixArt's file tells the image's
/// size by a table of positions, which nothing else needs.
///
/// # Errors
/// When the file cannot be written, or a value does not fit the precision.
pub fn save_original(model: &Dit, sizes: &DitConfig, precision: Precision, path: &Path) -> Result<()> {
    let mut tensors = tensor_sources(model, sizes.patch);
    if sizes.text().is_some() {
        let side = sizes.input_size / sizes.patch;
        let table =
            move || Ok(model.positions([side; 2]).into_data().try_into_vec().expect("positions are f32"));
        tensors.push(TensorSource::new("pos_embed".into(), vec![1, side * side, sizes.hidden], table));
    }
    write_dit(path, &tensors, precision)
}

/// Writes a folder as diffusers does.
///
/// # Errors
/// When diffusers' class cannot express the model, the folder cannot be written, or a value does not fit the precision.
pub fn save_diffusers(model: &Dit, sizes: &DitConfig, precision: Precision, folder: &Path) -> Result<()> {
    let tensors = tensor_sources(model, sizes.patch);
    match &sizes.conditions {
        Conditions::Classes { count, null } => {
            let shape = DitShape {
                hidden: sizes.hidden,
                depth: sizes.depth,
                heads: Some(sizes.heads),
                patch: sizes.patch,
                in_channels: sizes.in_channels,
                out_channels: sizes.out_channels(),
                num_classes: *count,
                label_dropout: *null,
                mlp_ratio: sizes.mlp_ratio,
                tokens: Some(sizes.tokens()),
            };
            write_diffusers(folder, &tensors, &shape, precision)
        }
        Conditions::Text(text) => {
            let shape = PixartShape {
                hidden: sizes.hidden,
                depth: sizes.depth,
                heads: Some(sizes.heads),
                patch: sizes.patch,
                in_channels: sizes.in_channels,
                out_channels: sizes.out_channels(),
                mlp_ratio: sizes.mlp_ratio,
                text_width: text.width,
                text_tokens: Some(text.tokens),
                size_conditions: text.size_conditions,
                input_size: Some(sizes.input_size),
                interpolation: Some(text.interpolation),
            };
            write_diffusers_pixart(folder, &tensors, &shape, precision)
        }
    }
}

/// Reads a model strictly: every tensor must be there, fit, and be used. Only one tensor at a time is held
/// beside the model.
///
/// # Errors
/// When names or shapes do not match, listing them, or the file is damaged.
pub fn load(file: &Checkpoint, architecture: &Architecture, device: &Device) -> Result<Dit> {
    let model = Dit::new(architecture, &mut Init::empty(device))?;
    let mut expected = Vec::new();
    parameters(&model, |name, data| {
        let shape = native_shape(&name, data.shape(), architecture.dit.patch);
        expected.push((name, shape));
    });
    file.check(&expected)?;
    apply_weights(model, |name| file.entry(name).map(|_| file.read_f32(name)).transpose())
}

/// Names and shapes in the original layout of the tensors of an operator for tokens of the given width.
///
/// # Errors
/// When the operator's settings do not fit the width.
pub fn operator_tensors(operator: &OperatorConfig, width: usize) -> Result<Vec<(String, Vec<usize>)>> {
    let mut tensors = Vec::new();
    parameters(&operator.init(width, &mut Init::empty(&Device::flex()))?, |name, data| {
        let shape = native_shape(&name, data.shape(), 1);
        tensors.push((name, shape));
    });
    Ok(tensors)
}

/// Reads an operator, as strictly as [`load`], from a file that holds its tensors and no others.
///
/// # Errors
/// When names or shapes do not match, listing them, or the file is damaged.
pub fn load_operator(
    file: &Checkpoint,
    operator: &OperatorConfig,
    width: usize,
    device: &Device,
) -> Result<Operator> {
    file.check(&operator_tensors(operator, width)?)?;
    apply_weights(operator.init(width, &mut Init::empty(device))?, |name| file.read_f32(name).map(Some))
}
