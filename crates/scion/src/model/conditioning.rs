//! What images are conditioned on: as a caller gives it, and as the blocks get it.

use burn::Tensor;
use burn::tensor::{Device, Gradients, TensorData};

use super::config::DitConfig;

/// What a batch of images is conditioned on.
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
#[derive(Clone, Debug)]
pub enum Given<'a> {
    /// Labels [N]: rows of a class-conditional model's table, or of the prompts that a text-to-image model was given
    /// ([`super::Dit::with_prompts`]).
    Labels(&'a [usize]),
    /// Encoded prompts, for a text-to-image model.
    Text(Text),
}

impl<'a> From<&'a [usize]> for Given<'a> {
    fn from(labels: &'a [usize]) -> Self {
        Self::Labels(labels)
    }
}

impl<'a> From<&'a Vec<usize>> for Given<'a> {
    fn from(labels: &'a Vec<usize>) -> Self {
        Self::Labels(labels)
    }
}

impl<'a, const N: usize> From<&'a [usize; N]> for Given<'a> {
    fn from(labels: &'a [usize; N]) -> Self {
        Self::Labels(labels)
    }
}

impl From<Text> for Given<'_> {
    fn from(text: Text) -> Self {
        Self::Text(text)
    }
}

/// Prompts as tokens, the shorter ones filled up.
#[derive(Clone, Debug)]
pub struct Text {
    /// [N, L, width]
    pub tokens: Tensor<3>,
    /// [N, L]: 1 for a prompt's tokens, 0 for what fills it up.
    pub mask: Tensor<2>,
}

impl Text {
    /// Of row-major `tokens` [N, L, width] and `mask` [N, L]. Columns that no prompt reaches are left out, unless a prompt
    /// has no tokens at all, whose attention the mask leaves as it is.
    pub fn new(tokens: Vec<f32>, mask: Vec<f32>, shape: [usize; 3], device: &Device) -> Self {
        let [n, len, width] = shape;
        let tokens = Tensor::from_data(TensorData::new(tokens, shape), device);
        let ends = mask.chunks(len.max(1)).map(|row| row.iter().rposition(|&kept| kept != 0.0));
        let longest = ends.map(|end| end.map_or(len, |end| end + 1)).max().unwrap_or(len);
        let mask = Tensor::from_data(TensorData::new(mask, [n, len]), device);
        Self { tokens: tokens.slice([0..n, 0..longest, 0..width]), mask: mask.slice([0..n, 0..longest]) }
    }

    /// What is added to scores of keys: 0, or −10000 where the mask hides one; [N, L].
    pub(super) fn bias(&self) -> Tensor<2> {
        (self.mask.clone() - 1.0) * 10_000.0
    }
}

/// What every block and the last layer get beside the tokens.
#[derive(Clone, Debug)]
pub struct Context {
    /// DiT: SiLU(t + y), [N, D]. PixArt: what the blocks add their tables to, [N, 6·D], then the timestep's embedding
    /// twice, [N, 2·D], to which the last layer adds its own.
    pub conditioning: Tensor<2>,
    /// The prompts, projected to the model's width.
    pub text: Option<Text>,
    /// Rows and columns of an image's tokens.
    pub grid: [usize; 2],
}

/// Gradients by a [`Context`].
pub(super) struct ContextSlope {
    pub conditioning: Tensor<2>,
    pub text: Option<Tensor<3>>,
}

impl Context {
    /// Values of a sample in [`Context::packed`].
    pub fn packed_len(sizes: &DitConfig) -> usize {
        let width = sizes.hidden;
        sizes.text().map_or(width, |text| 8 * width + text.tokens * (width + 1))
    }

    /// Row-major [N, K], with prompts filled up to what the model takes, K as [`Context::packed_len`] says.
    pub fn packed(&self, sizes: &DitConfig) -> Vec<f32> {
        let conditioning = values(&self.conditioning);
        let (Some(text), Some(config)) = (&self.text, sizes.text()) else { return conditioning };
        let [n, len, width] = text.tokens.dims();
        let (tokens, mask) = (values(&text.tokens), values(&text.mask));
        let mut rows = Vec::with_capacity(n * Self::packed_len(sizes));
        for i in 0..n {
            rows.extend(&conditioning[i * 8 * width..][..8 * width]);
            for (values, width) in [(&tokens, width), (&mask, 1)] {
                rows.extend(&values[i * len * width..][..len * width]);
                rows.resize(rows.len() + (config.tokens - len) * width, 0.0);
            }
        }
        rows
    }

