//! The whole mixer, pass after pass over all images.

use rayon::prelude::*;

use super::scan::{self, Gradients, Group, Scratch};
use super::{LINEAR_FROM, Mamba2, norm};
use crate::array::{Array, unfilled};
use crate::backend::Kernel;
use crate::conv;
use crate::gemm::vmath;
use crate::runs::over_runs;
use crate::shared::SharedMut;
use crate::taps::{Taps, TapsGradient};

/// Groups into which an image's heads are cut, whatever the number of threads: each is a task, and sums the gradients of B
/// and C over its heads on its own.
const GROUPS: usize = 8;

/// Values of an elementwise pass that a task takes at once.
const PASS: usize = 16 << 10;

/// Rows whose gradients of the step sizes' bias are summed together, whatever the number of threads.
const ROWS: usize = 256;

/// Where the parts of a row of the projected values are.
#[derive(Clone, Copy)]
struct Sizes {
    tokens: usize,
    heads: usize,
    state: usize,
    /// Channels of all heads.
    inner: usize,
    /// Values of a row.
    row: usize,
    directions: usize,
}

impl Sizes {
    fn new(op: &Mamba2, projected: &Array, norm: &Array) -> Self {
        let [_, tokens, row] = projected.dims()[..] else { unreachable!("projected values are [N, T, ..]") };
        let directions = if op.both { 2 } else { 1 };
        Self { tokens, heads: op.heads, state: op.state, inner: norm.width(), row, directions }
    }

    /// Convolved channels: x, B and C.
    fn convolved(&self) -> usize {
        self.inner + 2 * self.state
    }

    /// Heads of a group; the last one may have fewer.
    fn group(&self) -> usize {
        self.heads.div_ceil(GROUPS)
    }

    /// Groups of an image.
    fn groups(&self) -> usize {
        self.heads.div_ceil(self.group())
    }

    /// The heads of a group.
    fn heads_of(&self, group: usize) -> std::ops::Range<usize> {
        group * self.group()..self.heads.min((group + 1) * self.group())
    }
}

/// What the scan reads, for all images.
struct Scanned {
    /// [N, T, convolved]: before and after SiLU.
    before: Vec<f32>,
    mixed: Vec<f32>,
    /// Of each direction, [N, T, H]: step sizes, and decays.
    dt: Vec<Vec<f32>>,
    decay: Vec<Vec<f32>>,
    /// Of each direction, [H]: decay rates, below zero.
    rates: Vec<Vec<f32>>,
}

impl Scanned {
    fn new(s: Sizes, taps: &Taps, projected: &Array, dt_bias: &Array, a_log: &Array) -> Self {
        let values = projected.values();
        let convolved = s.convolved();
        // SAFETY: every row of both is written below.
        let (mut before, mut mixed) = unsafe {
            (unfilled(values.len() / s.row * convolved), unfilled(values.len() / s.row * convolved))
        };
        let images: Vec<&[f32]> = values.chunks_exact(s.tokens * s.row).collect();
        over_runs(&mut before, s.tokens, convolved, |image, run, before| {
            conv::forward(taps, images[image], run, before);
        });
        mixed
            .par_chunks_mut(PASS)
            .zip(before.par_chunks(PASS))
            .for_each(|(mixed, before)| vmath::silu(before, mixed));
        let (mut dt, mut decay, mut all_rates) = (Vec::new(), Vec::new(), Vec::new());
        for direction in 0..s.directions {
            let own = direction * s.heads..(direction + 1) * s.heads;
            let (bias, a_log) = (&dt_bias.values()[own.clone()], &a_log.values()[own]);
            let rates: Vec<f32> = a_log.iter().map(|a| -a.exp()).collect();
            let mut steps = vec![0f32; values.len() / s.row * s.heads];
            let mut decays = steps.clone();
            steps
                .par_chunks_mut(s.heads)
                .zip(decays.par_chunks_mut(s.heads))
                .zip(values.par_chunks(s.row))
                .for_each(|((steps, decays), row)| {
                    let raw = &row[s.inner + convolved..];
                    let mut exponents = vec![0f32; s.heads];
                    for head in 0..s.heads {
                        steps[head] = softplus(raw[head] + bias[head]);
                        exponents[head] = steps[head] * rates[head];
                    }
                    vmath::exp(&exponents, decays);
                });
            dt.push(steps);
            decay.push(decays);
            all_rates.push(rates);
        }
        Self { before, mixed, dt, decay, rates: all_rates }
    }

