//! Products against f64, on ragged and extreme shapes, for every kernel.

mod epilogues;

use super::epilogue::Output;
use super::*;

const KERNELS: [(Isa, Precision); 6] = [
    (Isa::Portable, Precision::F32),
    (Isa::Portable, Precision::Bf16),
    (Isa::Avx512Bf16, Precision::F32),
    (Isa::Avx512Bf16, Precision::Bf16),
    (Isa::Amx, Precision::F32),
    (Isa::Amx, Precision::Bf16),
];

fn kernels() -> impl Iterator<Item = (Isa, Precision)> {
    KERNELS.into_iter().filter(|(isa, _)| *isa <= Isa::detect())
}

/// Uniform numbers in [-1, 1) from a linear congruential generator.
fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

struct Case {
    shape: (usize, usize, usize),
    a: Vec<f32>,
    b: Vec<f32>,
    a_transposed: bool,
    b_transposed: bool,
    /// Floats between rows of every matrix, beyond its columns.
    gap: usize,
}

impl Case {
    fn new((m, n, k): (usize, usize, usize), a_transposed: bool, b_transposed: bool, gap: usize) -> Self {
        let len = |rows: usize, cols: usize| rows * (cols + gap);
        let a = if a_transposed { len(k, m) } else { len(m, k) };
        let b = if b_transposed { len(n, k) } else { len(k, n) };
        let seed = (m * 31 + n) as u64 * 17 + k as u64;
        Self { shape: (m, n, k), a: random(seed, a), b: random(seed + 1, b), a_transposed, b_transposed, gap }
    }

    fn view<'a, T: Element>(
        &self,
        data: &'a [T],
        rows: usize,
        cols: usize,
        transposed: bool,
    ) -> MatRef<'a, T> {
        if transposed {
            MatRef::strided(data, cols, rows, rows + self.gap).t()
        } else {
            MatRef::strided(data, rows, cols, cols + self.gap)
        }
    }

    fn operands(&self) -> (MatRef<'_>, MatRef<'_>) {
        let (m, n, k) = self.shape;
        (self.view(&self.a, m, k, self.a_transposed), self.view(&self.b, k, n, self.b_transposed))
    }

    /// The product of the operands in f64, after rounding them as `precision` says.
    fn exact(&self, precision: Precision) -> Vec<f64> {
        let (m, n, k) = self.shape;
        let (a, b) = self.operands();
        let at = |x: MatRef<'_>, i: usize, j: usize| {
            let (down, right) = x.strides();
            let value = x.data[i * down + j * right];
            f64::from(if precision == Precision::Bf16 { element::round_to_bf16(value) } else { value })
        };
        let element = |i: usize| (0..k).map(|p| at(a, i / n, p) * at(b, p, i % n)).sum();
        (0..m * n).map(element).collect()
    }

    /// Runs a kernel over `c` and returns it; `packed` goes through [`PackedB`].
    fn run(
        &self,
        (isa, precision): (Isa, Precision),
        packed: bool,
        accumulate: bool,
        epilogue: Epilogue<'_>,
    ) -> Vec<f32> {
        let (m, n, _) = self.shape;
        let (a, b) = self.operands();
        let mut c = vec![0.5; m * (n + self.gap)];
        let out = Output::new((m, n), &mut c, n + self.gap, accumulate, epilogue);
        if packed {
            PackedB::pack_on(isa, precision, b).multiply(a, &out);
        } else {
            matmul_on(isa, precision, a, b, &out);
        }
        c
    }

    /// Checks `c` against `expected(row, col)`, and that the gaps still hold 0.5.
    fn check(&self, c: &[f32], label: &str, expected: impl Fn(usize, usize) -> f64) {
        let (m, n, k) = self.shape;
        // Rounding errors of k sums of products below 1, growing like a random walk.
        let tolerance = 4.0 * f64::from(f32::EPSILON) * (k as f64).sqrt().max(4.0) * 2.0;
        for i in 0..m {
            for j in 0..n + self.gap {
                let got = f64::from(c[i * (n + self.gap) + j]);
                let want = if j < n { expected(i, j) } else { 0.5 };
                let error = (got - want).abs();
                assert!(
                    error <= tolerance * (1.0 + want.abs()),
                    "{label} {:?} at ({i}, {j}): {got}, not {want}",
                    self.shape
                );
            }
        }
    }
}

