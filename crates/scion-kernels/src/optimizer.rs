//! AdamW with decoupled weight decay and an exponential moving average of the weights, in one pass.

use rayon::prelude::*;

/// Elements that one task takes.
const BLOCK: usize = 1 << 14;

/// Settings of one optimiser step.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first and second moment.
    pub betas: (f32, f32),
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Factor on the gradient, for clipping by global norm.
    pub grad_scale: f32,
    /// Number of this step, from 1.
    pub step: u64,
    /// Decay of the weights' moving average.
    pub ema: f32,
}

/// One parameter tensor's optimiser state, each as long as the parameter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// First moment.
    pub first: Vec<f32>,
    /// Second moment.
    pub second: Vec<f32>,
    /// Moving average of the weights; empty where none is kept.
    pub ema: Vec<f32>,
}

impl AdamW {
    /// Updates `weights` and `state` in place.
    pub fn update(&self, weights: &mut [f32], grad: &[f32], state: &mut Moments) {
        let correction1 = 1.0 - f64::from(self.betas.0).powi(self.step as i32);
        let correction2 = (1.0 - f64::from(self.betas.1).powi(self.step as i32)).sqrt();
        let rate = (f64::from(self.lr) / correction1) as f32;
        let root = (1.0 / correction2) as f32;
        weights
            .par_chunks_mut(BLOCK)
            .zip(grad.par_chunks(BLOCK))
            .zip(state.first.par_chunks_mut(BLOCK))
            .zip(state.second.par_chunks_mut(BLOCK))
            .for_each(|(((w, g), m), v)| update_block(self, w, g, m, v, rate, root));
        let keep = self.ema;
        state.ema.par_chunks_mut(BLOCK).zip(weights.par_chunks(BLOCK)).for_each(|(e, w)| {
            for (e, w) in e.iter_mut().zip(w) {
                *e = keep * *e + (1.0 - keep) * w;
            }
        });
    }
}

multiversioned! {
    /// One block's update; `rate` and `root` hold the bias corrections.
    fn update_block(rule: &AdamW, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], rate: f32, root: f32) {
        let (b1, b2) = rule.betas;
        let decay = 1.0 - rule.lr * rule.weight_decay;
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            let g = g * rule.grad_scale;
            *m = b1 * *m + (1.0 - b1) * g;
            *v = b2 * *v + (1.0 - b2) * g * g;
            *w = *w * decay - rate * *m / (v.sqrt() * root + rule.eps);
        }
    }
}

multiversioned! {
    /// In eight lanes: a running total would wait for each addition.
    fn block_sum_of_squares(values: &[f32]) -> f64 {
        let mut lanes = [0f64; 8];
        let (chunks, rest) = values.as_chunks::<8>();
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(x) * f64::from(x);
            }
        }
        lanes.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
    }
}

/// Sum of squares in f64, blockwise so that it does not depend on the number of threads.
pub fn sum_of_squares(values: &[f32]) -> f64 {
    let blocks: Vec<f64> = values.par_chunks(BLOCK).map(block_sum_of_squares).collect();
    blocks.into_iter().sum()
}
