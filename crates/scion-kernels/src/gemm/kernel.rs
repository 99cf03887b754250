//! The register tile: 8 rows × up to 48 columns of C, summed over a range of steps.

use super::pack::{LANES, Row};
use std::arch::x86_64::*;

/// Rows of C in a tile: half a strip of A.
pub(super) const ROWS: usize = 8;
/// Strips of B in a full tile.
pub(super) const STRIPS: usize = 3;

/// Where a tile's operands and result are.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// First step of a strip of A, displaced to the tile's first lane.
    pub(super) a: *const u32,
    /// Rows from one strip of A to the next, where a tile has several.
    pub(super) a_stride: usize,
    /// First step of the first strip of B.
    pub(super) b: *const Row,
    /// Rows from one strip of B to the next.
    pub(super) b_stride: usize,
    pub(super) steps: usize,
    pub(super) c: *mut f32,
    pub(super) c_stride: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Add to C rather than replace it.
    pub(super) accumulate: bool,
    /// A number for each column, added to the result.
    pub(super) bias: Option<&'a [f32]>,
    /// What will be needed once the products are summed.
    pub(super) ahead: Ahead,
}

/// Where a tile's rows will be stored in the end, as far as that is worth preparing. A kernel may ask for their cache lines while it computes. The assembly of `amx` finds the
/// fields by their offsets.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Ahead {
    first: *const f32,
    /// Bytes from a row to the next.
    stride: usize,
    /// The last row from which [`Self::ROWS`] are left.
    last: *const f32,
}

impl Ahead {
    /// Rows asked for at a time.
    const ROWS: usize = 3;

    /// The rows of a tile, `stride` numbers apart, from the address of its first element in C on.
    pub(super) fn new<C>(first: *const C, rows: usize, stride: usize) -> Self {
        let last = first.wrapping_add(rows.saturating_sub(Self::ROWS) * stride);
        Self { first: first.cast(), stride: stride * size_of::<C>(), last: last.cast() }
    }

    /// Asks for all rows of a tile of `N` strips.
    fn ask<const N: usize>(&self) {
        for row in 0..ROWS {
            for strip in 0..N {
                let address = self.first.wrapping_byte_add(row * self.stride + strip * size_of::<Row>());
                // SAFETY: a hint; it may name any address.
                unsafe { _mm_prefetch::<_MM_HINT_ET0>(address.cast()) }
            }
        }
    }
}

/// Computes a tile of at most [`ROWS`] rows and [`STRIPS`] · 16 columns, neither zero.
///
/// # Safety
/// `a` and every strip of `b` the columns need hold `steps` steps; `c` is valid for the rows and
/// columns, and nobody else uses them.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn compute<const BF16: bool>(tile: Tile<'_>) {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match tile.cols.div_ceil(LANES) {
            1 => compute_strips::<BF16, 1>(tile),
            2 => compute_strips::<BF16, 2>(tile),
            _ => compute_strips::<BF16, 3>(tile),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn compute_strips<const BF16: bool, const N: usize>(tile: Tile<'_>) {
    tile.ahead.ask::<N>();
    let mut sums = [[_mm512_setzero_ps(); N]; ROWS];
    let (mut a, mut b) = (tile.a, tile.b);
    for _ in 0..tile.steps {
        let mut columns = [_mm512_setzero_si512(); N];
        for (strip, column) in columns.iter_mut().enumerate() {
            // SAFETY: the caller promises `steps` rows in each strip.
            *column = unsafe { _mm512_load_si512(b.add(strip * tile.b_stride).cast()) };
        }
        for (lane, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above; a tile's lanes are within the strip's row.
            let value = _mm512_set1_epi32(unsafe { *a.add(lane) }.cast_signed());
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = multiply_add::<BF16>(*sum, value, column);
            }
        }
        a = a.wrapping_add(LANES);
        b = b.wrapping_add(1);
    }
    let last = u16::MAX >> (N * LANES - tile.cols);
    let mask = |strip| if strip + 1 == N { last } else { u16::MAX };
    if let Some(bias) = tile.bias {
        assert!(bias.len() >= tile.cols);
        for strip in 0..N {
            // SAFETY: the bias was checked to have the tile's columns; others are masked off.
            let bias = unsafe { _mm512_maskz_loadu_ps(mask(strip), bias.as_ptr().add(strip * LANES)) };
            sums.iter_mut().for_each(|sums| sums[strip] = _mm512_add_ps(sums[strip], bias));
        }
    }
    for (row, sums) in sums.iter().enumerate().take(tile.rows) {
        for (strip, &sum) in sums.iter().enumerate() {
            // SAFETY: the caller promises the tile's part of C; masked-off columns are not accessed.
            unsafe {
                let c = tile.c.add(row * tile.c_stride + strip * LANES);
                let sum = match tile.accumulate {
                    true => _mm512_add_ps(_mm512_maskz_loadu_ps(mask(strip), c), sum),
                    false => sum,
                };
                _mm512_mask_storeu_ps(c, mask(strip), sum);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn multiply_add<const BF16: bool>(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
    if BF16 {
        // SAFETY: 64 bytes of plain data, read as the bf16 pairs they were packed as.
        let bf16 = |words| unsafe { std::mem::transmute::<__m512i, __m512bh>(words) };
        _mm512_dpbf16_ps(sum, bf16(a), bf16(b))
    } else {
        _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum)
    }
}