    /// From what [`Context::packed`] made of `count` samples, for tokens of the given width on a grid.
    pub fn unpacked(packed: &[f32], count: usize, width: usize, grid: [usize; 2], device: &Device) -> Self {
        let row = packed.len() / count;
        if row == width {
            let conditioning = TensorData::new(packed.to_vec(), [count, width]);
            return Self { conditioning: Tensor::from_data(conditioning, device), text: None, grid };
        }
        let len = (row - 8 * width) / (width + 1);
        let part = |from: usize, size: usize| -> Vec<f32> {
            packed.chunks(row).flat_map(|row| &row[from..from + size]).copied().collect()
        };
        let conditioning = TensorData::new(part(0, 8 * width), [count, 8 * width]);
        let (tokens, mask) = (part(8 * width, len * width), part(row - len, len));
        let text = Text::new(tokens, mask, [count, len, width], device);
        Self { conditioning: Tensor::from_data(conditioning, device), text: Some(text), grid }
    }

    /// The same without gradients.
    pub(super) fn inner(self) -> Self {
        let text = self.text.map(|text| Text { tokens: text.tokens.inner(), mask: text.mask.inner() });
        Self { conditioning: self.conditioning.inner(), text, grid: self.grid }
    }

    /// The same, of which gradients are taken.
    pub(super) fn leaf(self) -> Self {
        let text = self.text.map(|text| Text {
            tokens: Tensor::from_inner(text.tokens).require_grad(),
            mask: Tensor::from_inner(text.mask),
        });
        Self { conditioning: Tensor::from_inner(self.conditioning).require_grad(), text, grid: self.grid }
    }

    /// The gradients of a leaf.
    pub(super) fn taken(&self, gradients: &mut Gradients) -> ContextSlope {
        let conditioning =
            self.conditioning.grad_remove(gradients).expect("every part depends on the conditioning");
        // The last layer does not see the prompts.
        ContextSlope {
            conditioning,
            text: self.text.as_ref().and_then(|text| text.tokens.grad_remove(gradients)),
        }
    }

    /// Whether parameters lie behind it.
    pub(super) fn is_tracked(&self) -> bool {
        self.conditioning.is_tracked() || self.text.as_ref().is_some_and(|text| text.tokens.is_tracked())
    }

    /// A loss whose gradient by this is `slope`.
    pub(super) fn pull(self, slope: ContextSlope) -> Tensor<1> {
        let loss = (self.conditioning * Tensor::from_inner(slope.conditioning)).sum();
        match (self.text, slope.text) {
            (Some(text), Some(slope)) => loss + (text.tokens * Tensor::from_inner(slope)).sum(),
            _ => loss,
        }
    }
}

impl ContextSlope {
    /// The sum of both.
    pub fn and(self, other: Self) -> Self {
        let text = match (self.text, other.text) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
        Self { conditioning: self.conditioning + other.conditioning, text }
    }
}

pub(super) fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.clone().into_data().try_into_vec().expect("the model computes in f32")
}

#[cfg(test)]
mod tests {
    use super::super::Prompts;
    use super::*;

    #[test]
    fn columns_that_no_prompt_reaches_are_left_out() {
        let text =
            |mask: &[f32]| Text::new(vec![0.0; 6], mask.to_vec(), [2, 3, 1], &Device::flex()).mask.dims();
        assert_eq!(text(&[1.0, 0.0, 0.0, 1.0, 1.0, 0.0]), [2, 2]);
        assert_eq!(text(&[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]), [2, 3]);
    }

    #[test]
    fn a_context_comes_back_from_its_packed_form() {
        let (device, width) = (Device::flex(), 4);
        let sizes = DitConfig { hidden: width, ..DitConfig::preset("pixart-alpha-256").unwrap() };
        let conditioning = (0..64).map(|v| v as f32).collect::<Vec<_>>();
        let prompts = Prompts::new(width, vec![vec![1.5; 12], vec![2.5; 4]], vec![3.5; 4]).unwrap();
        let context = Context {
            conditioning: Tensor::from_data(TensorData::new(conditioning.clone(), [2, 32]), &device),
            text: Some(prompts.text(&[1, 0], &device)),
            grid: [2, 3],
        };
        let packed = context.packed(&sizes);
        assert_eq!(packed.len(), 2 * Context::packed_len(&sizes));
        let back = Context::unpacked(&packed, 2, width, context.grid, &device);
        let (before, after) = (context.text.unwrap(), back.text.unwrap());
        assert_eq!(values(&back.conditioning), conditioning);
        assert_eq!(values(&after.tokens), values(&before.tokens));
        assert_eq!(values(&after.mask), values(&before.mask));
    }
}
