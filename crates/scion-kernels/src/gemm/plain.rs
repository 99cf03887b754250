//! Products through the `gemm` crate, for machines without this module's own kernels. Bf16 operands
//! are rounded copies; the epilogue is a second pass over the rows.

use super::element::Element;
use super::epilogue::{LONGEST, Output, Plainly};
use super::matrix::{MatRef, Precision};
use super::vmath::TARGET_FUSES;
use crate::shared::SharedMut;
use rayon::prelude::*;

/// Products with fewer multiplications than this run on one thread.
const PARALLEL_FROM: usize = 1 << 18;

/// The product, operands rounded as `precision` says.
pub(super) fn multiply<A: Element, B: Element, C: Element>(
    precision: Precision,
    a: MatRef<'_, A>,
    b: MatRef<'_, B>,
    out: &Output<'_, C>,
) {
    match (precision, b.floats()) {
        (Precision::F32, Some(b)) => multiply_floats(precision, a, b, out),
        _ => {
            let mut rounded = Vec::new();
            copy(precision, b, &mut rounded);
            multiply_copied(precision, a, &rounded, out);
        }
    }
}

/// The product with a right-hand side made by [`copy`].
pub(super) fn multiply_copied<A: Element, C: Element>(
    precision: Precision,
    a: MatRef<'_, A>,
    b: &[f32],
    out: &Output<'_, C>,
) {
    multiply_floats(precision, a, MatRef::new(b, a.cols(), out.cols), out);
}

/// The product with a right-hand side that is as `precision` says.
fn multiply_floats<A: Element, C: Element>(
    precision: Precision,
    a: MatRef<'_, A>,
    b: MatRef<'_>,
    out: &Output<'_, C>,
) {
    match (precision, a.floats()) {
        (Precision::F32, Some(a)) => product(a, b, out),
        _ => {
            let mut rounded = Vec::new();
            copy(precision, a, &mut rounded);
            product(MatRef::new(&rounded, a.rows(), a.cols()), b, out);
        }
    }
}

/// Copies a matrix to contiguous rows, rounding as `precision` says.
pub(super) fn copy<T: Element>(precision: Precision, from: MatRef<'_, T>, to: &mut Vec<f32>) {
    let (rows, cols) = (from.rows(), from.cols());
    let (down, right) = from.strides();
    to.clear();
    to.resize(rows * cols, 0.0);
    if to.is_empty() {
        return;
    }
    to.par_chunks_mut(cols).with_min_len(16).enumerate().for_each(|(i, row)| {
        for (j, value) in row.iter_mut().enumerate() {
            *value = precision.round(from.data[i * down + j * right].widened());
        }
    });
}

fn product<C: Element>(a: MatRef<'_>, b: MatRef<'_>, out: &Output<'_, C>) {
    let (m, n, k) = (out.rows, out.cols, a.cols());
    if m == 0 || n == 0 {
        return;
    }
    let parallel = m * n * k >= PARALLEL_FROM;
    let (a_down, a_right) = a.strides();
    let (b_down, b_right) = b.strides();
    let mut apart = vec![0.0_f32; if C::HALF { m * n } else { 0 }];
    let (sums, stride) = match C::HALF {
        true => (apart.as_mut_ptr(), n),
        // SAFETY: neither is zero.
        false => (unsafe { out.at(0, 0) }.cast(), out.row_stride),
    };
    // SAFETY: `MatRef` and `Output` checked on construction that the shapes and strides given here
    // stay inside their slices, and nothing else writes to the output meanwhile.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            sums,
            1,
            stride as isize,
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
    if out.bias(0).is_none() && out.takes_sums() {
        return;
    }
    let sums = SharedMut::new(match C::HALF {
        true => &mut apart,
        // SAFETY: the output's own elements, which nobody else has.
        false => unsafe { std::slice::from_raw_parts_mut(sums, (m - 1) * stride + n) },
    });
    // SAFETY: every row is visited once.
    let finish = |row| unsafe { finish(out, row, sums.at(row * stride, n)) };
    match parallel {
        true => (0..m).into_par_iter().with_min_len(8).for_each(finish),
        false => (0..m).for_each(finish),
    }
}

/// Bias and activation of one row, whose sums are at `from`, in the output or elsewhere.
///
/// # Safety
/// The row is inside the output, as many sums are there, and no other thread touches either.
unsafe fn finish<C: Element>(out: &Output<'_, C>, row: usize, from: *const f32) {
    #[cfg(target_arch = "x86_64")]
    if super::Isa::detect() >= super::Isa::Avx2 {
        #[target_feature(enable = "avx2,fma")]
        unsafe fn with_avx2<C: Element>(out: &Output<'_, C>, row: usize, from: *const f32) {
            // SAFETY: the caller's promise.
            unsafe { finish_row::<true, C>(out, row, from) }
        }
        // SAFETY: the caller's promise, and the instruction set was detected.
        return unsafe { with_avx2(out, row, from) };
    }
    // SAFETY: the caller's promise.
    unsafe { finish_row::<TARGET_FUSES, C>(out, row, from) }
}

/// # Safety
/// As [`finish`].
#[inline(always)]
unsafe fn finish_row<const FUSED: bool, C: Element>(out: &Output<'_, C>, row: usize, from: *const f32) {
    let mut sums = [0.0; LONGEST];
    for col in (0..out.cols).step_by(sums.len()) {
        let cols = sums.len().min(out.cols - col);
        // SAFETY: the caller's promise; `Output` checked that C holds the row.
        unsafe {
            sums[..cols].copy_from_slice(std::slice::from_raw_parts(from.add(col), cols));
            if let Some(bias) = out.bias(col) {
                sums[..cols].iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias);
            }
            out.finish::<FUSED>(row..row + 1, col..col + cols, &mut sums, LONGEST, false, &Plainly);
        }
    }
}
