use super::AdaptedLinear;
use crate::array::{Array, unfilled};
use crate::backend::Kernel;
use crate::gemm::{self, Epilogue, MatRef, Precision, matmul};
use crate::linear::{
    Activation, bias_gradient, companion, input_gradient, of_companion, through_activation, weight_gradient,
};
use crate::packed::times_weight;

impl Kernel<5> for AdaptedLinear {
    fn forward(&self, [x, weight, bias, a, b]: &[Array; 5], keep: bool) -> (Array, Vec<Array>) {
        let (rows, outputs, rank) = (x.rows(), bias.width(), a.rows());
        let keeps = keep && self.activation == Activation::GeluTanh;
        // SAFETY: the products below write every element of the three.
        let (mut low, mut y, mut derivative) =
            unsafe { (unfilled(rows * rank), unfilled(rows * outputs), companion(rows, outputs, keeps)) };
        let input = MatRef::new(x.values(), rows, x.width());
        times_weight(self.precision, input, a, &mut low, Epilogue::default(), false);
        scale(&mut low, self.scale);
        let biased = Epilogue { bias: Some(bias.values()), activation: gemm::Activation::None };
        times_weight(self.precision, input, weight, &mut y, biased, !keep);
        let activation = match self.activation {
            Activation::None => gemm::Activation::None,
            Activation::GeluTanh if keeps => gemm::Activation::Gelu { derivative: Some(&mut derivative) },
            Activation::GeluTanh => gemm::Activation::Gelu { derivative: None },
        };
        let up = MatRef::new(b.values(), outputs, rank).t();
        add_product(self.precision, MatRef::new(&low, rows, rank), up, &mut y, activation);
        let mut dims = x.dims();
        *dims.last_mut().expect("x has a last axis") = outputs;
        let mut kept = if keep { vec![Array::from_vec(low, [rows, rank])] } else { Vec::new() };
        if keeps {
            kept.push(of_companion(derivative));
        }
        (Array::from_vec(y, dims), kept)
    }

    fn backward(
        &self,
        [x, weight, bias, a, b]: &[Array; 5],
        kept: &[Array],
        grad: &Array,
        wanted: [bool; 5],
    ) -> [Option<Array>; 5] {
        let (rows, outputs, rank) = (x.rows(), bias.width(), a.rows());
        let (low, derivative) = (&kept[0], kept.get(1));
        let d_before = derivative.map(|derivative| through_activation(derivative, grad));
        let dy = d_before.as_deref().unwrap_or(grad.values());
        let mut d_low = Vec::new();
        if wanted[0] || wanted[3] {
            d_low = input_gradient(self.precision, dy, b, gemm::Activation::None);
            scale(&mut d_low, self.scale);
        }
        [
            wanted[0].then(|| {
                let mut dx = input_gradient(self.precision, dy, weight, gemm::Activation::None);
                let down = MatRef::new(a.values(), rank, x.width());
                let low = MatRef::new(&d_low, rows, rank);
                add_product(self.precision, low, down, &mut dx, gemm::Activation::None);
                Array::from_vec(dx, x.dims())
            }),
            wanted[1].then(|| weight_gradient(self.precision, rows, dy, x.values(), weight)),
            wanted[2].then(|| bias_gradient(dy, outputs)),
            wanted[3].then(|| weight_gradient(self.precision, rows, &d_low, x.values(), a)),
            wanted[4].then(|| weight_gradient(self.precision, rows, dy, low.values(), b)),
        ]
    }
}

/// `c = activation(c + a·b)`.
fn add_product(precision: Precision, a: MatRef, b: MatRef, c: &mut [f32], activation: gemm::Activation) {
    matmul(precision, a, b, c, b.cols(), true, Epilogue { bias: None, activation });
}

/// The adapter's scale is applied where tensors are smallest.
fn scale(low: &mut [f32], by: f32) {
    low.iter_mut().for_each(|value| *value *= by);
}
