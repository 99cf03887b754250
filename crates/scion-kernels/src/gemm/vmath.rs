//! Elementwise functions over slices: exp, sigmoid, SiLU and the tanh form of GELU, with gradients.
//!
//! Each is one branch-free scalar function that the compiler vectorises once per instruction set.
//! Accuracy against f64 is about 1e-6 relative. `FUSED` says whether `mul_add` is one instruction;
//! where it is not, it would be a slow library call.

use super::isa::Isa;
use std::f32::consts::{LN_2, LOG2_E};

/// Whether `mul_add` is one instruction without asking for more than the target guarantees.
pub(super) const TARGET_FUSES: bool = cfg!(target_arch = "aarch64");

/// Defines a slice function from a scalar one: `y[i] = f(x[i])` or `dx[i] = f(x[i], dy[i])`.
macro_rules! over_slices {
    ($(#[$doc:meta])* $name:ident($($x:ident),+) -> $y:ident = $scalar:ident) => {
        $(#[$doc])*
        ///
        /// # Panics
        /// If the slices differ in length.
        pub fn $name($($x: &[f32],)+ $y: &mut [f32]) {
            #[inline(always)]
            fn each<const FUSED: bool>($($x: &[f32],)+ $y: &mut [f32]) {
                let n = $y.len();
                $(let $x = &$x[..n];)+
                for i in 0..n {
                    $y[i] = $scalar::<FUSED>($($x[i]),+);
                }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f")]
            fn avx512($($x: &[f32],)+ $y: &mut [f32]) {
                each::<true>($($x,)+ $y);
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($x: &[f32],)+ $y: &mut [f32]) {
                each::<true>($($x,)+ $y);
            }
            $(assert_eq!($x.len(), $y.len(), "slices of different lengths");)+
            match Isa::detect() {
                // SAFETY: the instruction set was detected on this machine.
                #[cfg(target_arch = "x86_64")]
                isa if isa >= Isa::Avx512 => unsafe { avx512($($x,)+ $y) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => unsafe { avx2($($x,)+ $y) },
                _ => each::<TARGET_FUSES>($($x,)+ $y),
            }
        }
    };
}

over_slices!(
    /// `y = exp(x)`; results below the smallest normal number are zero.
    exp(x) -> y = exp_one
);
over_slices!(
    /// `y = 1 / (1 + exp(-x))`.
    sigmoid(x) -> y = sigmoid_one
);
over_slices!(
    /// `y = x · sigmoid(x)`.
    silu(x) -> y = silu_one
);
over_slices!(
    /// `dx = dy · silu'(x)`.
    silu_backward(x, dy) -> dx = silu_backward_one
);
over_slices!(
    /// GELU in its tanh form: `y = x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    gelu(x) -> y = gelu_one
);

#[inline(always)]
fn fma<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// `x.clamp(low, high)`, NaN included, phrased so that each side is one instruction.
#[inline(always)]
fn clamped(x: f32, low: f32, high: f32) -> f32 {
    let x = if high < x { high } else { x };
    if low > x { low } else { x }
}

/// Adding this rounds a small float to an integer held in the low mantissa bits.
const ROUND: f32 = 12_582_912.0;

/// Minimax polynomial for 2^r on [-1/2, 1/2], relative error 2e-9.
const EXP2: [f32; 7] =
    [1.0, LN_2, 0.240_226_46, 0.055_503_286, 0.009_618_489, 0.001_339_993_1, 0.000_153_458_12];

/// 2^(n + r) where `rounded = n + ROUND` and |r| ≤ 1/2.
#[inline(always)]
fn exp2_split<const FUSED: bool>(rounded: f32, r: f32) -> f32 {
    let p = EXP2.iter().rev().copied().reduce(|p, c| fma::<FUSED>(p, r, c)).unwrap_or(1.0);
    f32::from_bits(p.to_bits().wrapping_add(rounded.to_bits() << 23))
}

/// 2^t for t clamped to ±126.
#[inline(always)]
fn exp2_one<const FUSED: bool>(t: f32) -> f32 {
    let t = clamped(t, -126.0, 126.0);
    let rounded = t + ROUND;
    exp2_split::<FUSED>(rounded, t - (rounded - ROUND))
}

/// exp(x) for x clamped to the range whose results are normal numbers.
#[inline(always)]
fn exp_clamped<const FUSED: bool>(x: f32) -> f32 {
    // ln 2 in two parts, so that the reduced argument keeps its digits for large |x|.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = clamped(x, EXP_MIN, EXP_MAX);
    let rounded = fma::<FUSED>(x, LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = fma::<FUSED>(n, -LN2_LOW, fma::<FUSED>(n, -LN2_HIGH, x));
    exp2_split::<FUSED>(rounded, r * LOG2_E)
}

const EXP_MIN: f32 = -87.336_54;
const EXP_MAX: f32 = 88.722_83;

#[inline(always)]
fn exp_one<const FUSED: bool>(x: f32) -> f32 {
    let y = exp_clamped::<FUSED>(x);
    let y = if x > EXP_MAX { f32::INFINITY } else { y };
    if x < EXP_MIN { 0.0 } else { y }
}

#[inline(always)]
fn sigmoid_one<const FUSED: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp_clamped::<FUSED>(-x))
}

#[inline(always)]
fn silu_one<const FUSED: bool>(x: f32) -> f32 {
    x / (1.0 + exp_clamped::<FUSED>(-x))
}

#[inline(always)]
fn silu_backward_one<const FUSED: bool>(x: f32, dy: f32) -> f32 {
    let s = sigmoid_one::<FUSED>(x);
    dy * s * fma::<FUSED>(x, 1.0 - s, 1.0)
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// 1 / (1 + exp(-2u)) with u the argument of GELU's tanh, so that GELU is x times that.
#[inline(always)]
fn gelu_factor<const FUSED: bool>(x: f32) -> f32 {
    const LINEAR: f32 = -2.0 * SQRT_2_OVER_PI * LOG2_E;
    let t = x * fma::<FUSED>(x * x, LINEAR * CUBIC, LINEAR);
    1.0 / (1.0 + exp2_one::<FUSED>(t))
}

/// GELU (tanh form) of one number.
#[inline(always)]
pub(super) fn gelu_one<const FUSED: bool>(x: f32) -> f32 {
    x * gelu_factor::<FUSED>(x)
}

/// GELU (tanh form) of one number, and its derivative there.
#[inline(always)]
pub(super) fn gelu_and_derivative<const FUSED: bool>(x: f32) -> (f32, f32) {
    const LINEAR: f32 = 2.0 * SQRT_2_OVER_PI;
    let s = gelu_factor::<FUSED>(x);
    // x · 2u'(x). Past ±64 it multiplies an s (1 - s) of zero, and must not be infinite there.
    let near = clamped(x, -64.0, 64.0);
    let slope = near * fma::<FUSED>(near * near, 3.0 * CUBIC * LINEAR, LINEAR);
    (x * s, s * fma::<FUSED>(slope, 1.0 - s, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest error of `f` against `exact` on [lo, hi], relative to the exact value plus `floor`.
    fn error(
        lo: f32,
        hi: f32,
        floor: f64,
        f: impl Fn(&[f32], &mut [f32]),
        exact: impl Fn(f64) -> f64,
    ) -> f64 {
        let x: Vec<f32> = (0..100_003).map(|i| lo + (hi - lo) * i as f32 / 100_002.0).collect();
        let mut y = vec![0.0; x.len()];
        f(&x, &mut y);
        let error = |(&x, &y): (&f32, &f32)| {
            let exact = exact(f64::from(x));
            (f64::from(y) - exact).abs() / (exact.abs() + floor)
        };
        x.iter().zip(&y).map(error).fold(0f64, |m, d| if d > m || d.is_nan() { d } else { m })
    }

    fn gelu_f64(x: f64) -> f64 {
        0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044_715 * x.powi(3))).tanh())
    }

    fn central_difference(f: fn(f64) -> f64, x: f64) -> f64 {
        (f(x + 1e-5) - f(x - 1e-5)) / 2e-5
    }

    fn portable(scalar: fn(f32) -> f32, x: &[f32], y: &mut [f32]) {
        x.iter().zip(y).for_each(|(&x, y)| *y = scalar(x));
    }

    #[test]
    fn functions_match_f64() {
        let sigmoid_f64 = |x: f64| 1.0 / (1.0 + (-x).exp());
        let silu_f64 = |x: f64| x / (1.0 + (-x).exp());
        assert!(error(-87.0, 88.0, 0.0, exp, f64::exp) < 3e-7);
        assert!(error(-80.0, 80.0, 0.0, sigmoid, sigmoid_f64) < 5e-7);
        assert!(error(-80.0, 80.0, 1e-30, silu, silu_f64) < 5e-7);
        assert!(error(-4.0, 30.0, 1e-30, gelu, gelu_f64) < 2e-6);
        assert!(error(-30.0, 30.0, 1e-6, gelu, gelu_f64) < 2e-6);
        assert!(error(-30.0, 30.0, 1e-6, |x, y| portable(gelu_one::<false>, x, y), gelu_f64) < 2e-6);
    }

    #[test]
    fn gradients_match_finite_differences() {
        fn silu_f64(x: f64) -> f64 {
            x / (1.0 + (-x).exp())
        }
        let ones = |x: &[f32]| vec![1.0; x.len()];
        let gelu_error = error(
            -15.0,
            15.0,
            1.0,
            |x, y| portable(|x| gelu_and_derivative::<false>(x).1, x, y),
            |x| central_difference(gelu_f64, x),
        );
        let silu_error = error(
            -15.0,
            15.0,
            1.0,
            |x, y| silu_backward(x, &ones(x), y),
            |x| central_difference(silu_f64, x),
        );
        assert!(gelu_error < 1e-6, "{gelu_error}");
        assert!(silu_error < 1e-6, "{silu_error}");
    }

    #[test]
    fn extremes_stay_finite_and_nan_passes_through() {
        let x = [-1e30, -200.0, -0.0, 200.0, 1e12, f32::NAN];
        let (mut y, mut dx) = ([0.0; 6], [0.0; 6]);
        gelu(&x, &mut y);
        portable(|x| gelu_and_derivative::<false>(x).1, &x, &mut dx);
        assert!(y[0].abs() < 1e-6 && y[1].abs() < 1e-6 && y[2] == 0.0 && y[3] == 200.0 && y[4] == 1e12);
        assert!(
            dx[0].abs() < 1e-6
                && dx[1].abs() < 1e-6
                && dx[4] == 1.0
                && dx[3] == 1.0
                && y[5].is_nan()
                && dx[5].is_nan()
        );
        exp(&[-200.0, -88.0, 0.0, 88.7, 100.0, f32::NAN], &mut y);
        assert!(y[0] == 0.0 && y[1] == 0.0 && y[2] == 1.0 && y[3].is_finite());
        assert!(y[4].is_infinite() && y[5].is_nan());
        silu(&x, &mut y);
        assert!(y[1].abs() < 1e-30 && y[3] == 200.0 && y[5].is_nan());
    }
}
