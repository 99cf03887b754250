//! The numbers that operands and results consist of.

use burn::tensor::Element as TensorElement;
use bytemuck::Pod;
use half::bf16;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
}

/// A number of an operand or a result: f32, or bf16, which takes half the memory and is what products with bf16 operands make of
/// a number in any case.
pub trait Element: sealed::Sealed + TensorElement + Pod {
    /// Whether it has 16 bits rather than 32.
    const HALF: bool;

    /// The number, which f32 holds exactly.
    fn widened(self) -> f32;

    /// The nearest such number, ties to even; subnormals become zero in bf16.
    fn nearest(x: f32) -> Self;

    /// The numbers themselves, if they are f32.
    fn floats(values: &[Self]) -> Option<&[f32]>;
}

impl Element for f32 {
    const HALF: bool = false;

    #[inline(always)]
    fn widened(self) -> f32 {
        self
    }

    #[inline(always)]
    fn nearest(x: f32) -> Self {
        x
    }

    fn floats(values: &[Self]) -> Option<&[f32]> {
        Some(values)
    }
}

impl Element for bf16 {
    const HALF: bool = true;

    #[inline(always)]
    fn widened(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn nearest(x: f32) -> Self {
        Self::from_bits((round_to_bf16(x).to_bits() >> 16) as u16)
    }

    fn floats(_: &[Self]) -> Option<&[f32]> {
        None
    }
}

/// The nearest bf16, ties to even, as the hardware does it: subnormals become zero.
#[inline(always)]
pub(crate) fn round_to_bf16(x: f32) -> f32 {
    if x.is_nan() {
        return f32::NAN;
    }
    if x.is_subnormal() {
        return 0.0_f32.copysign(x);
    }
    let bits = x.to_bits();
    f32::from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
}
