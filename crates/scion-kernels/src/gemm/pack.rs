//! The layout both operands of the AVX-512 kernels are copied to.
//!
//! A *strip* holds 16 lanes (rows of A, columns of B) of an operand for a range of k. A strip is a
//! run of [`Row`]s, one per *step*: 16 f32 of one k, or 16 pairs of bf16 of two neighbouring k, as the
//! [`Format`] says. Missing lanes and missing values of k are zeros.

use super::element::Element;
use super::format::Format;
use super::matrix::{MatRef, Side};
use std::arch::x86_64::*;
use std::ops::Range;

/// Lanes of a strip.
pub(super) const LANES: usize = 16;

/// One step of a strip: a cache line, and a vector register.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct Row(pub(super) [u32; LANES]);

impl Row {
    pub(super) const ZERO: Self = Row([0; LANES]);
}

/// An operand seen as lanes × k.
#[derive(Clone, Copy)]
pub(super) struct Lanes<'a, T = f32> {
    data: &'a [T],
    stride: usize,
    lanes: usize,
    k: usize,
    /// Whether neighbours in k are adjacent in memory, rather than neighbouring lanes.
    k_adjacent: bool,
    side: Side,
}

impl<'a, T: Element> Lanes<'a, T> {
    /// A left-hand side, whose rows are the lanes, or the transpose of a right-hand side.
    pub(super) fn new(side: Side, lanes: MatRef<'a, T>) -> Self {
        let (data, stride) = (lanes.data, lanes.row_stride);
        Self { data, stride, lanes: lanes.rows(), k: lanes.cols(), k_adjacent: !lanes.transposed, side }
    }

    pub(super) fn strips(&self) -> usize {
        self.lanes.div_ceil(LANES)
    }

    pub(super) fn steps<F: Format>(&self) -> usize {
        (self.k.div_ceil(F::K_PER_STEP) * F::PARTS).next_multiple_of(F::STEP_GROUP)
    }

    /// Whether groups of 16 steps are stored lane by lane.
    fn by_lane<F: Format>(&self) -> bool {
        F::LEFT_BY_LANE && self.side == Side::Left
    }

