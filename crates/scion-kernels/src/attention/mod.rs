//! Multi-head self-attention on the packed output of the qkv projection, over all tokens or a window around each; and attention
//! to other tokens.

mod cpu;
mod cross;
mod reference;
mod softmax;
mod window;

use burn::Tensor;
use burn::backend::Dispatch;

use crate::backend::KernelBackend;
use crate::gemm::Precision;
pub(crate) use cpu::{Head, Sizes};
pub use reference::{attention_reference, cross_attention_reference};

/// The keys that a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Neighbours in raster order, both ends inclusive, clipped at the first and last token.
    Raster {
        /// Keys before the query.
        left: usize,
        /// Keys behind the query.
        right: usize,
    },
    /// The `side` × `side` tokens around the query on a grid of rows of `columns` tokens; at the border the square is
    /// moved inside, so that every query sees as many keys (Hassani et al. 2023, Neighborhood Attention).
    Square {
        /// Rows and columns of the square; odd, and not above those of the grid.
        side: usize,
        /// Tokens of a row of the grid.
        columns: usize,
    },
    /// The tokens whose distance on that grid is below `radius`, clipped at the border (Liu et al. 2024, CLEAR).
    Circle {
        /// Radius in tokens.
        radius: usize,
        /// Tokens of a row of the grid.
        columns: usize,
    },
}

impl Window {
    /// Replaces `keys` by what query `i` of `tokens` sees, ascending.
    pub fn keys(self, i: usize, tokens: usize, keys: &mut Vec<usize>) {
        keys.clear();
        match self {
            Self::Raster { left, right } => keys.extend(i.saturating_sub(left)..(i + right + 1).min(tokens)),
            Self::Square { side, columns } => {
                let start = |at: usize, of: usize| at.saturating_sub(side / 2).min(of - side);
                let (row, column) = (start(i / columns, tokens / columns), start(i % columns, columns));
                for row in row..row + side {
                    keys.extend(row * columns + column..row * columns + column + side);
                }
            }
            Self::Circle { radius, columns } => {
                let (row, column) = (i / columns, i % columns);
                let rows = (row + 1).saturating_sub(radius)..(row + radius).min(tokens / columns);
                for other in rows {
                    let away = other.abs_diff(row);
                    let reach = (0..radius).rfind(|x| x * x + away * away < radius * radius).unwrap_or(0);
                    let first = column.saturating_sub(reach);
                    keys.extend(other * columns + first..other * columns + (column + reach + 1).min(columns));
                }
            }
        }
    }
}

/// An attention layer's fixed settings.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    heads: usize,
    window: Option<Window>,
    precision: Precision,
}

/// Softmax attention with scale `head_dim^-½`, without a mask beyond the window. Without a window it consists of
/// products, whose operands have the chosen precision; with one, all is f32.
///
/// Shapes: `qkv` [N, T, 3·D], the last axis holding q, k, v, each head after head → [N, T, D].
///
/// # Panics
/// When the last axis does not divide into three times `heads`, or the tokens into the window's rows, or the window is
/// larger than the grid.
pub fn attention(qkv: Tensor<3>, heads: usize, window: Option<Window>) -> Tensor<3> {
    let width = qkv.dims()[2];
    assert!(width.is_multiple_of(3 * heads), "qkv width {width} is not a multiple of 3 × {heads} heads");
    if let Some(Window::Square { columns, .. } | Window::Circle { columns, .. }) = window {
        let rows = qkv.dims()[1] / columns;
        assert!(rows * columns == qkv.dims()[1], "{} tokens do not fill rows of {columns}", qkv.dims()[1]);
        if let Some(Window::Square { side, .. }) = window {
            assert!(side <= rows.min(columns), "{window:?} is larger than the grid of {rows} rows");
        }
    }
    let op = Attention { heads, window, precision: crate::precision() };
    Tensor::from_dispatch(<Dispatch as KernelBackend>::fused_attention(qkv.into_dispatch(), op))
}

/// Settings of attention to other tokens.
#[derive(Clone, Copy, Debug)]
pub struct CrossAttention {
    heads: usize,
    precision: Precision,
}

/// Softmax attention of `q` to the tokens of `kv` with scale `head_dim^-½`; `bias` is added to the scaled scores of each key, for
/// masks. Operands of products have the chosen precision.
///
/// Shapes: `q` [N, T, D], `kv` [N, L, 2·D] with k before v, each head after head, `bias` [N, L] → [N, T, D].
///
/// # Panics
/// When the shapes do not fit one another or the heads, there is no query or no key, or a gradient of the bias is asked for.
pub fn cross_attention(q: Tensor<3>, kv: Tensor<3>, bias: Tensor<2>, heads: usize) -> Tensor<3> {
    let ([n, _, width], [_, keys, _]) = (q.dims(), kv.dims());
    assert!(width.is_multiple_of(heads), "width {width} is not a multiple of {heads} heads");
    assert_eq!(kv.dims(), [n, keys, 2 * width], "keys and values are [N, L, 2·D]");
    assert_eq!(bias.dims(), [n, keys], "a bias is [N, L]");
    assert!(q.dims()[1] > 0 && keys > 0, "attention needs a query and a key");
    let op = CrossAttention { heads, precision: crate::precision() };
    let [q, kv] = [q, kv].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as KernelBackend>::fused_cross_attention(q, kv, bias.into_dispatch(), op))
}
