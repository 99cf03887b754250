use half::bf16;
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::few;
use super::{Activation, Linear};
use crate::array::{Array, unfilled};
use crate::backend::Kernel;
use crate::gemm::{self, Element, Epilogue, MatRef, PANEL, Precision, companion_len, matmul};
use crate::packed::times_weight;

impl Kernel<3> for Linear {
    fn forward(&self, [x, weight, bias]: &[Array; 3], keep: bool) -> (Array, Vec<Array>) {
        let (rows, inputs, outputs) = (x.rows(), x.width(), bias.width());
        let mut dims = x.dims();
        *dims.last_mut().expect("x has a last axis") = outputs;
        let keeps = keep && self.activation == Activation::GeluTanh;
        // SAFETY: the product below writes every element.
        let (mut y, mut derivative) =
            unsafe { (unfilled::<f32>(rows * outputs), companion(rows, outputs, keeps)) };
        let activation = match self.activation {
            Activation::None => gemm::Activation::None,
            Activation::GeluTanh if keeps => gemm::Activation::Gelu { derivative: Some(&mut derivative) },
            Activation::GeluTanh => gemm::Activation::Gelu { derivative: None },
        };
        let epilogue = Epilogue { bias: Some(bias.values()), activation };
        let a = MatRef::new(x.values(), rows, inputs);
        times_weight(self.precision, a, weight, &mut y, epilogue, !keep);
        let kept = if keeps { vec![of_companion(derivative)] } else { Vec::new() };
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
        let d_before = kept.first().map(|derivative| through_activation(derivative, grad));
        let dy = d_before.as_deref().unwrap_or(grad.values());
        #[cfg(target_arch = "x86_64")]
        if few::suits(x.rows(), weight.values()) {
            let (dx, dw) = few::backward(
                self.precision,
                x.rows(),
                dy,
                x.values(),
                weight.values(),
                [wanted[0], wanted[1]],
            );
            return [
                wanted[0].then(|| Array::from_vec(dx, x.dims())),
                wanted[1].then(|| Array::from_vec(dw, weight.dims())),
                wanted[2].then(|| bias_gradient(dy, outputs)),
            ];
        }
        [
            wanted[0].then(|| {
                let dx: Vec<f32> = input_gradient(self.precision, dy, weight, gemm::Activation::None);
                Array::from_vec(dx, x.dims())
            }),
            wanted[1].then(|| weight_gradient(self.precision, x.rows(), dy, x.values(), weight)),
            wanted[2].then(|| bias_gradient(dy, outputs)),
        ]
    }
}

/// Room for a companion matrix of a product, where one is wanted. Columns without meaning are zero.
///
/// # Safety
/// The product writes it before anything reads it.
pub(crate) unsafe fn companion<T: Element>(rows: usize, cols: usize, wanted: bool) -> Vec<T> {
    match wanted {
        false => Vec::new(),
        // SAFETY: the caller's promise; there are no other columns.
        true if cols.is_multiple_of(PANEL) => unsafe { unfilled(companion_len(rows, cols)) },
        true => vec![T::nearest(0.0); companion_len(rows, cols)],
    }
}

/// A companion matrix, as what a backward pass keeps.
pub(crate) fn of_companion<T: Element>(values: Vec<T>) -> Array {
    let len = values.len();
    Array::of_elements(values, [len])
}

/// Gradient before an activation from that behind it and the derivative, a companion matrix.
pub(crate) fn through_activation(derivative: &Array, grad: &Array) -> Vec<f32> {
    /// Rows that one task takes.
    const ROWS: usize = 32;
    let (rows, cols, derivative) = (grad.rows(), grad.width(), derivative.values());
    // SAFETY: every element is written below.
    let mut d = unsafe { unfilled(rows * cols) };
    let run = (ROWS * cols).max(1);
    d.par_chunks_mut(run).zip(grad.values().par_chunks(run)).enumerate().for_each(|(index, (d, grad))| {
        let lines = d.chunks_mut(cols).zip(grad.chunks(cols)).enumerate();
        lines.for_each(|(line, (d, grad))| multiply_row(derivative, rows, index * ROWS + line, grad, d));
    });
    d
}

multiversioned! {
    /// A row of a matrix times that of a companion matrix of `rows` rows.
    fn multiply_row(companion: &[f32], rows: usize, row: usize, from: &[f32], to: &mut [f32]) {
        for (panel, (to, from)) in to.chunks_mut(PANEL).zip(from.chunks(PANEL)).enumerate() {
            let factors = &companion[(panel * rows + row) * PANEL..][..PANEL];
            for ((to, from), factor) in to.iter_mut().zip(from).zip(factors) {
                *to = from * factor;
            }
        }
    }
}

/// Gradient of a linear layer's input, [rows, in], from that of its output, [rows, out]; `activation` is applied to it.
pub(crate) fn input_gradient<T: Element, C: Element>(
    precision: Precision,
    dy: &[T],
    weight: &Array,
    activation: gemm::Activation<C>,
) -> Vec<C> {
    let (outputs, inputs) = (weight.rows(), weight.width());
    let rows = dy.len() / outputs;
    // SAFETY: the product writes every element.
    let mut dx = unsafe { unfilled(rows * inputs) };
    let (a, b) = (MatRef::new(dy, rows, outputs), MatRef::new(weight.values(), outputs, inputs));
    matmul(precision, a, b, &mut dx, inputs, false, Epilogue { bias: None, activation });
    dx
}

/// Gradient of a linear layer's weight, from its input [rows, in] and the gradient of its output [rows, out].
pub(crate) fn weight_gradient<T: Element, X: Element>(
    precision: Precision,
    rows: usize,
    dy: &[T],
    x: &[X],
    weight: &Array,
) -> Array {
    let (outputs, inputs) = (weight.rows(), weight.width());
    let (dy, x) = (MatRef::new(dy, rows, outputs), MatRef::new(x, rows, inputs));
    // A left-hand side is packed where it is used, a right-hand side as a whole before: the larger one goes left.
    let dw = match outputs >= inputs {
        true => product(precision, dy.t(), x),
        false => transposed(&product(precision, x.t(), dy), outputs),
    };
    Array::from_vec(dw, weight.dims())
}

fn product<A: Element, B: Element>(precision: Precision, a: MatRef<'_, A>, b: MatRef<'_, B>) -> Vec<f32> {
    // SAFETY: the product writes every element.
    let mut c = unsafe { unfilled(a.rows() * b.cols()) };
    matmul(precision, a, b, &mut c, b.cols(), false, Epilogue::default());
    c
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
pub(crate) fn bias_gradient<T: Element>(dy: &[T], width: usize) -> Array {
    const ROWS: usize = 256;
    let sum = |block: &[T]| {
        let mut total = vec![0f32; width];
        match T::HALF {
            true => add_halves(bytemuck::cast_slice(block), &mut total),
            false => add_rows(bytemuck::cast_slice(block), &mut total),
        }
        total
    };
    let partial: Vec<Vec<f32>> = dy.par_chunks(ROWS * width).map(sum).collect();
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

multiversioned! {
    /// [`add_rows`] of bf16 numbers.
    fn add_halves(values: &[bf16], total: &mut [f32]) {
        for row in values.chunks_exact(total.len()) {
            for (t, v) in total.iter_mut().zip(row) {
                *t += v.widened();
            }
        }
    }
}
