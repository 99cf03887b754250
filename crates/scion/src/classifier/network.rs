use burn::Tensor;
use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, TensorData};
use scion_kernels::linear::Activation;

use crate::operator::{Init, Linear, Scheme};

/// Rows and columns of an image.
pub const SIDE: usize = 28;
/// Dimensions of a feature vector.
pub const FEATURES: usize = 64;
/// Classes of Fashion-MNIST.
pub const CLASSES: usize = 10;
/// Pixels of an image.
pub(super) const PIXELS: usize = SIDE * SIDE;

/// `x·Wᵀ + b` with the given activation, in the precision of the caller's choice.
pub(super) type Product = fn(Tensor<2>, Tensor<2>, Tensor<1>, Activation) -> Tensor<2>;

/// Sizes of one convolution on square maps.
#[derive(Clone, Copy, Debug)]
struct Geometry {
    /// Rows and columns of its input.
    side: usize,
    inputs: usize,
    outputs: usize,
    /// Odd number of taps a side.
    kernel: usize,
    stride: usize,
}

/// Mean and standard deviation of the training images' pixels, in [-1, 1].
const PIXEL_MEAN: f64 = -0.428;
const PIXEL_DEVIATION: f64 = 0.706;

const CONVOLUTIONS: [Geometry; 4] = [
    Geometry { side: 28, inputs: 1, outputs: 32, kernel: 5, stride: 2 },
    Geometry { side: 14, inputs: 32, outputs: 32, kernel: 3, stride: 1 },
    Geometry { side: 14, inputs: 32, outputs: 64, kernel: 3, stride: 2 },
    Geometry { side: 7, inputs: 64, outputs: 64, kernel: 3, stride: 1 },
];

/// Four convolutions with ReLU, a linear layer with GELU (the features), a linear head: 266,922 parameters.
#[derive(Module, Debug)]
pub(super) struct Network {
    /// Weights [outputs, kernel·kernel·inputs], the input channel fastest.
    convolutions: Vec<Linear>,
    /// From all places of the last maps: clothes are centred, so where an edge lies tells much.
    features: Linear,
    head: Linear,
}

impl Network {
    /// He-uniform hidden layers, so that the activations keep their variance (He et al. 2015, eq. 10).
    pub fn new(init: &mut Init) -> Self {
        let last = CONVOLUTIONS[CONVOLUTIONS.len() - 1];
        let places = last.side_out().pow(2);
        Self {
            convolutions: CONVOLUTIONS
                .iter()
                .map(|g| hidden(g.kernel.pow(2) * g.inputs, g.outputs, init))
                .collect(),
            features: hidden(places * last.outputs, FEATURES, init),
            head: Linear::new(FEATURES, CLASSES, Scheme::Torch, init),
        }
    }

    /// `images` [N, 784] in [-1, 1] → features [N, 64] and logits [N, 10].
    pub fn forward(&self, images: Tensor<2>, product: Product) -> (Tensor<2>, Tensor<2>) {
        let count = images.dims()[0];
        let mut maps = ((images - PIXEL_MEAN) / PIXEL_DEVIATION).reshape([count * PIXELS, 1]);
        for (layer, geometry) in self.convolutions.iter().zip(CONVOLUTIONS) {
            maps = relu(geometry.convolve(maps, layer, product));
        }
        let apply =
            |x, layer: &Linear, activation| product(x, layer.weight.val(), layer.bias.val(), activation);
        let maps = maps.reshape([count as i32, -1]);
        let features = apply(maps, &self.features, Activation::GeluTanh);
        let logits = apply(features.clone(), &self.head, Activation::None);
        (features, logits)
    }
}

fn hidden(inputs: usize, outputs: usize, init: &mut Init) -> Linear {
    let bound = (6.0 / inputs as f64).sqrt();
    Linear { weight: init.uniform([outputs, inputs], bound), bias: init.constant([outputs], 0.0) }
}

impl Geometry {
    fn side_out(self) -> usize {
        self.side.div_ceil(self.stride)
    }

