//! The recurrence of a group of heads, in chunks of tokens (structured state-space duality; Dao & Gu 2024, section 6): what
//! tokens of a chunk give one another is a masked product, what earlier chunks give goes through the state. The work is
//! linear in tokens, and nearly all of it products.
//!
//! With the chunk's B, C [q, S], U = Δ·x [q, P] of a head, its decays E, R, L (see [`super::chunk`]) and the state S [S, P]
//! before it,
//!
//! `Y = E·(C S) + (C Bᵀ ∘ L) U` and `S ← E_q·S + Bᵀ (R·U)`.
//!
//! The backward pass goes through the chunks from the last, with the states before each, which it keeps: T/CHUNK states.

use super::chunk::{CHUNK, Chunk, dots, masked, masked_backward, scale, scale_into};
use crate::gemm::{MatRef, Precision, Products};
use crate::shared::SharedMut;
use crate::sums::axpy;
use std::ops::Range;

/// Neighbouring heads of one image in one direction.
#[derive(Clone, Copy)]
pub(super) struct Group<'a> {
    /// [T, row]: x of all heads, then B and C.
    pub mixed: &'a [f32],
    /// [T, heads]: step sizes Δ.
    pub dt: &'a [f32],
    /// [T, heads]: decays λ = exp(Δ·A).
    pub decay: &'a [f32],
    /// The first head of the group.
    pub first: usize,
    /// Heads of the group.
    pub count: usize,
    /// Heads in all.
    pub heads: usize,
    /// Channels P of a head.
    pub channels: usize,
    /// Size S of the state of a channel.
    pub state: usize,
    /// Of each head of the group, the weight of x beside the scan's output.
    pub d: &'a [f32],
    /// Of each head of the group, the decay rate A, below zero.
    pub rates: &'a [f32],
    /// Whether the scan runs from the last token to the first.
    pub reverse: bool,
}

/// What one head's backward pass finds beside the gradient of x.
#[derive(Clone, Copy, Default)]
pub(super) struct Sums {
    /// Gradient of the decay rate A.
    pub rate: f32,
    /// Gradient of `d`.
    pub d: f32,
}

impl Group<'_> {
    fn tokens(&self) -> usize {
        self.dt.len() / self.heads
    }

    /// Channels of all heads.
    pub fn inner(&self) -> usize {
        self.heads * self.channels
    }

    /// Channels of the group.
    pub fn width(&self) -> usize {
        self.count * self.channels
    }

    pub fn row(&self) -> usize {
        self.inner() + 2 * self.state
    }

    /// The token of step `step`.
    pub fn token(&self, step: usize) -> usize {
        if self.reverse { self.tokens() - 1 - step } else { step }
    }

    /// The steps of each chunk.
    fn chunks(&self) -> impl DoubleEndedIterator<Item = Range<usize>> + ExactSizeIterator + use<> {
        let tokens = self.tokens();
        (0..tokens.div_ceil(CHUNK)).map(move |chunk| chunk * CHUNK..tokens.min((chunk + 1) * CHUNK))
    }
}

/// What a thread needs for one group after another.
pub(super) struct Scratch {
    chunk: Chunk,
    products: Products,
    /// [S, W]
    state: Vec<f32>,
    /// [q, W]
    out: Vec<f32>,
    weighed: Vec<f32>,
    /// [q, CHUNK]: C Bᵀ, and what is made of it for one head.
    g: Vec<f32>,
    m: Vec<f32>,
}

impl Scratch {
    /// The scan is no linear layer: its products are in f32 whatever the precision.
    pub fn new() -> Self {
        let empty = Vec::new;
        Self {
            chunk: Chunk::default(),
            products: Products::new(Precision::F32),
            state: empty(),
            out: empty(),
            weighed: empty(),
            g: vec![0.0; CHUNK * CHUNK],
            m: vec![0.0; CHUNK * CHUNK],
        }
    }

    /// Collects a chunk and its C Bᵀ.
    fn begin(&mut self, group: &Group, steps: Range<usize>) {
        self.chunk.gather(group, steps);
        let (chunk, state) = (&self.chunk, group.state);
        // What an earlier chunk left beside a shorter one must not be seen.
        self.g.fill(0.0);
        let (b, c) = (MatRef::new(&chunk.b, chunk.len, state), MatRef::new(&chunk.c, chunk.len, state));
        self.products.multiply(c, b.t(), &mut self.g, CHUNK, false);
    }