    /// Packs `steps` of the strips that `to` has room for, beginning with `first`; a strip's rows
    /// are contiguous in `to`.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) fn pack<F: Format>(&self, first: usize, steps: Range<usize>, to: &mut [Row]) {
        if steps.is_empty() {
            return;
        }
        if self.k_adjacent {
            for (i, strip) in to.chunks_exact_mut(steps.len()).enumerate() {
                self.pack_transposing::<F>(first + i, steps.clone(), strip);
            }
        } else {
            for (i, strips) in to.chunks_mut(ABREAST * steps.len()).enumerate() {
                self.pack_in_order::<F>(first + i * ABREAST, steps.clone(), strips);
            }
        }
    }

    /// k adjacent in memory: loads 16 lanes × 16 steps and transposes them.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn pack_transposing<F: Format>(&self, strip: usize, steps: Range<usize>, to: &mut [Row]) {
        let first = strip * LANES;
        let lanes = (self.lanes - first).min(LANES);
        let width = 16 * F::K_PER_STEP;
        let mut k = steps.start / F::PARTS * F::K_PER_STEP;
        let whole = to.len() / (16 * F::PARTS) * (16 * F::PARTS);
        let (blocks, rest) = to.split_at_mut(whole);
        for block in blocks.chunks_exact_mut(16 * F::PARTS) {
            if lanes == LANES && k + width <= self.k {
                self.transposed::<F>(first, k, block);
            } else {
                self.transposed_edge::<F>(first, lanes, k, block);
            }
            k += width;
        }
        if !rest.is_empty() {
            let mut block = [Row::ZERO; 16];
            self.transposed_edge::<F>(first, lanes, k, &mut block);
            rest.copy_from_slice(&block[..rest.len()]);
        }
    }

    /// 16 whole lanes of the steps from `k` on that fill `to`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn transposed<F: Format>(&self, first: usize, k: usize, to: &mut [Row]) {
        let width = 16 * F::K_PER_STEP;
        let start = first * self.stride + k;
        for lane in 0..LANES {
            let from = &self.data[start + lane * self.stride..][..width];
            // The same steps of the next 16 lanes, which are packed next.
            prefetch(from, LANES * self.stride);
            if F::BF16 && !T::HALF {
                prefetch(&from[LANES..], LANES * self.stride);
            }
            put_lane(lane, neighbours::<F, T>(from, width), to);
        }
        self.turn::<F>(to);
    }

    /// A block of 16 steps from `k` on that lacks lanes or goes beyond the end of k.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn transposed_edge<F: Format>(&self, first: usize, lanes: usize, k: usize, to: &mut [Row]) {
        to.fill(Row::ZERO);
        for lane in 0..lanes {
            let start = (first + lane) * self.stride;
            let from = &self.data[start + k.min(self.k)..start + self.k];
            put_lane(lane, neighbours::<F, T>(from, from.len()), to);
        }
        self.turn::<F>(to);
    }

    /// From groups of 16 lanes to groups of 16 steps, where the format wants those.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn turn<F: Format>(&self, groups: &mut [Row]) {
        if !self.by_lane::<F>() {
            transpose_all(groups);
        }
    }

    /// Lanes adjacent in memory: each step reads one or two runs that cross the strips.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn pack_in_order<F: Format>(&self, first: usize, steps: Range<usize>, to: &mut [Row]) {
        let len = steps.len();
        let group_len = 16 * F::PARTS;
        let lane0 = first * LANES;
        let lanes = (to.len() / len * LANES).min(self.lanes - lane0);
        for group in (0..len).step_by(group_len) {
            let k = (steps.start + group) / F::PARTS * F::K_PER_STEP;
            for step in 0..(len - group).min(group_len) / F::PARTS {
                self.pack_step::<F>(
                    k + step * F::K_PER_STEP,
                    lane0..lane0 + lanes,
                    &mut to[group + step..],
                    len,
                );
            }
            if self.by_lane::<F>() {
                to.chunks_exact_mut(len).for_each(|strip| transpose_all(&mut strip[group..][..group_len]));
            }
        }
    }

    /// One step of some lanes, that of value `k`; strips are `len` rows apart, parts of a number 16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn pack_step<F: Format>(&self, k: usize, lanes: Range<usize>, to: &mut [Row], len: usize) {
        if k >= self.k {
            for strip in to.chunks_mut(len) {
                (0..F::PARTS).for_each(|part| strip[part * 16] = Row::ZERO);
            }
            return;
        }
        let row = |k: usize| &self.data[k * self.stride + lanes.start..][..lanes.len()];
        let even = row(k);
        let odd = if F::BF16 && k + 1 < self.k { row(k + 1) } else { even };
        // A last k without a partner is paired with zeros.
        let partner = F::BF16 && k + 1 < self.k;
        let interleave = interleaving();
        let mut put = |strip: usize, even: &[T], odd: &[T], count: usize| {
            let numbers = pairs::<F, T>(even, odd, count, if partner { count } else { 0 });
            for (part, numbers) in numbers.into_iter().enumerate().take(F::PARTS) {
                let numbers = if F::BF16 { _mm512_permutexvar_epi16(interleave, numbers) } else { numbers };
                store(&mut to[strip * len + part * 16], numbers);
            }
        };
        let ahead = AHEAD * self.stride;
        let ((even, even_rest), (odd, odd_rest)) = (even.as_chunks::<LANES>(), odd.as_chunks::<LANES>());
        for (strip, (even, odd)) in even.iter().zip(odd).enumerate() {
            prefetch(even, ahead);
            prefetch(odd, ahead);
            put(strip, even, odd, LANES);
        }
        if !even_rest.is_empty() {
            put(even.len(), even_rest, odd_rest, even_rest.len());
        }
    }
}

