//! Gradients of a linear layer of few rows, such as a layer of the conditioning: there products are little beside the weight
//! that they read and the gradient that they write, and each of these passes through the CPU once, as it lies.
//!
//! Rows are taken together: a vector of the weight is loaded and rounded once for all of them. The forward pass is a product
//! like any other, so that an image's numbers do not depend on how many others there are.

use std::arch::x86_64::*;

use rayon::prelude::*;

use crate::array::unfilled;
use crate::gemm::{Isa, Precision};

/// Most rows taken this way; with more, products for any shape are as fast.
const MOST: usize = 8;
/// Elements of a vector.
const LANES: usize = 16;
/// Smaller weights are left to the products for any shape.
const FROM: usize = 1 << 15;
/// Rows of the weight that one task takes.
const RUN: usize = 128;

/// An element of each row.
type Column = [f32; MOST];
/// A vector of each row.
type Vectors = [[f32; LANES]; MOST];

/// Whether a layer's gradients are made here.
pub(super) fn suits(rows: usize, weight: &[f32]) -> bool {
    (1..=MOST).contains(&rows) && weight.len() >= FROM && Isa::detect() >= Isa::Avx512Bf16
}

/// Gradients of the input, [rows, in], and of the weight, [out, in], from that of the output, [rows, out].
pub(super) fn backward(
    precision: Precision,
    rows: usize,
    dy: &[f32],
    x: &[f32],
    weight: &[f32],
    wanted: [bool; 2],
) -> (Vec<f32>, Vec<f32>) {
    let (outputs, inputs) = (dy.len() / rows, x.len() / rows);
    assert_eq!(
        (dy.len(), x.len(), weight.len()),
        (rows * outputs, rows * inputs, outputs * inputs),
        "a layer's arrays"
    );
    let x = vectors(precision, x, inputs);
    // SAFETY: every row is written below, if any is wanted.
    let mut dw = unsafe { unfilled(if wanted[1] { outputs * inputs } else { 0 }) };
    let runs: Vec<&mut [f32]> = match wanted[1] {
        true => dw.chunks_mut(RUN * inputs).collect(),
        false => (0..outputs.div_ceil(RUN)).map(|_| &mut [][..]).collect(),
    };
    let gradients_of_run = |(run, dw): (usize, &mut [f32])| {
        let dy = columns(precision, dy, outputs, run * RUN);
        let weight = &weight[run * RUN * inputs..][..dy.len() * inputs];
        let mut dx = vec![[[0.0; LANES]; MOST]; if wanted[0] { x.len() } else { 0 }];
        // SAFETY: `suits` found the instruction set.
        unsafe {
            match precision {
                Precision::F32 => add_input_gradient::<false>(&dy, weight, inputs, &mut dx),
                Precision::Bf16 => add_input_gradient::<true>(&dy, weight, inputs, &mut dx),
            }
            weight_gradient_of_run(&dy, &x, inputs, dw);
        }
        dx
    };
    // Sums of runs are added in their order: the same for any number of threads.
    let parts: Vec<Vec<Vectors>> = runs.into_par_iter().enumerate().map(gradients_of_run).collect();
    let sum = parts.into_iter().reduce(|mut sum, part| {
        let numbers = part.as_flattened().as_flattened();
        sum.as_flattened_mut().as_flattened_mut().iter_mut().zip(numbers).for_each(|(sum, x)| *sum += x);
        sum
    });
    let sum = sum.unwrap_or_default();
    let row = |row: usize| sum.iter().flat_map(move |vectors| vectors[row]).take(inputs);
    ((0..rows).flat_map(row).collect(), dw)
}

/// A run of the columns of rows of `width` elements, from `first` on; rows that are missing are zero.
fn columns(precision: Precision, rows: &[f32], width: usize, first: usize) -> Vec<Column> {
    let mut columns = vec![[0.0; MOST]; RUN.min(width - first)];
    for (index, row) in rows.chunks_exact(width).enumerate() {
        columns.iter_mut().zip(&row[first..]).for_each(|(column, &x)| column[index] = precision.round(x));
    }
    columns
}

