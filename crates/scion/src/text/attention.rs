//! T5's self-attention: not scaled, with a bias by distance, over the tokens that the mask lets be seen.

use rayon::prelude::*;
use scion_kernels::Precision;
use scion_kernels::gemm::{Epilogue, MatRef, matmul, vmath};

use super::config::T5Config;
use super::position::PositionBias;

/// Queries, keys and values of several texts, one behind the other: [tokens, heads·head_dim] each.
pub(super) struct Projected {
    pub(super) queries: Vec<f32>,
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
}

impl Projected {
    /// What every token gathers from its own text, [tokens, heads·head_dim]. `masks` tells, text by text, which tokens may
    /// be seen; those that may not still see. All is f32: the logits are not scaled, and large.
    pub(super) fn attend(&self, config: &T5Config, masks: &[&[bool]], bias: &PositionBias) -> Vec<f32> {
        let inner = config.inner();
        let mut out = vec![0.0; self.queries.len()];
        let (mut texts, mut rest, mut start) = (Vec::with_capacity(masks.len()), &mut out[..], 0);
        for mask in masks {
            let (context, others) = rest.split_at_mut(mask.len() * inner);
            texts.push((start, *mask, context));
            (rest, start) = (others, start + mask.len());
        }
        texts.into_par_iter().for_each(|(start, mask, context)| {
            self.attend_text(config, start, mask, bias, context);
        });
        out
    }

    /// One text, whose first token is `start`.
    fn attend_text(
        &self,
        config: &T5Config,
        start: usize,
        mask: &[bool],
        bias: &PositionBias,
        out: &mut [f32],
    ) {
        let (tokens, dim, inner) = (mask.len(), config.head_dim, config.inner());
        let mut weights = vec![0.0; tokens * tokens];
        let mut logits = vec![0.0; tokens * tokens];
        for head in 0..config.heads {
            let [queries, keys, values] = [&self.queries[..], &self.keys, &self.values]
                .map(|all| MatRef::strided(&all[start * inner + head * dim..], tokens, dim, inner));
            matmul(Precision::F32, queries, keys.t(), &mut logits, tokens, false, Epilogue::default());
            for (query, row) in logits.chunks_exact_mut(tokens).enumerate() {
                shift(row, bias.row(head, query, tokens), mask);
            }
            vmath::exp(&logits, &mut weights);
            weights.chunks_exact_mut(tokens).for_each(normalise);
            let weights = MatRef::new(&weights, tokens, tokens);
            let out = &mut out[head * dim..];
            matmul(Precision::F32, weights, values, out, inner, false, Epilogue::default());
        }
    }
}

/// Logits with their bias, less the largest of them. A masked one is lowered by the largest float, as transformers does
/// it: where all are masked, all count.
fn shift(logits: &mut [f32], bias: &[f32], mask: &[bool]) {
    for ((logit, bias), seen) in logits.iter_mut().zip(bias).zip(mask) {
        *logit += bias;
        if !seen {
            *logit += f32::MIN;
        }
    }
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter_mut().for_each(|logit| *logit -= top);
}

fn normalise(weights: &mut [f32]) {
    let sum: f32 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_keys_do_not_count_unless_all_are_masked() {
        for (mask, expected) in [([true, false, true], [0.5, 0.0, 0.5]), ([false; 3], [1.0 / 3.0; 3])] {
            let mut row = [2.0, 9.0, 1.0];
            shift(&mut row, &[-1.0, 0.0, 0.0], &mask);
            let mut weights = [0.0; 3];
            vmath::exp(&row, &mut weights);
            normalise(&mut weights);
            assert_eq!(weights, expected);
        }
    }
}
