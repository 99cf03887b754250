//! The tile of matrix registers (AMX): 32 × 32 of C, in four registers of 16 × 16.
//!
//! The intrinsics are not stable yet; inline assembly is.

use super::kernel::Tile;
use super::pack::{LANES, Row};
use std::arch::asm;
use std::arch::x86_64::*;

/// Steps that one instruction multiplies: a register of B, 16 rows of 64 bytes.
pub(super) const STEPS: usize = 16;

/// Whether the machine has matrix registers with bf16 products and the system lets this process use them.
#[cfg(target_os = "linux")]
pub(super) fn request() -> bool {
    const REQUEST_PERMISSION: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    #[allow(unused_unsafe, reason = "safe from Rust 1.94 on")]
    // SAFETY: every x86-64 CPU has the instruction.
    let features = unsafe { __cpuid_count(7, 0) }.edx;
    // SAFETY: arch_prctl with this code only asks for a permission; older kernels refuse it.
    features & BF16 != 0
        && features & TILE != 0
        && unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) } == 0
}

/// Elsewhere the permission is not asked for.
#[cfg(not(target_os = "linux"))]
pub(super) fn request() -> bool {
    false
}

/// What `ldtilecfg` reads: every register has 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: Config = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut register = 0;
    while register < 8 {
        (row_bytes[register], rows[register]) = (64, 16);
        register += 1;
    }
    Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// Configures this thread's registers.
///
/// # Safety
/// [`request`] returned true.
pub(super) unsafe fn begin() {
    // SAFETY: the configuration is valid; the registers' contents are nobody's.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly, preserves_flags));
    }
}

/// Lets go of the registers, so that switching threads need not save them.
///
/// # Safety
/// As [`begin`].
pub(super) unsafe fn end() {
    // SAFETY: as above.
    unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
}

/// A tile's sums.
#[repr(align(64))]
struct Sums([[f32; 2 * LANES]; 2 * LANES]);

/// Where sums begin that nothing is added to, for both halves of a tile's columns.
static ZEROS: [f32; 2 * LANES] = [0.0; 2 * LANES];

/// Computes a tile of at most 32 rows and 32 columns, neither zero; with `THIRDS`, of operands in three parts.
///
/// # Safety
/// Between [`begin`] and [`end`]. The strips of `a` and `b` that the rows and columns need hold `steps` steps, a
/// multiple of [`STEPS`], or three times that; `c` is valid for the rows and columns, and nobody else uses them.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn compute<const THIRDS: bool>(tile: Tile<'_>) {
    let full = tile.rows == 2 * LANES && tile.cols == 2 * LANES;
    // Products are added to what the sums begin with, whole tile or not: how C is cut into tiles must not show. A stride
    // of 0 gives every row the same beginning.
    let begin = match (tile.bias, tile.accumulate) {
        (None, true) if full => Some((tile.c.cast_const(), tile.c_stride)),
        (Some(bias), false) if full => Some((bias[..2 * LANES].as_ptr(), 0)),
        (None, false) if full => Some((ZEROS.as_ptr(), 0)),
        _ => None,
    };
    // SAFETY: the caller's promise, passed on; a full tile of C is there.
    unsafe {
        if let Some(begin) = begin {
            return multiply::<THIRDS>(&tile, begin, (tile.c, tile.c_stride));
        }
        let mut sums = Sums([[0.0; 2 * LANES]; 2 * LANES]);
        load(&tile, &mut sums);
        let at = sums.0.as_flattened_mut().as_mut_ptr();
        multiply::<THIRDS>(&tile, (at, 2 * LANES), (at, 2 * LANES));
        store(&tile, &sums);
    }
}

/// Products of a group of 16 steps, in bf16.
macro_rules! products {
    () => {
        "tileloadd tmm4, [{a0} + {stride}]
         tileloadd tmm6, [{b0} + {stride}]
         tileloadd tmm7, [{b1} + {stride}]
         tdpbf16ps tmm0, tmm4, tmm6
         tdpbf16ps tmm1, tmm4, tmm7
         tileloadd tmm5, [{a1} + {stride}]
         tdpbf16ps tmm2, tmm5, tmm6
         tdpbf16ps tmm3, tmm5, tmm7"
    };
}

