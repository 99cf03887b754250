//! The loops around the register tile: packing, cache blocks, threads.
//!
//! B is packed whole, in parallel. C is cut into blocks of rows × groups of a tile's columns, one Rayon
//! task each. A task packs its rows of A (they stay in L2) and sweeps them past one group of B's columns
//! after another, each in blocks of k.

use super::element::Element;
use super::epilogue::{LONGEST, Output, Put};
use super::format::{Format, Layout, with_format};
use super::kernel::{Ahead, Tile};
use super::matrix::{MatRef, Side};
use super::pack::{LANES, Lanes, Row, widened};
use rayon::prelude::*;
use std::arch::x86_64::*;
use std::cell::Cell;
use std::ops::Range;
use std::thread::LocalKey;

/// Rows of packed A that a task holds at a time, where its rows of C need no fewer: 1 MB, of L2's one or two.
const PACKED_ROWS: usize = 1 << 14;
/// Strips of B packed by one task.
const PACK_STRIPS: usize = 8;
/// Products with fewer multiplications than this run on one thread.
const PARALLEL_FROM: usize = 1 << 20;
/// Operands with fewer rows than this are packed by one thread.
const PACK_PARALLEL_FROM: usize = 1 << 11;

/// The product, B packed for this call. The machine has the layout's instruction set.
pub(super) fn multiply<A: Element, B: Element, C: Element>(
    layout: Layout,
    a: MatRef<'_, A>,
    b: MatRef<'_, B>,
    out: &Output<'_, C>,
) {
    let product = || {
        with_scratch(&SCRATCH_B, |rows| {
            pack_b(layout, b, rows);
            multiply_packed(layout, a, rows, out);
        });
    };
    if out.rows * out.cols * a.cols() < PARALLEL_FROM {
        product();
    } else {
        // Enters Rayon's pool once rather than for each of the two loops.
        rayon::scope(|_| product());
    }
}

/// The product with a right-hand side made by [`pack_b`] in the same layout.
pub(super) fn multiply_packed<A: Element, C: Element>(
    layout: Layout,
    a: MatRef<'_, A>,
    b: &[Row],
    out: &Output<'_, C>,
) {
    with_format!(layout, F => run::<F, A, C>(Lanes::new(Side::Left, a), b, out));
}

/// Packs a right-hand side, every strip over all of k.
pub(super) fn pack_b<B: Element>(layout: Layout, b: MatRef<'_, B>, to: &mut Vec<Row>) {
    with_format!(layout, F => pack_all::<F, B>(Lanes::new(Side::Right, b.t()), to));
}

fn pack_all<F: Format, B: Element>(b: Lanes<'_, B>, to: &mut Vec<Row>) {
    let steps = b.steps::<F>();
    to.resize(b.strips() * steps, Row::ZERO);
    if steps == 0 {
        return;
    }
    let pack = |(group, to): (usize, &mut [Row])| {
        // SAFETY: this module runs only where the instruction set was detected.
        unsafe { b.pack::<F>(group * PACK_STRIPS, 0..steps, to) }
    };
    if to.len() < PACK_PARALLEL_FROM {
        to.chunks_mut(PACK_STRIPS * steps).enumerate().for_each(pack);
    } else {
        to.par_chunks_mut(PACK_STRIPS * steps).enumerate().for_each(pack);
    }
}

/// How C is cut into tasks. Has no influence on the result.
struct Grid {
    rows: usize,
    cols: usize,
    row_blocks: usize,
    col_blocks: usize,
}

impl Grid {
    /// Halves the blocks, rows before columns, until there are a few for every thread.
    fn new<F: Format>(m: usize, n: usize, threads: usize) -> Self {
        let wanted = if threads == 1 { 1 } else { 2 * threads };
        let least = F::TILE_ROWS.max(LANES);
        let mut rows = F::BLOCK_ROWS.min(m.next_multiple_of(least));
        let mut cols = n.next_multiple_of(F::TILE_COLS);
        while m.div_ceil(rows) * n.div_ceil(cols) < wanted {
            if rows > F::LEAST_ROWS {
                rows = (rows / 2).next_multiple_of(least);
            } else if cols > F::TILE_COLS {
                cols = (cols / 2).next_multiple_of(F::TILE_COLS);
            } else if rows > least {
                rows = (rows / 2).next_multiple_of(least);
            } else {
                break;
            }
        }
        let col_blocks = n.div_ceil(cols);
        // Of blocks not much lower than that, those with which the last thread is done first.
        let last_done = |rows: usize| (m.div_ceil(rows) * col_blocks).div_ceil(threads) * rows;
        let candidates = (rows / 2 / least..rows / least).map(|tiles| (tiles + 1) * least);
        let rows = candidates.rev().min_by_key(|&rows| last_done(rows)).unwrap_or(rows);
        Self { rows, cols, row_blocks: m.div_ceil(rows), col_blocks }
    }
}

