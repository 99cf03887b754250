//! The recurrence of one head, its state in vector registers along S.
//!
//! The backward pass needs the state at every token. The forward pass is run again, first keeping the state before each
//! chunk of tokens, then chunk by chunk from the last, keeping those inside: memory is T/CHUNK + CHUNK states.

use std::hint::black_box;

use crate::shared::SharedMut;
use crate::taps::{LANES, Lanes, load};

/// Tokens whose states are held at once in the backward pass; they should fit a core's cache.
const CHUNK: usize = 32;

/// One head of one image in one direction.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    /// [T, row]: x of all heads, then B and C.
    pub mixed: &'a [f32],
    /// [T, heads]: step sizes Δ.
    pub dt: &'a [f32],
    /// [T, heads]: decays exp(Δ·A).
    pub decay: &'a [f32],
    pub head: usize,
    pub heads: usize,
    /// Channels P of a head.
    pub channels: usize,
    /// Size S of the state of a channel.
    pub state: usize,
    /// Weight of x beside the scan's output.
    pub d: f32,
    /// Decay rate A, below zero.
    pub rate: f32,
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

impl Head<'_> {
    fn tokens(&self) -> usize {
        self.dt.len() / self.heads
    }

    fn inner(&self) -> usize {
        self.heads * self.channels
    }

    fn row(&self) -> usize {
        self.inner() + 2 * self.state
    }

    fn blocks(&self) -> usize {
        self.state.div_ceil(LANES)
    }

    /// The token of step `step`.
    #[inline(always)]
    fn token(&self, step: usize) -> usize {
        if self.reverse { self.tokens() - 1 - step } else { step }
    }

    /// The head's channels of a token.
    #[inline(always)]
    fn x(&self, t: usize) -> &[f32] {
        &self.mixed[t * self.row() + self.head * self.channels..][..self.channels]
    }

    /// A block of B (0) or C (1) of a token.
    #[inline(always)]
    fn shared(&self, t: usize, which: usize, block: usize) -> Lanes {
        load(self.mixed, t * self.row() + self.inner() + which * self.state, block, self.state)
    }

    #[inline(always)]
    fn at(&self, values: &[f32], t: usize) -> f32 {
        values[t * self.heads + self.head]
    }

    /// Advances the state, [block, channel], by token `t`.
    #[inline(always)]
    fn advance(&self, t: usize, before: &[Lanes], after: &mut [Lanes]) {
        let (x, decay, dt) = (self.x(t), self.at(self.decay, t), self.at(self.dt, t));
        for block in 0..self.blocks() {
            let b = self.shared(t, 0, block);
            for (p, &x) in x.iter().enumerate() {
                let at = block * self.channels + p;
                after[at] = plus(scaled(before[at], decay), scaled(b, black_box(x * dt)));
            }
        }
    }
}

// [`black_box`] keeps the lanes together. In the loops over channels it hides a factor from the compiler, which would
// vectorise these loops instead, with a gather and a scatter for each lane; behind them it hides where lanes go, by which
// they would be torn into the pairs and fours of a sum.

#[inline(always)]
fn plus(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|i| a[i] + b[i])
}

#[inline(always)]
fn times(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|i| a[i] * b[i])
}

#[inline(always)]
fn scaled(a: Lanes, factor: f32) -> Lanes {
    std::array::from_fn(|i| a[i] * factor)
}

#[inline(always)]
fn sum(lanes: &Lanes) -> f32 {
    let mut half = [0f32; 8];
    for i in 0..8 {
        half[i] = lanes[i] + lanes[i + 8];
    }
    let mut quarter = [0f32; 4];
    for i in 0..4 {
        quarter[i] = half[i] + half[i + 4];
    }
    (quarter[0] + quarter[2]) + (quarter[1] + quarter[3])
}

multiversioned! {
    /// Writes the head's output into its channels of `y`, in which the image's [T, I] begins at `offset`; adds to them
    /// with `add`.
    ///
    /// # Safety
    /// No other thread touches the head's channels of `y` meanwhile.
    pub(super) unsafe fn forward(h: Head, y: &SharedMut, offset: usize, add: bool) {
        let mut state = vec![[0f32; LANES]; h.blocks() * h.channels];
        let mut outputs = vec![[0f32; LANES]; h.channels];
        for step in 0..h.tokens() {
            let t = h.token(step);
            let (x, decay, dt) = (h.x(t), h.at(h.decay, t), h.at(h.dt, t));
            outputs.fill([0.0; LANES]);
            for block in 0..h.blocks() {
                let (b, c) = (h.shared(t, 0, block), h.shared(t, 1, block));
                let states = &mut state[block * h.channels..(block + 1) * h.channels];
                for ((state, output), &x) in states.iter_mut().zip(&mut outputs).zip(x) {
                    *state = plus(scaled(*state, decay), scaled(b, black_box(x * dt)));
                    *output = plus(*output, times(*state, c));
                }
            }
            let y = y.at(offset + t * h.inner() + h.head * h.channels, h.channels);
            // SAFETY: inside the array, and this task alone writes the head's channels.
            let y = unsafe { std::slice::from_raw_parts_mut(y, h.channels) };
            for ((y, output), &x) in y.iter_mut().zip(&outputs).zip(x) {
                let value = sum(output) + h.d * x;
                *y = if add { *y + value } else { value };
            }
        }
    }
}

