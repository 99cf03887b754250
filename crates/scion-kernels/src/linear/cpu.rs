use rayon::prelude::*;

use super::{Activation, Linear};
use crate::array::{Array, unfilled};
use crate::backend::Kernel;
use crate::gemm::{self, Epilogue, MatRef, Precision, matmul, vmath};
use crate::packed::times_weight;

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
        times_weight(self.precision, a, weight, &mut y, epilogue, !keep);
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
        let outputs = grad.width();
        let through_activation = kept.first().map(|before| gelu_gradient(before, grad));
        let dy = through_activation.as_deref().unwrap_or(grad.values());
        [
            wanted[0].then(|| {
                let dx = input_gradient(self.precision, dy, weight, gemm::Activation::None);
                Array::from_vec(dx, x.dims())
            }),
            wanted[1].then(|| weight_gradient(self.precision, dy, x, weight)),
            wanted[2].then(|| bias_gradient(dy, outputs)),
        ]
    }
}

/// Gradient before GELU from that behind it, both of the size of `before`, GELU's argument.
pub(crate) fn gelu_gradient(before: &Array, grad: &Array) -> Vec<f32> {
    // SAFETY: gelu_backward writes every element.
    let mut d = unsafe { unfilled(before.values().len()) };
    d.par_chunks_mut(BLOCK)
        .zip(before.values().par_chunks(BLOCK))
        .zip(grad.values().par_chunks(BLOCK))
        .for_each(|((d, before), grad)| vmath::gelu_backward(before, grad, d));
    d
}

/// Gradient of a linear layer's input, [rows, in], from that of its output, [rows, out]; `activation` is applied to it.
pub(crate) fn input_gradient(
    precision: Precision,
    dy: &[f32],
    weight: &Array,
    activation: gemm::Activation,
) -> Vec<f32> {
    let (outputs, inputs) = (weight.rows(), weight.width());
    let rows = dy.len() / outputs;
    // SAFETY: the product writes every element.
    let mut dx = unsafe { unfilled(rows * inputs) };
    let (a, b) = (MatRef::new(dy, rows, outputs), MatRef::new(weight.values(), outputs, inputs));
    matmul(precision, a, b, &mut dx, inputs, false, Epilogue { bias: None, activation });
    dx
}

/// Gradient of a linear layer's weight, from its input [rows, in] and the gradient of its output [rows, out].
pub(crate) fn weight_gradient(precision: Precision, dy: &[f32], x: &Array, weight: &Array) -> Array {
    let (rows, outputs, inputs) = (x.rows(), weight.rows(), weight.width());
    let (dy, x) = (MatRef::new(dy, rows, outputs), MatRef::new(x.values(), rows, inputs));
    let product = |left: MatRef<'_>, right: MatRef<'_>| {
        // SAFETY: the product writes every element.
        let mut dw = unsafe { unfilled(outputs * inputs) };
        matmul(precision, left.t(), right, &mut dw, right.cols(), false, Epilogue::default());
        dw
    };
    // A left-hand side is packed where it is used, a right-hand side as a whole before: the larger one goes left.
    let dw = if outputs >= inputs { product(dy, x) } else { transposed(&product(x, dy), outputs) };
    Array::from_vec(dw, weight.dims())
}

/// The transpose of a matrix of `width` columns.
fn transposed(values: &[f32], width: usize) -> Vec<f32> {
    /// Rows and columns of what is moved at a time: a cache line each way.
    const SIDE: usize = 16;
    let rows = values.len() / width;
    // SAFETY: the loops below write every element.
    let mut to = unsafe { unfilled(values.len()) };
    to.par_chunks_mut(SIDE * rows).enumerate().for_each(|(band, to)| {
        for first in (0..rows).step_by(SIDE) {
            let count = SIDE.min(rows - first);
            for (column, to) in to.chunks_exact_mut(rows).enumerate() {
                let from = values[first * width + band * SIDE + column..].iter().step_by(width);
                to[first..first + count].iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            }
        }
    });
    to
}

/// Sums over rows, in blocks whose order does not depend on the number of threads.
pub(crate) fn bias_gradient(dy: &[f32], width: usize) -> Array {
    const ROWS: usize = 256;
    let partial: Vec<Vec<f32>> = dy
        .par_chunks(ROWS * width)
        .map(|block| {
            let mut total = vec![0f32; width];
            add_rows(block, &mut total);
            total
        })
        .collect();
    let mut total = vec![0f32; width];
    partial.iter().for_each(|block| add_rows(block, &mut total));
    Array::from_vec(total, [width])
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
