//! ONNX files that take one image.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tract_onnx::prelude::{
    Datum, Framework, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, TValue, Tensor,
    TractResult, TypedRunnableModel, tvec,
};
use tract_onnx::tract_hir::infer::Factoid;

use crate::error::{Error, Result};

/// A network of one input [1, 3, H, W] f32, made ready for each size of image that it meets.
pub(super) struct Network {
    path: PathBuf,
    model: InferenceModel,
    size: Option<[usize; 2]>,
    outputs: Vec<String>,
    ready: Mutex<HashMap<[usize; 2], Arc<TypedRunnableModel>>>,
}

/// A result as f32, row-major, and its shape.
pub(super) struct Output {
    pub(super) shape: Vec<usize>,
    pub(super) data: Vec<f32>,
}

impl Network {
    /// Reads a file.
    ///
    /// # Errors
    /// `Invalid` if it is no ONNX file, or takes anything but one image.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let refused = |detail: String| Error::invalid(path, one_line(detail));
        let model = tract_onnx::onnx()
            .model_for_path(path)
            .map_err(|e| refused(format!("cannot be read as ONNX: {e:#}")))?;
        let [input] = model.inputs[..] else {
            let count = model.inputs.len();
            return Err(refused(format!("has {count} inputs; expected one image [1, 3, H, W]")));
        };
        let fact = model.outlet_fact(input).map_err(|e| refused(format!("{e:#}")))?;
        // A side that is a symbol stays open.
        let side = |dim: Option<i64>| dim.and_then(|dim| usize::try_from(dim).ok());
        let sides: Vec<Option<usize>> =
            fact.shape.dims().map(|dim| side(dim.concretize().and_then(|dim| dim.to_i64().ok()))).collect();
        let size = match sides[..] {
            [Some(1) | None, Some(3), Some(height), Some(width)] => Some([height, width]),
            [Some(1) | None, Some(3), None, None] => None,
            _ => return Err(refused(format!("takes {:?}; expected one image [1, 3, H, W]", fact.shape))),
        };
        let name = |outlet| model.outlet_label(outlet).unwrap_or_default().to_owned();
        let outputs = model.outputs.iter().map(|&outlet| name(outlet)).collect();
        Ok(Self { path: path.into(), model, size, outputs, ready: Mutex::default() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Height and width of the images that it takes; none if it takes any.
    pub(super) fn size(&self) -> Option<[usize; 2]> {
        self.size
    }

    /// Names of the outputs, in the order of the results of [`Network::run`].
    pub(super) fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// An error about this file.
    pub(super) fn refused(&self, detail: impl Display) -> Error {
        Error::invalid(&self.path, one_line(detail))
    }

    /// Runs an image, planes [3, H, W].
    ///
    /// # Errors
    /// `Invalid` if the network has operators that are not known, or fails.
    pub(super) fn run(&self, planes: &[f32], size: [usize; 2]) -> Result<Vec<Output>> {
        let run = || -> TractResult<Vec<Output>> {
            let image = Tensor::from_shape(&[1, 3, size[0], size[1]], planes)?;
            let outputs = self.prepared(size)?.run(tvec!(image.into()))?;
            outputs.iter().map(plain).collect()
        };
        run().map_err(|e| self.refused(format!("cannot be run: {e:#}")))
    }

    fn prepared(&self, size: [usize; 2]) -> TractResult<Arc<TypedRunnableModel>> {
        let mut ready = self.ready.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(model) = ready.get(&size) {
            return Ok(model.clone());
        }
        let fact = InferenceFact::dt_shape(f32::datum_type(), tvec!(1, 3, size[0], size[1]));
        let model = self.model.clone().with_input_fact(0, fact)?.into_optimized()?.into_runnable()?;
        ready.insert(size, model.clone());
        Ok(model)
    }
}

fn plain(value: &TValue) -> TractResult<Output> {
    let cast = value.cast_to::<f32>()?;
    Ok(Output { shape: cast.shape().to_vec(), data: cast.try_as_plain_ram()?.as_slice::<f32>()?.to_vec() })
}

fn one_line(detail: impl Display) -> String {
    detail.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
