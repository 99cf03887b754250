//! The ways in which operands are laid out for the AVX-512 kernels, each with its register tile.

use super::isa::Isa;
use super::kernel::{self, Tile};
use super::matrix::Precision;
use super::{amx, pack::LANES};

/// A layout of packed operands and the kernel that multiplies it.
pub(super) trait Format {
    /// Whether a step holds pairs of bf16 numbers rather than f32 numbers.
    const BF16: bool;
    /// Steps of a strip come in multiples of this.
    const STEP_GROUP: usize;
    /// Whether groups of 16 steps of a left-hand side are stored lane by lane, rather than step by step.
    const LEFT_BY_LANE: bool;
    /// Rows of C in a register tile: a part of a strip, or whole strips.
    const TILE_ROWS: usize;
    /// Strips of B, 16 columns of C each, in a register tile.
    const TILE_STRIPS: usize;
    /// Columns of C in a register tile.
    const TILE_COLS: usize = Self::TILE_STRIPS * LANES;
    /// Longest block of k, in steps, found by trial. Shorter blocks, whose columns of B fit L1, gain less than the
    /// additional passes over C cost.
    const BLOCK_STEPS: usize;
    /// Most rows of C in a task: as many rows of A should fit L2.
    const BLOCK_ROWS: usize;
    /// Fewest rows of C in a task where columns can be cut instead, since every task over columns packs its rows of A
    /// again.
    const LEAST_ROWS: usize = 64;
    /// Values of k in one step.
    const K_PER_STEP: usize = if Self::BF16 { 2 } else { 1 };
    /// Numbers that stand for one of an operand. Where there are several, groups of 16 steps follow each other that hold
    /// the first, second … of the same values.
    const PARTS: usize = 1;

    /// Prepares this thread for [`Self::compute`].
    ///
    /// # Safety
    /// The machine has the format's instruction set.
    unsafe fn begin() {}

    /// Ends what [`Self::begin`] began.
    ///
    /// # Safety
    /// As [`Self::begin`].
    unsafe fn end() {}

    /// Computes a tile of at most [`Self::TILE_ROWS`] rows and [`Self::TILE_COLS`] columns, neither zero.
    ///
    /// # Safety
    /// Between [`Self::begin`] and [`Self::end`]. The strips that the rows and columns need hold `steps` steps, a
    /// multiple of [`Self::STEP_GROUP`]; `c` is valid for the rows and columns, and nobody else uses them.
    unsafe fn compute(tile: Tile<'_>);
}

/// A step holds one k of 16 lanes in f32.
pub(super) struct F32;
/// A step holds two neighbouring k of 16 lanes in bf16, a lane's pair adjacent as the dot-product instruction wants it.
pub(super) struct Pairs;
/// [`Pairs`] for matrix registers: 16 steps of a right-hand side are one; of a left-hand side too, once transposed.
pub(super) struct Tiles;
/// [`Tiles`] of f32 numbers, each as the sum of three bf16 numbers: f32 products on matrix registers.
///
/// The sum is exact (3 · 8 bits), and of the nine products of two such sums the six largest are computed. The others
/// are together at most 2⁻²⁴ of the product, as much as rounding it to f32 loses (Henry, Tang & Heinecke 2019, "Leveraging
/// the bfloat16 artificial intelligence datatype for higher-precision computations"). Below 2⁻¹⁰⁹ the smallest of the
/// three, below 2⁻¹²⁶ the number itself counts as zero; infinities become NaN.
pub(super) struct Thirds;

impl Format for F32 {
    const BF16: bool = false;
    const STEP_GROUP: usize = 1;
    const LEFT_BY_LANE: bool = false;
    const TILE_ROWS: usize = kernel::ROWS;
    const TILE_STRIPS: usize = kernel::STRIPS;
    const BLOCK_STEPS: usize = 256;
    const BLOCK_ROWS: usize = 128;

