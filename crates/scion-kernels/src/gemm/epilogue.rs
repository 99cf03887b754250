//! Where a product goes: the output matrix, and what is done to it before it leaves the cache.

use super::vmath::{gelu_backward_one, gelu_one};
use std::marker::PhantomData;
use std::ops::Range;

/// What is done to a product before it is stored.
#[derive(Default)]
pub struct Epilogue<'a> {
    /// Added to every row, `[n]`.
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub activation: Activation<'a>,
}

/// The elementwise end of an [`Epilogue`]. Companion matrices have the layout of the output.
#[derive(Default)]
pub enum Activation<'a> {
    /// Nothing.
    #[default]
    None,
    /// max(x, 0); NaN stays NaN.
    Relu,
    /// GELU in its tanh form. Its argument is stored in `pre_activation`, for the backward pass.
    Gelu { pre_activation: Option<&'a mut [f32]> },
    /// Multiplies by the derivative of GELU (tanh form) at `pre_activation`.
    GeluBackward { pre_activation: &'a [f32] },
}

/// A validated output that several threads may write, each to elements of its own.
pub(super) struct Output<'a> {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) accumulate: bool,
    data: *mut f32,
    bias: Option<&'a [f32]>,
    activation: Elementwise,
    borrows: PhantomData<&'a mut [f32]>,
}

#[derive(Clone, Copy)]
enum Elementwise {
    None,
    Relu,
    Gelu,
    GeluStoring(*mut f32),
    GeluBackward(*const f32),
}

// SAFETY: the pointers come from slices borrowed for 'a (exclusively where written), and callers
// of the methods that write promise that no two threads touch the same element.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    pub(super) fn new(
        (rows, cols): (usize, usize),
        c: &'a mut [f32],
        row_stride: usize,
        accumulate: bool,
        epilogue: Epilogue<'a>,
    ) -> Self {
        assert!(row_stride >= cols, "row stride {row_stride} for rows of {cols}");
        let needed = if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + cols };
        let check = |what: &str, len: usize| {
            assert!(len >= needed, "a [{rows}, {cols}] {what} needs {needed} floats, has {len}");
        };
        check("product", c.len());
        if let Some(bias) = epilogue.bias {
            assert_eq!(bias.len(), cols, "the bias has {} elements, the product {cols} columns", bias.len());
        }
        let activation = match epilogue.activation {
            Activation::None => Elementwise::None,
            Activation::Relu => Elementwise::Relu,
            Activation::Gelu { pre_activation: None } => Elementwise::Gelu,
            Activation::Gelu { pre_activation: Some(pre) } => {
                check("pre-activation", pre.len());
                Elementwise::GeluStoring(pre.as_mut_ptr())
            }
            Activation::GeluBackward { pre_activation } => {
                check("pre-activation", pre_activation.len());
                Elementwise::GeluBackward(pre_activation.as_ptr())
            }
        };
        let data = c.as_mut_ptr();
        Self {
            rows,
            cols,
            row_stride,
            accumulate,
            data,
            bias: epilogue.bias,
            activation,
            borrows: PhantomData,
        }
    }

    /// The address of an element.
    ///
    /// # Safety
    /// `row` and `col` are inside the output.
    pub(super) unsafe fn at(&self, row: usize, col: usize) -> *mut f32 {
        debug_assert!(row < self.rows && col < self.cols);
        // SAFETY: an element inside the output is inside the slice checked in `new`.
        unsafe { self.data.add(row * self.row_stride + col) }
    }

    /// Whether [`Self::activate`] puts its results away, so that there is no use in fetching what they overwrite.
    pub(super) fn puts_away(&self) -> bool {
        matches!(self.activation, Elementwise::GeluStoring(_))
    }

    /// Bytes from an element to that of the matrix that the activation reads beside it; 0 if it reads none.
    pub(super) fn companion(&self) -> isize {
        match self.activation {
            Elementwise::GeluBackward(pre) => pre.addr().wrapping_sub(self.data.addr()).cast_signed(),
            _ => 0,
        }
    }

    /// The bias of the columns from `col` on.
    pub(super) fn bias(&self, col: usize) -> Option<&[f32]> {
        self.bias.map(|bias| &bias[col..])
    }

    /// Whether [`Self::activate`] changes anything.
    pub(super) fn has_activation(&self) -> bool {
        !matches!(self.activation, Elementwise::None)
    }

    /// Stores the activation of a rectangle's `sums`, whose rows are `stride` apart; with `accumulate`, of what C holds
    /// and the sums. Sums lie elsewhere than in C so that they are not read through lines that C still waits for.
    /// `put_away` stores what is read much later: a backward pass will read GELU's argument, and its results are more than
    /// fit the caches. Rectangles are at most [`LONGEST`] columns wide.
    ///
    /// # Safety
    /// The rectangle is inside the output and no other thread touches it.
    #[inline(always)]
    pub(super) unsafe fn activate<const FUSED: bool>(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
        sums: &mut [f32],
        stride: usize,
        accumulate: bool,
        put_away: impl Fn(&[f32], &mut [f32]),
    ) {
        debug_assert!(rows.end <= self.rows && cols.end <= self.cols);
        for (row, sums) in rows.zip(sums.chunks_mut(stride)) {
            let at = row * self.row_stride + cols.start;
            let sums = &mut sums[..cols.len()];
            // SAFETY: the caller promises the rectangle; `new` checked that C and its companion,
            // which do not overlap, hold it.
            unsafe {
                let c = std::slice::from_raw_parts_mut(self.data.add(at), cols.len());
                if accumulate {
                    sums.iter_mut().zip(&*c).for_each(|(sum, c)| *sum += c);
                }
                match self.activation {
                    Elementwise::None => c.copy_from_slice(sums),
                    Elementwise::Relu => each(sums, c, |x| if x < 0.0 { 0.0 } else { x }),
                    Elementwise::Gelu => each(sums, c, gelu_one::<FUSED>),
                    Elementwise::GeluStoring(pre) => {
                        put_away(sums, std::slice::from_raw_parts_mut(pre.add(at), cols.len()));
                        let mut results = [0.0; LONGEST];
                        let results = &mut results[..sums.len()];
                        each(sums, results, gelu_one::<FUSED>);
                        put_away(results, c);
                    }
                    Elementwise::GeluBackward(pre) => {
                        let pre = std::slice::from_raw_parts(pre.add(at), cols.len());
                        gelu_backward::<FUSED>(pre, sums, c);
                    }
                }
            }
        }
    }
}

