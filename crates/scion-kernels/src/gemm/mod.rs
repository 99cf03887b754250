//! Matrix products on the CPU, in f32 and in mixed precision (bf16 operands, f32 sums).
//!
//! `C[m,n] = op(A)[m,k] · op(B)[k,n]`, optionally added to C, with bias and GELU applied while a
//! tile of C is still in cache. Where the machine has AVX-512 with bf16 dot products, both
//! precisions run on this module's own kernels (`format`, `pack`, `kernel`, `amx`, `blocked`); elsewhere on
//! the `gemm` crate, with bf16 operands rounded first so that the numbers are of the same class.
//!
//! Results do not depend on the number of threads: every element of C is summed in an order fixed
//! by k alone. Threads are Rayon's.

mod epilogue;
mod isa;
mod matrix;
mod panel;
mod plain;
pub mod vmath;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod blocked;
#[cfg(target_arch = "x86_64")]
mod format;
#[cfg(target_arch = "x86_64")]
mod kernel;
#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(test)]
mod tests;

pub use epilogue::{Activation, Epilogue};
pub use isa::Isa;
pub(crate) use matrix::Side;
pub use matrix::{MatRef, PackedB, Precision};
pub(crate) use panel::Panel;

use epilogue::Output;

/// `c = op(a) · op(b)`, or `c += …` when `accumulate`, then the epilogue.
///
/// `c` is `[a.rows(), b.cols()]`, row-major, its rows `c_row_stride` floats apart; the floats
/// between rows are left alone.
///
/// # Panics
/// If the inner dimensions differ, or `c`, the bias or a pre-activation is too small.
pub fn matmul(
    precision: Precision,
    a: MatRef<'_>,
    b: MatRef<'_>,
    c: &mut [f32],
    c_row_stride: usize,
    accumulate: bool,
    epilogue: Epilogue<'_>,
) {
    assert_eq!(a.cols(), b.rows(), "matmul: [{}, {}] · {:?}", a.rows(), a.cols(), (b.rows(), b.cols()));
    let out = Output::new((a.rows(), b.cols()), c, c_row_stride, accumulate, epilogue);
    matmul_on(Isa::detect(), precision, a, b, &out);
}

/// [`matmul`] with a right-hand side packed beforehand, in the precision it was packed for.
///
/// # Panics
/// As [`matmul`].
pub fn matmul_packed(
    a: MatRef<'_>,
    b: &PackedB,
    c: &mut [f32],
    c_row_stride: usize,
    accumulate: bool,
    epilogue: Epilogue<'_>,
) {
    assert_eq!(a.cols(), b.rows(), "matmul: [{}, {}] · {:?}", a.rows(), a.cols(), (b.rows(), b.cols()));
    let out = Output::new((a.rows(), b.cols()), c, c_row_stride, accumulate, epilogue);
    b.multiply(a, &out);
}

fn matmul_on(isa: Isa, precision: Precision, a: MatRef<'_>, b: MatRef<'_>, out: &Output<'_>) {
    #[cfg(target_arch = "x86_64")]
    if let Some(layout) = format::Layout::new(isa, precision) {
        return blocked::multiply(layout, a, b, out);
    }
    let _ = isa;
    plain::multiply(precision, a, b, out);
}
