//! Low-rank adapters: where they go, and how they start.

use burn::Tensor;
use burn::module::{Lora, Module, ModuleVisitor, Param, ParamGroup, ParamId};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Uniform};

use super::finetune::LoraConfig;
use crate::error::{Error, Result};
use crate::model::{Dit, Path, Site, update_selected};

/// Stream of the seed from which adapters are drawn.
const LORA_STREAM: u64 = 2;

/// Freezes a model but for adapters, which it gets beside the weights of the linear layers that `config` names, and for
/// what `config` trains in full; `grafted` are the sites that the recipe grafts.
///
/// A starts uniform in ±1/√inputs (Kaiming's with a = √5, as PEFT and Microsoft's LoRA have it), B at zero, so that the
/// model computes at first what it did before.
///
/// # Errors
/// When nothing would train.
pub fn adapt(model: Dit, config: &LoraConfig, grafted: &[Site], seed: u64) -> Result<Dit> {
    let mut places =
        Places { path: Path::default(), parents: Vec::new(), config, grafted, chosen: [vec![], vec![]] };
    model.visit(&mut places);
    if places.chosen.iter().all(Vec::is_empty) {
        return Err(Error::Plan(
            "finetune.lora trains nothing: the model has no layers of the groups in layers and full".into(),
        ));
    }
    let [adapted, full] = places.chosen.map(ParamGroup::from_ids);
    let lora = Lora::new(config.rank, config.alpha).set_param_group(adapted);
    let model = model.apply_lora(lora).set_require_grad_group(full, true);
    // Drawn anew: Burn draws from the device's generator, and in the other order of factors.
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(LORA_STREAM);
    update_selected(model, is_adapter, |name, dims, _, values| {
        if name.ends_with(A) {
            let bound = 1.0 / (dims[1] as f64).sqrt();
            let from = Uniform::new_inclusive(-bound, bound).expect("bounds are finite");
            values.fill_with(|| from.sample(&mut rng) as f32);
        } else {
            values.fill(0.0);
        }
        Ok(())
    })
}

/// Ends of the names of an adapter's two factors.
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// Whether a parameter's name is that of an adapter's factor.
fn is_adapter(name: &str) -> bool {
    name.ends_with(A) || name.ends_with(B)
}

/// Finds the parameters that adapters go to, and those that train in full.
struct Places<'a> {
    path: Path,
    /// Types of the modules around a parameter.
    parents: Vec<String>,
    config: &'a LoraConfig,
    grafted: &'a [Site],
    chosen: [Vec<ParamId>; 2],
}

impl ModuleVisitor for Places<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.name();
        let linear = self
            .parents
            .last()
            .is_some_and(|parent| ["Struct:Linear", "Struct:Projection"].contains(&parent.as_str()));
        let among =
            |groups: &[super::LayerGroup]| groups.iter().any(|group| group.holds(&name, self.grafted));
        if among(&self.config.full) {
            self.chosen[1].push(param.id);
        } else if linear && D == 2 && among(&self.config.layers) {
            self.chosen[0].push(param.id);
        }
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
        self.parents.push(container.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
        self.parents.pop();
    }
}
