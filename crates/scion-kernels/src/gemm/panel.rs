//! Small products on the calling thread, for use inside parallel tasks.

use super::Isa;
use super::matrix::{MatRef, Precision, Side};
use crate::shared::SharedMut;

#[cfg(target_arch = "x86_64")]
use super::format::{Format, Layout, with_format};
#[cfg(target_arch = "x86_64")]
use super::kernel::{Ahead, Tile};
#[cfg(target_arch = "x86_64")]
use super::pack::{LANES, Lanes, Row};

/// One operand of small products, converted and laid out once for all of them. The memory is kept from one
/// [`Panel::pack`] to the next.
pub(crate) struct Panel {
    side: Side,
    precision: Precision,
    lanes: usize,
    k: usize,
    storage: Storage,
}

enum Storage {
    #[cfg(target_arch = "x86_64")]
    Strips(Layout, Vec<Row>),
    /// Row-major [lanes, k], rounded if the precision says so.
    Plain(Vec<f32>),
}

impl Panel {
    /// An empty panel for products in the given precision.
    pub(crate) fn new(side: Side, precision: Precision) -> Self {
        Self::new_on(Isa::detect(), side, precision)
    }

    pub(super) fn new_on(isa: Isa, side: Side, precision: Precision) -> Self {
        #[cfg(target_arch = "x86_64")]
        let strips = Layout::new(isa, precision).map(|layout| Storage::Strips(layout, Vec::new()));
        #[cfg(not(target_arch = "x86_64"))]
        let (strips, _) = (None, isa);
        Self { side, precision, lanes: 0, k: 0, storage: strips.unwrap_or(Storage::Plain(Vec::new())) }
    }

    /// Takes over a matrix whose rows are the lanes, its columns what is summed over: a left-hand side as it is, a
    /// right-hand side transposed.
    pub(crate) fn pack(&mut self, lanes: MatRef<'_>) {
        (self.lanes, self.k) = (lanes.rows(), lanes.cols());
        match &mut self.storage {
            #[cfg(target_arch = "x86_64")]
            Storage::Strips(layout, rows) => {
                let lanes = Lanes::new(self.side, lanes);
                // SAFETY: this storage exists only where the instruction set was detected.
                with_format!(*layout, F => unsafe { pack_strips::<F>(lanes, rows) });
            }
            Storage::Plain(values) => {
                let (down, right) = lanes.strides();
                values.clear();
                for row in 0..lanes.rows() {
                    values.extend(
                        (0..lanes.cols())
                            .map(|column| self.precision.round(lanes.data[row * down + column * right])),
                    );
                }
            }
        }
    }

    /// `c[i, j] = Σₖ self[i, k] · right[j, k]`, or `c[i, j] += …` with `accumulate`; `c` begins at element `offset` of
    /// an array and has rows `stride` apart.
    ///
    /// # Safety
    /// No other thread touches the elements of `c` meanwhile.
    ///
    /// # Panics
    /// If the panels differ in k or precision or have the wrong sides, or `c` does not fit its array.
    pub(crate) unsafe fn times(
        &self,
        right: &Self,
        c: &SharedMut,
        offset: usize,
        stride: usize,
        accumulate: bool,
    ) {
        let (m, n) = (self.lanes, right.lanes);
        assert!(self.k == right.k && self.precision == right.precision, "panels of different products");
        assert!(self.side == Side::Left && right.side == Side::Right, "panels on the wrong side");
        if m == 0 || n == 0 {
            return;
        }
        let c = c.at(offset, (m - 1) * stride + n);
        match (&self.storage, &right.storage) {
            #[cfg(target_arch = "x86_64")]
            (Storage::Strips(layout, a), Storage::Strips(_, b)) => {
                let product = Product { m, n, c, stride, accumulate };
                // SAFETY: `c` holds the product and belongs to the caller; strips exist only where the instruction
                // set was detected.
                with_format!(*layout, F => unsafe {
                    F::begin();
                    product.run::<F>(a, b);
                    F::end();
                });
            }
            (Storage::Plain(a), Storage::Plain(b)) => {
                let k = self.k;
                assert!(a.len() == m * k && b.len() == n * k);
                let (stride, columns) = (stride as isize, k as isize);
                // SAFETY: `c` holds the product and belongs to the caller; the operands were just checked.
                unsafe {
                    gemm::gemm(
                        m,
                        n,
                        k,
                        c,
                        1,
                        stride,
                        accumulate,
                        a.as_ptr(),
                        1,
                        columns,
                        b.as_ptr(),
                        columns,
                        1,
                        1.0_f32,
                        1.0,
                        false,
                        false,
                        false,
                        gemm::Parallelism::None,
                    );
                }
            }
            #[cfg(target_arch = "x86_64")]
            _ => unreachable!("one process uses one kind of panel"),
        }
    }
}

/// Small products, one after another, with operands that are not used again.
pub(crate) struct Products {
    left: Panel,
    right: Panel,
}

impl Products {
    /// Products in the given precision.
    pub(crate) fn new(precision: Precision) -> Self {
        Self { left: Panel::new(Side::Left, precision), right: Panel::new(Side::Right, precision) }
    }

    /// `to = left · right`, or `to += …` with `accumulate`; the rows of `to` are `stride` apart.
    ///
    /// # Panics
    /// If the operands differ in k, or `to` is too small.
    pub(crate) fn multiply(
        &mut self,
        left: MatRef<'_>,
        right: MatRef<'_>,
        to: &mut [f32],
        stride: usize,
        accumulate: bool,
    ) {
        self.left.pack(left);
        self.right.pack(right.t());
        // SAFETY: `to` is borrowed exclusively.
        unsafe { self.left.times(&self.right, &SharedMut::new(to), 0, stride, accumulate) };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pack_strips<F: Format>(lanes: Lanes<'_>, to: &mut Vec<Row>) {
    let steps = lanes.steps::<F>();
    to.resize(lanes.strips() * steps, Row::ZERO);
    lanes.pack::<F>(0, 0..steps, to);
}

#[cfg(target_arch = "x86_64")]
struct Product {
    m: usize,
    n: usize,
    c: *mut f32,
    stride: usize,
    accumulate: bool,
}

#[cfg(target_arch = "x86_64")]
impl Product {
    /// # Safety
    /// Between the format's beginning and end; `c` holds the product and nobody else uses it.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn run<F: Format>(&self, a: &[Row], b: &[Row]) {
        let steps = a.len() / self.m.div_ceil(LANES);
        for col in (0..self.n).step_by(F::TILE_COLS) {
            let cols = F::TILE_COLS.min(self.n - col);
            let right = &b[col / LANES * steps..(col + cols).div_ceil(LANES) * steps];
            for row in (0..self.m).step_by(F::TILE_ROWS) {
                let rows = F::TILE_ROWS.min(self.m - row);
                let left = &a[row / LANES * steps..(row + rows).div_ceil(LANES) * steps];
                // SAFETY: both were sliced to the strips that the tile reads; the tile is inside the caller's product.
                unsafe {
                    F::compute(Tile {
                        a: left.as_ptr().cast::<u32>().wrapping_add(row % LANES),
                        a_stride: steps,
                        b: right.as_ptr(),
                        b_stride: steps,
                        steps,
                        c: self.c.add(row * self.stride + col),
                        c_stride: self.stride,
                        rows,
                        cols,
                        accumulate: self.accumulate,
                        bias: None,
                        ahead: Ahead::new(self.c.add(row * self.stride + col), rows, self.stride),
                    });
                }
            }
        }
    }
}