    /// The state behind the chunk from that before it.
    fn advance(&mut self, group: &Group) {
        let (chunk, width) = (&self.chunk, group.width());
        self.state.chunks_exact_mut(width).for_each(|row| scale(row, chunk.all(group), group.channels));
        self.weighed.resize(chunk.len * width, 0.0);
        scale_into(&chunk.input, &chunk.until, group.channels, &mut self.weighed);
        let (b, inputs) =
            (MatRef::new(&chunk.b, chunk.len, group.state), MatRef::new(&self.weighed, chunk.len, width));
        self.products.multiply(b.t(), inputs, &mut self.state, width, true);
    }

    /// Y of the chunk into `out`.
    fn outputs(&mut self, group: &Group) {
        let (chunk, width, channels) = (&self.chunk, group.width(), group.channels);
        self.out.resize(chunk.len * width, 0.0);
        let (c, state) =
            (MatRef::new(&chunk.c, chunk.len, group.state), MatRef::new(&self.state, group.state, width));
        self.products.multiply(c, state, &mut self.out, width, false);
        scale(&mut self.out, &chunk.since, channels);
        for head in 0..group.count {
            masked(&self.g, chunk.decays(head), &mut self.m);
            let own = head * channels;
            let inputs = MatRef::strided(&chunk.input[own..], chunk.len, channels, width);
            let m = MatRef::strided(&self.m, chunk.len, chunk.len, CHUNK);
            self.products.multiply(m, inputs, &mut self.out[own..], width, true);
        }
    }
}

/// Writes the group's output into its channels of `y`, in which the image's [T, I] begins at `offset`; adds to them with
/// `add`.
///
/// # Safety
/// No other thread touches the group's channels of `y` meanwhile.
pub(super) unsafe fn forward(group: Group, scratch: &mut Scratch, y: &SharedMut, offset: usize, add: bool) {
    let (width, channels) = (group.width(), group.channels);
    scratch.state.clear();
    scratch.state.resize(group.state * width, 0.0);
    for steps in group.chunks() {
        scratch.begin(&group, steps.clone());
        scratch.outputs(&group);
        let rows = scratch.out.chunks_exact(width).zip(scratch.chunk.x.chunks_exact(width));
        for (step, (out, x)) in steps.zip(rows) {
            let at = offset + group.token(step) * group.inner() + group.first * channels;
            // SAFETY: inside the array, and this task alone writes the group's channels.
            let y = unsafe { std::slice::from_raw_parts_mut(y.at(at, width), width) };
            put(y, out, add);
            y.chunks_exact_mut(channels)
                .zip(x.chunks_exact(channels))
                .zip(group.d)
                .for_each(|((y, x), &d)| axpy(y, d, x));
        }
        scratch.advance(&group);
    }
}

fn put(to: &mut [f32], from: &[f32], add: bool) {
    if add { axpy(to, 1.0, from) } else { to.copy_from_slice(from) }
}

/// Where a group's backward pass puts gradients: of an image's `mixed`, beginning at `mixed_at`, the group's channels of x
/// alone; of its step sizes, beginning at `dt_at`, the group's. Those of B and C, [T, 2·S], are added to.
pub(super) struct Gradients<'a> {
    pub mixed: &'a SharedMut<'a>,
    pub mixed_at: usize,
    pub dt: &'a SharedMut<'a>,
    pub dt_at: usize,
    pub shared: &'a mut [f32],
    /// Whether gradients of x are added to those of another direction.
    pub add: bool,
}

/// Gradients of a group from that of its output, an image's [T, I]; returns each head's sums.
///
/// # Safety
/// No other thread touches the places that `to` names meanwhile.
pub(super) unsafe fn backward(
    group: Group,
    scratch: &mut Scratch,
    dy: &[f32],
    to: &mut Gradients,
) -> Vec<Sums> {
    let size = group.state * group.width();
    scratch.state.clear();
    scratch.state.resize(size, 0.0);
    let mut starts = Vec::with_capacity(group.tokens().div_ceil(CHUNK) * size); // the states before each chunk
    for steps in group.chunks() {
        starts.extend_from_slice(&scratch.state);
        scratch.chunk.gather(&group, steps);
        scratch.advance(&group);
    }
    let mut back = Back::new(&group);
    for (chunk, steps) in group.chunks().enumerate().rev() {
        scratch.begin(&group, steps.clone());
        back.gather(&group, steps.clone(), dy);
        back.through_states(&group, scratch, &starts[chunk * size..(chunk + 1) * size]);
        back.between_tokens(&group, scratch);
        // SAFETY: by this function's contract.
        unsafe { back.write(&group, &scratch.chunk, steps, to) };
    }
    back.sums
}

