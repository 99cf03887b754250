//! What an interrupted run needs to go on with the same numbers.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use scion_kernels::optimizer::Moments;

use crate::checkpoint::{Precision, TensorSource, write_safetensors};
use crate::error::{Error, Result};
use crate::model::{parameters, update_selected};

/// Optimiser state and position. Noise, labels and batches are functions of the step, so the step is all
/// that has to be remembered of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainState {
    /// Steps done.
    pub step: u64,
    /// Optimiser state and moving average by parameter name.
    pub moments: BTreeMap<String, Moments>,
}

const STEP: &str = "scion.step";
const PURPOSE: &str = "scion.purpose";
/// Kinds of values kept of each parameter, as prefixes of the names in the file.
const KINDS: [&str; 4] = ["weights", "first", "second", "ema"];

impl TrainState {
    /// Writes a module's parameters whose names are `kept` and its training state into one file, atomically.
    ///
    /// `purpose` describes the run; [`TrainState::load`] refuses a file with another.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save<M: Module>(
        &self,
        module: &M,
        kept: impl Fn(&str) -> bool,
        purpose: &str,
        path: &Path,
    ) -> Result<()> {
        let mut weights: Vec<(String, Vec<f32>)> = Vec::new();
        parameters(module, |name, data| {
            if kept(&name) {
                let values: Vec<f32> = data.try_into_vec().expect("parameters are f32");
                weights.push((format!("weights.{name}"), values));
            }
        });
        let kept = self.moments.iter().flat_map(|(name, m)| {
            [("first", &m.first), ("second", &m.second), ("ema", &m.ema)]
                .into_iter()
                .filter(|(_, values)| !values.is_empty())
                .map(move |(kind, values)| (format!("{kind}.{name}"), values))
        });
        let sources: Vec<TensorSource> = weights
            .iter()
            .map(|(name, values)| (name.clone(), values))
            .chain(kept)
            .map(|(name, values)| TensorSource::new(name, vec![values.len()], || Ok(values.clone())))
            .collect();
        let metadata = [(STEP.into(), self.step.to_string()), (PURPOSE.into(), purpose.into())].into();
        write_safetensors(path, &sources, Precision::F32, &metadata)
    }

    /// Reads what [`TrainState::save`] wrote, and puts its weights into `module`, whose other parameters stay.
    ///
    /// # Errors
    /// When the file is damaged, belongs to a run with other settings, or does not fit the module.
    pub fn load<M: Module>(
        module: M,
        kept: impl Fn(&str) -> bool,
        purpose: &str,
        path: &Path,
    ) -> Result<(M, Self)> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let damaged =
            |detail: String| Error::invalid(path, format!("is no training checkpoint of Scion: {detail}"));
        let (_, header) =
            safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| damaged(e.to_string()))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        if metadata.get(PURPOSE).map(String::as_str) != Some(purpose) {
            return Err(Error::Exists {
                path: path.into(),
                detail: "belongs to a run with other settings; choose another --out, or delete the folder to start over"
                    .into(),
            });
        }
        let step = metadata
            .get(STEP)
            .and_then(|s| s.parse().ok())
            .ok_or_else(|| damaged("it has no step".into()))?;
        let file = safetensors::SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
        let mut kinds: [BTreeMap<String, Vec<f32>>; 4] = Default::default();
        for (name, view) in file.iter() {
            let (kind, parameter) = name.split_once('.').unwrap_or((name, ""));
            let kind = KINDS
                .iter()
                .position(|k| *k == kind)
                .ok_or_else(|| damaged(format!("unknown entry {name}")))?;
            kinds[kind].insert(parameter.into(), bytemuck::pod_collect_to_vec(view.data()));
        }
        let [weights, first, second, mut ema] = kinds;
        let module = update_selected(module, kept, |name, _, _, values| {
            let stored = weights.get(name).filter(|w| w.len() == values.len());
            let stored = stored.ok_or_else(|| damaged(format!("{name} is missing or has another size")))?;
            values.copy_from_slice(stored);
            Ok(())
        })?;
        let mut second = second;
        let mut moments = BTreeMap::new();
        for (name, first) in first {
            let second =
                second.remove(&name).ok_or_else(|| damaged(format!("{name} has no second moment")))?;
            let ema = ema.remove(&name).unwrap_or_default();
            moments.insert(name, Moments { first, second, ema });
        }
        Ok((module, Self { step, moments }))
    }
}
