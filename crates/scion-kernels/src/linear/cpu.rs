use rayon::prelude::*;

use super::{Activation, Linear};
use crate::array::{Array, unfilled};
use crate::backend::Kernel;
use crate::gemm::{self, Epilogue, MatRef, matmul, vmath};

/// Elements of an elementwise pass that one task takes.
const BLOCK: usize = 1 << 14;

impl Kernel<3> for Linear {
    fn forward(&self, [x, weight, bias]: &[Array; 3], keep: bool) -> (Array, Vec<Array>) {
        let (rows, inputs, outputs) = (x.rows(), x.width(), bias.width());
        let keeps = keep && self.activation == Activation::GeluTanh;
        // SAFETY: the product below writes every element of both.
        let (mut y, mut before) =
            unsafe { (unfilled(rows * outputs), unfilled(if keeps { rows * outputs } else { 0 })) };
        let activation = match self.activation {
            Activation::None => gemm::Activation::None,
            Activation::GeluTanh if keep => gemm::Activation::Gelu { pre_activation: Some(&mut before) },
            Activation::GeluTanh => gemm::Activation::Gelu { pre_activation: None },
        };
        let epilogue = Epilogue { bias: Some(bias.values()), activation };
        let a = MatRef::new(x.values(), rows, inputs);
        let b = MatRef::new(weight.values(), outputs, inputs).t();
        matmul(self.precision, a, b, &mut y, outputs, false, epilogue);
        let mut dims = x.dims();
        *dims.last_mut().expect("x has a last axis") = outputs;
        let kept = if before.is_empty() { Vec::new() } else { vec![Array::from_vec(before, dims.clone())] };
        (Array::from_vec(y, dims), kept)
    }

    fn backward(
        &self,
        [x, weight, _]: &[Array; 3],
        kept: &[Array],
        grad: &Array,
        wanted: [bool; 3],
    ) -> [Option<Array>; 3] {
        let (rows, inputs, outputs) = (x.rows(), x.width(), grad.width());
        let through_activation = kept.first().map(|before| {
            // SAFETY: gelu_backward writes every element.
            let mut d = unsafe { unfilled(rows * outputs) };
            d.par_chunks_mut(BLOCK)
                .zip(before.values().par_chunks(BLOCK))
                .zip(grad.values().par_chunks(BLOCK))
                .for_each(|((d, before), grad)| vmath::gelu_backward(before, grad, d));
            d
        });
        let dy = through_activation.as_deref().unwrap_or(grad.values());
        let dx = wanted[0].then(|| {
            // SAFETY: the product writes every element.
            let mut dx = unsafe { unfilled(rows * inputs) };
            let a = MatRef::new(dy, rows, outputs);
            let b = MatRef::new(weight.values(), outputs, inputs);
            matmul(self.precision, a, b, &mut dx, inputs, false, Epilogue::default());
            Array::from_vec(dx, x.dims())
        });
        let dw = wanted[1].then(|| {
            // SAFETY: the product writes every element.
            let mut dw = unsafe { unfilled(outputs * inputs) };
            let a = MatRef::new(dy, rows, outputs).t();
            let b = MatRef::new(x.values(), rows, inputs);
            matmul(self.precision, a, b, &mut dw, inputs, false, Epilogue::default());
            Array::from_vec(dw, weight.dims())
        });
        let db = wanted[2].then(|| Array::from_vec(column_sums(dy, outputs), [outputs]));
        [dx, dw, db]
    }
}

/// Sums over rows, in blocks whose order does not depend on the number of threads.
fn column_sums(values: &[f32], width: usize) -> Vec<f32> {
    const ROWS: usize = 256;
    let partial: Vec<Vec<f32>> = values
        .par_chunks(ROWS * width)
        .map(|block| {
            let mut total = vec![0f32; width];
            add_rows(block, &mut total);
            total
        })
        .collect();
    let mut total = vec![0f32; width];
    partial.iter().for_each(|block| add_rows(block, &mut total));
    total
}

multiversioned! {
    /// Adds every row of `values` to `total`.
    fn add_rows(values: &[f32], total: &mut [f32]) {
        for row in values.chunks_exact(total.len()) {
            for (t, v) in total.iter_mut().zip(row) {
                *t += v;
            }
        }
    }
}