/// Where a head's backward pass puts gradients: of an image's `mixed`, beginning at `mixed_at`, the head's channels of x
/// alone; of its step sizes, beginning at `dt_at`, the head's. Those of B and C, [T, 2·S], are added to what a group
/// of heads has found.
pub(super) struct Gradients<'a> {
    pub mixed: &'a SharedMut<'a>,
    pub mixed_at: usize,
    pub dt: &'a SharedMut<'a>,
    pub dt_at: usize,
    pub shared: &'a mut [f32],
    /// Whether gradients of x are added to those of another direction.
    pub add: bool,
}

multiversioned! {
    /// Gradients of one head from that of its output, an image's [T, I].
    ///
    /// # Safety
    /// No other thread touches the places that `to` names meanwhile.
    pub(super) unsafe fn backward(h: Head, dy: &[f32], to: &mut Gradients) -> Sums {
        let (tokens, size) = (h.tokens(), h.blocks() * h.channels);
        let mut starts = vec![[0f32; LANES]; tokens.div_ceil(CHUNK) * size]; // the states before each chunk
        let (mut state, mut next) = (vec![[0f32; LANES]; size], vec![[0f32; LANES]; size]);
        for step in 0..tokens {
            if step.is_multiple_of(CHUNK) {
                starts[step / CHUNK * size..][..size].copy_from_slice(&state);
            }
            h.advance(h.token(step), &state, &mut next);
            std::mem::swap(&mut state, &mut next);
        }
        let mut inside = vec![[0f32; LANES]; (CHUNK + 1) * size]; // the states before and behind each of its tokens
        let mut d_state = vec![[0f32; LANES]; size];
        let mut d_inputs = vec![[0f32; LANES]; h.channels];
        let mut sums = Sums::default();
        for chunk in (0..tokens.div_ceil(CHUNK)).rev() {
            let steps = chunk * CHUNK..tokens.min((chunk + 1) * CHUNK);
            inside[..size].copy_from_slice(&starts[chunk * size..][..size]);
            for step in steps.clone() {
                let (before, after) = inside.split_at_mut((step % CHUNK + 1) * size);
                h.advance(h.token(step), &before[step % CHUNK * size..], &mut after[..size]);
            }
            for step in steps.rev() {
                let states = &inside[step % CHUNK * size..][..2 * size];
                // SAFETY: by this function's contract.
                unsafe { back(h, h.token(step), dy, states, &mut d_state, &mut d_inputs, to, &mut sums) };
            }
        }
        sums
    }
}

/// One token of the backward pass: `states` are those before and behind it, `d_state` the gradient of the one behind,
/// replaced by that of the one before.
///
/// # Safety
/// As for [`backward`].
#[inline(always)]
#[expect(clippy::too_many_arguments)]
unsafe fn back(
    h: Head,
    t: usize,
    dy: &[f32],
    states: &[Lanes],
    d_state: &mut [Lanes],
    d_inputs: &mut [Lanes],
    to: &mut Gradients,
    sums: &mut Sums,
) {
    let (x, decay, dt) = (h.x(t), h.at(h.decay, t), h.at(h.dt, t));
    let dy = &dy[t * h.inner() + h.head * h.channels..][..h.channels];
    let (before, behind) = states.split_at(d_state.len());
    let mut d_decay = [0f32; LANES];
    d_inputs.fill([0.0; LANES]);
    for block in 0..h.blocks() {
        let (b, c) = (h.shared(t, 0, block), h.shared(t, 1, block));
        let (mut d_b, mut d_c) = ([0f32; LANES], [0f32; LANES]);
        let channels = block * h.channels..(block + 1) * h.channels;
        for (p, at) in channels.enumerate() {
            let d = plus(d_state[at], scaled(c, dy[p]));
            d_c = plus(d_c, scaled(behind[at], dy[p]));
            d_b = plus(d_b, scaled(d, black_box(x[p] * dt)));
            d_inputs[p] = plus(d_inputs[p], times(d, b));
            d_decay = plus(d_decay, times(d, before[at]));
            d_state[at] = scaled(d, decay);
        }
        let shared = &mut to.shared[t * 2 * h.state..(t + 1) * 2 * h.state];
        let first = block * LANES;
        for (which, gradient) in black_box([d_b, d_c]).iter().enumerate() {
            let own = &mut shared[which * h.state + first..which * h.state + h.state.min(first + LANES)];
            own.iter_mut().zip(gradient).for_each(|(own, gradient)| *own += gradient);
        }
    }
    let d_decay = sum(&black_box(d_decay)) * decay;
    let mut d_dt = d_decay * h.rate;
    sums.rate += d_decay * dt;
    let dx = to.mixed.at(to.mixed_at + t * h.row() + h.head * h.channels, h.channels);
    // SAFETY: inside the array, and this task alone writes the head's channels.
    let dx = unsafe { std::slice::from_raw_parts_mut(dx, h.channels) };
    for (p, dx) in dx.iter_mut().enumerate() {
        let d_input = sum(&d_inputs[p]);
        let gradient = d_input * dt + h.d * dy[p];
        *dx = if to.add { *dx + gradient } else { gradient };
        d_dt += d_input * x[p];
        sums.d += dy[p] * x[p];
    }
    let slot = to.dt.at(to.dt_at + t * h.heads + h.head, 1);
    // SAFETY: inside the array, and this task alone writes the head's step sizes.
    unsafe { *slot = d_dt };
}
