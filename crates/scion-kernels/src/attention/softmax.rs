use std::cell::RefCell;

use crate::gemm::vmath;
use crate::sums::total;

/// Softmax of rows whose values come in parts (Milakov & Gimelshein 2018): of what has been seen of each row, the largest
/// value and the sum of all exponentials relative to it.
#[derive(Default)]
pub(super) struct Online {
    tops: Vec<f32>,
    sums: Vec<f32>,
}

impl Online {
    /// Begins anew with so many rows.
    pub fn begin(&mut self, rows: usize) {
        self.tops.clear();
        self.tops.resize(rows, f32::NEG_INFINITY);
        self.sums.clear();
        self.sums.resize(rows, 0.0);
    }

    /// Replaces the next `width` values of each row, times `scale`, by exponentials relative to the largest value so far.
    /// What was summed up by exponentials relative to an earlier one, a row of `out` each, is brought to the same measure.
    pub fn add(&mut self, values: &mut [f32], width: usize, scale: f32, out: &mut [f32]) {
        let channels = out.len() / self.tops.len();
        let state = self.tops.iter_mut().zip(&mut self.sums);
        for ((row, out), (top, sum)) in
            values.chunks_exact_mut(width).zip(out.chunks_exact_mut(channels)).zip(state)
        {
            let before = std::mem::replace(top, maximum_above(row, *top));
            let added = exponentials(row, *top, scale);
            if before == *top {
                *sum += added;
                continue;
            }
            let fade = ((before - *top) * scale).exp();
            *sum = *sum * fade + added;
            multiply(out, fade);
        }
    }

    /// Turns sums weighed by exponentials, a row of `out` each, into means weighed by the softmax.
    pub fn finish(&self, out: &mut [f32]) {
        let channels = out.len() / self.sums.len();
        out.chunks_exact_mut(channels).zip(&self.sums).for_each(|(out, sum)| multiply(out, 1.0 / sum));
    }

    /// The logarithm of each row's sum of exponentials of values times `scale`, over `scale`.
    pub fn logarithms(&self, scale: f32) -> impl Iterator<Item = f32> {
        self.tops.iter().zip(&self.sums).map(move |(top, sum)| top + sum.ln() / scale)
    }
}

/// Softmax weights of each row of `width` values times `scale`, in place, with [`Online::logarithms`] known.
pub(super) fn weights(values: &mut [f32], width: usize, scale: f32, logarithms: &[f32]) {
    for (row, &logarithm) in values.chunks_exact_mut(width).zip(logarithms) {
        exponentials(row, logarithm, scale);
    }
}

/// Replaces values by `exp(scale · (value − less))`; returns their sum.
fn exponentials(values: &mut [f32], less: f32, scale: f32) -> f32 {
    const PART: usize = 256;
    let (mut exponents, mut sum) = ([0f32; PART], 0.0);
    for part in values.chunks_mut(PART) {
        let exponents = &mut exponents[..part.len()];
        less_scaled(part, less, scale, exponents);
        vmath::exp(exponents, part);
        sum += sum_of(part);
    }
    sum
}

multiversioned! {
    fn less_scaled(values: &[f32], less: f32, scale: f32, to: &mut [f32]) {
        for (to, value) in to.iter_mut().zip(values) {
            *to = (value - less) * scale;
        }
    }
}

multiversioned! {
    fn sum_of(values: &[f32]) -> f32 {
        total(values)
    }
}

multiversioned! {
    fn maximum_above(values: &[f32], least: f32) -> f32 {
        maximum(values).max(least)
    }
}

multiversioned! {
    fn multiply(values: &mut [f32], factor: f32) {
        values.iter_mut().for_each(|value| *value *= factor);
    }
}

/// Softmax of each row of `width` values times `scale`, which is positive, in place.
pub(super) fn softmax_rows(values: &mut [f32], width: usize, scale: f32) {
    thread_local!(static SHIFTED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) });
    SHIFTED.with_borrow_mut(|shifted| {
        shifted.resize(values.len(), 0.0);
        subtract_maxima(values, width, scale, shifted);
        vmath::exp(shifted, values);
    });
    normalise(values, width);
}

multiversioned! {
    /// Every row less its largest value, scaled.
    fn subtract_maxima(values: &[f32], width: usize, scale: f32, shifted: &mut [f32]) {
        for (row, shifted) in values.chunks_exact(width).zip(shifted.chunks_exact_mut(width)) {
            let top = maximum(row);
            for (s, v) in shifted.iter_mut().zip(row) {
                *s = (v - top) * scale;
            }
        }
    }
}

multiversioned! {
    /// Every row over its sum.
    fn normalise(values: &mut [f32], width: usize) {
        for row in values.chunks_exact_mut(width) {
            let scale = 1.0 / total(row);
            row.iter_mut().for_each(|v| *v *= scale);
        }
    }
}

#[inline(always)]
fn maximum(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = row.as_chunks::<16>();
    for chunk in chunks {
        for (l, &v) in lanes.iter_mut().zip(chunk) {
            *l = if v > *l { v } else { *l };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}
