//! Small single-threaded products on strided operands, for use inside parallel tasks.

use crate::shared::SharedMut;

/// A matrix lying inside a larger array.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a> {
    values: &'a [f32],
    row: usize,
    column: usize,
}

impl<'a> Strided<'a> {
    /// A matrix whose rows start `stride` apart, from `offset`.
    pub fn rows(values: &'a [f32], offset: usize, stride: usize) -> Self {
        Self { values: &values[offset..], row: stride, column: 1 }
    }

    /// The transpose of [`Strided::rows`].
    pub fn columns(values: &'a [f32], offset: usize, stride: usize) -> Self {
        Self { values: &values[offset..], row: 1, column: stride }
    }

    fn assert_holds(&self, rows: usize, columns: usize) {
        let last = (rows - 1) * self.row + (columns - 1) * self.column;
        assert!(last < self.values.len(), "a {rows} × {columns} matrix does not fit its array");
    }
}

/// `C = alpha·A·B`, or `C += alpha·A·B` with `accumulate`; A is m × k, B is k × n, C starts at element
/// `offset` of `c` and has rows `stride` apart.
///
/// # Safety
/// No other thread may touch C's elements meanwhile.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn product(
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    a: Strided,
    b: Strided,
    c: &SharedMut,
    offset: usize,
    stride: usize,
    accumulate: bool,
) {
    a.assert_holds(m, k);
    b.assert_holds(k, n);
    let dst = c.at(offset, (m - 1) * stride + n);
    // SAFETY: all three operands were just checked to lie inside their arrays; the caller owns C's elements.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst,
            1,
            stride as isize,
            accumulate,
            a.values.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.values.as_ptr(),
            b.column as isize,
            b.row as isize,
            if accumulate { 1.0 } else { 0.0 },
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