/// Gradients of a chunk and what they need.
struct Back {
    /// [S, W]: gradient of the state behind the chunk.
    d_state: Vec<f32>,
    /// [q, W]: gradient of Y, of U, and products of the moment.
    dy: Vec<f32>,
    d_input: Vec<f32>,
    moment: Vec<f32>,
    /// [q, S]
    d_b: Vec<f32>,
    d_c: Vec<f32>,
    /// [q, CHUNK]: gradient of C Bᵀ, and dY·Uᵀ of one head.
    d_g: Vec<f32>,
    x: Vec<f32>,
    /// [heads of the group, q]: gradient of log E, which counts at a token for all decays up to it.
    d_since: Vec<f32>,
    /// [q, heads of the group]
    dots: Vec<f32>,
    sums: Vec<Sums>,
}

impl Back {
    fn new(group: &Group) -> Self {
        let empty = Vec::new;
        Self {
            d_state: vec![0.0; group.state * group.width()],
            dy: empty(),
            d_input: empty(),
            moment: empty(),
            d_b: empty(),
            d_c: empty(),
            d_g: vec![0.0; CHUNK * CHUNK],
            x: vec![0.0; CHUNK * CHUNK],
            d_since: empty(),
            dots: empty(),
            sums: vec![Sums::default(); group.count],
        }
    }

    fn gather(&mut self, group: &Group, steps: Range<usize>, dy: &[f32]) {
        let (tokens, width) = (steps.len(), group.width());
        self.dy.clear();
        for step in steps {
            let at = group.token(step) * group.inner() + group.first * group.channels;
            self.dy.extend_from_slice(&dy[at..at + width]);
        }
        self.d_input.resize(tokens * width, 0.0);
        self.moment.resize(tokens * width, 0.0);
        self.d_b.resize(tokens * group.state, 0.0);
        self.d_c.resize(tokens * group.state, 0.0);
        self.dots.resize(tokens * group.count, 0.0);
        self.d_since.clear();
        self.d_since.resize(tokens * group.count, 0.0);
        self.d_g.fill(0.0);
        self.x.fill(0.0);
    }

    /// Through E·(C S) and the state behind the chunk: dC, dB and dU begin with these, and `d_state` becomes the gradient
    /// of the state before the chunk, `start`.
    fn through_states(&mut self, group: &Group, scratch: &mut Scratch, start: &[f32]) {
        let Scratch { chunk, products, .. } = scratch;
        let (tokens, width, state, channels) = (chunk.len, group.width(), group.state, group.channels);
        let (b, c) = (MatRef::new(&chunk.b, tokens, state), MatRef::new(&chunk.c, tokens, state));
        let (before, d_state) = (MatRef::new(start, state, width), &mut self.d_state);
        let behind = MatRef::new(d_state, state, width);
        // dU_j = R_j·(B dS)_j, whose product with U_j is what R_j does: it counts against E_j, and for E at the end.
        products.multiply(b, behind, &mut self.d_input, width, false);
        scale(&mut self.d_input, &chunk.until, channels);
        dots(&self.d_input, &chunk.input, channels, &mut self.dots);
        let mut at_end = vec![0f32; group.count];
        for (i, dots) in self.dots.chunks_exact(group.count).enumerate() {
            for (head, dot) in dots.iter().enumerate() {
                self.d_since[head * tokens + i] -= dot;
                at_end[head] += dot;
            }
        }
        scale_into(&chunk.input, &chunk.until, channels, &mut self.moment);
        let weighed = MatRef::new(&self.moment, tokens, width);
        products.multiply(weighed, behind.t(), &mut self.d_b, state, false);
        // What E does to Y: its product with dY.
        products.multiply(c, before, &mut self.moment, width, false);
        scale(&mut self.moment, &chunk.since, channels);
        dots(&self.moment, &self.dy, channels, &mut self.dots);
        for (i, dots) in self.dots.chunks_exact(group.count).enumerate() {
            dots.iter().enumerate().for_each(|(head, dot)| self.d_since[head * tokens + i] += dot);
        }
        // The state before the chunk, and what its decay over the whole chunk does.
        scale_into(&self.dy, &chunk.since, channels, &mut self.moment);
        let moment = MatRef::new(&self.moment, tokens, width);
        products.multiply(moment, before.t(), &mut self.d_c, state, false);
        let mut row_dots = vec![0f32; group.count];
        for (start, d_state) in start.chunks_exact(width).zip(d_state.chunks_exact_mut(width)) {
            scale(d_state, chunk.all(group), channels);
            dots(start, d_state, channels, &mut row_dots);
            axpy(&mut at_end, 1.0, &row_dots);
        }
        products.multiply(c.t(), moment, d_state, width, true);
        at_end.iter().enumerate().for_each(|(head, d)| self.d_since[(head + 1) * tokens - 1] += d);
    }