/// Rows of `width` elements as vectors; rows and elements that are missing are zero.
fn vectors(precision: Precision, rows: &[f32], width: usize) -> Vec<Vectors> {
    let mut vectors = vec![[[0.0; LANES]; MOST]; width.div_ceil(LANES)];
    for (index, row) in rows.chunks_exact(width).enumerate() {
        for (vectors, row) in vectors.iter_mut().zip(row.chunks(LANES)) {
            vectors[index].iter_mut().zip(row).for_each(|(to, &x)| *to = precision.round(x));
        }
    }
    vectors
}

/// A vector of up to 16 elements, rounded with `BF16`; elements that are missing are zero.
#[target_feature(enable = "avx512f,avx512bf16")]
fn load<const BF16: bool>(values: &[f32]) -> __m512 {
    let mask = u16::MAX >> LANES.saturating_sub(values.len());
    // SAFETY: elements behind the slice are masked off.
    let values = unsafe { _mm512_maskz_loadu_ps(mask, values.as_ptr()) };
    if !BF16 {
        return values;
    }
    // SAFETY: 32 bytes of plain data.
    let halves = unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(values)) };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
}

/// Adds what a run of the weight's rows gives to the input's gradient, where that is wanted.
#[target_feature(enable = "avx512f,avx512bf16")]
fn add_input_gradient<const BF16: bool>(dy: &[Column], weight: &[f32], inputs: usize, dx: &mut [Vectors]) {
    /// Rows of the weight for which sums stay in registers.
    const ABREAST: usize = 4;
    for (dy, weight) in dy.chunks(ABREAST).zip(weight.chunks(ABREAST * inputs)) {
        for (index, dx) in dx.iter_mut().enumerate() {
            let part = index * LANES..inputs.min((index + 1) * LANES);
            let mut sums = dx.each_ref().map(|dx| load::<false>(dx));
            for (dy, weight) in dy.iter().zip(weight.chunks_exact(inputs)) {
                let weight = load::<BF16>(&weight[part.clone()]);
                for (sum, dy) in sums.iter_mut().zip(dy) {
                    *sum = _mm512_fmadd_ps(_mm512_set1_ps(*dy), weight, *sum);
                }
            }
            for (dx, sum) in dx.iter_mut().zip(sums) {
                // SAFETY: a vector's place.
                unsafe { _mm512_storeu_ps(dx.as_mut_ptr(), sum) }
            }
        }
    }
}

/// Gradients of a run of the weight's rows, where they are wanted.
#[target_feature(enable = "avx512f,avx512bf16")]
fn weight_gradient_of_run(dy: &[Column], x: &[Vectors], inputs: usize, dw: &mut [f32]) {
    for (dy, dw) in dy.iter().zip(dw.chunks_exact_mut(inputs)) {
        for (x, dw) in x.iter().zip(dw.chunks_mut(LANES)) {
            let mut sum = _mm512_setzero_ps();
            for (x, dy) in x.iter().zip(dy) {
                sum = _mm512_fmadd_ps(_mm512_set1_ps(*dy), load::<false>(x), sum);
            }
            if dw.len() == LANES && dw.as_ptr().addr().is_multiple_of(64) {
                // Past the caches: it is read when all gradients are there.
                // SAFETY: an aligned vector's place.
                unsafe { _mm512_stream_ps(dw.as_mut_ptr(), sum) }
            } else {
                // SAFETY: elements behind the slice are masked off.
                unsafe { _mm512_mask_storeu_ps(dw.as_mut_ptr(), u16::MAX >> (LANES - dw.len()), sum) }
            }
        }
    }
    // What was streamed is there before another thread hears that the task is done.
    _mm_sfence();
}
