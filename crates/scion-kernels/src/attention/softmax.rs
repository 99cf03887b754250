use std::cell::RefCell;

use crate::gemm::vmath;
use crate::sums::total;

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
