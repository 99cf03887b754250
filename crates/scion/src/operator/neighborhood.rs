use burn::Tensor;
use burn::module::Module;
use scion_kernels::attention::{Window, attention};
use serde::{Deserialize, Serialize};

use super::{Init, Linear, Scheme};

/// Softmax attention over the tokens near by on the grid of tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeighborhoodConfig {
    /// Number of heads; 0 takes the model's.
    #[serde(default)]
    pub heads: usize,
    /// Which tokens are near.
    pub window: GridWindow,
}

/// Tokens near a query on the grid, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GridWindow {
    /// A square of this odd side, moved inside at the border (Neighborhood Attention, Hassani et al. 2023).
    Square(usize),
    /// A circle: tokens at a distance below this, fewer at the border (CLEAR, Liu et al. 2024).
    Circle(usize),
}

impl GridWindow {
    /// On a grid of rows of `columns` tokens.
    pub(super) fn on(self, columns: usize) -> Window {
        match self {
            Self::Square(side) => Window::Square { side, columns },
            Self::Circle(radius) => Window::Circle { radius, columns },
        }
    }
}

/// Tokens of a row of the square grid of `tokens`.
pub(super) fn columns(tokens: usize) -> usize {
    tokens.isqrt()
}

impl NeighborhoodConfig {
    /// Draws the projections as PyTorch does by default.
    pub fn init(&self, width: usize, init: &mut Init) -> Neighborhood {
        let (square, size) = match self.window {
            GridWindow::Square(side) => (true, side),
            GridWindow::Circle(radius) => (false, radius),
        };
        Neighborhood {
            qkv: Linear::new(width, 3 * width, Scheme::Torch, init),
            proj: Linear::new(width, width, Scheme::Torch, init),
            heads: self.heads,
            square,
            size,
        }
    }

    /// Pairs of queries and keys among `tokens`.
    pub(super) fn pairs(&self, tokens: usize) -> usize {
        let (window, mut keys) = (self.window.on(columns(tokens)), Vec::new());
        let count = |query| {
            window.keys(query, tokens, &mut keys);
            keys.len()
        };
        (0..tokens).map(count).sum()
    }
}

/// Attention that sees only the tokens near by on the grid.
#[derive(Module, Debug)]
pub struct Neighborhood {
    /// [3·D, D], rows q, k, v, head after head in each.
    pub qkv: Linear,
    /// [D, D]
    pub proj: Linear,
    heads: usize,
    square: bool,
    size: usize,
}

impl Neighborhood {
    /// [N, T, D] → [N, T, D].
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let window = if self.square { GridWindow::Square(self.size) } else { GridWindow::Circle(self.size) };
        let window = window.on(columns(x.dims()[1]));
        self.proj.forward(attention(self.qkv.forward(x), self.heads, Some(window)))
    }
}
