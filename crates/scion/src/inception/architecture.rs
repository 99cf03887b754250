//! Layers and their names, as in torchvision's `inception.py` with pytorch-fid's changes: average pools that leave
//! padding out of the count, and a maximum pool in `Mixed_7c`, where all other blocks of its kind take the average.

use super::layer::Layer;
use super::pool::Pool;
use crate::convolution::Geometry;

/// A convolution to be loaded.
#[derive(Clone, Debug)]
pub(super) struct Named {
    /// As the weight file has it, without `.conv` or `.bn`.
    pub(super) name: String,
    pub(super) geometry: Geometry,
}

impl AsRef<Geometry> for Named {
    fn as_ref(&self) -> &Geometry {
        &self.geometry
    }
}

/// The network in two parts: up to `Mixed_6d`, whose output begins with the spatial features, and from there to the last
/// map, [8, 8, 2048].
pub(super) fn network() -> [Layer<Named>; 2] {
    let part = Layer::Sequence;
    [
        part(vec![
            named("Conv2d_1a_3x3", Geometry::new(3, 32, [3, 3]).halving()),
            named("Conv2d_2a_3x3", Geometry::new(32, 32, [3, 3])),
            named("Conv2d_2b_3x3", Geometry::new(32, 64, [3, 3]).padded()),
            Layer::Pool(Pool::HalvingMaximum),
            named("Conv2d_3b_1x1", Geometry::new(64, 80, [1, 1])),
            named("Conv2d_4a_3x3", Geometry::new(80, 192, [3, 3])),
            Layer::Pool(Pool::HalvingMaximum),
            mixed_a("Mixed_5b", 192, 32),
            mixed_a("Mixed_5c", 256, 64),
            mixed_a("Mixed_5d", 288, 64),
            mixed_b("Mixed_6a", 288),
            mixed_c("Mixed_6b", 128),
            mixed_c("Mixed_6c", 160),
            mixed_c("Mixed_6d", 160),
        ]),
        part(vec![
            mixed_c("Mixed_6e", 192),
            mixed_d("Mixed_7a", 768),
            mixed_e("Mixed_7b", 1280, Pool::Average),
            mixed_e("Mixed_7c", 2048, Pool::Maximum),
        ]),
    ]
}

fn named(name: &str, geometry: Geometry) -> Layer<Named> {
    Layer::Convolution(Named { name: name.into(), geometry })
}

/// A chain of convolutions that keep the map's size: names after the block's, output channels, kernels.
fn chain(block: &str, mut inputs: usize, links: &[(&str, usize, [usize; 2])]) -> Vec<Layer<Named>> {
    let mut layers = Vec::with_capacity(links.len());
    for &(name, outputs, kernel) in links {
        layers.push(named(&format!("{block}.{name}"), Geometry::new(inputs, outputs, kernel).padded()));
        inputs = outputs;
    }
    layers
}

/// One pooled branch: the pool, then a 1×1 convolution.
fn pooled(block: &str, inputs: usize, outputs: usize, pool: Pool) -> Layer<Named> {
    let convolution = chain(block, inputs, &[("branch_pool", outputs, [1, 1])]);
    Layer::Sequence([vec![Layer::Pool(pool)], convolution].concat())
}

/// 35×35, to 64 + 64 + 96 + `pool` channels.
fn mixed_a(block: &str, inputs: usize, pool: usize) -> Layer<Named> {
    let branch = |links: &[_]| Layer::Sequence(chain(block, inputs, links));
    Layer::Branches(vec![
        branch(&[("branch1x1", 64, [1, 1])]),
        branch(&[("branch5x5_1", 48, [1, 1]), ("branch5x5_2", 64, [5, 5])]),
        branch(&[
            ("branch3x3dbl_1", 64, [1, 1]),
            ("branch3x3dbl_2", 96, [3, 3]),
            ("branch3x3dbl_3", 96, [3, 3]),
        ]),
        pooled(block, inputs, pool, Pool::Average),
    ])
}