fn run<F: Format, A: Element, C: Element>(a: Lanes<'_, A>, b: &[Row], out: &Output<'_, C>) {
    let (m, n, steps) = (out.rows, out.cols, a.steps::<F>());
    if m == 0 || n == 0 {
        return;
    }
    assert_eq!(b.len(), n.div_ceil(LANES) * steps, "a right-hand side packed in another layout");
    let threads = if m * n * steps < PARALLEL_FROM { 1 } else { rayon::current_num_threads() };
    let grid = Grid::new::<F>(m, n, threads);
    let task = |i: usize| {
        let (row, col) = (i / grid.col_blocks * grid.rows, i % grid.col_blocks * grid.cols);
        let block = Block { row, rows: grid.rows.min(m - row), col, cols: grid.cols.min(n - col), steps };
        // SAFETY: blocks do not overlap, and this module runs only where the instruction set was
        // detected.
        unsafe { block.run::<F, A, C>(a, b, out) }
    };
    let tasks = grid.row_blocks * grid.col_blocks;
    match threads {
        1 => (0..tasks).for_each(task),
        _ => (0..tasks).into_par_iter().with_max_len(1).for_each(task),
    }
}

/// A register tile's sums, where they do not go to C at once.
#[repr(align(64))]
struct Sums([f32; Sums::LEN]);

impl Sums {
    const LEN: usize = 1024;
}

/// One task's part of C; `row` is a multiple of 16, `col` of a tile's columns.
struct Block {
    row: usize,
    rows: usize,
    col: usize,
    cols: usize,
    /// Steps in all of k.
    steps: usize,
}

impl Block {
    /// # Safety
    /// The block is inside `out`, nobody else writes there, and the machine has the format's instruction set.
    unsafe fn run<F: Format, A: Element, C: Element>(&self, a: Lanes<'_, A>, b: &[Row], out: &Output<'_, C>) {
        let k_blocks = self.steps.div_ceil(F::BLOCK_STEPS).max(1);
        let per_block = self.steps.div_ceil(k_blocks).next_multiple_of(F::STEP_GROUP);
        let strips = self.rows.div_ceil(LANES);
        // Sums that cannot wait in C wait for one pass over all of k, however much of L2 that takes.
        let packable = if C::HALF { k_blocks } else { (PACKED_ROWS / (strips * per_block).max(1)).max(1) };
        with_scratch(&SCRATCH_A, |packed| {
            for first in (0..k_blocks).step_by(packable) {
                let blocks = first..k_blocks.min(first + packable);
                let steps = blocks.start * per_block..self.steps.min(blocks.end * per_block);
                packed.resize(strips * steps.len(), Row::ZERO);
                // SAFETY: as the caller promises.
                unsafe {
                    a.pack::<F>(self.row / LANES, steps.clone(), packed);
                    F::begin();
                    self.sweep::<F, C>(packed, b, steps, per_block, out);
                    F::end();
                    // What was streamed is there before another thread hears that the task is done.
                    _mm_sfence();
                }
            }
        });
    }

    /// Multiplies the packed range of k into every tile of the block, a group of columns after another; a group's part
    /// of C stays in L1 from one block of k to the next. The end of k also finishes C.
    ///
    /// # Safety
    /// As [`Block::run`], between the format's beginning and end; `a` holds the block's rows for `range`, which begins
    /// with a block of k.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn sweep<F: Format, C: Element>(
        &self,
        a: &[Row],
        b: &[Row],
        range: Range<usize>,
        per_block: usize,
        out: &Output<'_, C>,
    ) {
        const { assert!(F::TILE_ROWS * F::TILE_COLS <= Sums::LEN && F::TILE_COLS <= LONGEST) }
        let mut sums = Sums([0.0; Sums::LEN]);
        let in_parts = C::HALF && per_block < range.len();
        let part_rows = self.rows.next_multiple_of(F::TILE_ROWS);
        let mut parts = vec![0.0; if in_parts { part_rows * F::TILE_COLS } else { 0 }];
        for col in (self.col..self.col + self.cols).step_by(F::TILE_COLS) {
            let cols = F::TILE_COLS.min(self.col + self.cols - col);
            let right = &b[col / LANES * self.steps..(col + cols).div_ceil(LANES) * self.steps];
            let mut first = range.start;
            loop {
                let steps = per_block.min(range.end - first);
                let last = first + steps == self.steps;
                let finishes = last && !out.takes_sums();
                let accumulate = out.accumulate || first > 0;
                for row in (0..self.rows).step_by(F::TILE_ROWS) {
                    let rows = F::TILE_ROWS.min(self.rows - row);
                    let left = &a[row / LANES * range.len()..(row + rows).div_ceil(LANES) * range.len()];
                    let sums = match in_parts {
                        true => &mut parts[row * F::TILE_COLS..][..F::TILE_ROWS * F::TILE_COLS],
                        false => &mut sums.0[..],
                    };
                    // SAFETY: both were sliced to the strips that the tile reads, which hold the steps; the tile is
                    // inside the block, which belongs to this task.
                    unsafe {
                        let (c, c_stride) = match finishes || C::HALF {
                            true => (sums.as_mut_ptr(), F::TILE_COLS),
                            false => (out.at(self.row + row, col).cast(), out.row_stride),
                        };
                        let ahead = match finishes && out.awaits_c() {
                            true => Ahead::new(out.at(self.row + row, col), rows, out.row_stride),
                            false => Ahead::new(c, rows, c_stride),
                        };
                        F::compute(Tile {
                            a: left
                                .as_ptr()
                                .wrapping_add(first - range.start)
                                .cast::<u32>()
                                .wrapping_add(row % LANES),
                            a_stride: range.len(),
                            b: right.as_ptr().wrapping_add(first),
                            b_stride: self.steps,
                            steps,
                            c,
                            c_stride,
                            rows,
                            cols,
                            accumulate: accumulate && (in_parts || !finishes),
                            bias: if last { out.bias(col) } else { None },
                            ahead,
                        });
                        if finishes {
                            let row = self.row + row;
                            let (rows, cols) = (row..row + rows, col..col + cols);
                            let accumulate = accumulate && !in_parts;
                            out.finish::<true>(rows, cols, sums, F::TILE_COLS, accumulate, &Stores);
                        }
                    }
                }
                first += steps;
                if first >= range.end {
                    break;
                }
            }
        }
    }
}