    unsafe fn compute(tile: Tile<'_>) {
        // SAFETY: the caller's promise, passed on.
        unsafe { kernel::compute::<false>(tile) }
    }
}

impl Format for Pairs {
    const BF16: bool = true;
    const STEP_GROUP: usize = 1;
    const LEFT_BY_LANE: bool = false;
    const TILE_ROWS: usize = kernel::ROWS;
    const TILE_STRIPS: usize = kernel::STRIPS;
    const BLOCK_STEPS: usize = 256;
    const BLOCK_ROWS: usize = 128;

    unsafe fn compute(tile: Tile<'_>) {
        // SAFETY: the caller's promise, passed on.
        unsafe { kernel::compute::<true>(tile) }
    }
}

impl Format for Tiles {
    const BF16: bool = true;
    const STEP_GROUP: usize = amx::STEPS;
    const LEFT_BY_LANE: bool = true;
    const TILE_ROWS: usize = 2 * LANES;
    const TILE_STRIPS: usize = 2;
    const BLOCK_STEPS: usize = 1024;
    const BLOCK_ROWS: usize = 256;
    const LEAST_ROWS: usize = 128;

    unsafe fn begin() {
        // SAFETY: the caller's promise, passed on.
        unsafe { amx::begin() }
    }

    unsafe fn end() {
        // SAFETY: the caller's promise, passed on.
        unsafe { amx::end() }
    }

    unsafe fn compute(tile: Tile<'_>) {
        // SAFETY: the caller's promise, passed on.
        unsafe { amx::compute::<false>(tile) }
    }
}

impl Format for Thirds {
    const BF16: bool = true;
    const STEP_GROUP: usize = Self::PARTS * amx::STEPS;
    const LEFT_BY_LANE: bool = true;
    const TILE_ROWS: usize = 2 * LANES;
    const TILE_STRIPS: usize = 2;
    const BLOCK_STEPS: usize = 1152;
    const BLOCK_ROWS: usize = 256;
    const LEAST_ROWS: usize = 128;
    const PARTS: usize = 3;

    unsafe fn begin() {
        // SAFETY: the caller's promise, passed on.
        unsafe { amx::begin() }
    }

    unsafe fn end() {
        // SAFETY: the caller's promise, passed on.
        unsafe { amx::end() }
    }

    unsafe fn compute(tile: Tile<'_>) {
        // SAFETY: the caller's promise, passed on.
        unsafe { amx::compute::<true>(tile) }
    }
}

/// A [`Format`], chosen at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    F32,
    Pairs,
    Tiles,
    Thirds,
}

impl Layout {
    /// The layout for a precision on an instruction set; none where the module's own kernels do not run.
    pub(super) fn new(isa: Isa, precision: Precision) -> Option<Self> {
        match (isa, precision) {
            (Isa::Portable | Isa::Avx2 | Isa::Avx512, _) => None,
            (Isa::Avx512Bf16, Precision::F32) => Some(Self::F32),
            (Isa::Avx512Bf16, Precision::Bf16) => Some(Self::Pairs),
            (Isa::Amx, Precision::F32) => Some(Self::Thirds),
            (Isa::Amx, Precision::Bf16) => Some(Self::Tiles),
        }
    }
}

/// Evaluates an expression with a type alias for the [`Format`] of a [`Layout`].
macro_rules! with_format {
    ($layout:expr, $format:ident => $body:expr) => {
        match $layout {
            $crate::gemm::format::Layout::F32 => {
                type $format = $crate::gemm::format::F32;
                $body
            }
            $crate::gemm::format::Layout::Pairs => {
                type $format = $crate::gemm::format::Pairs;
                $body
            }
            $crate::gemm::format::Layout::Tiles => {
                type $format = $crate::gemm::format::Tiles;
                $body
            }
            $crate::gemm::format::Layout::Thirds => {
                type $format = $crate::gemm::format::Thirds;
                $body
            }
        }
    };
}
pub(super) use with_format;
