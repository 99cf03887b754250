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

/// Computes a tile of at most 32 rows and 32 columns, neither zero.
///
/// # Safety
/// Between [`begin`] and [`end`]. The strips of `a` and `b` that the rows and columns need hold `steps` steps, a
/// multiple of [`STEPS`]; `c` is valid for the rows and columns, and nobody else uses them.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn compute(tile: Tile<'_>) {
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
            return multiply(&tile, begin, (tile.c, tile.c_stride));
        }
        let mut sums = Sums([[0.0; 2 * LANES]; 2 * LANES]);
        load(&tile, &mut sums);
        let at = sums.0.as_flattened_mut().as_mut_ptr();
        multiply(&tile, (at, 2 * LANES), (at, 2 * LANES));
        store(&tile, &sums);
    }
}

/// Adds the tile's products to the 32 × 32 floats at `from` and stores the sums at `to`, each an address and the
/// distance of its rows.
///
/// # Safety
/// As [`compute`]; `from` can be read and `to` written.
unsafe fn multiply(tile: &Tile<'_>, from: (*const f32, usize), to: (*mut f32, usize)) {
    debug_assert!(tile.steps.is_multiple_of(STEPS));
    // A strip that the tile does not need is replaced by the first, and what comes of it ignored.
    let second = |needed: bool, stride: usize| if needed { stride } else { 0 };
    let (a, b) = (tile.a.cast::<Row>(), tile.b);
    // SAFETY: registers are configured, and the addresses are as the caller promises.
    unsafe {
        asm!(
            "tileloadd tmm0, [{from} + {from_stride}]",
            "tileloadd tmm1, [{from} + {from_stride} + 64]",
            "mov {ahead}, {from_stride}",
            "shl {ahead}, 4",
            "add {ahead}, {from}",
            "tileloadd tmm2, [{ahead} + {from_stride}]",
            "tileloadd tmm3, [{ahead} + {from_stride} + 64]",
            "test {steps}, {steps}",
            "jz 3f",
            "mov {ahead}, {to}",
            "2:",
            // Where the sums go is asked for meanwhile, a few rows at a time.
            "prefetchw [{ahead}]",
            "prefetchw [{ahead} + 64]",
            "add {ahead}, {to_stride}",
            "prefetchw [{ahead}]",
            "prefetchw [{ahead} + 64]",
            "add {ahead}, {to_stride}",
            "prefetchw [{ahead}]",
            "prefetchw [{ahead} + 64]",
            "add {ahead}, {to_stride}",
            "cmp {ahead}, {last}",
            "cmova {ahead}, {last}",
            "tileloadd tmm4, [{a0} + {stride}]",
            "tileloadd tmm6, [{b0} + {stride}]",
            "tileloadd tmm7, [{b1} + {stride}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a1} + {stride}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a0}, 1024",
            "add {a1}, 1024",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {steps}",
            "jnz 2b",
            "3:",
            "mov {steps}, {to_stride}",
            "shl {steps}, 4",
            "add {steps}, {to}",
            "tilestored [{to} + {to_stride}], tmm0",
            "tilestored [{to} + {to_stride} + 64], tmm1",
            "tilestored [{steps} + {to_stride}], tmm2",
            "tilestored [{steps} + {to_stride} + 64], tmm3",
            a0 = inout(reg) a => _,
            a1 = inout(reg) a.add(second(tile.rows > LANES, tile.a_stride)) => _,
            b0 = inout(reg) b => _,
            b1 = inout(reg) b.add(second(tile.cols > LANES, tile.b_stride)) => _,
            steps = inout(reg) tile.steps / STEPS => _,
            stride = in(reg) size_of::<Row>(),
            from = in(reg) from.0,
            from_stride = in(reg) from.1 * size_of::<f32>(),
            to = in(reg) to.0,
            last = in(reg) to.0.wrapping_add((2 * LANES - 3) * to.1),
            ahead = out(reg) _,
            to_stride = in(reg) to.1 * size_of::<f32>(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
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