/// Products of a group of 16 steps in three parts: of the last of A with the first of B, middle and first, middle and
/// middle, first and middle, first and last, first and first. So one operand stays from each product to the next, and most
/// of what is small comes before what is large.
macro_rules! products_of_thirds {
    () => {
        "tileloadd tmm4, [{a0} + {stride} + 2048]
         tileloadd tmm6, [{b0} + {stride}]
         tileloadd tmm7, [{b1} + {stride}]
         tdpbf16ps tmm0, tmm4, tmm6
         tdpbf16ps tmm1, tmm4, tmm7
         tileloadd tmm5, [{a1} + {stride} + 2048]
         tdpbf16ps tmm2, tmm5, tmm6
         tdpbf16ps tmm3, tmm5, tmm7

         tileloadd tmm4, [{a0} + {stride} + 1024]
         tdpbf16ps tmm0, tmm4, tmm6
         tdpbf16ps tmm1, tmm4, tmm7
         tileloadd tmm5, [{a1} + {stride} + 1024]
         tdpbf16ps tmm2, tmm5, tmm6
         tdpbf16ps tmm3, tmm5, tmm7

         tileloadd tmm6, [{b0} + {stride} + 1024]
         tdpbf16ps tmm0, tmm4, tmm6
         tdpbf16ps tmm2, tmm5, tmm6
         tileloadd tmm7, [{b1} + {stride} + 1024]
         tdpbf16ps tmm1, tmm4, tmm7
         tdpbf16ps tmm3, tmm5, tmm7

         tileloadd tmm4, [{a0} + {stride}]
         tdpbf16ps tmm0, tmm4, tmm6
         tdpbf16ps tmm1, tmm4, tmm7
         tileloadd tmm5, [{a1} + {stride}]
         tdpbf16ps tmm2, tmm5, tmm6
         tdpbf16ps tmm3, tmm5, tmm7

         tileloadd tmm6, [{b0} + {stride} + 2048]
         tdpbf16ps tmm0, tmm4, tmm6
         tdpbf16ps tmm2, tmm5, tmm6
         tileloadd tmm7, [{b1} + {stride} + 2048]
         tdpbf16ps tmm1, tmm4, tmm7
         tdpbf16ps tmm3, tmm5, tmm7

         tileloadd tmm6, [{b0} + {stride}]
         tdpbf16ps tmm0, tmm4, tmm6
         tdpbf16ps tmm2, tmm5, tmm6
         tileloadd tmm7, [{b1} + {stride}]
         tdpbf16ps tmm1, tmm4, tmm7
         tdpbf16ps tmm3, tmm5, tmm7"
    };
}

/// Asks for a row of what will be written.
macro_rules! ask {
    () => {
        "prefetchw [{from}]
         prefetchw [{from} + 64]
         add {from}, {from_stride}"
    };
}

