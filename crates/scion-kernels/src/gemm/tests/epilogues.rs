//! What becomes of sums: bias, activations, companion matrices and bf16 results.

use super::*;
use half::bf16;

fn gelu_f64(x: f64) -> f64 {
    0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044_715 * x.powi(3))).tanh())
}

#[test]
fn epilogues_match_f64() {
    for kernel in kernels() {
        for shape in [(9, 50, 20), (33, 128, 700), (65, 70, 4500)] {
            let case = Case::new(shape, false, true, 1);
            let (m, n, _) = shape;
            let (exact, bias) = (case.exact(kernel.1), random(5, n));
            let biased = |i: usize, j: usize| exact[i * n + j] + f64::from(bias[j]);

            let mut derivative = vec![0.5; companion_len(m, n)];
            let activation = Activation::Gelu { derivative: Some(&mut derivative) };
            let c = case.run(kernel, false, false, Epilogue { bias: Some(&bias), activation });
            case.check(&c, "gelu", |i, j| gelu_f64(biased(i, j)));
            for (i, j) in (0..m * n).map(|at| (at / n, at % n)) {
                let found = f64::from(derivative[in_panels(m, i, j)]);
                let expected = gelu_slope(biased(i, j));
                assert!(
                    (found - expected).abs() < 1e-4,
                    "{kernel:?} {shape:?} ({i}, {j}): {found}, not {expected}"
                );
            }

            let activation = Activation::Gelu { derivative: None };
            let again = case.run(kernel, true, false, Epilogue { bias: Some(&bias), activation });
            assert_eq!(c, again);

            let epilogue = Epilogue { bias: Some(&bias), activation: Activation::Relu };
            case.check(&case.run(kernel, true, false, epilogue), "relu", |i, j| biased(i, j).max(0.0));

            let factor = random(6, companion_len(m, n));
            let activation = Activation::Times { factor: &factor };
            let c = case.run(kernel, false, false, Epilogue { bias: None, activation });
            case.check(&c, "times", |i, j| exact[i * n + j] * f64::from(factor[in_panels(m, i, j)]));
        }
    }
}

fn gelu_slope(x: f64) -> f64 {
    (gelu_f64(x + 1e-6) - gelu_f64(x - 1e-6)) / 2e-6
}

/// Where an element of a companion matrix of `rows` rows lies.
fn in_panels(rows: usize, i: usize, j: usize) -> usize {
    (j / PANEL * rows + i) * PANEL + j % PANEL
}

#[test]
fn bf16_numbers_are_taken_and_given_as_if_rounded() {
    let halves = |values: &[f32]| values.iter().map(|&x| bf16::nearest(x)).collect::<Vec<_>>();
    // The `gemm` crate's sums depend on how operands lie, and those of bf16 numbers are copies.
    for kernel in kernels().filter(|kernel| *kernel != (Isa::Portable, Precision::F32)) {
        for shape in SHAPES {
            for (gap, (ta, tb)) in [(false, true), (true, false), (true, true)].into_iter().enumerate() {
                let mut case = Case::new(shape, ta, tb, gap);
                let (a, b) = (halves(&case.a), halves(&case.b));
                case.a = a.iter().map(|x| x.widened()).collect();
                case.b = b.iter().map(|x| x.widened()).collect();
                let ((m, n, k), stride) = (shape, shape.1 + gap);
                let (a, b) = (case.view(&a, m, k, ta), case.view(&b, k, n, tb));
                let label = format!("{kernel:?} {shape:?} transposed {ta} {tb}");

                let expected = case.run(kernel, false, false, Epilogue::default());
                let mut c = vec![0.5; expected.len()];
                let out = Output::new((m, n), &mut c, stride, false, Epilogue::default());
                matmul_on(kernel.0, kernel.1, a, b, &out);
                assert!(c == expected, "{label}");

                let mut c = vec![0.5; expected.len()];
                let out = Output::new((m, n), &mut c, stride, false, Epilogue::default());
                PackedB::pack_on(kernel.0, kernel.1, case.operands().1).multiply(a, &out);
                assert!(c == expected, "packed {label}");

                let mut c = vec![bf16::nearest(0.5); expected.len()];
                let out = Output::new((m, n), &mut c, stride, false, Epilogue::default());
                matmul_on(kernel.0, kernel.1, a, b, &out);
                assert!(c == halves(&expected), "{label}");

                // With activations the last of several blocks of k is added in another order.
                let bias = random(7, n);
                let mut derivative = vec![0.0; companion_len(m, n)];
                let activation = Activation::Gelu { derivative: Some(&mut derivative) };
                let expected = case.run(kernel, false, false, Epilogue { bias: Some(&bias), activation });
                let mut halves_of_it = vec![bf16::ZERO; companion_len(m, n)];
                let activation = Activation::Gelu { derivative: Some(&mut halves_of_it) };
                let epilogue = Epilogue { bias: Some(&bias), activation };
                matmul_on(kernel.0, kernel.1, a, b, &Output::new((m, n), &mut c, stride, false, epilogue));
                assert!(rounded_from(&c, &expected), "gelu {label}");
                let mut meant = (0..m * n).map(|at| in_panels(m, at / n, at % n));
                assert!(
                    meant.all(|at| rounded_from(&halves_of_it[at..=at], &derivative[at..=at])),
                    "{label}"
                );

                let factor: Vec<f32> = halves_of_it.iter().map(|x| x.widened()).collect();
                let activation = Activation::Times { factor: &factor };
                let expected = case.run(kernel, false, false, Epilogue { bias: None, activation });
                let activation = Activation::Times { factor: &halves_of_it };
                let epilogue = Epilogue { bias: None, activation };
                matmul_on(kernel.0, kernel.1, a, b, &Output::new((m, n), &mut c, stride, false, epilogue));
                assert!(rounded_from(&c, &expected), "times {label}");
            }
        }
    }
}

/// Whether numbers are others rounded, but for what sums in another order may change.
fn rounded_from(found: &[bf16], expected: &[f32]) -> bool {
    let close = |(found, expected): (&bf16, &f32)| {
        (found.widened() - expected).abs() <= expected.abs() / 256.0 + 1e-5
    };
    found.len() == expected.len() && found.iter().zip(expected).all(close)
}

#[test]
fn relu_hides_no_nan() {
    for kernel in kernels() {
        let mut case = Case::new((9, 50, 20), false, false, 0);
        case.a[20] = f32::NAN;
        let c = case.run(kernel, false, false, Epilogue { bias: None, activation: Activation::Relu });
        assert!(c[50..100].iter().all(|x| x.is_nan()) && c[..50].iter().all(|x| *x >= 0.0), "{kernel:?}");
    }
}