/// Stores of whole vectors; past the caches where that helps. Other threads see it after a store fence.
struct Stores;

impl Put for Stores {
    #[inline(always)]
    fn put<T: Element>(&self, from: &[f32], to: &mut [T], away: bool) {
        // SAFETY: this module runs only where the instruction set was detected.
        unsafe {
            match T::HALF {
                true => round(from, to, away),
                false => store(from, to, away),
            }
        }
    }

    #[inline(always)]
    fn multiply<T: Element>(&self, numbers: &mut [f32], by: &[T]) {
        // SAFETY: as above.
        unsafe { multiply_by(numbers, by) }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store<T: Element>(from: &[f32], to: &mut [T], away: bool) {
    assert!(!T::HALF && from.len() == to.len());
    // SAFETY: numbers of 32 bits are f32.
    let to = unsafe { std::slice::from_raw_parts_mut(to.as_mut_ptr().cast::<f32>(), to.len()) };
    if !(away && to.as_ptr().addr().is_multiple_of(64) && from.len().is_multiple_of(LANES)) {
        return to.copy_from_slice(from);
    }
    for (from, to) in from.as_chunks::<LANES>().0.iter().zip(to.as_chunks_mut::<LANES>().0) {
        // SAFETY: both hold a vector; the second is aligned.
        unsafe { _mm512_stream_ps(to.as_mut_ptr(), _mm512_loadu_ps(from.as_ptr())) }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn multiply_by<T: Element>(numbers: &mut [f32], by: &[T]) {
    assert_eq!(numbers.len(), by.len());
    for (numbers, by) in numbers.chunks_mut(LANES).zip(by.chunks(LANES)) {
        let mask = u16::MAX >> (LANES - numbers.len());
        // SAFETY: elements behind the slices are masked off; numbers of 16 bits are bf16, others f32.
        unsafe {
            let by = match T::HALF {
                true => widened(_mm256_maskz_loadu_epi16(mask, by.as_ptr().cast())),
                false => _mm512_maskz_loadu_ps(mask, by.as_ptr().cast()),
            };
            let product = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, numbers.as_ptr()), by);
            _mm512_mask_storeu_ps(numbers.as_mut_ptr(), mask, product);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn round<T: Element>(from: &[f32], to: &mut [T], away: bool) {
    assert!(T::HALF && from.len() == to.len());
    let away = away && to.as_ptr().addr().is_multiple_of(64);
    for (from, to) in from.chunks(2 * LANES).zip(to.chunks_mut(2 * LANES)) {
        let mask = u32::MAX >> (2 * LANES - from.len());
        // SAFETY: elements behind the slices are masked off; numbers of 16 bits are bf16, and 64 bytes plain data.
        unsafe {
            let low = _mm512_maskz_loadu_ps(mask as u16, from.as_ptr());
            let high = _mm512_maskz_loadu_ps((mask >> LANES) as u16, from.as_ptr().wrapping_add(LANES));
            let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            match away && mask == u32::MAX {
                true => _mm512_stream_si512(to.as_mut_ptr().cast(), halves),
                false => _mm512_mask_storeu_epi16(to.as_mut_ptr().cast(), mask, halves),
            }
        }
    }
}

// Buffers that a thread keeps between calls, so that their pages are faulted in once.
thread_local! {
    static SCRATCH_A: Cell<Vec<Row>> = const { Cell::new(Vec::new()) };
    static SCRATCH_B: Cell<Vec<Row>> = const { Cell::new(Vec::new()) };
}

/// Lends out a buffer; while it is lent, a nested call (a stolen task) gets a fresh one.
fn with_scratch<R>(buffer: &'static LocalKey<Cell<Vec<Row>>>, f: impl FnOnce(&mut Vec<Row>) -> R) -> R {
    let mut rows = buffer.take();
    let result = f(&mut rows);
    buffer.set(rows);
    result
}
