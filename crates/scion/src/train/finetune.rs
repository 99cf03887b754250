//! What stage 2 has beyond the settings of training: its objective, and what of the model trains.

use serde::{Deserialize, Serialize};

use super::config::{TrainConfig, not_negative, positive};
use crate::model::Site;
use crate::operator::Slot;

/// What stage 2 minimises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// The diffusion loss on images, as in pretraining (the paper's stage 2).
    #[default]
    Diffusion,
    /// The distance to what the teacher answers on the same noised images, timesteps and labels.
    Teacher,
    /// Both.
    Both,
}

/// Weights of the terms of the teacher's objective; a term of weight 0 is not computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct TeacherConfig {
    /// Of the mean squared error of the noise channels.
    pub noise: f64,
    /// Of the mean squared error of the variance channels, where the model has any.
    pub variance: f64,
    /// Of the mean over the blocks of their output tokens' squared error, each block's divided by the teacher's mean
    /// square there, so that all blocks count alike.
    pub blocks: f64,
    /// Of the diffusion loss, in `objective = "both"` only; 1 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diffusion: Option<f64>,
}

impl Default for TeacherConfig {
    fn default() -> Self {
        Self { noise: 1.0, variance: 1.0, blocks: 0.0, diffusion: None }
    }
}

/// What of the model stage 2 trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Every weight.
    #[default]
    Full,
    /// Low-rank adapters beside frozen weights (Hu et al. 2021, arXiv:2106.09685), added to the weights at the end.
    Lora,
}

/// Settings of low-rank adapters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct LoraConfig {
    /// Rank of an adapter: W + alpha/rank · B·A with A [rank, in] and B [out, rank].
    pub rank: usize,
    /// Scale of an adapter, times its rank.
    pub alpha: f64,
    /// Where linear layers get an adapter.
    pub layers: Vec<LayerGroup>,
    /// Where every parameter is trained itself; goes before `layers`.
    pub full: Vec<LayerGroup>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 16, alpha: 16.0, layers: vec![LayerGroup::Attention, LayerGroup::Mlp], full: Vec::new() }
    }
}

/// A part of the model, over all blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerGroup {
    /// The operators of the attention slots, whatever stands there.
    Attention,
    /// The operators of the MLP slots.
    Mlp,
    /// The blocks' modulation; tables get no adapter.
    AdaLn,
    /// A text-to-image model's attention to prompts.
    CrossAttention,
    /// The embedders of patches, timesteps, prompts and labels; the table of labels is no linear layer and gets no adapter.
    Embedders,
    /// The last layer and its modulation.
    Final,
    /// The operators that the recipe grafts, in either slot, and the merges of parallel pairs.
    Grafted,
}

impl LayerGroup {
    /// Whether a parameter, by its name, belongs to the group; `grafted` are the sites that the recipe grafts.
    pub(super) fn holds(self, name: &str, grafted: &[Site]) -> bool {
        let mut levels = name.split('.');
        let first = levels.next().unwrap_or_default();
        let block = levels.next().filter(|_| first == "blocks").and_then(|index| index.parse().ok());
        let (part, site) = match (block, levels.next()) {
            (Some(block), Some(key)) => {
                (key, Slot::ALL.into_iter().find(|slot| slot.key() == key).map(|slot| (block, slot)))
            }
            _ => ("", None),
        };
        match self {
            Self::Attention => site.is_some_and(|(_, slot)| slot == Slot::Attention),
            Self::Mlp => site.is_some_and(|(_, slot)| slot == Slot::Mlp),
            Self::CrossAttention => part == "cross_attn",
            Self::AdaLn => ["adaLN_modulation", "scale_shift_table"].contains(&part) || first == "t_block",
            Self::Embedders => first.ends_with("_embedder"),
            Self::Final => first == "final_layer",
            Self::Grafted => {
                let own = site.is_some_and(|(block, slot)| grafted.contains(&Site::Operator(block, slot)));
                own || first == "merges"
            }
        }
    }
}

impl TrainConfig {
    /// Writes out what the objective and the method leave to defaults.
    pub(crate) fn resolve(&mut self) {
        if self.objective != Objective::Diffusion {
            self.teacher.get_or_insert_default();
        }
        if let (Objective::Both, Some(teacher)) = (self.objective, &mut self.teacher) {
            teacher.diffusion.get_or_insert(1.0);
        }
        if self.method == Method::Lora {
            self.lora.get_or_insert_default();
        }
    }

