//! Where a product goes: the output matrix, and what is done to it before it leaves the cache.

use super::element::Element;
use super::vmath::{gelu_and_derivative, gelu_one};
use std::marker::PhantomData;
use std::ops::Range;

/// What is done to a product before it is stored, and what more is stored, as numbers like the product's.
pub struct Epilogue<'a, C = f32> {
    /// Added to every row, `[n]`.
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub activation: Activation<'a, C>,
}

impl<C> Default for Epilogue<'_, C> {
    fn default() -> Self {
        Self { bias: None, activation: Activation::None }
    }
}

/// The elementwise end of an [`Epilogue`].
///
/// Companion matrices, [m, n] like the product, are stored in panels of [`PANEL`] columns, [⌈n / 32⌉, m, 32], of which the last
/// may have columns without meaning: what a tile reads or writes of them is contiguous, or nearly.
#[derive(Default)]
pub enum Activation<'a, C = f32> {
    /// Nothing.
    #[default]
    None,
    /// max(x, 0); NaN stays NaN.
    Relu,
    /// GELU in its tanh form. Its derivative is stored in `derivative`, for the backward pass.
    Gelu { derivative: Option<&'a mut [C]> },
    /// Multiplies by `factor`, such as the derivative of an activation.
    Times { factor: &'a [C] },
}

/// Columns of a panel of a companion matrix.
pub const PANEL: usize = 32;

/// Numbers in a companion matrix of a product.
pub fn companion_len(rows: usize, cols: usize) -> usize {
    cols.next_multiple_of(PANEL) * rows
}

/// A validated output that several threads may write, each to elements of its own.
pub(super) struct Output<'a, C = f32> {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) accumulate: bool,
    data: *mut C,
    bias: Option<&'a [f32]>,
    activation: Elementwise<C>,
    borrows: PhantomData<&'a mut [C]>,
}

#[derive(Clone, Copy)]
enum Elementwise<C> {
    None,
    Relu,
    Gelu,
    GeluStoring(*mut C),
    Times(*const C),
}

// SAFETY: the pointers come from slices borrowed for 'a (exclusively where written), and callers
// of the methods that write promise that no two threads touch the same element.
unsafe impl<C: Send> Sync for Output<'_, C> {}