/// Puts what stands for 16 steps of a lane in its place among the lanes of each part.
#[inline]
#[target_feature(enable = "avx512f")]
fn put_lane(lane: usize, numbers: [__m512i; 3], to: &mut [Row]) {
    for (to, numbers) in to.as_chunks_mut::<16>().0.iter_mut().zip(numbers) {
        store(&mut to[lane], numbers);
    }
}

/// Transposes groups of 16 rows, each on its own.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_all(groups: &mut [Row]) {
    for group in groups.as_chunks_mut::<16>().0 {
        let rows = group.map(|row| load_row(&row));
        transpose(rows, group);
    }
}

/// What stands for the first `count` of some neighbouring numbers, as many as a format takes in 16 steps at most; the others
/// are zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn neighbours<F: Format, T: Element>(from: &[T], count: usize) -> [__m512i; 3] {
    if T::HALF {
        of_halves::<F>(load_halves(from, count))
    } else {
        let high = &from[count.min(LANES).min(from.len())..];
        of_floats::<F>(load(from, count), load(high, count.saturating_sub(LANES)))
    }
}

/// What stands for the first `count` of up to 16 numbers, and of a second such run, which formats of one k in a step ignore,
/// for the first `partners`; the others are zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pairs<F: Format, T: Element>(even: &[T], odd: &[T], count: usize, partners: usize) -> [__m512i; 3] {
    if T::HALF {
        let odd = _mm512_castsi512_si256(load_halves(odd, partners));
        of_halves::<F>(_mm512_inserti64x4::<1>(load_halves(even, count), odd))
    } else {
        of_floats::<F>(load(even, count), load(odd, partners))
    }
}

/// What stands for 16 or 32 floats in a format: for each part of a number, the 16 of `low`, or as bf16 those of `low` and
/// `high`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn of_floats<F: Format>(low: __m512, high: __m512) -> [__m512i; 3] {
    let none = _mm512_setzero_si512();
    match F::PARTS {
        3 => thirds(low, high),
        _ if F::BF16 => [bf16_pair(low, high), none, none],
        _ => [_mm512_castps_si512(low), none, none],
    }
}

/// [`of_floats`] for bf16 numbers, which are the first of their thirds.
#[inline]
#[target_feature(enable = "avx512f")]
fn of_halves<F: Format>(halves: __m512i) -> [__m512i; 3] {
    let none = _mm512_setzero_si512();
    match F::BF16 {
        true => [halves, none, none],
        false => [_mm512_castps_si512(widened(_mm512_castsi512_si256(halves))), none, none],
    }
}

/// Three bf16 numbers for each of 32 floats, of which each is the sum; each third is what the ones before it leave, rounded
/// to nearest.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn thirds(low: __m512, high: __m512) -> [__m512i; 3] {
    // Rounding a larger number would give infinity; what is left of it here is small.
    let largest = _mm512_set1_ps(f32::from_bits(0x7f7f_0000));
    let within = |x| _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), largest), _mm512_min_ps(largest, x));
    let first = bf16_pair(within(low), within(high));
    let (low, high) = less(low, high, first);
    let second = bf16_pair(low, high);
    let (low, high) = less(low, high, second);
    [first, second, bf16_pair(low, high)]
}

/// 32 floats less what was rounded of them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn less(low: __m512, high: __m512, rounded: __m512i) -> (__m512, __m512) {
    let (first, second) = (_mm512_castsi512_si256(rounded), _mm512_extracti64x4_epi64::<1>(rounded));
    (_mm512_sub_ps(low, widened(first)), _mm512_sub_ps(high, widened(second)))
}

/// 16 bf16 numbers as floats.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn widened(halves: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
}

/// Strips that are packed in one go where lanes are adjacent. Their lines often lie in one set of the cache, whose ways more
/// would exceed.
const ABREAST: usize = 4;
/// Values of k by which reads of adjacent lanes are announced: the hardware does not foresee strides.
const AHEAD: usize = 8;