/// Most columns of a rectangle that is activated at a time.
pub(super) const LONGEST: usize = 64;

/// Elements processed at a time: one AVX-512 register. Rows of a tile are too short for the longer
/// runs that the compiler would choose.
const RUN: usize = 16;

#[inline(always)]
fn each(from: &[f32], to: &mut [f32], f: impl Fn(f32) -> f32) {
    let (from_runs, from_rest) = from.as_chunks::<RUN>();
    let (runs, rest) = to.as_chunks_mut::<RUN>();
    for (from, run) in from_runs.iter().zip(runs) {
        for (to, &from) in run.iter_mut().zip(from) {
            *to = f(from);
        }
    }
    for (to, &from) in rest.iter_mut().zip(from_rest) {
        *to = f(from);
    }
}

#[inline(always)]
fn gelu_backward<const FUSED: bool>(pre: &[f32], from: &[f32], to: &mut [f32]) {
    let ((pre_runs, pre_rest), (from_runs, from_rest)) = (pre.as_chunks::<RUN>(), from.as_chunks::<RUN>());
    let (runs, rest) = to.as_chunks_mut::<RUN>();
    for ((pre, from), run) in pre_runs.iter().zip(from_runs).zip(runs) {
        for ((to, &from), &pre) in run.iter_mut().zip(from).zip(pre) {
            *to = gelu_backward_one::<FUSED>(pre, from);
        }
    }
    for ((to, &from), &pre) in rest.iter_mut().zip(from_rest).zip(pre_rest) {
        *to = gelu_backward_one::<FUSED>(pre, from);
    }
}
