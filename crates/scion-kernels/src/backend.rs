//! The bridge to Burn: the one place that names a backend.
//!
//! A fused operator is a [`Kernel`]: a forward and a backward pass on plain row-major f32 arrays. What it keeps between the two
//! is its own affair.
//! [`KernelBackend`] makes each kernel callable on a Burn tensor with or without automatic
//! differentiation; Burn's dispatch picks the implementation by the tensors' device.

use std::fmt::Debug;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, backend_extension};

use crate::adapted::AdaptedLinear;
use crate::array::Array;
use crate::attention::{Attention, CrossAttention};
use crate::conv::ShortConv;
use crate::feature_conv::GatedFeatureConv;
use crate::hyena::{GatedConv, GatedInner};
use crate::linear::Linear;
use crate::linear_attention::LinearAttention;
use crate::mamba2::Mamba2;
use crate::mlp::Mlp;
use crate::norm::ModulatedNorm;
use crate::pull::Pull;
use crate::residual::GatedResidual;

/// Forward and backward pass of one fused operator with `N` tensor inputs and one output.
pub(crate) trait Kernel<const N: usize>: Clone + Debug + Send + 'static {
    /// Computes the output. With `keep`, also returns what the backward pass needs beside the inputs.
    fn forward(&self, inputs: &[Array; N], keep: bool) -> (Array, Vec<Array>);

    /// Gradients of the wanted inputs, given the inputs, what the forward pass kept and the output's gradient.
    fn backward(
        &self,
        inputs: &[Array; N],
        kept: &[Array],
        grad: &Array,
        wanted: [bool; N],
    ) -> [Option<Array>; N];
}

/// The fused operators as a Burn backend extension.
#[backend_extension(Flex, Autodiff)]
pub trait KernelBackend: Backend {
    fn fused_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        op: Linear,
    ) -> FloatTensor<Self>;
    fn fused_adapted_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        op: AdaptedLinear,
    ) -> FloatTensor<Self>;
    fn fused_mlp(
        x: FloatTensor<Self>,
        w1: FloatTensor<Self>,
        b1: FloatTensor<Self>,
        w2: FloatTensor<Self>,
        b2: FloatTensor<Self>,
        op: Mlp,
    ) -> FloatTensor<Self>;
    fn fused_modulated_norm(
        x: FloatTensor<Self>,
        modulation: FloatTensor<Self>,
        op: ModulatedNorm,
    ) -> FloatTensor<Self>;
    fn fused_gated_residual(
        x: FloatTensor<Self>,
        branch: FloatTensor<Self>,
        modulation: FloatTensor<Self>,
        op: GatedResidual,
    ) -> FloatTensor<Self>;
    fn fused_attention(qkv: FloatTensor<Self>, op: Attention) -> FloatTensor<Self>;
    fn fused_cross_attention(
        q: FloatTensor<Self>,
        kv: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        op: CrossAttention,
    ) -> FloatTensor<Self>;
    fn fused_linear_attention(qkv: FloatTensor<Self>, op: LinearAttention) -> FloatTensor<Self>;
    fn fused_pull(out: FloatTensor<Self>, op: Pull) -> FloatTensor<Self>;
    fn fused_gated_conv(
        qkv: FloatTensor<Self>,
        filter: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        op: GatedConv,
    ) -> FloatTensor<Self>;
    fn fused_short_conv(
        x: FloatTensor<Self>,
        filter: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        op: ShortConv,
    ) -> FloatTensor<Self>;
    fn fused_gated_inner(
        x: FloatTensor<Self>,
        filter: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        op: GatedInner,
    ) -> FloatTensor<Self>;
    fn fused_gated_feature_conv(
        x: FloatTensor<Self>,
        filter: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        op: GatedFeatureConv,
    ) -> FloatTensor<Self>;
    #[allow(
        clippy::too_many_arguments,
        reason = "one for each tensor; the attribute is copied to what is generated"
    )]
    fn fused_mamba2(
        projected: FloatTensor<Self>,
        filter: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        dt_bias: FloatTensor<Self>,
        a_log: FloatTensor<Self>,
        d: FloatTensor<Self>,
        norm: FloatTensor<Self>,
        op: Mamba2,
    ) -> FloatTensor<Self>;
}

