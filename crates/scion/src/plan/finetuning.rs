use crate::config::{DataSource, Recipe};
use crate::error::{Error, Result};
use crate::model::Architecture;
use crate::train::TrainConfig;

/// A block of a grafted model, and the teacher's that its output is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPair {
    /// Index of the grafted model's block.
    pub student: usize,
    /// Index of the teacher's block.
    pub teacher: usize,
}

/// The blocks whose output tokens stage 2 compares: those of the same index, where it compares any.
///
/// # Errors
/// When they are to be compared and the models differ in depth.
pub fn matched_blocks(
    config: &TrainConfig,
    teacher: &Architecture,
    student: &Architecture,
) -> Result<Vec<BlockPair>> {
    if config.teacher.as_ref().is_none_or(|terms| terms.blocks == 0.0) {
        return Ok(Vec::new());
    }
    let (there, here) = (teacher.dit.depth, student.dit.depth);
    if there != here {
        return Err(Error::Plan(format!(
            "finetune.teacher.blocks compares block by block, but the teacher has {there} blocks and the grafted model \
             {here}; expected blocks = 0"
        )));
    }
    Ok((0..here).map(|index| BlockPair { student: index, teacher: index }).collect())
}

/// Checks what a recipe says of stage 2 and of its images against the models.
///
/// # Errors
/// When the teacher has nothing of what is asked of it, or adapters do not fit.
pub fn check_finetuning(recipe: &Recipe, teacher: &Architecture, student: &Architecture) -> Result<()> {
    let fail = |detail: String| Err(Error::Plan(detail));
    if recipe.data.source == DataSource::Teacher {
        let (channels, classes) = (teacher.dit.in_channels, teacher.dit.num_classes);
        if ![1, 3].contains(&channels) {
            return fail(format!(
                "data.source = \"teacher\" keeps pictures of 1 or 3 channels, but this teacher draws {channels}"
            ));
        }
        let count = recipe.data.drawn(&recipe.sample).count;
        if count < classes {
            return fail(format!("data.count must be at least one image a class, {classes}; found {count}"));
        }
    }
    let Some(config) = &recipe.finetune else { return Ok(()) };
    matched_blocks(config, teacher, student)?;
    let variance_alone =
        config.teacher.as_ref().is_some_and(|terms| terms.noise == 0.0 && terms.blocks == 0.0);
    if variance_alone && !teacher.dit.learn_sigma {
        return fail(
            "finetune.teacher weighs variance channels alone, which this model has not; expected noise or blocks \
             above 0"
                .into(),
        );
    }
    match &config.lora {
        Some(lora) if lora.rank > student.dit.hidden => fail(format!(
            "finetune.lora.rank must be at most the model's width, {}; found {}",
            student.dit.hidden, lora.rank
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::DitConfig;

    fn recipe(rest: &str) -> Recipe {
        let text = format!("[model]\ncheckpoint = \"embedded\"\n{rest}");
        Recipe::parse(&text, Path::new("recipe.toml")).unwrap()
    }

    fn model(preset: &str) -> Architecture {
        Architecture::native(DitConfig::preset(preset).unwrap())
    }

    #[test]
    fn blocks_are_matched_by_index_in_models_of_one_depth() {
        let recipe = recipe("[finetune]\nsteps = 1\nobjective = \"teacher\"\nteacher = { blocks = 0.5 }\n");
        let config = recipe.finetune.as_ref().unwrap();
        let (small, large) = (model("dit-s-2-256"), model("dit-xl-2-256"));
        let pairs = matched_blocks(config, &small, &small).unwrap();
        assert_eq!((pairs.len(), pairs[11]), (12, BlockPair { student: 11, teacher: 11 }));
        let message = check_finetuning(&recipe, &large, &small).unwrap_err().to_string();
        assert!(message.contains("28 blocks") && message.contains("12"), "{message}");
    }

    #[test]
    fn what_a_model_has_not_is_refused() {
        let small = model("dit-s-2-256");
        let refused = |rest: &str, teacher: &Architecture| {
            check_finetuning(&recipe(rest), teacher, &small).unwrap_err().to_string()
        };
        let message = refused("[data]\nsource = \"teacher\"\n", &small);
        assert!(message.contains("data.source") && message.contains("draws 4"), "{message}");
        let mut pictures = small.clone();
        pictures.dit.in_channels = 3;
        let message = refused("[data]\nsource = \"teacher\"\ncount = 999\n", &pictures);
        assert!(message.contains("data.count") && message.contains("1000"), "{message}");
        let mut plain = small.clone();
        plain.dit.learn_sigma = false;
        let rest = "[finetune]\nsteps = 1\nobjective = \"teacher\"\nteacher = { noise = 0.0 }\n";
        assert!(refused(rest, &plain).contains("variance"));
        assert!(check_finetuning(&recipe(rest), &small, &small).is_ok());
        let rest = "[finetune]\nsteps = 1\nmethod = \"lora\"\nlora = { rank = 385 }\n";
        assert!(refused(rest, &small).contains("384"));
    }
}
