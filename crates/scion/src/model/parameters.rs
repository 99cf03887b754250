//! Parameters by the names that checkpoints of the original layout use.

use std::collections::BTreeSet;

use burn::Tensor;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::TensorData;

use sha2::{Digest, Sha256};

use crate::error::Result;

/// Calls `see` with the name and tensor shape (as held here) of every parameter in order.
struct Walk<F> {
    path: Path,
    see: F,
}

/// The place of a module inside its parents.
#[derive(Default)]
pub(crate) struct Path(Vec<String>);

impl Path {
    /// Enum variants are no level of their own in checkpoints.
    pub fn enter(&mut self, name: &str, container: &str) {
        self.0.push(if container.starts_with("Enum:") { String::new() } else { name.into() });
    }

    pub fn exit(&mut self) {
        self.0.pop();
    }

    /// The parameter's name in the original layout.
    pub fn name(&self) -> String {
        let original = |level| match level {
            // The original keeps SiLU inside the sequences it counts.
            "ada_ln" => "adaLN_modulation.1",
            "t_block" => "t_block.1",
            "wqkv" => "Wqkv",
            "a_log" => "A_log",
            "skip" => "D",
            level => level,
        };
        let levels: Vec<&str> =
            self.0.iter().map(String::as_str).filter(|l| !l.is_empty()).map(original).collect();
        let name = levels.join(".");
        // A modulation that is a table has a name of its own.
        let name = match name.strip_suffix("adaLN_modulation.1") {
            Some(owner) => format!("{owner}scale_shift_table"),
            None => name,
        };
        name.replace("_embedder.mlp.1.", "_embedder.mlp.2.")
            // Adapters as PEFT calls them; Burn's product is a·b, LoRA's is B·A.
            .replace("weight.lora.a", "lora_B.weight")
            .replace("weight.lora.b", "lora_A.weight")
    }
}

/// The shape that a parameter held as `dims` has in the original layout.
pub fn native_shape(name: &str, dims: &[usize], patch: usize) -> Vec<usize> {
    match dims {
        [d, values] if name == "x_embedder.proj.weight" => vec![*d, values / (patch * patch), patch, patch],
        [channels, taps] if name.ends_with("filter.weight") || name.ends_with("conv1d.weight") => {
            vec![*channels, 1, *taps]
        }
        [tokens, d] if name == "pos_embed" => vec![1, *tokens, *d],
        dims => dims.to_vec(),
    }
}

impl<F: FnMut(String, TensorData)> ModuleVisitor for Walk<F> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        (self.see)(self.path.name(), param.val().inner_values());
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }
}

trait InnerValues {
    fn inner_values(self) -> TensorData;
}

impl<const D: usize> InnerValues for Tensor<D> {
    fn inner_values(self) -> TensorData {
        self.detach().into_data()
    }
}

/// Calls `see` with every parameter's name and data, in the order of the module's fields.
pub fn parameters<M: Module>(module: &M, see: impl FnMut(String, TensorData)) {
    module.visit(&mut Walk { path: Path::default(), see });
}

/// SHA-256 of every parameter's name and values, in hexadecimal: which weights these are, in whatever file.
pub fn fingerprint<M: Module>(module: &M) -> String {
    let mut hash = Sha256::new();
    parameters(module, |name, data| {
        hash.update(name);
        hash.update(data.as_bytes());
    });
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Collects the names of the parameters that record gradients.
#[derive(Default)]
struct Trained {
    path: Path,
    names: BTreeSet<String>,
}

impl ModuleVisitor for Trained {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            self.names.insert(self.path.name());
        }
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }
}

/// Names of the parameters that record gradients.
pub fn trained<M: Module>(module: &M) -> BTreeSet<String> {
    let mut visitor = Trained::default();
    module.visit(&mut visitor);
    visitor.names
}

struct Edit<W, F> {
    path: Path,
    wanted: W,
    edit: F,
    result: Result<()>,
}

impl<W, F> ModuleMapper for Edit<W, F>
where
    W: FnMut(&str) -> bool,
    F: FnMut(&str, &[usize], bool, &mut [f32]) -> Result<()>,
{
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        if self.result.is_err() || !(self.wanted)(&name) {
            return param;
        }
        let dims = param.val().dims();
        let trains = param.val().is_require_grad();
        param.map(|tensor| {
            let tracked = tensor.is_require_grad();
            let autodiff = tensor.is_autodiff();
            let inner = if autodiff { tensor.inner() } else { tensor };
            let inner = scion_kernels::with_values_mut(inner, |values| {
                self.result = (self.edit)(&name, &dims, trains, values);
            });
            match (autodiff, tracked) {
                (true, true) => Tensor::from_inner(inner).require_grad(),
                (true, false) => Tensor::from_inner(inner),
                (false, _) => inner,
            }
        })
    }
}

/// Edits every parameter in place: `edit(name, dims, trains, values)`.
///
/// # Errors
/// The first error that `edit` returns; later parameters are left alone.
pub fn update_parameters<M: Module>(
    module: M,
    edit: impl FnMut(&str, &[usize], bool, &mut [f32]) -> Result<()>,
) -> Result<M> {
    update_selected(module, |_| true, edit)
}

/// [`update_parameters`] of those whose name is wanted. The others go on sharing their memory with other modules.
///
/// # Errors
/// As [`update_parameters`].
pub fn update_selected<M: Module>(
    module: M,
    wanted: impl FnMut(&str) -> bool,
    edit: impl FnMut(&str, &[usize], bool, &mut [f32]) -> Result<()>,
) -> Result<M> {
    let mut mapper = Edit { path: Path::default(), wanted, edit, result: Ok(()) };
    let module = module.map(&mut mapper);
    mapper.result.map(|()| module)
}

/// Overwrites every parameter with what `read(name)` returns; values it has none for stay.
///
/// # Errors
/// When `read` fails, or a value's length is not the parameter's.
pub fn apply_weights<M: Module>(
    module: M,
    mut read: impl FnMut(&str) -> Result<Option<Vec<f32>>>,
) -> Result<M> {
    update_parameters(module, |name, _, _, values| {
        if let Some(source) = read(name)? {
            values.copy_from_slice(&source);
        }
        Ok(())
    })
}
