//! The gated convolution along a token's features of the paper's MLP Hyena-X.

mod cpu;
mod reference;

use burn::Tensor;
use burn::backend::Dispatch;

use crate::backend::KernelBackend;
pub use reference::gated_feature_conv_reference;

/// The convolution's settings: none, all sizes come from the tensors.
#[derive(Clone, Copy, Debug)]
pub struct GatedFeatureConv;

/// `q⊙k⊙v` with `[q, k, v]` a convolution of each token's features, with one filter a token position.
///
/// The last tap multiplies the current feature; features before the first count as zero, and the filter runs over the
/// borders between q, k and v.
/// Shapes: `features` [N, T, 3·H], `filter` [T, K], `bias` [T] → [N, T, H].
pub fn gated_feature_conv(features: Tensor<3>, filter: Tensor<2>, bias: Tensor<1>) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as KernelBackend>::fused_gated_feature_conv(
        features.into_dispatch(),
        filter.into_dispatch(),
        bias.into_dispatch(),
        GatedFeatureConv,
    ))
}
