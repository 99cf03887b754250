//! Matrix products on the CPU, in f32 and in mixed precision (bf16 operands, f32 sums). Matrices hold f32 numbers, or bf16
//! numbers where what made them rounded them already or what follows would.
//!
//! `C[m,n] = op(A)[m,k] · op(B)[k,n]`, optionally added to C, with bias and GELU applied while a
//! tile of C is still in cache. Where the machine has AVX-512 with bf16 dot products, both
//! precisions run on this module's own kernels (`format`, `pack`, `kernel`, `amx`, `blocked`), with
//! matrix registers f32 products as six bf16 products each; elsewhere on the `gemm` crate, with bf16
//! operands rounded first so that the numbers are of the same class.
//!
//! Results do not depend on the number of threads: every element of C is summed in an order fixed
//! by k alone. Threads are Rayon's.

mod element;
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

pub use element::Element;
pub use epilogue::{Activation, Epilogue, PANEL, companion_len};
pub use isa::Isa;
pub(crate) use matrix::Side;
pub use matrix::{MatRef, PackedB, Precision};
pub(crate) use panel::{Panel, Products};

use epilogue::Output;
use std::time::Instant;

/// `c = op(a) · op(b)`, or `c += …` when `accumulate`, then the epilogue.
///
/// `c` is `[a.rows(), b.cols()]`, row-major, its rows `c_row_stride` numbers apart; the numbers
/// between rows are left alone. Where it is bf16, sums are f32 all the same, and rounded at the end.
///
/// # Panics
/// If the inner dimensions differ, `c`, the bias or a companion is too small, or `c` is bf16 and accumulates.
pub fn matmul<A: Element, B: Element, C: Element>(
    precision: Precision,
    a: MatRef<'_, A>,
    b: MatRef<'_, B>,
    c: &mut [C],
    c_row_stride: usize,
    accumulate: bool,
    epilogue: Epilogue<'_, C>,
) {
    assert_eq!(a.cols(), b.rows(), "matmul: [{}, {}] · {:?}", a.rows(), a.cols(), (b.rows(), b.cols()));
    let out = Output::new((a.rows(), b.cols()), c, c_row_stride, accumulate, epilogue);
    matmul_on(Isa::detect(), precision, a, b, &out);
}

/// [`matmul`] with a right-hand side packed beforehand, in the precision it was packed for.
///
/// # Panics
/// As [`matmul`].
pub fn matmul_packed<A: Element, C: Element>(
    a: MatRef<'_, A>,
    b: &PackedB,
    c: &mut [C],
    c_row_stride: usize,
    accumulate: bool,
    epilogue: Epilogue<'_, C>,
) {
    assert_eq!(a.cols(), b.rows(), "matmul: [{}, {}] · {:?}", a.rows(), a.cols(), (b.rows(), b.cols()));
    let out = Output::new((a.rows(), b.cols()), c, c_row_stride, accumulate, epilogue);
    b.multiply(a, &out);
}

/// The precision in which this machine multiplies faster, bf16 only if clearly so: some CPUs have instructions for bf16
/// that are slower than those for f32, and where there are none bf16 is a copy on top of f32. Takes some milliseconds.
pub fn faster_precision() -> Precision {
    const SIDE: usize = 512;
    /// Far from the ratios found: 1.7 and more with bf16 at full rate, 0.7 at half.
    const CLEARLY: f64 = 1.2;
    if Isa::detect() < Isa::Avx512Bf16 {
        return Precision::F32;
    }
    let values = vec![1.0; SIDE * SIDE];
    let matrix = MatRef::new(&values, SIDE, SIDE);
    let mut c = vec![0.0; SIDE * SIDE];
    let mut time = |precision| {
        let start = Instant::now();
        matmul(precision, matrix, matrix, &mut c, SIDE, false, Epilogue::default());
        start.elapsed().as_secs_f64()
    };
    let [mut f32, mut bf16] = [f64::INFINITY; 2];
    // Taking turns, so that what else the machine does falls on both.
    for _ in 0..8 {
        f32 = f32.min(time(Precision::F32));
        bf16 = bf16.min(time(Precision::Bf16));
    }
    if f32 > CLEARLY * bf16 { Precision::Bf16 } else { Precision::F32 }
}

fn matmul_on<A: Element, B: Element, C: Element>(
    isa: Isa,
    precision: Precision,
    a: MatRef<'_, A>,
    b: MatRef<'_, B>,
    out: &Output<'_, C>,
) {
    #[cfg(target_arch = "x86_64")]
    if let Some(layout) = format::Layout::new(isa, precision) {
        return blocked::multiply(layout, a, b, out);
    }
    let _ = isa;
    plain::multiply(precision, a, b, out);
}
