use super::Mlp;
use crate::array::{Array, unfilled};
use crate::backend::Kernel;
use crate::gemm::{Activation, Epilogue, MatRef};
use crate::linear::{bias_gradient, input_gradient, weight_gradient};
use crate::packed::times_weight;

impl Kernel<5> for Mlp {
    fn forward(&self, [x, w1, b1, w2, b2]: &[Array; 5], keep: bool) -> (Array, Vec<Array>) {
        let (rows, width, hidden) = (x.rows(), x.width(), b1.width());
        // SAFETY: the products below write every element of the three.
        let (mut h, mut pre, mut y) = unsafe {
            (
                unfilled(rows * hidden),
                unfilled(if keep { rows * hidden } else { 0 }),
                unfilled(rows * b2.width()),
            )
        };
        let activation = Activation::Gelu { pre_activation: keep.then_some(&mut pre[..]) };
        let epilogue = Epilogue { bias: Some(b1.values()), activation };
        times_weight(self.precision, MatRef::new(x.values(), rows, width), w1, &mut h, epilogue, !keep);
        let epilogue = Epilogue { bias: Some(b2.values()), activation: Activation::None };
        times_weight(self.precision, MatRef::new(&h, rows, hidden), w2, &mut y, epilogue, !keep);
        let kept = if keep {
            [pre, h].map(|values| Array::from_vec(values, [rows, hidden])).into()
        } else {
            Vec::new()
        };
        (Array::from_vec(y, x.dims()), kept)
    }

    fn backward(
        &self,
        [x, w1, _, w2, _]: &[Array; 5],
        kept: &[Array],
        grad: &Array,
        wanted: [bool; 5],
    ) -> [Option<Array>; 5] {
        let (pre, h, dy) = (&kept[0], &kept[1], grad.values());
        let activation = Activation::GeluBackward { pre_activation: pre.values() };
        let d_pre = input_gradient(self.precision, dy, w2, activation);
        [
            wanted[0].then(|| {
                Array::from_vec(input_gradient(self.precision, &d_pre, w1, Activation::None), x.dims())
            }),
            wanted[1].then(|| weight_gradient(self.precision, &d_pre, x, w1)),
            wanted[2].then(|| bias_gradient(&d_pre, h.width())),
            wanted[3].then(|| weight_gradient(self.precision, dy, h, w2)),
            wanted[4].then(|| bias_gradient(dy, grad.width())),
        ]
    }
}
