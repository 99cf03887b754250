use std::collections::BTreeMap;

use crate::error::Result;
use crate::model::{Dit, Part, Site};
use crate::operator::{Init, Linear, Scheme, Slot};
use crate::plan::{Ancestor, Plan};

/// Streams of the seed from which new operators and merges are drawn: this one and those behind it, by their place, so
/// that a part starts the same whatever else is edited.
const GRAFT_STREAM: u64 = 1 << 32;

/// The model after a plan: fresh operators and merges where it has new ones, everything else as in the teacher, with
/// which it shares these weights. `inputs` are activations at sites whose operators inherit by them, each [.., D].
///
/// # Errors
/// When an operator's settings do not fit the model.
pub(crate) fn with_fresh_parts(
    teacher: &Dit,
    plan: &Plan,
    seed: u64,
    inputs: &BTreeMap<Site, Vec<f32>>,
) -> Result<Dit> {
    let (width, device) = (plan.after.dit.hidden, teacher.device());
    let init = |site: Site| Init::new(seed, GRAFT_STREAM + stream(site), &device);
    let merges = plan.after.pairs.iter().map(|&[number, _]| {
        let first = plan.origin[number];
        let merge = match plan.merges.get(&first) {
            Some(start) => {
                let mut init = init(Site::Pair(first));
                match start.weight(width) {
                    Some(weight) => Linear {
                        weight: init.parameter(weight, [width, 2 * width]),
                        bias: init.constant([width], 0.0),
                    },
                    None => Linear::new(2 * width, width, Scheme::Torch, &mut init),
                }
            }
            None => teacher.merge(first).clone(),
        };
        (number, merge)
    });
    let mut model = teacher.restructured(&plan.origin, merges.collect());
    let ancestors: BTreeMap<Site, _> = plan.inheriting().map(|(site, _, old)| (site, old)).collect();
    for &site in &plan.sites {
        let Site::Operator(block, slot) = site else { continue };
        let place = plan.place(site);
        let config = plan.after.operator(place.block(), slot);
        let mut operator = config.init(width, &mut init(site))?;
        if let Some(old) = ancestors.get(&site) {
            let mut ancestor = Ancestor::new(old, teacher.blocks()[block].operator(slot), width);
            inputs.get(&site).into_iter().for_each(|inputs| ancestor.rank(inputs));
            operator = ancestor.bequeath(&config, operator)?;
        }
        model.place(place, Part::Operator(operator));
    }
    Ok(model)
}

/// A number for each site.
fn stream(site: Site) -> u64 {
    let kind = match site {
        Site::Operator(_, Slot::Attention) => 0,
        Site::Operator(_, Slot::Mlp) => 1,
        Site::Pair(_) => 2,
    };
    3 * site.block() as u64 + kind
}

#[cfg(test)]
mod tests {
    use burn::Tensor;
    use burn::tensor::{Device, TensorData};

    use std::collections::HashMap;

    use super::*;
    use crate::config::{GraftConfig, InitConfig};
    use crate::model::{
        Architecture, Conditions, DitConfig, MergeInit, Part, load, parameters, tensor_sources,
        update_parameters,
    };
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
            learn_sigma: true,
            conditions: Conditions::Classes { count: 3, null: true },
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
        let student = with_fresh_parts(&teacher, &plan, 1, &BTreeMap::new()).unwrap();
        let (mut tokens, c) = teacher.embed(images(), &T, &Y);
        for block in [1, 4, 5] {
            tokens = teacher.blocks()[block].forward(block, tokens, &c, &mut |_| {});
        }
        let expected = teacher.head(tokens, &c).into_data();
        assert_eq!(student.forward(images(), &T, &Y).into_data(), expected);
        assert_ne!(teacher.forward(images(), &T, &Y).into_data(), expected);
    }

    #[test]
    fn new_pairs_start_as_the_merge_says() {
        let (architecture, teacher) = teacher();
        for (init, share) in [(MergeInit::Sum, 1.0), (MergeInit::Average, 0.5)] {
            let plan = Plan::new(&architecture, &[], &[dropped(&[0]), pairs(&[[2, 3]], init)]).unwrap();
            let student = with_fresh_parts(&teacher, &plan, 1, &BTreeMap::new()).unwrap();
            let (x, c) = teacher.embed(images(), &T, &Y);
            let run = |block: usize| teacher.blocks()[block].forward(block, x.clone(), &c, &mut |_| {});
            let expected = x.clone() + (run(2) - x.clone() + run(3) - x.clone()) * share;
            let Part::Pair(pair) = student.part(Site::Pair(1)) else { panic!("a pair stands there") };
            let difference = (pair.forward(x.clone(), &c) - expected).abs().max().into_scalar::<f32>();
            assert!(difference < 1e-5, "{init:?}: {difference}");
        }
        let random = |seed| {
            let plan = Plan::new(&architecture, &[], &[pairs(&[[2, 3]], MergeInit::Random)]).unwrap();
            let student = with_fresh_parts(&teacher, &plan, seed, &BTreeMap::new()).unwrap();
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
        let student = with_fresh_parts(&teacher, &first, 1, &BTreeMap::new()).unwrap();
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
        let last = all_parameters(&with_fresh_parts(&student, &second, 2, &BTreeMap::new()).unwrap());
        assert!(last["merges.1.weight"] == new["merges.0.weight"]);
        assert!(last["merges.0.weight"] == MergeInit::Sum.weight(8).unwrap());
        assert!(last["blocks.1.attn.in_proj.weight"] == new["blocks.2.attn.in_proj.weight"]);
    }

    #[test]
    fn parts_start_the_same_whatever_else_is_edited() {
        let (architecture, teacher) = teacher();
        let graft = |blocks: &[usize], init| GraftConfig {
            target: Slot::Attention,
            blocks: BlockSelection::List(blocks.into()),
            operator: OperatorConfig::HyenaX(HyenaXConfig { kernel: 2, ..Default::default() }),
            init,
        };
        let weights = |grafts: &[GraftConfig], restructures: &[RestructureConfig]| {
            let plan = Plan::new(&architecture, grafts, restructures).unwrap();
            let student = with_fresh_parts(&teacher, &plan, 5, &BTreeMap::new()).unwrap();
            let block = plan.number(3).unwrap();
            all_parameters(&student).remove(&format!("blocks.{block}.attn.in_proj.weight")).unwrap()
        };
        let alone = weights(&[graft(&[3], InitConfig::Random)], &[]);
        assert!(alone == weights(&[graft(&[1, 3, 4], InitConfig::Random)], &[dropped(&[0, 2])]));
        // What is inherited lies beside what is drawn.
        let inherited = weights(&[graft(&[3], InitConfig::Inherit)], &[]);
        let (gates, values) = (2 * 8 * 8, 3 * 8 * 8);
        assert!(inherited[..gates] == alone[..gates]);
        let qkv = &all_parameters(&teacher)["blocks.3.attn.qkv.weight"];
        assert!(inherited[gates..values] == qkv[gates..values]);
    }

    #[test]
    fn edited_models_survive_their_file() {
        let (architecture, teacher) = teacher();
        let plan =
            Plan::new(&architecture, &[], &[dropped(&[2]), pairs(&[[3, 4]], MergeInit::Random)]).unwrap();
        let student = with_fresh_parts(&teacher, &plan, 1, &BTreeMap::new()).unwrap();
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
