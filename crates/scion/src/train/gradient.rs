//! From a backward pass to updated weights.

use std::collections::BTreeMap;

use burn::Tensor;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Gradients;
use scion_kernels::optimizer::{AdamW, Moments, sum_of_squares};

use crate::error::Result;
use crate::model::{Path, update_selected};

/// Settings of one update.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Learning rate.
    pub lr: f64,
    /// Second-moment decay.
    pub beta2: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest gradient norm.
    pub clip: f64,
    /// Decay of the weights' moving average; none is kept without.
    pub ema: Option<f64>,
    /// Number of this step, from 1.
    pub number: u64,
}

struct Collector {
    path: Path,
    gradients: Gradients,
    found: BTreeMap<String, Vec<f32>>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // Taken out, so that its storage has one owner and becomes the vector without a copy.
        if let Some(gradient) = param.val().grad_remove(&mut self.gradients) {
            let values = gradient.into_data().try_into_vec().expect("gradients are f32");
            self.found.insert(self.path.name(), values);
        }
    }
}

/// Gradients of a module's parameters by name.
pub fn collect<M: Module>(module: &M, gradients: Gradients) -> BTreeMap<String, Vec<f32>> {
    let mut collector = Collector { path: Path::default(), gradients, found: BTreeMap::new() };
    module.visit(&mut collector);
    collector.found
}

/// Updates a module by AdamW and returns it with the gradient's norm before clipping.
///
/// State of parameters seen for the first time starts at zero, their moving average at their value.
///
/// # Errors
/// None of its own; the signature is that of [`update_selected`].
pub fn descend<M: Module>(
    module: M,
    gradients: &BTreeMap<String, Vec<f32>>,
    moments: &mut BTreeMap<String, Moments>,
    step: Step,
) -> Result<(M, f64)> {
    let norm = gradients.values().map(|g| sum_of_squares(g)).sum::<f64>().sqrt();
    let rule = AdamW {
        lr: step.lr as f32,
        betas: (0.9, step.beta2 as f32),
        eps: 1e-8,
        weight_decay: step.weight_decay as f32,
        grad_scale: if norm > step.clip { (step.clip / norm) as f32 } else { 1.0 },
        step: step.number,
        ema: step.ema.unwrap_or(0.0) as f32,
    };
    let trains = |name: &str| gradients.contains_key(name);
    let module = update_selected(module, trains, |name, _, _, values| {
        let state = moments.entry(name.to_string()).or_insert_with(|| Moments {
            first: vec![0.0; values.len()],
            second: vec![0.0; values.len()],
            ema: if step.ema.is_some() { values.to_vec() } else { Vec::new() },
        });
        rule.update(values, &gradients[name], state);
        Ok(())
    })?;
    Ok((module, norm))
}