/// 35×35 to 17×17.
fn mixed_b(block: &str, inputs: usize) -> Layer<Named> {
    let halving = |name: &str, inputs, outputs| {
        named(&format!("{block}.{name}"), Geometry::new(inputs, outputs, [3, 3]).halving())
    };
    let mut double = chain(block, inputs, &[("branch3x3dbl_1", 64, [1, 1]), ("branch3x3dbl_2", 96, [3, 3])]);
    double.push(halving("branch3x3dbl_3", 96, 96));
    Layer::Branches(vec![
        halving("branch3x3", inputs, 384),
        Layer::Sequence(double),
        Layer::Pool(Pool::HalvingMaximum),
    ])
}

/// 17×17, 768 channels, with 7×7 convolutions split in two; `inner` channels between them.
fn mixed_c(block: &str, inner: usize) -> Layer<Named> {
    let branch = |links: &[_]| Layer::Sequence(chain(block, 768, links));
    Layer::Branches(vec![
        branch(&[("branch1x1", 192, [1, 1])]),
        branch(&[
            ("branch7x7_1", inner, [1, 1]),
            ("branch7x7_2", inner, [1, 7]),
            ("branch7x7_3", 192, [7, 1]),
        ]),
        branch(&[
            ("branch7x7dbl_1", inner, [1, 1]),
            ("branch7x7dbl_2", inner, [7, 1]),
            ("branch7x7dbl_3", inner, [1, 7]),
            ("branch7x7dbl_4", inner, [7, 1]),
            ("branch7x7dbl_5", 192, [1, 7]),
        ]),
        pooled(block, 768, 192, Pool::Average),
    ])
}

/// 17×17 to 8×8.
fn mixed_d(block: &str, inputs: usize) -> Layer<Named> {
    let halving = |name: &str, outputs| {
        named(&format!("{block}.{name}"), Geometry::new(192, outputs, [3, 3]).halving())
    };
    let mut three = chain(block, inputs, &[("branch3x3_1", 192, [1, 1])]);
    three.push(halving("branch3x3_2", 320));
    let links =
        [("branch7x7x3_1", 192, [1, 1]), ("branch7x7x3_2", 192, [1, 7]), ("branch7x7x3_3", 192, [7, 1])];
    let mut seven = chain(block, inputs, &links);
    seven.push(halving("branch7x7x3_4", 192));
    Layer::Branches(vec![Layer::Sequence(three), Layer::Sequence(seven), Layer::Pool(Pool::HalvingMaximum)])
}

/// 8×8, to 2048 channels; two branches end in a pair side by side.
fn mixed_e(block: &str, inputs: usize, pool: Pool) -> Layer<Named> {
    let forked = |links: &[_], [wide, tall]: [&str; 2]| {
        let ends = [chain(block, 384, &[(wide, 384, [1, 3])]), chain(block, 384, &[(tall, 384, [3, 1])])];
        Layer::Sequence([chain(block, inputs, links), vec![Layer::Branches(ends.concat())]].concat())
    };
    Layer::Branches(vec![
        Layer::Sequence(chain(block, inputs, &[("branch1x1", 320, [1, 1])])),
        forked(&[("branch3x3_1", 384, [1, 1])], ["branch3x3_2a", "branch3x3_2b"]),
        forked(
            &[("branch3x3dbl_1", 448, [1, 1]), ("branch3x3dbl_2", 384, [3, 3])],
            ["branch3x3dbl_3a", "branch3x3dbl_3b"],
        ),
        pooled(block, inputs, 192, pool),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts of the published network: 94 convolutions; 21.8 million weights without the classifier.
    #[test]
    fn sizes_are_the_published_ones() {
        let [front, back] = network();
        assert_eq!(front.shape([299, 299, 3]), [17, 17, 768]);
        assert_eq!(back.shape([17, 17, 768]), [8, 8, 2048]);
        let convolutions = [front.convolutions(), back.convolutions()].concat();
        assert_eq!(convolutions.len(), 94);
        let weights = |g: &Geometry| g.outputs * g.inputs * g.kernel[0] * g.kernel[1] + 2 * g.outputs;
        assert_eq!(convolutions.iter().map(|c| weights(&c.geometry)).sum::<usize>(), 21_785_568);
    }
}
