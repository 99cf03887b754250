//! Speed of the matrix products on shapes of transformer training, in GFLOP/s, best of several.
//!
//!     cargo run --release -p scion-kernels --example gemm_bench [-- THREADS]
//!
//! Columns: the `gemm` crate in f32, this crate in f32, bf16 packing both operands, bf16 with the
//! right-hand side packed beforehand, and the last with bias and GELU.

use scion_kernels::gemm::{Activation, Epilogue, MatRef, PackedB, Precision, matmul, matmul_packed};
use std::time::Instant;

/// Label, m, n, k, whether A and B are stored transposed.
const SHAPES: [(&str, usize, usize, usize, bool, bool); 26] = [
    ("forward", 3136, 384, 128, false, true),
    ("forward", 3136, 128, 128, false, true),
    ("forward", 3136, 512, 128, false, true),
    ("forward", 3136, 128, 512, false, true),
    ("backward x", 3136, 128, 384, false, false),
    ("backward x", 3136, 512, 128, false, false),
    ("backward w", 128, 128, 3136, true, false),
    ("backward w", 384, 128, 3136, true, false),
    ("backward w", 512, 128, 3136, true, false),
    ("forward", 2048, 1152, 384, false, true),
    ("forward", 2048, 384, 384, false, true),
    ("forward", 2048, 1536, 384, false, true),
    ("forward", 2048, 384, 1536, false, true),
    ("backward x", 2048, 384, 1152, false, false),
    ("backward x", 2048, 1536, 384, false, false),
    ("backward w", 1152, 384, 2048, true, false),
    ("backward w", 384, 384, 2048, true, false),
    ("backward w", 384, 1536, 2048, true, false),
    ("forward", 2048, 3456, 1152, false, true),
    ("forward", 2048, 4608, 1152, false, true),
    ("forward", 2048, 1152, 4608, false, true),
    ("forward", 2048, 1152, 3456, false, true),
    ("backward x", 2048, 1152, 3456, false, false),
    ("backward w", 4608, 1152, 2048, true, false),
    ("modulation", 64, 768, 128, false, true),
    ("modulation", 64, 6912, 1152, false, true),
];

/// GFLOP/s of the fastest of the runs that fit a quarter of a second, at least three.
fn best(flops: f64, mut run: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut least = f64::INFINITY;
    for i in 0.. {
        let start = Instant::now();
        run();
        least = least.min(start.elapsed().as_secs_f64());
        if i >= 2 && begin.elapsed().as_millis() > 250 {
            break;
        }
    }
    flops / least / 1e9
}

fn filled(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 1009) as f32 / 504.5 - 1.0).collect()
}

/// The `gemm` crate on row-major operands.
fn gemm_crate(a: (&[f32], bool), b: (&[f32], bool), c: &mut [f32], (m, n, k): (usize, usize, usize)) {
    let strides = |transposed, rows: usize, cols: usize| match transposed {
        true => (rows as isize, 1),
        false => (1, cols as isize),
    };
    let ((a_right, a_down), (b_right, b_down)) = (strides(a.1, m, k), strides(b.1, k, n));
    assert!(a.0.len() == m * k && b.0.len() == k * n && c.len() == m * n);
    let (c, columns, threads) = (c.as_mut_ptr(), n as isize, ::gemm::Parallelism::Rayon(0));
    let (a, b) = (a.0.as_ptr(), b.0.as_ptr());
    // SAFETY: the lengths were checked, and the strides are those of contiguous matrices.
    unsafe {
        ::gemm::gemm(
            m, n, k, c, 1, columns, false, a, a_right, a_down, b, b_right, b_down, 0.0, 1.0, false, false,
            false, threads,
        );
    }
}

fn main() {
    if let Some(threads) = std::env::args().nth(1).and_then(|n| n.parse().ok()) {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("the first thread pool");
    }
    println!("{} threads, GFLOP/s", rayon::current_num_threads());
    println!("{:>28} {:>8} {:>8} {:>8} {:>8} {:>8}", "m x n x k", "crate", "f32", "bf16", "packed", "+gelu");
    for (label, m, n, k, a_transposed, b_transposed) in SHAPES {
        let (a_data, b_data, mut c) = (filled(m * k), filled(k * n), vec![0.0; m * n]);
        let a = if a_transposed { MatRef::new(&a_data, k, m).t() } else { MatRef::new(&a_data, m, k) };
        let b = if b_transposed { MatRef::new(&b_data, n, k).t() } else { MatRef::new(&b_data, k, n) };
        let flops = 2.0 * (m * n * k) as f64;
        let crate_speed =
            best(flops, || gemm_crate((&a_data, a_transposed), (&b_data, b_transposed), &mut c, (m, n, k)));
        let f32_speed = best(flops, || matmul(Precision::F32, a, b, &mut c, n, false, Epilogue::default()));
        let bf16_speed = best(flops, || matmul(Precision::Bf16, a, b, &mut c, n, false, Epilogue::default()));
        let packed = PackedB::pack(Precision::Bf16, b);
        let packed_speed = best(flops, || matmul_packed(a, &packed, &mut c, n, false, Epilogue::default()));
        let bias = filled(n);
        let gelu_speed = best(flops, || {
            let activation = Activation::Gelu { derivative: None };
            matmul_packed(a, &packed, &mut c, n, false, Epilogue { bias: Some(&bias), activation });
        });
        println!(
            "{label:>10} {:>17} {crate_speed:8.0} {f32_speed:8.0} {bf16_speed:8.0} {packed_speed:8.0} {gelu_speed:8.0}",
            format!("{m} x {n} x {k}")
        );
    }
}