impl KernelBackend for Flex {
    fn fused_linear(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        b: FloatTensor<Self>,
        op: Linear,
    ) -> FloatTensor<Self> {
        run(op, [x, w, b])
    }
    fn fused_adapted_linear(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        op: AdaptedLinear,
    ) -> FloatTensor<Self> {
        run(op, [x, w, bias, a, b])
    }
    fn fused_mlp(
        x: FloatTensor<Self>,
        w1: FloatTensor<Self>,
        b1: FloatTensor<Self>,
        w2: FloatTensor<Self>,
        b2: FloatTensor<Self>,
        op: Mlp,
    ) -> FloatTensor<Self> {
        run(op, [x, w1, b1, w2, b2])
    }
    fn fused_modulated_norm(
        x: FloatTensor<Self>,
        m: FloatTensor<Self>,
        op: ModulatedNorm,
    ) -> FloatTensor<Self> {
        run(op, [x, m])
    }
    fn fused_gated_residual(
        x: FloatTensor<Self>,
        branch: FloatTensor<Self>,
        m: FloatTensor<Self>,
        op: GatedResidual,
    ) -> FloatTensor<Self> {
        run(op, [x, branch, m])
    }
    fn fused_attention(qkv: FloatTensor<Self>, op: Attention) -> FloatTensor<Self> {
        run(op, [qkv])
    }
    fn fused_cross_attention(
        q: FloatTensor<Self>,
        kv: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        op: CrossAttention,
    ) -> FloatTensor<Self> {
        run(op, [q, kv, bias])
    }
    fn fused_linear_attention(qkv: FloatTensor<Self>, op: LinearAttention) -> FloatTensor<Self> {
        run(op, [qkv])
    }
    fn fused_pull(out: FloatTensor<Self>, op: Pull) -> FloatTensor<Self> {
        run(op, [out])
    }
    fn fused_gated_conv(
        qkv: FloatTensor<Self>,
        filter: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        op: GatedConv,
    ) -> FloatTensor<Self> {
        run(op, [qkv, filter, bias])
    }
    fn fused_short_conv(
        x: FloatTensor<Self>,
        filter: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        op: ShortConv,
    ) -> FloatTensor<Self> {
        run(op, [x, filter, bias])
    }
    fn fused_gated_inner(
        x: FloatTensor<Self>,
        filter: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        op: GatedInner,
    ) -> FloatTensor<Self> {
        run(op, [x, filter, bias])
    }
    fn fused_gated_feature_conv(
        x: FloatTensor<Self>,
        filter: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        op: GatedFeatureConv,
    ) -> FloatTensor<Self> {
        run(op, [x, filter, bias])
    }
    fn fused_mamba2(
        projected: FloatTensor<Self>,
        filter: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        dt_bias: FloatTensor<Self>,
        a_log: FloatTensor<Self>,
        d: FloatTensor<Self>,
        norm: FloatTensor<Self>,
        op: Mamba2,
    ) -> FloatTensor<Self> {
        run(op, [projected, filter, bias, dt_bias, a_log, d, norm])
    }
}

