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
    let features = __cpuid_count(7, 0).edx;
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

/// Computes a tile of at most 32 rows and 32 columns, neither zero.
///
/// # Safety
/// Between [`begin`] and [`end`]. The strips of `a` and `b` that the rows and columns need hold `steps` steps, a
/// multiple of [`STEPS`]; `c` is valid for the rows and columns, and nobody else uses them.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn compute(tile: Tile<'_>) {
    let mut sums = std::mem::MaybeUninit::<Sums>::uninit();
    // A strip that the tile does not need is replaced by the first, and what comes of it ignored.
    let second = |needed: bool, stride: usize| if needed { stride } else { 0 };
    let (a, b) = (tile.a.cast::<Row>(), tile.b);
    // SAFETY: registers are configured; operands hold the steps, as the caller promises; all 16 · 64 · 4 bytes of the
    // sums are written.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "test {steps}, {steps}",
            "jz 3f",
            "2:",
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
            "add {stride}, {stride}",
            "tilestored [{c} + {stride}], tmm0",
            "tilestored [{c} + {stride} + 64], tmm1",
            "tilestored [{c} + {stride} + 2048], tmm2",
            "tilestored [{c} + {stride} + 2112], tmm3",
            a0 = inout(reg) a => _,
            a1 = inout(reg) a.add(second(tile.rows > LANES, tile.a_stride)) => _,
            b0 = inout(reg) b => _,
            b1 = inout(reg) b.add(second(tile.cols > LANES, tile.b_stride)) => _,
            steps = inout(reg) tile.steps / STEPS => _,
            stride = inout(reg) 64_usize => _,
            c = in(reg) sums.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
    // SAFETY: written just now.
    let sums = unsafe { sums.assume_init_ref() };
    // SAFETY: the caller's promise, passed on; the mask has the columns of its strip.
    unsafe {
        for col in (0..tile.cols).step_by(LANES) {
            match tile.cols - col {
                LANES.. => finish::<true>(&tile, sums, col, u16::MAX),
                cols => finish::<false>(&tile, sums, col, (1 << cols) - 1),
            }
        }
    }
}

/// Adds the bias to 16 columns of the sums from `col` on, fewer if not `FULL`, and stores them or adds them to C. Masked
/// stores are kept out of the common case, because the reads that follow would wait for them.
///
/// # Safety
/// The tile has the columns of the mask, and C is as [`compute`] wants it.
#[target_feature(enable = "avx512f")]
unsafe fn finish<const FULL: bool>(tile: &Tile<'_>, sums: &Sums, col: usize, mask: u16) {
    // SAFETY: rows and columns are the tile's; masked-off columns are not accessed.
    unsafe {
        let load = |from: *const f32| {
            if FULL { _mm512_loadu_ps(from) } else { _mm512_maskz_loadu_ps(mask, from) }
        };
        let bias = tile.bias.map_or(_mm512_setzero_ps(), |bias| load(bias[col..tile.cols].as_ptr()));
        for (row, sums) in sums.0.iter().enumerate().take(tile.rows) {
            let c = tile.c.add(row * tile.c_stride + col);
            let mut sum = _mm512_add_ps(_mm512_load_ps(sums[col..].as_ptr()), bias);
            if tile.accumulate {
                sum = _mm512_add_ps(load(c), sum);
            }
            if FULL {
                _mm512_storeu_ps(c, sum);
            } else {
                _mm512_mask_storeu_ps(c, mask, sum);
            }
        }
    }
}
