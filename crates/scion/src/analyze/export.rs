//! Attention matrices of a few passes, for checking or looking at with other programs.

use std::collections::BTreeMap;
use std::path::Path;

use burn::Tensor;
use burn::tensor::TensorData;

use super::{AnalyzeConfig, Subject, watching};
use crate::checkpoint::{Precision, TensorSource, write_safetensors};
use crate::data::samples::labels_in_groups;
use crate::error::Result;
use crate::model::Seen;
use crate::operator::{Attention, Operator, Slot, Spread};
use crate::run::Glimpse;

/// Images whose attention is kept.
const IMAGES: usize = 2;

/// Inputs of attention at a few passes without guidance. The matrices are computed when they are written, one block at a
/// time: they are much larger.
pub(super) struct Exports {
    timesteps: Vec<usize>,
    /// [P, T, D] by block.
    inputs: BTreeMap<usize, Vec<f32>>,
    /// Timestep and label of each pass.
    passes: Vec<(usize, usize)>,
    labels: Vec<usize>,
}

impl Exports {
    /// Of the first, the middle and the last step.
    ///
    /// # Errors
    /// When images cannot be drawn in so many steps.
    pub fn new(subject: &Subject, settings: &AnalyzeConfig) -> Result<Self> {
        let (schedule, _) = watching::drawing(settings, 1.0).schedule()?;
        let last = schedule.len() - 1;
        let mut timesteps: Vec<usize> = [0, last / 2, last].map(|step| schedule.timestep_map[step]).into();
        timesteps.dedup();
        let mut labels = labels_in_groups(settings.samples, subject.model.labels(&subject.architecture.dit)?);
        labels.truncate(IMAGES);
        Ok(Self { timesteps, inputs: BTreeMap::new(), passes: Vec::new(), labels })
    }

    /// Keeps what is to be exported.
    pub fn keep(&mut self, subject: &Subject, glimpse: &Glimpse) {
        if glimpse.first != 0 || !self.timesteps.contains(&glimpse.timestep) {
            return;
        }
        match glimpse.seen {
            Seen::Operator { block, slot, input, .. } if attention(subject, block, slot).is_some() => {
                let [_, tokens, width] = input.dims();
                scion_kernels::with_values(input, |rows| {
                    let rows = &rows[..self.labels.len() * tokens * width];
                    self.inputs.entry(block).or_default().extend(rows);
                });
            }
            Seen::Tokens { before: 0, .. } => {
                self.passes.extend(self.labels.iter().map(|&label| (glimpse.timestep, label)));
            }
            _ => (),
        }
    }

    /// Writes `block.<i>` [P, H, T, T], and beside it what Scion finds of it: `locality.<i>` [P, T], L_k of every k, and
    /// `distance.<i>` [P], the mean distance on the grid; `t` [P] and `y` [P] are the passes' timesteps and labels.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, subject: &Subject, path: &Path) -> Result<()> {
        let (count, tokens) = (self.passes.len(), subject.architecture.dit.tokens());
        let floats = |of: fn(&(usize, usize)) -> usize| -> Vec<f32> {
            self.passes.iter().map(|pass| of(pass) as f32).collect()
        };
        let (t, y) = (floats(|pass| pass.0), floats(|pass| pass.1));
        let mut tensors = vec![
            TensorSource::new("t".into(), vec![count], move || Ok(t.clone())),
            TensorSource::new("y".into(), vec![count], move || Ok(y.clone())),
        ];
        for (&block, inputs) in &self.inputs {
            let Some(attention) = attention(subject, block, Slot::Attention) else { continue };
            let width = subject.architecture.dit.hidden;
            let data = TensorData::new(inputs.clone(), [count, tokens, width]);
            let x = Tensor::<3>::from_data(data, &subject.model.device());
            let spreads = attention.spread(x.clone());
            let curves: Vec<f32> = spreads.iter().flat_map(Spread::curve).map(|share| share as f32).collect();
            let distances: Option<Vec<f32>> =
                spreads.iter().map(|spread| spread.grid_distance.map(|distance| distance as f32)).collect();
            let heads = attention.heads();
            let name = |what: &str| format!("{what}.{block}");
            let weights = move || Ok(attention.weights(x.clone()));
            tensors.push(TensorSource::new(name("block"), vec![count, heads, tokens, tokens], weights));
            let curves = move || Ok(curves.clone());
            tensors.push(TensorSource::new(name("locality"), vec![count, tokens], curves));
            if let Some(distances) = distances {
                let distances = move || Ok(distances.clone());
                tensors.push(TensorSource::new(name("distance"), vec![count], distances));
            }
        }
        write_safetensors(path, &tensors, Precision::F32, &BTreeMap::new())
    }
}

fn attention<'a>(subject: &Subject<'a>, block: usize, slot: Slot) -> Option<&'a Attention> {
    match subject.model.blocks()[block].operator(slot) {
        Operator::Attention(attention) => Some(attention),
        _ => None,
    }
}
