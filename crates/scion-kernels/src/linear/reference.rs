use burn::Tensor;
use burn::tensor::activation::gelu_approximate;

use super::Activation;

/// [`linear`](super::linear) in plain tensor operations.
pub fn linear_reference<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    activation: Activation,
) -> Tensor<D> {
    let mut dims = x.dims();
    let [outputs, inputs] = weight.dims();
    let rows = x.shape().num_elements() / inputs;
    let y = x.reshape([rows, inputs]).matmul(weight.transpose()) + bias.unsqueeze();
    dims[D - 1] = outputs;
    let y = y.reshape(dims);
    match activation {
        Activation::None => y,
        Activation::GeluTanh => gelu_approximate(y),
    }
}
