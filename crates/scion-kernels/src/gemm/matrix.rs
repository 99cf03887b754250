//! Operands: borrowed matrices, and right-hand sides packed for reuse.

use super::element::{Element, round_to_bf16};
use super::epilogue::Output;
use super::isa::Isa;
use super::plain;
#[cfg(target_arch = "x86_64")]
use super::{blocked, format::Layout, pack};

/// What the operands of a product are rounded to. Sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Operands as they are, but for denormal numbers, which may count as zero.
    F32,
    /// Operands rounded to bf16, to nearest, ties to even.
    Bf16,
}

impl Precision {
    /// A number as an operand.
    pub(crate) fn round(self, x: f32) -> f32 {
        if self == Self::Bf16 { round_to_bf16(x) } else { x }
    }
}

/// Which operand of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The first; its rows are the product's.
    Left,
    /// The second; its columns are the product's.
    Right,
}

/// A borrowed row-major matrix, possibly read as its transpose.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a, T = f32> {
    pub(super) data: &'a [T],
    /// Rows and columns as stored.
    stored: (usize, usize),
    pub(super) row_stride: usize,
    pub(super) transposed: bool,
}

impl<'a, T: Element> MatRef<'a, T> {
    /// The matrix `[rows, cols]` stored contiguously in `data`.
    ///
    /// # Panics
    /// If `data` is shorter than `rows · cols`.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// The matrix `[rows, cols]` whose rows begin `row_stride` numbers apart in `data`.
    ///
    /// # Panics
    /// If rows overlap or `data` is too short.
    pub fn strided(data: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(row_stride >= cols, "row stride {row_stride} for rows of {cols}");
        let needed = if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + cols };
        assert!(data.len() >= needed, "a [{rows}, {cols}] matrix needs {needed} numbers, has {}", data.len());
        Self { data, stored: (rows, cols), row_stride, transposed: false }
    }

    /// The transpose, without moving data.
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// Rows, after transposition.
    pub fn rows(&self) -> usize {
        if self.transposed { self.stored.1 } else { self.stored.0 }
    }

    /// Columns, after transposition.
    pub fn cols(&self) -> usize {
        if self.transposed { self.stored.0 } else { self.stored.1 }
    }

    /// The matrix as one of f32, if it is.
    pub(super) fn floats(self) -> Option<MatRef<'a>> {
        let Self { stored, row_stride, transposed, .. } = self;
        T::floats(self.data).map(|data| MatRef { data, stored, row_stride, transposed })
    }

    /// Distances between vertical and horizontal neighbours.
    pub(super) fn strides(&self) -> (usize, usize) {
        if self.transposed { (1, self.row_stride) } else { (self.row_stride, 1) }
    }
}

/// The right-hand side of many products, such as a weight, converted and laid out once.
pub struct PackedB {
    rows: usize,
    cols: usize,
    precision: Precision,
    storage: Storage,
}

enum Storage {
    #[cfg(target_arch = "x86_64")]
    Strips(Layout, Vec<pack::Row>),
    /// Row-major, rounded if the precision says so.
    Plain(Vec<f32>),
}

impl PackedB {
    /// Packs `b`, `[k, n]`: for a weight stored `[out, in]`, `MatRef::new(w, out, in).t()` gives
    /// the forward product x · Wᵀ and `MatRef::new(w, out, in)` the gradient product dy · W.
    pub fn pack(precision: Precision, b: MatRef<'_>) -> Self {
        Self::pack_on(Isa::detect(), precision, b)
    }

    pub(super) fn pack_on(isa: Isa, precision: Precision, b: MatRef<'_>) -> Self {
        #[cfg(target_arch = "x86_64")]
        let strips = Layout::new(isa, precision).map(|layout| Storage::Strips(layout, Vec::new()));
        #[cfg(not(target_arch = "x86_64"))]
        let (strips, _) = (None, isa);
        let storage = strips.unwrap_or(Storage::Plain(Vec::new()));
        let mut packed = Self { rows: 0, cols: 0, precision, storage };
        packed.repack(b);
        packed
    }

    /// Replaces the contents, reusing the memory: for a weight that has been updated.
    pub fn repack(&mut self, b: MatRef<'_>) {
        (self.rows, self.cols) = (b.rows(), b.cols());
        match &mut self.storage {
            #[cfg(target_arch = "x86_64")]
            Storage::Strips(layout, rows) => blocked::pack_b(*layout, b, rows),
            Storage::Plain(values) => plain::copy(self.precision, b, values),
        }
    }

    /// Rows, the inner dimension k of a product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of a product.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The precision products run in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    pub(super) fn multiply<A: Element, C: Element>(&self, a: MatRef<'_, A>, out: &Output<'_, C>) {
        match &self.storage {
            #[cfg(target_arch = "x86_64")]
            Storage::Strips(layout, rows) => blocked::multiply_packed(*layout, a, rows, out),
            Storage::Plain(values) => plain::multiply_copied(self.precision, a, values, out),
        }
    }
}
