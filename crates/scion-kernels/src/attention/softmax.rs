use std::cell::RefCell;

use crate::gemm::vmath;

/// Softmax of each row of `width` values, in place.
pub(super) fn softmax_rows(values: &mut [f32], width: usize) {
    thread_local!(static SHIFTED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) });
    SHIFTED.with_borrow_mut(|shifted| {
        shifted.clear();
        for row in values.chunks_exact(width) {
            let top = maximum(row);
            shifted.extend(row.iter().map(|v| v - top));
        }
        vmath::exp(shifted, values);
    });
    for row in values.chunks_exact_mut(width) {
        let scale = 1.0 / total(row);
        row.iter_mut().for_each(|v| *v *= scale);
    }
}

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

fn total(row: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let (chunks, rest) = row.as_chunks::<16>();
    for chunk in chunks {
        for (l, v) in lanes.iter_mut().zip(chunk) {
            *l += v;
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()
}
