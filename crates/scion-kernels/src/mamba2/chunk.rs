//! A chunk of tokens of one group of heads, in the order of the scan, and the passes over it that are not products.
//!
//! With decays λ, `since` is E_i = Π λ_t over t ≤ i, `until` is R_j = Π λ_t over t > j, and between two tokens of the chunk
//! stands L_ij = Π λ_t over j < t ≤ i, zero for j > i. All are running products, which never grow: nothing is divided, and
//! no logarithm is taken.

use super::scan::Group;
use crate::sums::{dot, total};
use std::ops::Range;

/// Most tokens of a chunk, and the distance of the rows of matrices between its tokens. Larger ones mean less work on
/// states, smaller ones less between tokens.
pub(super) const CHUNK: usize = 64;
const LANES: usize = 16;
/// Decays below this count as zero: far below what f32 sums notice, and above the numbers with which processors are slow.
const NOTHING: f32 = 1e-30;

/// What a group's heads read of a chunk of q tokens.
#[derive(Default)]
pub(super) struct Chunk {
    /// Tokens.
    pub len: usize,
    /// [q, S], shared by all heads.
    pub b: Vec<f32>,
    pub c: Vec<f32>,
    /// [q, W], W channels in all heads of the group: x, and Δ·x.
    pub x: Vec<f32>,
    pub input: Vec<f32>,
    /// [q, heads of the group]: Δ, E and R.
    pub dt: Vec<f32>,
    pub since: Vec<f32>,
    pub until: Vec<f32>,
    /// [heads of the group, q]: λ.
    pub decay: Vec<f32>,
}

impl Chunk {
    /// Collects the tokens of the given steps.
    pub fn gather(&mut self, g: &Group, steps: Range<usize>) {
        self.len = steps.len();
        for values in [&mut self.b, &mut self.c, &mut self.x, &mut self.dt, &mut self.since] {
            values.clear();
        }
        self.decay.resize(g.count * steps.len(), 0.0);
        for (i, step) in steps.enumerate() {
            let t = g.token(step);
            let shared = &g.mixed[t * g.row() + g.inner()..][..2 * g.state];
            self.b.extend_from_slice(&shared[..g.state]);
            self.c.extend_from_slice(&shared[g.state..]);
            self.x.extend_from_slice(&g.mixed[t * g.row() + g.first * g.channels..][..g.width()]);
            self.dt.extend_from_slice(&g.dt[t * g.heads + g.first..][..g.count]);
            let decay = &g.decay[t * g.heads + g.first..][..g.count];
            self.since.extend_from_slice(decay);
            decay.iter().enumerate().for_each(|(head, &decay)| self.decay[head * self.len + i] = decay);
        }
        self.input.resize(self.x.len(), 0.0);
        scale_into(&self.x, &self.dt, g.channels, &mut self.input);
        self.until.clear();
        self.until.resize(self.since.len(), 1.0);
        for i in (1..self.len).rev() {
            let (before, behind) = self.until.split_at_mut(i * g.count);
            shrink(&mut before[(i - 1) * g.count..], &behind[..g.count], &self.since[i * g.count..]);
        }
        for i in 1..self.len {
            let (before, from) = self.since.split_at_mut(i * g.count);
            let own = from[..g.count].to_vec();
            shrink(&mut from[..g.count], &before[(i - 1) * g.count..], &own);
        }
    }

    /// E at the end of the chunk, one a head.
    pub fn all(&self, g: &Group) -> &[f32] {
        &self.since[(self.len - 1) * g.count..]
    }

    /// One head's λ, [q].
    pub fn decays(&self, head: usize) -> &[f32] {
        &self.decay[head * self.len..(head + 1) * self.len]
    }
}

/// A product of decays.
#[inline(always)]
fn together(a: f32, b: f32) -> f32 {
    let product = a * b;
    if product < NOTHING { 0.0 } else { product }
}

fn shrink(to: &mut [f32], a: &[f32], b: &[f32]) {
    to.iter_mut().zip(a.iter().zip(b)).for_each(|(to, (&a, &b))| *to = together(a, b));
}

/// Goes one row of L further: all that came before fades by `decay`; places in front of `tokens` alone count.
#[inline(always)]
fn fade(between: &mut [f32; CHUNK], decay: f32, tokens: usize) {
    for lanes in between.as_chunks_mut::<LANES>().0.iter_mut().take(tokens.div_ceil(LANES)) {
        lanes.iter_mut().for_each(|value| *value = together(*value, decay));
    }
}