const SHAPES: [(usize, usize, usize); 16] = [
    (1, 1, 1),
    (3, 5, 1),
    (1, 300, 7),
    (300, 1, 7),
    (8, 48, 2),
    (9, 49, 33),
    (16, 16, 16),
    (17, 33, 31),
    (50, 130, 65),
    (7, 95, 513),
    (129, 47, 1025),
    (64, 96, 600),
    (260, 100, 32),
    (40, 40, 1600),
    (33, 300, 520),
    (70, 100, 4500),
];

#[test]
fn products_match_f64() {
    for kernel in kernels() {
        for shape in SHAPES {
            for (gap, (ta, tb)) in
                [(false, false), (false, true), (true, false), (true, true)].into_iter().enumerate()
            {
                let case = Case::new(shape, ta, tb, gap);
                let (exact, n) = (case.exact(kernel.1), shape.1);
                for (packed, accumulate) in [(false, false), (false, true), (true, false), (true, true)] {
                    let c = case.run(kernel, packed, accumulate, Epilogue::default());
                    let base = if accumulate { 0.5 } else { 0.0 };
                    let label =
                        format!("{kernel:?} transposed {ta} {tb} packed {packed} accumulate {accumulate}");
                    case.check(&c, &label, |i, j| exact[i * n + j] + base);
                }
            }
        }
    }
}

#[test]
fn bf16_stays_within_operand_rounding_of_f32() {
    let case = Case::new((70, 90, 400), false, true, 0);
    let exact = case.exact(Precision::F32);
    let bound: f64 = 2.0 * 2.0_f64.powi(-9) * 400.0_f64.sqrt();
    for kernel in kernels().filter(|(_, precision)| *precision == Precision::Bf16) {
        let c = case.run(kernel, false, false, Epilogue::default());
        let error = c
            .iter()
            .zip(&exact)
            .map(|(&c, e)| (f64::from(c) - e).abs())
            .fold(0f64, |m, d| if d > m || d.is_nan() { d } else { m });
        assert!(error < bound && error > bound * 1e-3, "{kernel:?}: {error} against {bound}");
    }
}

/// The largest error of a product of [64, 1024] and [1024, 64] relative to the sum of its terms' magnitudes, which is
/// what rounding errors are proportional to.
fn relative_error(kernel: (Isa, Precision), case: &Case) -> f64 {
    let (m, n, k) = case.shape;
    let c = case.run(kernel, false, false, Epilogue::default());
    let exact = case.exact(Precision::F32);
    let magnitude = |i: usize| -> f64 {
        (0..k).map(|p| f64::from((case.a[i / n * k + p] * case.b[p * n + i % n]).abs())).sum()
    };
    (0..m * n)
        .map(|i| (f64::from(c[i]) - exact[i]).abs() / magnitude(i))
        .fold(0.0, |most, error| if error > most || error.is_nan() { error } else { most })
}

#[test]
fn f32_products_on_matrix_registers_are_as_accurate_as_on_vectors() {
    if Isa::detect() < Isa::Amx {
        return;
    }
    // Numbers alike, and numbers whose sizes are up to 2⁴⁰ apart.
    for spread in [0, 40] {
        let mut case = Case::new((64, 64, 1024), false, false, 0);
        let scales = random(9, case.a.len() + case.b.len());
        let scaled = case.a.iter_mut().chain(&mut case.b);
        scaled.zip(scales).for_each(|(x, s)| *x *= (s * spread as f32 / 2.0).round().exp2());
        let [vectors, matrix] =
            [Isa::Avx512Bf16, Isa::Amx].map(|isa| relative_error((isa, Precision::F32), &case));
        let bf16 = relative_error((Isa::Amx, Precision::Bf16), &case);
        // 0.9 and 1.5 times have been seen: sums are rounded in another order.
        assert!(matrix < 2.0 * vectors, "{matrix} on matrix registers, {vectors} on vectors");
        assert!(matrix < 1e-3 * bf16, "{matrix} in f32, {bf16} in bf16");
    }
}