    fn group<'a>(
        &'a self,
        s: Sizes,
        image: usize,
        group: usize,
        direction: usize,
        d: &'a Array,
    ) -> Group<'a> {
        let (row, heads) = (s.tokens * s.convolved(), s.heads_of(group));
        let steps = image * s.tokens * s.heads..(image + 1) * s.tokens * s.heads;
        Group {
            mixed: &self.mixed[image * row..(image + 1) * row],
            dt: &self.dt[direction][steps.clone()],
            decay: &self.decay[direction][steps],
            first: heads.start,
            count: heads.len(),
            heads: s.heads,
            channels: s.inner / s.heads,
            state: s.state,
            d: &d.values()[direction * s.heads..][heads.clone()],
            rates: &self.rates[direction][heads],
            reverse: direction == 1,
        }
    }
}

fn softplus(x: f32) -> f32 {
    if x > LINEAR_FROM { x } else { x.exp().ln_1p() }
}

impl Mamba2 {
    fn taps(&self, s: Sizes, filter: &Array, bias: &Array) -> Taps {
        let ahead = if self.both { filter.width() / 2 } else { 0 };
        Taps::new(filter, bias, 1, ahead).within(s.row, s.inner)
    }
}

impl Kernel<7> for Mamba2 {
    fn forward(
        &self,
        [projected, filter, bias, dt_bias, a_log, d, weight]: &[Array; 7],
        keep: bool,
    ) -> (Array, Vec<Array>) {
        let s = Sizes::new(self, projected, weight);
        let images = projected.rows() / s.tokens;
        let scanned = Scanned::new(s, &self.taps(s, filter, bias), projected, dt_bias, a_log);
        // SAFETY: each group's scan below writes its channels of every token.
        let mut y = unsafe { unfilled(projected.rows() * s.inner) };
        let shared = SharedMut::new(&mut y);
        (0..images * s.groups()).into_par_iter().for_each_init(Scratch::new, |scratch, task| {
            let (image, group) = (task / s.groups(), task % s.groups());
            for direction in 0..s.directions {
                let group = scanned.group(s, image, group, direction, d);
                // SAFETY: each task has a group of its own, and `y` holds all of them.
                unsafe {
                    scan::forward(group, scratch, &shared, image * s.tokens * s.inner, direction > 0);
                }
            }
        });
        let out = norm::forward(&y, projected.values(), s.row, weight.values());
        let dims = [images, s.tokens, s.inner];
        let kept = if keep { vec![Array::from_vec(y, dims)] } else { Vec::new() };
        (Array::from_vec(out, dims), kept)
    }

    fn backward(
        &self,
        [projected, filter, bias, dt_bias, a_log, d, weight]: &[Array; 7],
        kept: &[Array],
        grad: &Array,
        wanted: [bool; 7],
    ) -> [Option<Array>; 7] {
        let s = Sizes::new(self, projected, weight);
        let taps = self.taps(s, filter, bias);
        let scanned = Scanned::new(s, &taps, projected, dt_bias, a_log);
        // SAFETY: the norm writes z, the convolution x, B and C, and the last pass the step sizes of every row.
        let mut d_projected = unsafe { unfilled(projected.values().len()) };
        let (dy, d_weight) = norm::backward(
            kept[0].values(),
            projected.values(),
            s.row,
            weight.values(),
            grad.values(),
            &mut d_projected,
        );
        let found = self.scan_backward(s, &scanned, &dy, d);
        let sums = convolution_backward(s, &taps, &scanned.before, projected, found.mixed, &mut d_projected);
        let (d_filter, d_bias) = TapsGradient::sum(&sums, &taps);
        let d_dt_bias = steps_backward(s, projected, dt_bias, &found.dt, &mut d_projected);
        let gradients = [
            (d_projected, projected),
            (d_filter, filter),
            (d_bias, bias),
            (d_dt_bias, dt_bias),
            (found.a_log, a_log),
            (found.d, d),
            (d_weight, weight),
        ];
        let mut wanted = wanted.into_iter();
        gradients.map(|(gradient, of)| {
            wanted.next().unwrap_or(false).then(|| Array::from_vec(gradient, of.dims()))
        })
    }
}

/// What the scans' backward passes find.
struct Found {
    /// Gradient of the scans' inputs, [N, T, convolved].
    mixed: Vec<f32>,
    /// Of each direction, the gradient of the step sizes, [N, T, H].
    dt: Vec<Vec<f32>>,
    /// Of all directions' heads.
    a_log: Vec<f32>,
    d: Vec<f32>,
}

