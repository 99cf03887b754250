use burn::Tensor;
use burn::module::Param;
use burn::tensor::{Device, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal, Uniform};

/// How a linear layer's weights are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// PyTorch's default: weight and bias uniform in ±1/√inputs. The paper's setting for new operators.
    Torch,
    /// Xavier-uniform weight and zero bias, as DiT initialises its blocks.
    Xavier,
    /// All zero, as DiT initialises what gates a block.
    Zero,
    /// Weight N(0, 0.02²) and zero bias, as DiT initialises its embedders.
    Embedder,
}

/// Source of initial weights: a seeded stream of our own, so that a device never changes them.
#[derive(Debug)]
pub struct Init {
    rng: Option<ChaCha8Rng>,
    device: Device,
}

impl Init {
    /// A stream for the given seed; `stream` tells apart independent parts of one model.
    pub fn new(seed: u64, stream: u64, device: &Device) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self { rng: Some(rng), device: device.clone() }
    }

    /// Draws nothing: every parameter is zero, to be overwritten by a checkpoint's.
    pub fn empty(device: &Device) -> Self {
        Self { rng: None, device: device.clone() }
    }

    /// The device that parameters are made on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A parameter uniform in ±bound.
    pub fn uniform<const D: usize>(&mut self, shape: [usize; D], bound: f64) -> Param<Tensor<D>> {
        self.draw(shape, Uniform::new_inclusive(-bound, bound).expect("bounds are finite"))
    }

    /// A parameter normal with the given standard deviation.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], deviation: f64) -> Param<Tensor<D>> {
        self.draw(shape, Normal::new(0.0, deviation).expect("deviations are finite"))
    }

    fn draw<const D: usize>(&mut self, shape: [usize; D], from: impl Distribution<f64>) -> Param<Tensor<D>> {
        let count = shape.iter().product();
        let values = match &mut self.rng {
            Some(rng) => (0..count).map(|_| from.sample(rng) as f32).collect(),
            None => vec![0.0; count],
        };
        self.parameter(values, shape)
    }

    /// `count` values uniform between `low` and `high`, for parameters that are a function of such values; all `low`
    /// where nothing is drawn.
    pub fn values(&mut self, count: usize, low: f64, high: f64) -> impl Iterator<Item = f64> + use<> {
        let uniform = Uniform::new_inclusive(low, high).expect("bounds are finite and in order");
        let values: Vec<f64> = match &mut self.rng {
            Some(rng) => (0..count).map(|_| uniform.sample(rng)).collect(),
            None => vec![low; count],
        };
        values.into_iter()
    }

    /// A parameter with every element the same.
    pub fn constant<const D: usize>(&mut self, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        self.parameter(vec![value; shape.iter().product()], shape)
    }

    /// A parameter holding `values`.
    pub fn parameter<const D: usize>(&mut self, values: Vec<f32>, shape: [usize; D]) -> Param<Tensor<D>> {
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), &self.device))
    }
}
