//! Products through the `gemm` crate, for machines without this module's own kernels. Bf16 operands
//! are rounded copies; the epilogue is a second pass over the rows.

use super::epilogue::{LONGEST, Output};
use super::matrix::{MatRef, Precision};
use super::vmath::TARGET_FUSES;
use rayon::prelude::*;

/// Products with fewer multiplications than this run on one thread.
const PARALLEL_FROM: usize = 1 << 18;

/// The product, operands rounded as `precision` says.
pub(super) fn multiply(precision: Precision, a: MatRef<'_>, b: MatRef<'_>, out: &Output<'_>) {
    match precision {
        Precision::F32 => product(a, b, out),
        Precision::Bf16 => {
            let mut rounded = Vec::new();
            copy(precision, b, &mut rounded);
            multiply_copied(precision, a, &rounded, out);
        }
    }
}

/// The product with a right-hand side made by [`copy`].
pub(super) fn multiply_copied(precision: Precision, a: MatRef<'_>, b: &[f32], out: &Output<'_>) {
    let b = MatRef::new(b, a.cols(), out.cols);
    match precision {
        Precision::F32 => product(a, b, out),
        Precision::Bf16 => {
            let mut rounded = Vec::new();
            copy(precision, a, &mut rounded);
            product(MatRef::new(&rounded, a.rows(), a.cols()), b, out);
        }
    }
}

/// Copies a matrix to contiguous rows, rounding as `precision` says.
pub(super) fn copy(precision: Precision, from: MatRef<'_>, to: &mut Vec<f32>) {
    let (rows, cols) = (from.rows(), from.cols());
    let (down, right) = from.strides();
    to.clear();
    to.resize(rows * cols, 0.0);
    if to.is_empty() {
        return;
    }
    to.par_chunks_mut(cols).with_min_len(16).enumerate().for_each(|(i, row)| {
        for (j, value) in row.iter_mut().enumerate() {
            let x = from.data[i * down + j * right];
            *value = if precision == Precision::Bf16 { round_to_bf16(x) } else { x };
        }
    });
}

/// The nearest bf16, ties to even, as the hardware does it: subnormals become zero.
pub(super) fn round_to_bf16(x: f32) -> f32 {
    if x.is_nan() {
        return f32::NAN;
    }
    if x.is_subnormal() {
        return 0.0_f32.copysign(x);
    }
    let bits = x.to_bits();
    f32::from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
}

fn product(a: MatRef<'_>, b: MatRef<'_>, out: &Output<'_>) {
    let (m, n, k) = (out.rows, out.cols, a.cols());
    if m == 0 || n == 0 {
        return;
    }
    let parallel = m * n * k >= PARALLEL_FROM;
    let (a_down, a_right) = a.strides();
    let (b_down, b_right) = b.strides();
    // SAFETY: `MatRef` and `Output` checked on construction that the shapes and strides given here
    // stay inside their slices, and nothing else writes to the output meanwhile.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.at(0, 0),
            1,
            out.row_stride as isize,
            out.accumulate,
            a.data.as_ptr(),
            a_right as isize,
            a_down as isize,
            b.data.as_ptr(),
            b_right as isize,
            b_down as isize,
            1.0_f32,
            1.0,
            false,
            false,
            false,
            if parallel { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None },
        );
    }
    if out.bias(0).is_none() && !out.has_activation() {
        return;
    }
    // SAFETY: every row is visited once.
    let finish = |row| unsafe { finish(out, row) };
    match parallel {
        true => (0..m).into_par_iter().with_min_len(8).for_each(finish),
        false => (0..m).for_each(finish),
    }
}

/// Bias and activation of one row.
///
/// # Safety
/// The row is inside the output and no other thread touches it.
unsafe fn finish(out: &Output<'_>, row: usize) {
    #[cfg(target_arch = "x86_64")]
    if super::Isa::detect() >= super::Isa::Avx2 {
        #[target_feature(enable = "avx2,fma")]
        unsafe fn with_avx2(out: &Output<'_>, row: usize) {
            // SAFETY: the caller's promise.
            unsafe { finish_row::<true>(out, row) }
        }
        // SAFETY: the caller's promise, and the instruction set was detected.
        return unsafe { with_avx2(out, row) };
    }
    // SAFETY: the caller's promise.
    unsafe { finish_row::<TARGET_FUSES>(out, row) }
}

/// # Safety
/// As [`finish`].
#[inline(always)]
unsafe fn finish_row<const FUSED: bool>(out: &Output<'_>, row: usize) {
    let mut sums = [0.0; LONGEST];
    for col in (0..out.cols).step_by(sums.len()) {
        let cols = sums.len().min(out.cols - col);
        // SAFETY: the caller's promise; `Output` checked that C holds the row.
        unsafe {
            sums[..cols].copy_from_slice(std::slice::from_raw_parts(out.at(row, col), cols));
            if let Some(bias) = out.bias(col) {
                sums[..cols].iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias);
            }
            out.activate::<FUSED>(row..row + 1, col..col + cols, &mut sums, LONGEST, false, |from, to| {
                to.copy_from_slice(from)
            });
        }
    }
}