impl<'a, C: Element> Output<'a, C> {
    pub(super) fn new(
        (rows, cols): (usize, usize),
        c: &'a mut [C],
        row_stride: usize,
        accumulate: bool,
        epilogue: Epilogue<'a, C>,
    ) -> Self {
        assert!(row_stride >= cols, "row stride {row_stride} for rows of {cols}");
        let needed = if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + cols };
        assert!(!(C::HALF && accumulate), "sums of products are f32");
        let check = |what: &str, needed: usize, len: usize| {
            assert!(len >= needed, "a [{rows}, {cols}] {what} needs {needed} numbers, has {len}");
        };
        check("product", needed, c.len());
        let needed = companion_len(rows, cols);
        if let Some(bias) = epilogue.bias {
            assert_eq!(bias.len(), cols, "the bias has {} elements, the product {cols} columns", bias.len());
        }
        let activation = match epilogue.activation {
            Activation::None => Elementwise::None,
            Activation::Relu => Elementwise::Relu,
            Activation::Gelu { derivative: None } => Elementwise::Gelu,
            Activation::Gelu { derivative: Some(derivative) } => {
                check("derivative", needed, derivative.len());
                Elementwise::GeluStoring(derivative.as_mut_ptr())
            }
            Activation::Times { factor } => {
                check("factor", needed, factor.len());
                Elementwise::Times(factor.as_ptr())
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
    pub(super) unsafe fn at(&self, row: usize, col: usize) -> *mut C {
        debug_assert!(row < self.rows && col < self.cols);
        // SAFETY: an element inside the output is inside the slice checked in `new`.
        unsafe { self.data.add(row * self.row_stride + col) }
    }

    /// Whether [`Self::finish`] puts its results away.
    fn puts_away(&self) -> bool {
        matches!(self.activation, Elementwise::GeluStoring(_))
    }

    /// Whether there is use in fetching what results overwrite: not where they are put away, nor where they are so narrow that
    /// a tile waits less for them than for what it reads.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn awaits_c(&self) -> bool {
        !C::HALF && !self.puts_away()
    }

    /// Where columns of a row lie in a companion matrix, panel by panel: from which column on, and how many there.
    fn in_panels(&self, row: usize, cols: Range<usize>) -> impl Iterator<Item = (Range<usize>, usize)> {
        let (first, rows) = (cols.start, self.rows);
        let panels = cols.start / PANEL..cols.end.div_ceil(PANEL);
        panels.map(move |panel| {
            let part = cols.start.max(panel * PANEL)..cols.end.min((panel + 1) * PANEL);
            let at = (panel * rows + row) * PANEL + part.start % PANEL;
            (part.start - first..part.end - first, at)
        })
    }

    /// The bias of the columns from `col` on.
    pub(super) fn bias(&self, col: usize) -> Option<&[f32]> {
        self.bias.map(|bias| &bias[col..])
    }

    /// Whether sums are stored as they are, rather than by [`Self::finish`].
    pub(super) fn takes_sums(&self) -> bool {
        !C::HALF && matches!(self.activation, Elementwise::None)
    }

    /// Applies the activation to a rectangle's `sums`, whose rows are `stride` apart, and stores them; with `accumulate`, what C
    /// holds is added first. Sums lie elsewhere than in C so that they are not read through lines that C still waits for.
    /// GELU's results and derivatives are put away where a backward pass will read them: they are more than fit the caches.
    /// Rectangles are at most [`LONGEST`] columns wide.
    ///
    /// # Safety
    /// The rectangle is inside the output and no other thread touches it.
    #[inline(always)]
    pub(super) unsafe fn finish<const FUSED: bool>(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
        sums: &mut [f32],
        stride: usize,
        accumulate: bool,
        put: &impl Put,
    ) {
        debug_assert!(rows.end <= self.rows && cols.end <= self.cols);
        for (row, sums) in rows.zip(sums.chunks_mut(stride)) {
            let sums = &mut sums[..cols.len()];
            // SAFETY: the caller promises the rectangle; `new` checked that C and its companion,
            // which do not overlap, hold it.
            unsafe {
                let c = std::slice::from_raw_parts_mut(self.at(row, cols.start), cols.len());
                if accumulate {
                    sums.iter_mut().zip(&*c).for_each(|(sum, c)| *sum += c.widened());
                }
                match self.activation {
                    Elementwise::None => {}
                    Elementwise::Relu => each(sums, |x| if x < 0.0 { 0.0 } else { x }),
                    Elementwise::Gelu => each(sums, gelu_one::<FUSED>),
                    Elementwise::GeluStoring(derivative) => {
                        let mut derivatives = [0.0; LONGEST];
                        gelu_with_derivative::<FUSED>(sums, &mut derivatives);
                        for (part, at) in self.in_panels(row, cols.clone()) {
                            let derivative = std::slice::from_raw_parts_mut(derivative.add(at), part.len());
                            put.put(&derivatives[part], derivative, true);
                        }
                    }
                    Elementwise::Times(factor) => {
                        for (part, at) in self.in_panels(row, cols.clone()) {
                            let factor = std::slice::from_raw_parts(factor.add(at), part.len());
                            put.multiply(&mut sums[part], factor);
                        }
                    }
                }
                put.put(sums, c, self.puts_away());
            }
        }
    }
}

/// How rows of a rectangle are read and stored, which instruction sets do in ways of their own.
pub(super) trait Put {
    /// Stores numbers, of which `away` tells that they are not read soon.
    fn put<T: Element>(&self, from: &[f32], to: &mut [T], away: bool);

    /// Multiplies each number by another.
    fn multiply<T: Element>(&self, numbers: &mut [f32], by: &[T]);
}

/// As the compiler does it.
pub(super) struct Plainly;

impl Put for Plainly {
    #[inline(always)]
    fn put<T: Element>(&self, from: &[f32], to: &mut [T], _away: bool) {
        to.iter_mut().zip(from).for_each(|(to, &from)| *to = T::nearest(from));
    }

    #[inline(always)]
    fn multiply<T: Element>(&self, numbers: &mut [f32], by: &[T]) {
        numbers.iter_mut().zip(by).for_each(|(x, by)| *x *= by.widened());
    }
}

/// Most columns of a rectangle that is finished at a time.
pub(super) const LONGEST: usize = 64;

/// Elements processed at a time: one AVX-512 register. Rows of a tile are too short for the longer
/// runs that the compiler would choose.
const RUN: usize = 16;

#[inline(always)]
fn each(values: &mut [f32], f: impl Fn(f32) -> f32) {
    let (runs, rest) = values.as_chunks_mut::<RUN>();
    for run in runs {
        run.iter_mut().for_each(|x| *x = f(*x));
    }
    rest.iter_mut().for_each(|x| *x = f(*x));
}

/// GELU of each value, in its place, and its derivative there.
#[inline(always)]
fn gelu_with_derivative<const FUSED: bool>(values: &mut [f32], derivatives: &mut [f32]) {
    let derivatives = &mut derivatives[..values.len()];
    let ((runs, rest), (d_runs, d_rest)) =
        (values.as_chunks_mut::<RUN>(), derivatives.as_chunks_mut::<RUN>());
    for (run, d_run) in runs.iter_mut().zip(d_runs) {
        run.iter_mut().zip(d_run).for_each(|(x, d)| (*x, *d) = gelu_and_derivative::<FUSED>(*x));
    }
    rest.iter_mut().zip(d_rest).for_each(|(x, d)| (*x, *d) = gelu_and_derivative::<FUSED>(*x));
}
