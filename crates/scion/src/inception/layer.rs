use super::pool::Pool;
use crate::convolution::{Convolution, Geometry, Map, Shape, Target};
use crate::error::Result;

/// The network as a tree. `C` is a convolution, or what is known of it before it is loaded.
#[derive(Clone, Debug)]
pub(super) enum Layer<C> {
    Convolution(C),
    Pool(Pool),
    /// One after the other.
    Sequence(Vec<Self>),
    /// Side by side on the same input; the outputs' channels are joined.
    Branches(Vec<Self>),
}

impl<C> Layer<C> {
    /// Every convolution, in order.
    pub(super) fn convolutions(&self) -> Vec<&C> {
        match self {
            Self::Convolution(convolution) => vec![convolution],
            Self::Pool(_) => vec![],
            Self::Sequence(layers) | Self::Branches(layers) => {
                layers.iter().flat_map(Self::convolutions).collect()
            }
        }
    }

    /// The same tree with other convolutions.
    pub(super) fn try_map<D>(&self, load: &mut impl FnMut(&C) -> Result<D>) -> Result<Layer<D>> {
        let mut all = |layers: &[Self]| -> Result<Vec<Layer<D>>> {
            layers.iter().map(|layer| layer.try_map(load)).collect()
        };
        Ok(match self {
            Self::Sequence(layers) => Layer::Sequence(all(layers)?),
            Self::Branches(layers) => Layer::Branches(all(layers)?),
            Self::Pool(pool) => Layer::Pool(*pool),
            Self::Convolution(convolution) => Layer::Convolution(load(convolution)?),
        })
    }
}

impl<C: AsRef<Geometry>> Layer<C> {
    /// The output's shape.
    pub(super) fn shape(&self, input: Shape) -> Shape {
        match self {
            Self::Convolution(convolution) => convolution.as_ref().shape(input),
            Self::Pool(pool) => pool.shape(input),
            Self::Sequence(layers) => layers.iter().fold(input, |shape, layer| layer.shape(shape)),
            Self::Branches(branches) => {
                let shapes = branches.iter().map(|branch| branch.shape(input));
                let joined = shapes.reduce(|[rows, columns, a], [_, _, b]| [rows, columns, a + b]);
                joined.expect("a block has branches")
            }
        }
    }
}

impl Layer<Convolution> {
    /// The output as a map of its own. `patches` is memory to work in.
    pub(super) fn apply(&self, input: &Map, patches: &mut Vec<f32>) -> Map {
        let shape = self.shape(input.shape);
        let mut data = vec![0.0; shape.iter().product()];
        self.write(input, &mut data, shape[2], patches);
        Map { shape, data }
    }

    /// Writes the output among other channels: `out` begins at the first of its own, and a place's channels lie `stride`
    /// floats after those of the place before.
    fn write(&self, input: &Map, out: &mut [f32], stride: usize, patches: &mut Vec<f32>) {
        match self {
            Self::Convolution(convolution) => {
                let rows = convolution.as_ref().shape(input.shape)[0];
                let target = Target { out, stride, accumulate: false, relu: true };
                convolution.write(input.rows(), 0..rows, target, patches);
            }
            Self::Pool(pool) => pool.write(input, out, stride),
            Self::Sequence(layers) => {
                let (last, before) = layers.split_last().expect("a sequence has layers");
                let mut map: Option<Map> = None;
                for layer in before {
                    map = Some(layer.apply(map.as_ref().unwrap_or(input), patches));
                }
                last.write(map.as_ref().unwrap_or(input), out, stride, patches);
            }
            Self::Branches(branches) => {
                let mut channel = 0;
                for branch in branches {
                    branch.write(input, &mut out[channel..], stride, patches);
                    channel += branch.shape(input.shape)[2];
                }
            }
        }
    }
}