    /// Through (C Bᵀ ∘ L) U, head by head.
    fn between_tokens(&mut self, group: &Group, scratch: &mut Scratch) {
        let Scratch { chunk, products, g, m, .. } = scratch;
        let (tokens, width, state, channels) = (chunk.len, group.width(), group.state, group.channels);
        for head in 0..group.count {
            let own = head * channels;
            let dy = MatRef::strided(&self.dy[own..], tokens, channels, width);
            let inputs = MatRef::strided(&chunk.input[own..], tokens, channels, width);
            products.multiply(dy, inputs.t(), &mut self.x, CHUNK, false);
            let d_since = &mut self.d_since[head * tokens..(head + 1) * tokens];
            masked_backward(g, &self.x, chunk.decays(head), m, &mut self.d_g, d_since);
            let m = MatRef::strided(m, tokens, tokens, CHUNK);
            products.multiply(m.t(), dy, &mut self.d_input[own..], width, true);
        }
        let d_g = MatRef::strided(&self.d_g, tokens, tokens, CHUNK);
        products.multiply(d_g, MatRef::new(&chunk.b, tokens, state), &mut self.d_c, state, true);
        products.multiply(d_g.t(), MatRef::new(&chunk.c, tokens, state), &mut self.d_b, state, true);
    }

    /// Writes the chunk's gradients of x, Δ, B and C, and adds to the heads' sums.
    ///
    /// # Safety
    /// As for [`backward`].
    unsafe fn write(&mut self, group: &Group, chunk: &Chunk, steps: Range<usize>, to: &mut Gradients) {
        let (tokens, width, channels) = (chunk.len, group.width(), group.channels);
        // E_i holds the decays of all tokens up to i.
        for d_since in self.d_since.chunks_exact_mut(tokens) {
            (1..tokens).rev().for_each(|i| d_since[i - 1] += d_since[i]);
        }
        dots(&self.d_input, &chunk.x, channels, &mut self.dots);
        for (i, step) in steps.enumerate() {
            let (t, of) = (group.token(step), i * width..(i + 1) * width);
            let (x, dy, d_input) = (&chunk.x[of.clone()], &self.dy[of.clone()], &mut self.d_input[of]);
            let dt = &chunk.dt[i * group.count..(i + 1) * group.count];
            let slots = to.dt.at(to.dt_at + t * group.heads + group.first, group.count);
            // SAFETY: inside the array, and this task alone writes the group's step sizes.
            let slots = unsafe { std::slice::from_raw_parts_mut(slots, group.count) };
            let mut skipped = vec![0f32; group.count];
            dots(dy, x, channels, &mut skipped);
            for (head, slot) in slots.iter_mut().enumerate() {
                let d_exponent = self.d_since[head * tokens + i];
                *slot = d_exponent * group.rates[head] + self.dots[i * group.count + head];
                self.sums[head].rate += d_exponent * dt[head];
                self.sums[head].d += skipped[head];
            }
            scale(d_input, dt, channels);
            for (head, d) in group.d.iter().enumerate() {
                let own = head * channels..(head + 1) * channels;
                axpy(&mut d_input[own.clone()], *d, &dy[own]);
            }
            let dx = to.mixed.at(to.mixed_at + t * group.row() + group.first * channels, width);
            // SAFETY: inside the array, and this task alone writes the group's channels.
            put(unsafe { std::slice::from_raw_parts_mut(dx, width) }, d_input, to.add);
            let shared = &mut to.shared[t * 2 * group.state..(t + 1) * 2 * group.state];
            let own = i * group.state..(i + 1) * group.state;
            axpy(&mut shared[..group.state], 1.0, &self.d_b[own.clone()]);
            axpy(&mut shared[group.state..], 1.0, &self.d_c[own]);
        }
    }
}
