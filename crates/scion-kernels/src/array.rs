//! Contiguous arrays: the form in which kernels see tensors.

use burn::backend::TensorMetadata;
use burn::tensor::{Bytes, DType, Element, Shape};
use burn_flex::{FlexTensor, Layout};
use bytemuck::Pod;

/// A row-major array, of f32 where nothing else is said, sharing its storage with a Burn tensor.
#[derive(Clone, Debug)]
pub(crate) struct Array {
    tensor: FlexTensor,
}

impl Array {
    /// Wraps a tensor, copying it only where it is not laid out row by row.
    pub fn new(tensor: FlexTensor) -> Self {
        assert_eq!(tensor.dtype(), DType::F32, "scion-kernels compute on f32 tensors");
        let tensor = if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() };
        Self { tensor }
    }

    /// An array of the given shape that takes over `values`.
    pub fn from_vec(values: Vec<f32>, shape: impl Into<Shape>) -> Self {
        Self::of_elements(values, shape)
    }

    /// [`Self::from_vec`] for other numbers.
    pub fn of_elements<T: Element + Pod>(values: Vec<T>, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        assert_eq!(values.len(), shape.num_elements(), "values do not fill the shape {shape:?}");
        Self { tensor: FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape), T::dtype()) }
    }

    /// The values, row by row.
    pub fn values(&self) -> &[f32] {
        self.elements()
    }

    /// The values of an array of other numbers.
    ///
    /// # Panics
    /// If it holds others than these.
    pub fn elements<T: Element + Pod>(&self) -> &[T] {
        self.tensor.as_slice().expect("arrays are contiguous, and read as what they hold")
    }

    /// Length of each axis.
    pub fn dims(&self) -> Vec<usize> {
        self.tensor.shape().to_vec()
    }

    /// Length of the last axis.
    pub fn width(&self) -> usize {
        *self.dims().last().expect("arrays have at least one axis")
    }

    /// Number of rows when every axis but the last is flattened.
    pub fn rows(&self) -> usize {
        self.dims().iter().product::<usize>().checked_div(self.width()).unwrap_or(0)
    }

    /// The tensor behind the array.
    pub fn into_primitive(self) -> FlexTensor {
        self.tensor
    }
}

/// A buffer for a kernel's output, its contents unspecified: clearing large outputs first costs as much as
/// some kernels do.
///
/// # Safety
/// The caller overwrites every element before any is read.
#[expect(clippy::uninit_vec, reason = "the whole point; see the contract")]
pub(crate) unsafe fn unfilled<T: Pod>(len: usize) -> Vec<T> {
    let mut values = Vec::with_capacity(len);
    // SAFETY: the capacity is there, a number has no drop, and by the contract no element is read before it is written.
    unsafe {
        values.set_len(len);
    }
    values
}