impl<C: CheckpointStrategy> KernelBackend for Autodiff<Flex, C> {
    fn fused_linear(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        b: FloatTensor<Self>,
        op: Linear,
    ) -> FloatTensor<Self> {
        track::<_, C, 3>(op, [x, w, b])
    }
    fn fused_adapted_linear(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        op: AdaptedLinear,
    ) -> FloatTensor<Self> {
        track::<_, C, 5>(op, [x, w, bias, a, b])
    }
    fn fused_mlp(
        x: FloatTensor<Self>,
        w1: FloatTensor<Self>,
        b1: FloatTensor<Self>,
        w2: FloatTensor<Self>,
        b2: FloatTensor<Self>,
        op: Mlp,
    ) -> FloatTensor<Self> {
        track::<_, C, 5>(op, [x, w1, b1, w2, b2])
    }
    fn fused_modulated_norm(
        x: FloatTensor<Self>,
        m: FloatTensor<Self>,
        op: ModulatedNorm,
    ) -> FloatTensor<Self> {
        track::<_, C, 2>(op, [x, m])
    }
    fn fused_gated_residual(
        x: FloatTensor<Self>,
        branch: FloatTensor<Self>,
        m: FloatTensor<Self>,
        op: GatedResidual,
    ) -> FloatTensor<Self> {
        track::<_, C, 3>(op, [x, branch, m])
    }
    fn fused_attention(qkv: FloatTensor<Self>, op: Attention) -> FloatTensor<Self> {
        track::<_, C, 1>(op, [qkv])
    }
    fn fused_cross_attention(
        q: FloatTensor<Self>,
        kv: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        op: CrossAttention,
    ) -> FloatTensor<Self> {
        track::<_, C, 3>(op, [q, kv, bias])
    }
    fn fused_linear_attention(qkv: FloatTensor<Self>, op: LinearAttention) -> FloatTensor<Self> {
        track::<_, C, 1>(op, [qkv])
    }
    fn fused_pull(out: FloatTensor<Self>, op: Pull) -> FloatTensor<Self> {
        track::<_, C, 1>(op, [out])
    }
    fn fused_gated_conv(
        qkv: FloatTensor<Self>,
        filter: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        op: GatedConv,
    ) -> FloatTensor<Self> {
        track::<_, C, 3>(op, [qkv, filter, bias])
    }
    fn fused_short_conv(
        x: FloatTensor<Self>,
        filter: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        op: ShortConv,
    ) -> FloatTensor<Self> {
        track::<_, C, 3>(op, [x, filter, bias])
    }
    fn fused_gated_inner(
        x: FloatTensor<Self>,
        filter: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        op: GatedInner,
    ) -> FloatTensor<Self> {
        track::<_, C, 3>(op, [x, filter, bias])
    }
    fn fused_gated_feature_conv(
        x: FloatTensor<Self>,
        filter: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        op: GatedFeatureConv,
    ) -> FloatTensor<Self> {
        track::<_, C, 3>(op, [x, filter, bias])
    }
    fn fused_mamba2(
        projected: FloatTensor<Self>,
        filter: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        dt_bias: FloatTensor<Self>,
        a_log: FloatTensor<Self>,
        d: FloatTensor<Self>,
        norm: FloatTensor<Self>,
        op: Mamba2,
    ) -> FloatTensor<Self> {
        track::<_, C, 7>(op, [projected, filter, bias, dt_bias, a_log, d, norm])
    }
}

/// Runs a kernel without keeping anything for a backward pass.
fn run<K: Kernel<N>, const N: usize>(op: K, inputs: [FloatTensor<Flex>; N]) -> FloatTensor<Flex> {
    op.forward(&inputs.map(Array::new), false).0.into_primitive()
}

/// Runs a kernel and records its hand-written backward pass.
fn track<K: Kernel<N>, C: CheckpointStrategy, const N: usize>(
    op: K,
    inputs: [FloatTensor<Autodiff<Flex, C>>; N],
) -> FloatTensor<Autodiff<Flex, C>> {
    let mut arrays = Vec::with_capacity(N);
    let nodes = inputs.map(|tensor| {
        let (primitive, node) = tensor.into_parts();
        arrays.push(Array::new(primitive));
        node
    });
    let inputs: [Array; N] = arrays.try_into().expect("one array an input");
    match (Fused { op: op.clone() }).prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let (output, kept) = op.forward(&inputs, true);
            prep.finish(State { inputs, kept }, output.into_primitive())
        }
        OpsKind::UnTracked(prep) => prep.finish(op.forward(&inputs, false).0.into_primitive()),
    }
}

/// The recorded backward step of a kernel.
#[derive(Debug)]
struct Fused<K> {
    op: K,
}

/// What a backward step holds until it runs.
#[derive(Clone, Debug)]
struct State<const N: usize> {
    inputs: [Array; N],
    kept: Vec<Array>,
}

impl<K: Kernel<N>, const N: usize> Backward<Flex, N> for Fused<K> {
    type State = State<N>;

    fn backward(self, ops: Ops<State<N>, N>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = Array::new(grads.consume::<Flex>(&ops.node));
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let State { inputs, kept } = ops.state;
        let results = self.op.backward(&inputs, &kept, &grad, wanted);
        for (parent, result) in ops.parents.into_iter().zip(results) {
            if let (Some(node), Some(result)) = (parent, result) {
                let id: NodeId = node.id;
                grads.register::<Flex>(id, result.into_primitive());
            }
        }
    }
}
