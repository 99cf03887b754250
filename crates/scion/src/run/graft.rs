use std::collections::HashMap;

use burn::tensor::Device;

use crate::error::Result;
use crate::model::{Dit, Site, apply_weights, parameters};
use crate::operator::{Init, Slot};
use crate::plan::Plan;

/// Stream of the seed from which new operators and merges are drawn.
const GRAFT_STREAM: u64 = 1;

/// The model after a plan: fresh operators and merges where it has new ones, everything else as in the teacher.
///
/// # Errors
/// When an operator's settings do not fit the model.
pub(crate) fn with_fresh_parts(teacher: &Dit, plan: &Plan, seed: u64, device: &Device) -> Result<Dit> {
    let mut kept: HashMap<String, Vec<f32>> = HashMap::new();
    parameters(teacher, |name, data| {
        if let Some(name) = name_after(plan, &name) {
            kept.insert(name, data.try_into_vec().expect("parameters are f32"));
        }
    });
    let width = plan.after.dit.hidden;
    for (&first, init) in &plan.merges {
        if let (Some(place), Some(weight)) = (merge_after(plan, first), init.weight(width)) {
            kept.insert(format!("merges.{place}.weight"), weight);
            kept.insert(format!("merges.{place}.bias"), vec![0.0; width]);
        }
    }
    let model = Dit::new(&plan.after, &mut Init::new(seed, GRAFT_STREAM, device))?;
    apply_weights(model, |name| Ok(kept.remove(name)))
}

/// What a teacher's parameter is called in the model after; nothing if that has no use for it.
fn name_after(plan: &Plan, name: &str) -> Option<String> {
    let mut levels = name.splitn(3, '.');
    let (list, index, rest) = (levels.next()?, levels.next(), levels.next());
    let (Some(Ok(index)), Some(rest)) = (index.map(str::parse::<usize>), rest) else {
        return Some(name.into());
    };
    match list {
        "blocks" => {
            let fresh = |slot: &Slot| {
                plan.sites.contains(&Site::Operator(index, *slot))
                    && rest.strip_prefix(slot.key()).is_some_and(|rest| rest.starts_with('.'))
            };
            let number = plan.number(index)?;
            (!Slot::ALL.iter().any(fresh)).then(|| format!("blocks.{number}.{rest}"))
        }
        "merges" => Some(format!("merges.{}.{rest}", merge_after(plan, plan.before.pairs[index][0])?)),
        _ => Some(name.into()),
    }
}

/// The place among the merges after of the pair that begins with block `first` before.
fn merge_after(plan: &Plan, first: usize) -> Option<usize> {
    let number = plan.number(first)?;
    plan.after.pairs.iter().position(|pair| pair[0] == number)
}

#[cfg(test)]
mod tests {
    use burn::Tensor;
    use burn::tensor::TensorData;

    use super::*;
    use crate::config::GraftConfig;
    use crate::model::{Architecture, DitConfig, MergeInit, Part, load, tensor_sources, update_parameters};
    use crate::operator::{HyenaXConfig, OperatorConfig};
    use crate::plan::{BlockSelection, DropConfig, PairSelection, ParallelPairsConfig, RestructureConfig};

    /// Six blocks whose every weight is random: adaLN-Zero's zeros would make every block the identity.
    fn teacher() -> (Architecture, Dit) {
        let dit = DitConfig {
            input_size: 4,
            patch: 2,
            in_channels: 1,
            hidden: 8,
            depth: 6,
            heads: 2,
            mlp_ratio: 2.0,
            num_classes: 3,
            null_class: true,
            learn_sigma: true,
        };
        let architecture = Architecture::native(dit);
        let mut init = Init::new(7, 0, &Device::flex());
        let model = Dit::new(&architecture, &mut init).unwrap();
        let model = update_parameters(model, |name, _, _, values| {
            if name != "pos_embed" {
                let drawn = init.uniform([values.len()], 0.5).val().into_data();
                values.copy_from_slice(drawn.as_slice().unwrap());
            }
            Ok(())
        });
        (architecture, model.unwrap())
    }

    fn pairs(list: &[[usize; 2]], merge_init: MergeInit) -> RestructureConfig {
        let pairs = PairSelection::List(list.into());
        RestructureConfig::ParallelPairs(ParallelPairsConfig { pairs, merge_init })
    }

    fn dropped(blocks: &[usize]) -> RestructureConfig {
        RestructureConfig::Drop(DropConfig { blocks: BlockSelection::List(blocks.into()) })
    }

    const T: [f32; 2] = [30.0, 800.0];
    const Y: [usize; 2] = [0, 3];

    fn images() -> Tensor<4> {
        let values: Vec<f32> = (0..32).map(|i| (i as f32 * 0.7).sin()).collect();
        Tensor::from_data(TensorData::new(values, [2, 1, 4, 4]), &Device::flex())
    }

    fn all_parameters(model: &Dit) -> HashMap<String, Vec<f32>> {
        let mut found = HashMap::new();
        parameters(model, |name, data| {
            found.insert(name, data.try_into_vec().unwrap());
        });
        found
    }

