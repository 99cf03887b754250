use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The index that makes a folder a pipeline.
const INDEX: &str = "model_index.json";
const SCHEDULER: &str = "scheduler/scheduler_config.json";

/// A text-to-image pipeline as diffusers writes it: a folder with one folder for each component.
#[derive(Clone, Debug, PartialEq)]
pub struct PipelineFolder {
    root: PathBuf,
    class: String,
}

impl PipelineFolder {
    /// Opens a folder, whose index must name a PixArt pipeline and whose scheduler must be the one that Scion has.
    ///
    /// # Errors
    /// A folder without an index or of another pipeline, or scheduler settings that Scion does not have, named.
    pub fn open(root: &Path) -> Result<Self> {
        let index = root.join(INDEX);
        if !index.is_file() {
            return Err(Error::invalid(
                root,
                format!("is no pipeline: it holds no {INDEX}; expected a folder as diffusers writes it"),
            ));
        }
        let class = json(&index)?.get("_class_name").and_then(Value::as_str).unwrap_or_default().to_string();
        if !["PixArtSigmaPipeline", "PixArtAlphaPipeline"].contains(&class.as_str()) {
            return Err(Error::invalid(
                &index,
                format!(
                    "names the pipeline \"{class}\"; expected PixArtSigmaPipeline or PixArtAlphaPipeline"
                ),
            ));
        }
        let scheduler = root.join(SCHEDULER);
        check_scheduler(&scheduler, &json(&scheduler)?)?;
        Ok(Self { root: root.into(), class })
    }

    /// The folder of a component, such as `transformer`.
    ///
    /// # Errors
    /// When it is not there.
    pub fn component(&self, name: &str) -> Result<PathBuf> {
        let folder = self.root.join(name);
        match folder.is_dir() {
            true => Ok(folder),
            false => {
                Err(Error::invalid(&self.root, format!("has no folder {name}, which its pipeline needs")))
            }
        }
    }

    /// Tokens that the pipeline cuts a prompt to.
    pub fn prompt_tokens(&self) -> usize {
        if self.class == "PixArtAlphaPipeline" { 120 } else { 300 }
    }
}

/// Settings of the scheduler that Scion allows one value of. Those that a file leaves out have these values.
fn fixed() -> [(&'static str, Value); 20] {
    [
        ("_class_name", "DPMSolverMultistepScheduler".into()),
        ("algorithm_type", "dpmsolver++".into()),
        ("beta_end", 0.02.into()),
        ("beta_schedule", "linear".into()),
        ("beta_start", 0.0001.into()),
        ("euler_at_final", false.into()),
        ("final_sigmas_type", "zero".into()),
        ("num_train_timesteps", 1000.into()),
        ("prediction_type", "epsilon".into()),
        ("rescale_betas_zero_snr", false.into()),
        ("solver_order", 2.into()),
        ("solver_type", "midpoint".into()),
        ("thresholding", false.into()),
        ("timestep_spacing", "linspace".into()),
        ("trained_betas", Value::Null),
        ("use_beta_sigmas", false.into()),
        ("use_exponential_sigmas", false.into()),
        ("use_flow_sigmas", false.into()),
        ("use_karras_sigmas", false.into()),
        ("use_lu_lambdas", false.into()),
    ]
}

fn check_scheduler(path: &Path, config: &Map<String, Value>) -> Result<()> {
    for (field, expected) in fixed() {
        let Some(found) = config.get(field).filter(|found| !found.is_null()) else { continue };
        let same = match (found.as_f64(), expected.as_f64()) {
            (Some(found), Some(expected)) => found == expected,
            _ => *found == expected,
        };
        if !same {
            return Err(Error::invalid(
                path,
                format!("has {field} = {found}; Scion's DPM-Solver++ knows {expected} alone"),
            ));
        }
    }
    Ok(())
}

/// A JSON object as Python writes it: numbers may be infinite, which this reader takes for absent.
fn json(path: &Path) -> Result<Map<String, Value>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let text =
        text.replace(": -Infinity", ": null").replace(": Infinity", ": null").replace(": NaN", ": null");
    serde_json::from_str(&text).map_err(|e| Error::invalid(path, format!("is not a JSON object: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(class: &str, scheduler: &str) -> (tempfile::TempDir, Result<PipelineFolder>) {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("scheduler")).unwrap();
        std::fs::write(root.path().join(INDEX), format!("{{\"_class_name\": \"{class}\"}}")).unwrap();
        std::fs::write(root.path().join(SCHEDULER), scheduler).unwrap();
        let opened = PipelineFolder::open(root.path());
        (root, opened)
    }

    #[test]
    fn what_is_no_pipeline_of_ours_is_said() {
        let refused = |class: &str, scheduler: &str| folder(class, scheduler).1.unwrap_err().to_string();
        assert!(refused("FluxPipeline", "{}").contains("FluxPipeline"));
        let message = refused("PixArtSigmaPipeline", "{\"use_karras_sigmas\": true}");
        assert!(message.contains("use_karras_sigmas = true"), "{message}");
        assert!(
            refused("PixArtSigmaPipeline", "{\"_class_name\": \"EulerDiscreteScheduler\"}").contains("Euler")
        );
        assert!(refused("PixArtSigmaPipeline", "[]").contains("JSON"));
        let empty = tempfile::tempdir().unwrap();
        assert!(PipelineFolder::open(empty.path()).unwrap_err().to_string().contains(INDEX));
    }

    #[test]
    fn a_published_scheduler_is_ours() {
        // As diffusers writes it, which is no JSON.
        let scheduler = "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"beta_start\": 0.0001, \"beta_end\": 0.02,\n\
                         \"lambda_min_clipped\": -Infinity, \"solver_order\": 2, \"variance_type\": null}";
        let (root, opened) = folder("PixArtAlphaPipeline", scheduler);
        let opened = opened.unwrap();
        assert_eq!(opened.prompt_tokens(), 120);
        assert!(opened.component("vae").unwrap_err().to_string().contains("no folder vae"));
        std::fs::create_dir(root.path().join("vae")).unwrap();
        assert_eq!(opened.component("vae").unwrap(), root.path().join("vae"));
    }
}