/// Asks for the cache line some numbers behind `from`, wherever that is.
#[inline]
fn prefetch<T>(from: &[T], distance: usize) {
    // SAFETY: a hint; it may name any address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(from.as_ptr().wrapping_add(distance).cast()) }
}

/// The first `count` (at most 16 are read) floats of a slice, then zeros.
#[inline]
#[target_feature(enable = "avx512f")]
fn load<T: Element>(from: &[T], count: usize) -> __m512 {
    assert!(!T::HALF && from.len() >= count.min(16));
    let mask = if count >= 16 { u16::MAX } else { (1 << count) - 1 };
    // SAFETY: masked-off lanes are not accessed, and the rest were checked to be in the slice, and of 32 bits.
    unsafe { _mm512_maskz_loadu_ps(mask, from.as_ptr().cast()) }
}

/// The first `count` (at most 32 are read) bf16 numbers of a slice, then zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_halves<T: Element>(from: &[T], count: usize) -> __m512i {
    assert!(T::HALF && from.len() >= count.min(32));
    let mask = if count >= 32 { u32::MAX } else { (1 << count) - 1 };
    // SAFETY: masked-off lanes are not accessed, and the rest were checked to be in the slice, and of 16 bits.
    unsafe { _mm512_maskz_loadu_epi16(mask, from.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn load_row(from: &Row) -> __m512i {
    // SAFETY: a `Row` is 64 aligned bytes.
    unsafe { _mm512_load_si512(std::ptr::from_ref(from).cast()) }
}

#[target_feature(enable = "avx512f")]
fn store(to: &mut Row, vector: __m512i) {
    // SAFETY: a `Row` is 64 aligned bytes.
    unsafe { _mm512_store_si512(std::ptr::from_mut(to).cast(), vector) }
}

/// 32 floats rounded to bf16, `low` in the low half.
#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16_pair(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 64 bytes of plain data.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// The permutation of 16-bit lanes that interleaves the two halves of a vector.
#[target_feature(enable = "avx512f")]
fn interleaving() -> __m512i {
    let low = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    let high = _mm512_add_epi32(low, _mm512_set1_epi32(16));
    _mm512_or_si512(low, _mm512_slli_epi32::<16>(high))
}

/// Transposes 16 × 16 words: 2 × 2 and 4 × 4 inside 128-bit lanes, then the lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; 16], columns: &mut [Row; 16]) {
    let mut pairs = rows;
    for i in (0..16).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    let mut quads = pairs;
    for i in (0..16).step_by(4) {
        for j in 0..2 {
            quads[i + 2 * j] = _mm512_unpacklo_epi64(pairs[i + j], pairs[i + j + 2]);
            quads[i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[i + j], pairs[i + j + 2]);
        }
    }
    // quads[4 g + c], 128-bit lane l: word 4 l + c of rows 4 g to 4 g + 3.
    for c in 0..4 {
        let [p, q, r, s] = [quads[c], quads[4 + c], quads[8 + c], quads[12 + c]];
        let (pq_even, pq_odd) = (_mm512_shuffle_i32x4::<EVEN>(p, q), _mm512_shuffle_i32x4::<ODD>(p, q));
        let (rs_even, rs_odd) = (_mm512_shuffle_i32x4::<EVEN>(r, s), _mm512_shuffle_i32x4::<ODD>(r, s));
        store(&mut columns[c], _mm512_shuffle_i32x4::<EVEN>(pq_even, rs_even));
        store(&mut columns[c + 4], _mm512_shuffle_i32x4::<EVEN>(pq_odd, rs_odd));
        store(&mut columns[c + 8], _mm512_shuffle_i32x4::<ODD>(pq_even, rs_even));
        store(&mut columns[c + 12], _mm512_shuffle_i32x4::<ODD>(pq_odd, rs_odd));
    }
}

/// Selects the even 128-bit lanes of two vectors.
const EVEN: i32 = 0b10_00_10_00;
/// Selects the odd 128-bit lanes of two vectors.
const ODD: i32 = 0b11_01_11_01;
