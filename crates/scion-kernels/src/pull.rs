//! Where a backward pass begins: a loss whose gradient by the model's output is known.

use burn::Tensor;
use burn::backend::Dispatch;
use burn::tensor::Gradients;

use crate::array::Array;
use crate::backend::{Kernel, KernelBackend};

/// A scalar whose gradient by its input is `slope`. Its value is not the loss, which nobody asks for.
#[derive(Clone, Debug)]
pub struct Pull {
    slope: Array,
}

impl Kernel<1> for Pull {
    fn forward(&self, _inputs: &[Array; 1], _keep: bool) -> (Array, Vec<Array>) {
        (Array::from_vec(vec![0.0], [1]), Vec::new())
    }

    fn backward(
        &self,
        _inputs: &[Array; 1],
        _kept: &[Array],
        _grad: &Array,
        _wanted: [bool; 1],
    ) -> [Option<Array>; 1] {
        [Some(self.slope.clone())]
    }
}

/// The beginning of a backward pass: a scalar whose gradient by `out` is `slope`, row-major. The gradients of a loss of
/// several tensors are those of the sum of their scalars.
///
/// # Panics
/// If `slope` has another size than `out`.
pub fn pull<const D: usize>(out: Tensor<D>, slope: Vec<f32>) -> Tensor<1> {
    let slope = Array::from_vec(slope, out.dims());
    let pull = <Dispatch as KernelBackend>::fused_pull(out.into_dispatch(), Pull { slope });
    Tensor::from_dispatch(pull)
}

/// Gradients of everything that `out` depends on, of a loss whose gradient by `out` is `slope`, row-major.
///
/// # Panics
/// If `slope` has another size than `out`, or `out` records no gradients.
pub fn backward<const D: usize>(out: Tensor<D>, slope: Vec<f32>) -> Gradients {
    pull(out, slope).backward()
}