    /// Checks of stage 2 on top of [`TrainConfig::check`].
    pub(crate) fn check_finetuning(&self) -> Result<(), String> {
        match (&self.teacher, self.objective) {
            (Some(_), Objective::Diffusion) => {
                return Err("teacher has weights, but objective = \"diffusion\" does not ask the teacher; \
                            expected objective = \"teacher\" or \"both\""
                    .into());
            }
            (Some(teacher), objective) => teacher.check(objective).map_err(|e| format!("teacher.{e}"))?,
            (None, _) => {}
        }
        match (&self.lora, self.method) {
            (Some(_), Method::Full) => Err(
                "lora has settings, but method = \"full\" trains every weight; expected method = \"lora\""
                    .into(),
            ),
            (Some(lora), Method::Lora) => lora.check().map_err(|e| format!("lora.{e}")),
            (None, _) => Ok(()),
        }
    }

    /// Refuses in pretraining what needs a model to start from.
    pub(crate) fn check_pretraining(&self) -> Result<(), String> {
        if self.objective != Objective::Diffusion || self.teacher.is_some() {
            return Err("objective: pretraining has no teacher; only [finetune] can ask one".into());
        }
        if self.method != Method::Full || self.lora.is_some() {
            return Err("method: pretraining has no weights to adapt; only [finetune] can use lora".into());
        }
        Ok(())
    }
}

impl TeacherConfig {
    fn check(&self, objective: Objective) -> Result<(), String> {
        for (name, weight) in [("noise", self.noise), ("variance", self.variance), ("blocks", self.blocks)] {
            not_negative(name, weight)?;
        }
        match (self.diffusion, objective) {
            (Some(_), Objective::Teacher) => {
                return Err("diffusion weighs a term that objective = \"teacher\" has not; \
                            expected objective = \"both\""
                    .into());
            }
            (Some(weight), _) => positive("diffusion", weight)?,
            (None, _) => {}
        }
        if self.noise == 0.0 && self.variance == 0.0 && self.blocks == 0.0 {
            return Err("noise, variance and blocks are all 0; expected one above 0".into());
        }
        Ok(())
    }
}

impl LoraConfig {
    fn check(&self) -> Result<(), String> {
        if self.rank == 0 {
            return Err("rank must be at least 1".into());
        }
        positive("alpha", self.alpha)?;
        if self.layers.is_empty() && self.full.is_empty() {
            return Err("layers and full are both empty: nothing would train".into());
        }
        if let Some(group) = self.layers.iter().find(|group| self.full.contains(group)) {
            let name = serde_json::to_string(group).expect("group names are plain strings");
            return Err(format!("full has {name}, which layers has too; expected it in one of them"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_told_by_name() {
        let grafted = [Site::Operator(1, Slot::Attention)];
        let all = [
            LayerGroup::Attention,
            LayerGroup::Mlp,
            LayerGroup::CrossAttention,
            LayerGroup::AdaLn,
            LayerGroup::Embedders,
            LayerGroup::Final,
            LayerGroup::Grafted,
        ];
        let groups = |name: &str| -> Vec<LayerGroup> {
            all.into_iter().filter(|group| group.holds(name, &grafted)).collect()
        };
        assert_eq!(groups("blocks.0.attn.qkv.weight"), [LayerGroup::Attention]);
        assert_eq!(groups("blocks.1.attn.in_proj.bias"), [LayerGroup::Attention, LayerGroup::Grafted]);
        assert_eq!(groups("blocks.1.mlp.fc1.weight"), [LayerGroup::Mlp]);
        assert_eq!(groups("blocks.11.attn.qkv.weight"), [LayerGroup::Attention]);
        assert_eq!(groups("blocks.1.adaLN_modulation.1.weight"), [LayerGroup::AdaLn]);
        assert_eq!(groups("t_embedder.mlp.2.weight"), [LayerGroup::Embedders]);
        assert_eq!(groups("final_layer.adaLN_modulation.1.weight"), [LayerGroup::Final]);
        assert_eq!(groups("blocks.1.cross_attn.kv_linear.weight"), [LayerGroup::CrossAttention]);
        assert_eq!(groups("blocks.1.scale_shift_table"), [LayerGroup::AdaLn]);
        assert_eq!(groups("t_block.1.weight"), [LayerGroup::AdaLn]);
        assert_eq!(groups("csize_embedder.mlp.0.weight"), [LayerGroup::Embedders]);
        assert_eq!(groups("final_layer.scale_shift_table"), [LayerGroup::Final]);
        assert_eq!(groups("merges.0.weight"), [LayerGroup::Grafted]);
        assert_eq!(groups("pos_embed"), []);
    }
}