    /// `maps` [N·side·side, inputs] → [N·side_out·side_out, outputs].
    fn convolve(self, maps: Tensor<2>, layer: &Linear, product: Product) -> Tensor<2> {
        let rows = self.neighbours(maps.dims()[0] / (self.side * self.side), &maps.device());
        let taps = self.kernel * self.kernel;
        let places = rows.dims()[0] / taps;
        let patches = maps.select(0, rows).reshape([places, taps * self.inputs]);
        product(patches, layer.weight.val(), layer.bias.val(), Activation::None)
    }

    /// The rows of [N·side·side, inputs] under each tap of each place, [N·side_out²·kernel²]. Beyond the border
    /// the nearest pixel counts: an image's background is not zero.
    fn neighbours(self, count: usize, device: &Device) -> Tensor<1, Int> {
        let (side, out) = (self.side, self.side_out());
        let near = |place: usize, tap: usize| {
            (place * self.stride + tap).saturating_sub(self.kernel / 2).min(side - 1)
        };
        let mut rows = Vec::with_capacity(count * (out * self.kernel).pow(2));
        for image in 0..count {
            for place in 0..out * out {
                for tap in 0..self.kernel * self.kernel {
                    let y = near(place / out, tap / self.kernel);
                    let x = near(place % out, tap % self.kernel);
                    rows.push(((image * side + y) * side + x) as i32);
                }
            }
        }
        let length = rows.len();
        Tensor::from_data(TensorData::new(rows, [length]), device)
    }
}

#[cfg(test)]
mod tests {
    use scion_kernels::linear::linear_reference;

    use super::*;

    fn naive(g: Geometry, maps: &[f32], weight: &[f32], bias: &[f32], image: usize) -> Vec<f32> {
        let (side, half) = (g.side as i64, (g.kernel / 2) as i64);
        let mut result = Vec::new();
        for (row, column) in (0..g.side_out()).flat_map(|r| (0..g.side_out()).map(move |c| (r, c))) {
            for output in 0..g.outputs {
                let mut sum = bias[output];
                for (v, u) in (0..g.kernel).flat_map(|v| (0..g.kernel).map(move |u| (v, u))) {
                    let y = ((row * g.stride + v) as i64 - half).clamp(0, side - 1) as usize;
                    let x = ((column * g.stride + u) as i64 - half).clamp(0, side - 1) as usize;
                    for input in 0..g.inputs {
                        let pixel = maps[((image * g.side + y) * g.side + x) * g.inputs + input];
                        sum += pixel * weight[((output * g.kernel + v) * g.kernel + u) * g.inputs + input];
                    }
                }
                result.push(sum);
            }
        }
        result
    }

    #[test]
    fn convolutions_are_sums_over_neighbours() {
        let device = Device::flex();
        for (kernel, stride, side) in [(3, 1, 5), (3, 2, 6), (5, 2, 7)] {
            let g = Geometry { side, inputs: 2, outputs: 3, kernel, stride };
            let mut init = Init::new(3, 0, &device);
            let layer = Linear::new(kernel * kernel * 2, 3, Scheme::Torch, &mut init);
            let maps = init.uniform([2 * side * side, 2], 1.0).val();
            let values = |t: Tensor<2>| t.into_data().try_into_vec::<f32>().unwrap();
            let found = values(g.convolve(maps.clone(), &layer, linear_reference));
            let (maps, weight) = (values(maps), values(layer.weight.val()));
            let bias: Vec<f32> = layer.bias.val().into_data().try_into_vec().unwrap();
            let expected: Vec<f32> = (0..2).flat_map(|i| naive(g, &maps, &weight, &bias, i)).collect();
            assert_eq!(found.len(), expected.len());
            assert!(
                found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5),
                "kernel {kernel} stride {stride}"
            );
        }
    }

    #[test]
    fn size_is_as_documented() {
        assert_eq!(Network::new(&mut Init::empty(&Device::flex())).num_params(), 266_922);
    }
}
