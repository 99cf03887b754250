use half::bf16;

use super::Mlp;
use crate::array::{Array, unfilled};
use crate::backend::Kernel;
use crate::gemm::{Activation, Element, Epilogue, MatRef, Precision};
use crate::linear::{bias_gradient, companion, input_gradient, of_companion, weight_gradient};
use crate::packed::times_weight;

impl Kernel<5> for Mlp {
    fn forward(&self, inputs: &[Array; 5], keep: bool) -> (Array, Vec<Array>) {
        match self.precision {
            Precision::F32 => self.forward_with::<f32>(inputs, keep),
            Precision::Bf16 => self.forward_with::<bf16>(inputs, keep),
        }
    }

    fn backward(
        &self,
        inputs: &[Array; 5],
        kept: &[Array],
        grad: &Array,
        wanted: [bool; 5],
    ) -> [Option<Array>; 5] {
        match self.precision {
            Precision::F32 => self.backward_with::<f32>(inputs, kept, grad, wanted),
            Precision::Bf16 => self.backward_with::<bf16>(inputs, kept, grad, wanted),
        }
    }
}

/// With bf16 operands the hidden values and the gradient before the activation are stored as products round them, and the
/// activation's derivative likewise: they are the largest arrays of a model, and most of the layer's time would pass reading
/// and writing them.
impl Mlp {
    fn forward_with<H: Element>(&self, [x, w1, b1, w2, b2]: &[Array; 5], keep: bool) -> (Array, Vec<Array>) {
        let (rows, width, hidden) = (x.rows(), x.width(), b1.width());
        // SAFETY: the products below write every element of the three.
        let (mut h, mut derivative, mut y) = unsafe {
            (
                unfilled::<H>(rows * hidden),
                companion::<H>(rows, hidden, keep),
                unfilled::<f32>(rows * b2.width()),
            )
        };
        let activation = Activation::Gelu { derivative: keep.then_some(&mut derivative[..]) };
        let epilogue = Epilogue { bias: Some(b1.values()), activation };
        times_weight(self.precision, MatRef::new(x.values(), rows, width), w1, &mut h, epilogue, !keep);
        let epilogue = Epilogue { bias: Some(b2.values()), activation: Activation::None };
        times_weight(self.precision, MatRef::new(&h, rows, hidden), w2, &mut y, epilogue, !keep);
        let kept = match keep {
            true => vec![of_companion(derivative), Array::of_elements(h, [rows, hidden])],
            false => Vec::new(),
        };
        (Array::from_vec(y, x.dims()), kept)
    }

    fn backward_with<H: Element>(
        &self,
        [x, w1, _, w2, _]: &[Array; 5],
        kept: &[Array],
        grad: &Array,
        wanted: [bool; 5],
    ) -> [Option<Array>; 5] {
        let (derivative, h, dy) = (kept[0].elements::<H>(), kept[1].elements::<H>(), grad.values());
        let activation = Activation::Times { factor: derivative };
        let d_pre: Vec<H> = input_gradient(self.precision, dy, w2, activation);
        [
            wanted[0].then(|| {
                let dx: Vec<f32> = input_gradient(self.precision, &d_pre, w1, Activation::None);
                Array::from_vec(dx, x.dims())
            }),
            wanted[1].then(|| weight_gradient(self.precision, x.rows(), &d_pre, x.values(), w1)),
            wanted[2].then(|| bias_gradient(&d_pre, w1.rows())),
            wanted[3].then(|| weight_gradient(self.precision, x.rows(), dy, h, w2)),
            wanted[4].then(|| bias_gradient(dy, grad.width())),
        ]
    }
}