    #[test]
    fn a_shorter_model_is_the_teachers_remaining_blocks() {
        let (architecture, teacher) = teacher();
        let plan = Plan::new(&architecture, &[], &[dropped(&[0, 2, 3])]).unwrap();
        let student = with_fresh_parts(&teacher, &plan, 1, &Device::flex()).unwrap();
        let (mut tokens, c) = teacher.embed(images(), &T, &Y);
        for block in [1, 4, 5] {
            tokens = teacher.blocks()[block].forward(block, tokens, &c, &mut |_| {});
        }
        let expected = teacher.head(tokens, c).into_data();
        assert_eq!(student.forward(images(), &T, &Y).into_data(), expected);
        assert_ne!(teacher.forward(images(), &T, &Y).into_data(), expected);
    }

    #[test]
    fn new_pairs_start_as_the_merge_says() {
        let (architecture, teacher) = teacher();
        for (init, share) in [(MergeInit::Sum, 1.0), (MergeInit::Average, 0.5)] {
            let plan = Plan::new(&architecture, &[], &[dropped(&[0]), pairs(&[[2, 3]], init)]).unwrap();
            let student = with_fresh_parts(&teacher, &plan, 1, &Device::flex()).unwrap();
            let (x, c) = teacher.embed(images(), &T, &Y);
            let run = |block: usize| teacher.blocks()[block].forward(block, x.clone(), &c, &mut |_| {});
            let expected = x.clone() + (run(2) - x.clone() + run(3) - x.clone()) * share;
            let Part::Pair(pair) = student.part(Site::Pair(1)) else { panic!("a pair stands there") };
            let difference = (pair.forward(x.clone(), &c) - expected).abs().max().into_scalar::<f32>();
            assert!(difference < 1e-5, "{init:?}: {difference}");
        }
        let random = |seed| {
            let plan = Plan::new(&architecture, &[], &[pairs(&[[2, 3]], MergeInit::Random)]).unwrap();
            let student = with_fresh_parts(&teacher, &plan, seed, &Device::flex()).unwrap();
            all_parameters(&student).remove("merges.0.weight").unwrap()
        };
        let bound = 1.0 / 16f32.sqrt();
        assert!(
            random(1).iter().all(|w| w.abs() <= bound) && random(1).iter().any(|w| w.abs() > 0.9 * bound)
        );
        assert!(random(1) == random(1) && random(1) != random(2));
    }

    #[test]
    fn edits_mix_and_everything_else_is_the_teachers() {
        let (architecture, teacher) = teacher();
        let graft = GraftConfig {
            target: Slot::Attention,
            blocks: BlockSelection::List(vec![3]),
            operator: OperatorConfig::HyenaX(HyenaXConfig { kernel: 2, ..Default::default() }),
            init: Default::default(),
        };
        let first = Plan::new(&architecture, &[graft], &[pairs(&[[4, 5]], MergeInit::Random), dropped(&[0])]);
        let first = first.unwrap();
        let student = with_fresh_parts(&teacher, &first, 1, &Device::flex()).unwrap();
        let (old, new) = (all_parameters(&teacher), all_parameters(&student));
        for (after, before) in [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)] {
            for rest in ["mlp.fc1.weight", "mlp.fc2.bias", "adaLN_modulation.1.weight"] {
                assert!(new[&format!("blocks.{after}.{rest}")] == old[&format!("blocks.{before}.{rest}")]);
            }
        }
        assert!(new["blocks.1.attn.qkv.weight"] == old["blocks.2.attn.qkv.weight"]);
        assert!(new.contains_key("blocks.2.attn.short_filter.weight"));
        assert!(["pos_embed", "final_layer.linear.weight"].iter().all(|name| new[*name] == old[*name]));

        // Edited again, what the first edit made stays.
        let second = [dropped(&[0]), pairs(&[[1, 2]], MergeInit::Sum)];
        let second = Plan::new(&first.after, &[], &second).unwrap();
        assert_eq!(second.after.pairs, [[0, 1], [2, 3]]);
        let last = all_parameters(&with_fresh_parts(&student, &second, 2, &Device::flex()).unwrap());
        assert!(last["merges.1.weight"] == new["merges.0.weight"]);
        assert!(last["merges.0.weight"] == MergeInit::Sum.weight(8).unwrap());
        assert!(last["blocks.1.attn.in_proj.weight"] == new["blocks.2.attn.in_proj.weight"]);
    }

    #[test]
    fn edited_models_survive_their_file() {
        let (architecture, teacher) = teacher();
        let plan =
            Plan::new(&architecture, &[], &[dropped(&[2]), pairs(&[[3, 4]], MergeInit::Random)]).unwrap();
        let student = with_fresh_parts(&teacher, &plan, 1, &Device::flex()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("student.safetensors");
        crate::model::save_scion(&student, &plan.after, &path).unwrap();
        let file = crate::checkpoint::Checkpoint::open(&path).unwrap();
        let told = crate::model::architecture_of(&file, None).unwrap();
        assert_eq!(told, plan.after);
        let back = load(&file, &told, &Device::flex()).unwrap();
        assert_eq!(all_parameters(&back), all_parameters(&student));
        assert_eq!(tensor_sources(&back, 2).len(), all_parameters(&student).len());
    }
}
