use super::Plan;
use crate::config::{DataSource, Recipe};
use crate::error::{Error, Result};
use crate::train::TrainConfig;

/// A block of a grafted model, and the teacher's that its output is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPair {
    /// Index of the grafted model's block.
    pub student: usize,
    /// Index of the teacher's block.
    pub teacher: usize,
}

/// The blocks whose output tokens stage 2 compares, where it compares any: each block of the model after the edit with
/// the one that it was before, two side by side with the second.
pub fn matched_blocks(config: &TrainConfig, plan: &Plan) -> Vec<BlockPair> {
    if config.teacher.as_ref().is_none_or(|terms| terms.blocks == 0.0) {
        return Vec::new();
    }
    // Between two blocks side by side there are no tokens.
    let inside = |student: &usize| plan.after.pairs.iter().any(|pair| pair[0] == *student);
    let blocks = plan.origin.iter().copied().enumerate().filter(|(student, _)| !inside(student));
    // Where the teacher's blocks are side by side, its tokens come behind the second too.
    let there = |teacher: usize| !plan.before.pairs.iter().any(|pair| pair[0] == teacher);
    blocks
        .filter(|&(_, teacher)| there(teacher))
        .map(|(student, teacher)| BlockPair { student, teacher })
        .collect()
}

/// Checks what a recipe says of stage 2 and of its images against the models.
///
/// # Errors
/// When the teacher has nothing of what is asked of it, or adapters do not fit.
pub fn check_finetuning(recipe: &Recipe, plan: &Plan) -> Result<()> {
    let (teacher, student) = (&plan.before, &plan.after);
    let fail = |detail: String| Err(Error::Plan(detail));
    if recipe.data.source == DataSource::Teacher {
        let count = recipe.data.drawn(&recipe.sample).count;
        // Of more prompts than images some are drawn, spread evenly.
        let classes = teacher.dit.classes().unwrap_or(1);
        if count < classes {
            return fail(format!("data.count must be at least one image a class, {classes}; found {count}"));
        }
    }
    if let (DataSource::Teacher, Some(distill)) = (recipe.data.source, &recipe.distill) {
        let count = (recipe.data.drawn(&recipe.sample).count as f64 * recipe.data.fraction) as usize;
        if distill.validation >= count {
            return fail(format!(
                "distill.validation holds {} images out, but the teacher draws only {count} to train on; expected fewer, \
                 or a larger data.count",
                distill.validation
            ));
        }
    }
    let Some(config) = &recipe.finetune else { return Ok(()) };
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
    use crate::model::{Architecture, DitConfig};

    fn recipe(rest: &str) -> Recipe {
        let text = format!("[model]\ncheckpoint = \"embedded\"\n{rest}");
        Recipe::parse(&text, Path::new("recipe.toml")).unwrap()
    }

    fn model(preset: &str) -> Architecture {
        Architecture::native(DitConfig::preset(preset).unwrap())
    }

    #[test]
    fn blocks_are_matched_with_what_they_were() {
        let text = "[[restructure]]\nkind = \"drop\"\nblocks = [0, 5]\n[[restructure]]\nkind = \"parallel-pairs\"\n\
                    pairs = [[2, 3]]\n[finetune]\nsteps = 1\nobjective = \"teacher\"\nteacher = { blocks = 0.5 }\n";
        let recipe = recipe(text);
        let plan = Plan::new(&model("dit-s-2-256"), &[], &recipe.restructures).unwrap();
        let pairs = matched_blocks(recipe.finetune.as_ref().unwrap(), &plan);
        let expected = [(0, 1), (2, 3), (3, 4), (4, 6), (5, 7), (6, 8), (7, 9), (8, 10), (9, 11)];
        assert_eq!(pairs, expected.map(|(student, teacher)| BlockPair { student, teacher }));
    }

    fn untouched(model: &Architecture) -> Plan {
        Plan::new(model, &[], &[]).unwrap()
    }

    #[test]
    fn what_a_model_has_not_is_refused() {
        let small = model("dit-s-2-256");
        let refused = |rest: &str, teacher: &Architecture| {
            check_finetuning(&recipe(rest), &untouched(teacher)).unwrap_err().to_string()
        };
        let message = refused("[data]\nsource = \"teacher\"\ncount = 999\n", &small);
        assert!(message.contains("data.count") && message.contains("1000"), "{message}");
        let mut plain = small.clone();
        plain.dit.learn_sigma = false;
        let rest = "[finetune]\nsteps = 1\nobjective = \"teacher\"\nteacher = { noise = 0.0 }\n";
        assert!(refused(rest, &plain).contains("variance"));
        assert!(check_finetuning(&recipe(rest), &untouched(&small)).is_ok());
        let rest = "[finetune]\nsteps = 1\nmethod = \"lora\"\nlora = { rank = 385 }\n";
        assert!(refused(rest, &small).contains("384"));
    }
}
