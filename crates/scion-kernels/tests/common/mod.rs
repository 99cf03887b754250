//! Inputs and outputs of the operators under test.

use burn::Tensor;
use burn::tensor::{Device, TensorData};

/// A tensor of reproducible values around zero, tracked by autodiff.
pub fn tensor<const D: usize>(shape: [usize; D], seed: u32, scale: f32) -> Tensor<D> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale
        })
        .collect();
    let device = Device::flex().autodiff();
    Tensor::from_data(TensorData::new(values, shape), &device).require_grad()
}

/// A tensor's values, row by row.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}