/// The loop of [`multiply`], with what multiplies a group of steps.
macro_rules! sum_products {
    ($products:ident, $group_bytes:literal, $tile:ident, $from:ident, $to:ident) => {
        asm!(
            "tileloadd tmm0, [{from} + {from_stride}]",
            "tileloadd tmm1, [{from} + {from_stride} + 64]",
            "mov {half}, {from_stride}",
            "shl {half}, 4",
            "add {from}, {half}",
            "tileloadd tmm2, [{from} + {from_stride}]",
            "tileloadd tmm3, [{from} + {from_stride} + 64]",
            "test {groups}, {groups}",
            "jz 3f",
            "mov {from}, [{ahead}]",
            "mov {from_stride}, [{ahead} + 8]",
            "2:",
            ask!(),
            ask!(),
            ask!(),
            "cmp {from}, [{ahead} + 16]",
            "cmova {from}, [{ahead} + 16]",
            $products!(),
            concat!("add {a0}, ", $group_bytes),
            concat!("add {a1}, ", $group_bytes),
            concat!("add {b0}, ", $group_bytes),
            concat!("add {b1}, ", $group_bytes),
            "dec {groups}",
            "jnz 2b",
            "3:",
            "mov {groups}, {to_stride}",
            "shl {groups}, 4",
            "add {groups}, {to}",
            "tilestored [{to} + {to_stride}], tmm0",
            "tilestored [{to} + {to_stride} + 64], tmm1",
            "tilestored [{groups} + {to_stride}], tmm2",
            "tilestored [{groups} + {to_stride} + 64], tmm3",
            a0 = inout(reg) $tile.a.cast::<Row>() => _,
            a1 = inout(reg) $tile.a.cast::<Row>().add(if $tile.rows > LANES { $tile.a_stride } else { 0 }) => _,
            b0 = inout(reg) $tile.b => _,
            b1 = inout(reg) $tile.b.add(if $tile.cols > LANES { $tile.b_stride } else { 0 }) => _,
            groups = inout(reg) $tile.steps * size_of::<Row>() / $group_bytes => _,
            stride = in(reg) size_of::<Row>(),
            from = inout(reg) $from.0 => _,
            from_stride = inout(reg) $from.1 * size_of::<f32>() => _,
            ahead = in(reg) &raw const $tile.ahead,
            half = out(reg) _,
            to = in(reg) $to.0,
            to_stride = in(reg) $to.1 * size_of::<f32>(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// Adds the tile's products to the 32 × 32 floats at `from` and stores the sums at `to`, each an address and the
/// distance of its rows. A strip that the tile does not need is replaced by the first, and what comes of it ignored.
///
/// # Safety
/// As [`compute`]; `from` can be read and `to` written.
unsafe fn multiply<const THIRDS: bool>(tile: &Tile<'_>, from: (*const f32, usize), to: (*mut f32, usize)) {
    debug_assert!(tile.steps.is_multiple_of(if THIRDS { 3 * STEPS } else { STEPS }));
    // SAFETY: registers are configured, and the addresses are as the caller promises.
    unsafe {
        match THIRDS {
            false => sum_products!(products, 1024, tile, from, to),
            true => sum_products!(products_of_thirds, 3072, tile, from, to),
        }
    }
}

/// The columns of a strip that a tile has.
fn mask(tile: &Tile<'_>, col: usize) -> u16 {
    u16::MAX >> LANES.saturating_sub(tile.cols - col)
}

/// What the sums of a tile begin with: the bias, C, or both.
///
/// # Safety
/// C is as [`compute`] wants it.
#[target_feature(enable = "avx512f")]
unsafe fn load(tile: &Tile<'_>, sums: &mut Sums) {
    for col in (0..tile.cols).step_by(LANES) {
        // SAFETY: rows and columns are the tile's; masked-off columns are not accessed.
        unsafe {
            let load = |from: *const f32| _mm512_maskz_loadu_ps(mask(tile, col), from);
            let bias = tile.bias.map_or(_mm512_setzero_ps(), |bias| load(bias[col..tile.cols].as_ptr()));
            for (row, sums) in sums.0.iter_mut().enumerate().take(tile.rows) {
                let begin = match tile.accumulate {
                    true => _mm512_add_ps(load(tile.c.add(row * tile.c_stride + col)), bias),
                    false => bias,
                };
                _mm512_store_ps(sums[col..].as_mut_ptr(), begin);
            }
        }
    }
}

/// Stores a tile's sums in C.
///
/// # Safety
/// As [`load`].
#[target_feature(enable = "avx512f")]
unsafe fn store(tile: &Tile<'_>, sums: &Sums) {
    for col in (0..tile.cols).step_by(LANES) {
        for (row, sums) in sums.0.iter().enumerate().take(tile.rows) {
            // SAFETY: rows and columns are the tile's; masked-off columns are not accessed.
            unsafe {
                let c = tile.c.add(row * tile.c_stride + col);
                _mm512_mask_storeu_ps(c, mask(tile, col), _mm512_load_ps(sums[col..].as_ptr()));
            }
        }
    }
}