impl Mamba2 {
    fn scan_backward(&self, s: Sizes, scanned: &Scanned, dy: &[f32], d: &Array) -> Found {
        let (convolved, images) = (s.convolved(), dy.len() / (s.tokens * s.inner));
        let mut mixed = vec![0f32; scanned.mixed.len()];
        let mut dt: Vec<Vec<f32>> = scanned.dt.iter().map(|dt| vec![0f32; dt.len()]).collect();
        let groups = s.groups();
        let (to_mixed, to_dt): (SharedMut, Vec<SharedMut>) =
            (SharedMut::new(&mut mixed), dt.iter_mut().map(|dt| SharedMut::new(dt)).collect());
        // Of each image's group: the gradients of B and C, and of each direction its heads' sums.
        let tasks: Vec<(Vec<f32>, Vec<Vec<scan::Sums>>)> = (0..images * groups)
            .into_par_iter()
            .map_init(Scratch::new, |scratch, task| {
                let (image, group) = (task / groups, task % groups);
                let mut shared = vec![0f32; s.tokens * 2 * s.state];
                let mut sums = Vec::new();
                for (direction, to_dt) in to_dt.iter().enumerate() {
                    let group = scanned.group(s, image, group, direction, d);
                    let mut to = Gradients {
                        mixed: &to_mixed,
                        mixed_at: image * s.tokens * convolved,
                        dt: to_dt,
                        dt_at: image * s.tokens * s.heads,
                        shared: &mut shared,
                        add: direction > 0,
                    };
                    let dy = &dy[image * s.tokens * s.inner..(image + 1) * s.tokens * s.inner];
                    // SAFETY: each group belongs to one task.
                    sums.push(unsafe { scan::backward(group, scratch, dy, &mut to) });
                }
                (shared, sums)
            })
            .collect();
        let heads = s.directions * s.heads;
        let (mut d_a_log, mut d_d) = (vec![0f32; heads], vec![0f32; heads]);
        for (task, (shared, sums)) in tasks.iter().enumerate() {
            let (image, group) = (task / groups, task % groups);
            let rows = mixed[image * s.tokens * convolved..].chunks_exact_mut(convolved);
            for (row, shared) in rows.zip(shared.chunks_exact(2 * s.state)) {
                row[s.inner..].iter_mut().zip(shared).for_each(|(to, from)| *to += from);
            }
            for (direction, sums) in sums.iter().enumerate() {
                for (head, sum) in s.heads_of(group).zip(sums) {
                    let own = direction * s.heads + head;
                    // The rate is −exp(a_log), which is its own slope.
                    d_a_log[own] += sum.rate * scanned.rates[direction][head];
                    d_d[own] += sum.d;
                }
            }
        }
        Found { mixed, dt, a_log: d_a_log, d: d_d }
    }
}

/// Through SiLU and the convolution: writes the gradients of x, B and C into `d_projected`.
fn convolution_backward(
    s: Sizes,
    taps: &Taps,
    before: &[f32],
    projected: &Array,
    mut d_mixed: Vec<f32>,
    d_projected: &mut [f32],
) -> Vec<TapsGradient> {
    d_mixed.par_chunks_mut(PASS).zip(before.par_chunks(PASS)).for_each_init(
        || vec![0f32; PASS],
        |slopes, (d, before)| {
            let slopes = &mut slopes[..d.len()];
            vmath::silu_backward(before, d, slopes);
            d.copy_from_slice(slopes);
        },
    );
    let images: Vec<(&[f32], &[f32])> = projected
        .values()
        .chunks_exact(s.tokens * s.row)
        .zip(d_mixed.chunks_exact(s.tokens * s.convolved()))
        .collect();
    over_runs(d_projected, s.tokens, s.row, |image, run, d_projected| {
        let (projected, slopes) = images[image];
        let mut sums = TapsGradient::zeros(taps);
        conv::backward(taps, projected, slopes, run, d_projected, &mut sums);
        sums
    })
}

/// Through softplus: writes the gradients of the raw step sizes into `d_projected`, returns that of their bias.
fn steps_backward(
    s: Sizes,
    projected: &Array,
    dt_bias: &Array,
    d_dt: &[Vec<f32>],
    d_projected: &mut [f32],
) -> Vec<f32> {
    let first = s.row - s.heads;
    let sums: Vec<Vec<f32>> = d_projected
        .par_chunks_mut(ROWS * s.row)
        .zip(projected.values().par_chunks(ROWS * s.row))
        .enumerate()
        .map(|(part, (d_rows, rows))| {
            let mut d_bias = vec![0f32; s.directions * s.heads];
            for (row, (d_row, values)) in
                d_rows.chunks_exact_mut(s.row).zip(rows.chunks_exact(s.row)).enumerate()
            {
                d_row[first..].fill(0.0);
                for (direction, d_dt) in d_dt.iter().enumerate() {
                    let d_dt = &d_dt[(part * ROWS + row) * s.heads..][..s.heads];
                    for head in 0..s.heads {
                        let raw = values[first + head] + dt_bias.values()[direction * s.heads + head];
                        let slope = if raw > LINEAR_FROM { 1.0 } else { 1.0 / (1.0 + (-raw).exp()) };
                        let gradient = d_dt[head] * slope;
                        d_row[first + head] += gradient;
                        d_bias[direction * s.heads + head] += gradient;
                    }
                }
            }
            d_bias
        })
        .collect();
    let mut d_bias = vec![0f32; s.directions * s.heads];
    for sums in sums {
        d_bias.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
    }
    d_bias
}