multiversioned! {
    /// Multiplies the channels of each head, [.., W] in `values`, by the head's factor, [.., heads].
    pub(super) fn scale(values: &mut [f32], factors: &[f32], channels: usize) {
        for (values, factor) in values.chunks_exact_mut(channels).zip(factors) {
            values.iter_mut().for_each(|value| *value *= factor);
        }
    }
}

multiversioned! {
    /// [`scale`] into another place.
    pub(super) fn scale_into(values: &[f32], factors: &[f32], channels: usize, to: &mut [f32]) {
        for ((values, factor), to) in values.chunks_exact(channels).zip(factors).zip(to.chunks_exact_mut(channels)) {
            to.iter_mut().zip(values).for_each(|(to, value)| *to = value * factor);
        }
    }
}

multiversioned! {
    /// The inner product of every head's channels, [.., W] → [.., heads].
    pub(super) fn dots(a: &[f32], b: &[f32], channels: usize, to: &mut [f32]) {
        for ((a, b), to) in a.chunks_exact(channels).zip(b.chunks_exact(channels)).zip(to) {
            *to = dot::<LANES>(a, b);
        }
    }
}

multiversioned! {
    /// M = G ∘ L of one head with decays λ [q]; G and M are [q, CHUNK].
    pub(super) fn masked(g: &[f32], decays: &[f32], m: &mut [f32]) {
        let mut between = [0f32; CHUNK];
        for (i, (&decay, (g, m))) in decays.iter().zip(rows(g).zip(rows_mut(m))).enumerate() {
            fade(&mut between, decay, i);
            between[i] = 1.0;
            for ((m, g), between) in m.iter_mut().zip(g).zip(&between) {
                *m = g * between;
            }
        }
    }
}

multiversioned! {
    /// One head's pass back through `Σ_j G_ij L_ij U_j`: with `x` = dY·Uᵀ [q, CHUNK], writes M as [`masked`] does, adds L ∘ x
    /// to the gradient `d_g` of G, and adds to `d_decay` [q] what x ∘ M does to the logarithms of E_i: its rows' sums less its
    /// columns'.
    pub(super) fn masked_backward(
        g: &[f32],
        x: &[f32],
        decays: &[f32],
        m: &mut [f32],
        d_g: &mut [f32],
        d_decay: &mut [f32],
    ) {
        let (mut between, mut columns) = ([0f32; CHUNK], [0f32; CHUNK]);
        for (i, &decay) in decays.iter().enumerate() {
            let own = i * CHUNK..(i + 1) * CHUNK;
            let (g, x, m, d_g) = (&g[own.clone()], &x[own.clone()], &mut m[own.clone()], &mut d_g[own]);
            fade(&mut between, decay, i);
            let mut row = [0f32; CHUNK];
            for block in (0..i).step_by(LANES) {
                for j in block..block + LANES {
                    let through = between[j] * x[j];
                    d_g[j] += through;
                    row[j] = through * g[j];
                    columns[j] += row[j];
                }
            }
            // A token's own contribution does not fade: it has no part in these sums.
            d_decay[i] += total(&row);
            d_g[i] += x[i];
            between[i] = 1.0;
            for ((m, g), between) in m.iter_mut().zip(g).zip(&between) {
                *m = g * between;
            }
        }
        d_decay.iter_mut().zip(&columns).for_each(|(d, column)| *d -= column);
    }
}

#[inline(always)]
fn rows(matrix: &[f32]) -> impl Iterator<Item = &[f32; CHUNK]> {
    matrix.as_chunks().0.iter()
}

#[inline(always)]
fn rows_mut(matrix: &mut [f32]) -> impl Iterator<Item = &mut [f32; CHUNK]> {
    matrix.as_chunks_mut().0.iter_mut()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decays_between_tokens_are_products_and_vanish_at_last() {
        let decays = [0.5, 0.25, 1e-20, 0.0, 0.5];
        let (ones, mut m) = (vec![1f32; decays.len() * CHUNK], vec![7f32; decays.len() * CHUNK]);
        masked(&ones, &decays, &mut m);
        let rows: Vec<&[f32]> = m.chunks(CHUNK).map(|row| &row[..5]).collect();
        assert_eq!(rows[0], [1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(rows[1], [0.25, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(rows[2], [0.25 * 1e-20, 1e-20, 1.0, 0.0, 0.0]);
        assert_eq!(rows[4], [0.0, 0.0, 0.0, 0.5, 1.0]);
        assert!(m.chunks(CHUNK).all(|row| row[5..].iter().all(|&m| m == 0.0)));
    }
}