#[test]
fn f32_products_hold_single_numbers_to_the_last_bit() {
    // A single product has one rounding to make; the largest numbers, and those that round up to a power of two in bf16.
    let values =
        [1.0, 1.0 + f32::EPSILON, 2.0 - f32::EPSILON, 3.0e38, f32::MAX, -f32::MAX, 1.999, 1e-30, 0.0, -7.25];
    for kernel in kernels().filter(|(_, precision)| *precision == Precision::F32) {
        let one = [1.0];
        let mut c = vec![0.0; values.len()];
        let out = Output::new((values.len(), 1), &mut c, 1, false, Epilogue::default());
        matmul_on(kernel.0, kernel.1, MatRef::new(&values, values.len(), 1), MatRef::new(&one, 1, 1), &out);
        assert_eq!(c, values, "{kernel:?} as the left-hand side");
        let out = Output::new((1, values.len()), &mut c, values.len(), false, Epilogue::default());
        matmul_on(kernel.0, kernel.1, MatRef::new(&one, 1, 1), MatRef::new(&values, 1, values.len()), &out);
        assert_eq!(c, values, "{kernel:?} as the right-hand side");
    }
}

#[test]
fn empty_dimensions() {
    for kernel in kernels() {
        for (shape, accumulate, expected) in [
            ((0, 4, 4), false, vec![]),
            ((4, 0, 4), false, vec![]),
            ((1, 2, 0), false, vec![1.0, 1.0]),
            ((1, 2, 0), true, vec![1.5, 1.5]),
        ] {
            let case = Case::new(shape, false, false, 0);
            let bias = vec![1.0; shape.1];
            let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
            assert_eq!(case.run(kernel, true, accumulate, epilogue), expected, "{kernel:?} {shape:?}");
        }
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    for kernel in kernels() {
        for (shape, a_transposed) in
            [((300, 200, 700), false), ((390, 200, 96), false), ((128, 128, 3136), true)]
        {
            let case = Case::new(shape, a_transposed, false, 0);
            let bias = random(7, shape.1);
            let on = |threads: usize| {
                let pool =
                    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
                let epilogue = || Epilogue { bias: Some(&bias), ..Epilogue::default() };
                pool.install(|| [false, true].map(|more| case.run(kernel, false, more, epilogue())))
            };
            let one = on(1);
            assert!(one == on(2) && one == on(3), "{kernel:?} {shape:?}");
        }
    }
}

#[test]
fn a_repacked_operand_forgets_the_old_one() {
    for (isa, precision) in kernels() {
        let (large, small) =
            (Case::new((20, 90, 70), false, false, 0), Case::new((20, 33, 21), false, false, 0));
        let mut packed = PackedB::pack_on(isa, precision, large.operands().1);
        packed.repack(small.operands().1);
        let mut c = vec![0.0; 20 * 33];
        matmul_packed(small.operands().0, &packed, &mut c, 33, false, Epilogue::default());
        let exact = small.exact(precision);
        small.check(&c, "repacked", |i, j| exact[i * 33 + j]);
    }
}

#[test]
#[should_panic(expected = "matmul")]
fn inner_dimensions_must_agree() {
    let data = [0.0; 12];
    let (a, b) = (MatRef::new(&data, 3, 4), MatRef::new(&data, 3, 4));
    matmul(Precision::F32, a, b, &mut [0.0; 12], 4, false, Epilogue::default());
}

#[test]
fn panels_multiply_lanes_with_lanes() {
    for kernel in kernels() {
        let (isa, precision) = kernel;
        for shape in [(1, 1, 1), (8, 48, 16), (64, 64, 32), (65, 49, 7), (33, 72, 131), (3, 5, 0)] {
            for (a_transposed, b_transposed) in [(false, true), (true, false), (false, false), (true, true)] {
                let case = Case::new(shape, a_transposed, b_transposed, 3);
                let (m, n, _) = shape;
                let (a, b) = case.operands();
                let [mut left, mut right] =
                    [Side::Left, Side::Right].map(|side| Panel::new_on(isa, side, precision));
                // Larger contents first: a panel must forget them.
                left.pack(MatRef::new(&[1.0; 70 * 140], 70, 140));
                left.pack(a);
                right.pack(b.t());
                let exact = case.exact(precision);
                for accumulate in [false, true] {
                    let mut c = vec![0.5; m * (n + case.gap)];
                    let shared = crate::shared::SharedMut::new(&mut c);
                    // SAFETY: nobody else uses `c`.
                    unsafe { left.times(&right, &shared, 0, n + case.gap, accumulate) };
                    let before = if accumulate { 0.5 } else { 0.0 };
                    case.check(&c, &format!("panels {kernel:?}"), |i, j| before + exact[i * n + j]);
                }
            }
        }
    }
}
