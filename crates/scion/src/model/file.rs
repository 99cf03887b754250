//! Models from and to checkpoint files.

use std::path::Path;

use burn::tensor::Device;

use super::{Architecture, Dit, DitConfig, native_shape, parameters};
use crate::checkpoint::{Checkpoint, DitShape, Layout, Precision, TensorSource, write_scion};
use crate::error::{Error, Result};
use crate::model::apply_weights;
use crate::operator::{Init, Operator, OperatorConfig};

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

/// The architecture of an opened checkpoint: from a Scion file's header, else from the shapes.
///
/// # Errors
/// When the header is damaged, the shapes are not those of a DiT, or nothing tells the head count.
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
    let shape = file.infer_dit()?;
    let heads = heads.or(shape.heads).ok_or_else(|| {
        Error::Usage(format!(
            "{}: nothing tells the number of attention heads at width {}; give --heads",
            file.path().display(),
            shape.hidden
        ))
    })?;
    let tokens = shape.tokens.ok_or_else(|| {
        Error::Usage(format!("{}: nothing tells the image size of this model", file.path().display()))
    })?;
    let dit = DitConfig {
        input_size: (tokens as f64).sqrt().round() as usize * shape.patch,
        patch: shape.patch,
        in_channels: shape.in_channels,
        hidden: shape.hidden,
        depth: shape.depth,
        heads,
        mlp_ratio: shape.mlp_ratio,
        num_classes: shape.num_classes,
        null_class: shape.label_dropout,
        learn_sigma: shape.learn_sigma(),
    };
    dit.check()?;
    Ok(Architecture::native(dit))
}

impl From<&DitConfig> for DitShape {
    fn from(dit: &DitConfig) -> Self {
        Self {
            hidden: dit.hidden,
            depth: dit.depth,
            heads: Some(dit.heads),
            patch: dit.patch,
            in_channels: dit.in_channels,
            out_channels: dit.out_channels(),
            num_classes: dit.num_classes,
            label_dropout: dit.null_class,
            mlp_ratio: dit.mlp_ratio,
            tokens: Some(dit.tokens()),
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
