use burn::Tensor;
use burn::module::{Module, Param};
use scion_kernels::mamba2::{Mamba2 as Mixer, Mamba2Weights, mamba2};
use serde::{Deserialize, Serialize};

use super::{Direction, Flops, Init, Projection, ShortFilter};
use crate::error::{Error, Result};

/// Mamba-2: a state-space layer (Dao & Gu 2024, `mamba_ssm/modules/mamba2.py`) with one group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Mamba2Config {
    /// Size of the state of each inner channel.
    pub d_state: usize,
    /// Inner channels of a head.
    pub head_dim: usize,
    /// Inner width over token width.
    pub expand: usize,
    /// Tokens that the convolution reaches back, the current one among them.
    pub conv_kernel: usize,
    /// Whether a second scan runs from the last token to the first, its output added; the convolution then sees the
    /// tokens on both sides.
    pub direction: Direction,
}

impl Default for Mamba2Config {
    /// The published settings.
    fn default() -> Self {
        Self { d_state: 64, head_dim: 16, expand: 2, conv_kernel: 4, direction: Direction::Forward }
    }
}

/// Step sizes at the start, drawn uniformly in their logarithm, and the least that is kept.
const STEP_SIZES: (f64, f64, f64) = (1e-3, 0.1, 1e-4);
/// Decay rates at the start, drawn uniformly.
const RATES: (f64, f64) = (1.0, 16.0);

/// Beyond this a size is a slip of the keyboard.
const MAX_CHANNELS: usize = 1_000_000;

impl Mamba2Config {
    /// Inner channels for tokens of the given width.
    pub fn inner(&self, width: usize) -> usize {
        self.expand * width
    }

    /// Convolved channels: the inner ones and those that make the state's input and output.
    pub(super) fn convolved(&self, width: usize) -> usize {
        self.inner(width) + 2 * self.d_state
    }

    /// Heads for tokens of the given width.
    ///
    /// # Errors
    /// When a size is zero, or the inner channels do not divide into heads.
    pub fn heads(&self, width: usize) -> Result<usize> {
        for (name, value) in [("d-state", self.d_state), ("head-dim", self.head_dim), ("expand", self.expand)]
        {
            if value == 0 {
                return Err(Error::Plan(format!("mamba2: {name} must be at least 1, found 0")));
            }
        }
        let too_large = |value: Option<usize>| value.is_none_or(|value| value > MAX_CHANNELS);
        if too_large(self.expand.checked_mul(width)) || too_large(Some(self.d_state)) {
            return Err(Error::Plan(format!(
                "mamba2: expand {} × width {width} and d-state {} must each be at most {MAX_CHANNELS}",
                self.expand, self.d_state
            )));
        }
        let inner = self.inner(width);
        if !inner.is_multiple_of(self.head_dim) {
            return Err(Error::Plan(format!(
                "mamba2: {inner} inner channels (expand {} × width {width}) do not divide into heads of {}",
                self.expand, self.head_dim
            )));
        }
        Ok(inner / self.head_dim)
    }

    pub(super) fn parameters(&self, width: usize) -> usize {
        let (heads, inner, convolved) =
            (self.heads(width).unwrap_or(0), self.inner(width), self.convolved(width));
        let projections = width * (inner + convolved + heads) + inner * width;
        let filter = convolved * (self.direction.taps(self.conv_kernel) + 1);
        projections + filter + 3 * heads * self.scans() + inner
    }

    /// The scan advances and reads a state of `d_state` a channel in every token.
    pub(super) fn flops(&self, width: usize, tokens: usize) -> Flops {
        let (heads, inner, convolved) =
            (self.heads(width).unwrap_or(0), self.inner(width), self.convolved(width));
        Flops {
            operator: 2 * 2 * tokens * inner * self.d_state * self.scans(),
            features: 2 * tokens * width * (inner + convolved + heads + inner)
                + 2 * tokens * convolved * self.direction.taps(self.conv_kernel),
        }
    }

    /// Scans over the tokens.
    fn scans(&self) -> usize {
        match self.direction {
            Direction::Forward => 1,
            Direction::Both => 2,
        }
    }

    /// Draws everything as the original does.
    ///
    /// # Errors
    /// When the sizes do not fit one another.
    pub fn init(&self, width: usize, init: &mut Init) -> Result<Mamba2> {
        let (heads, inner, convolved) = (self.heads(width)?, self.inner(width), self.convolved(width));
        let vector = self.scans() * heads;
        let (least, most, floor) = STEP_SIZES;
        let steps = init.values(vector, least.ln(), most.ln());
        let inverse_softplus = |step: f64| step + (-(-step).exp_m1()).ln();
        let dt_bias = steps.map(|log| inverse_softplus(log.exp().max(floor)) as f32).collect();
        let a_log = init.values(vector, RATES.0, RATES.1).map(|rate| rate.ln() as f32).collect();
        Ok(Mamba2 {
            in_proj: Projection::new(width, inner + convolved + heads, init),
            conv1d: ShortFilter::new(convolved, self.conv_kernel, self.direction, init),
            dt_bias: init.parameter(dt_bias, [vector]),
            a_log: init.parameter(a_log, [vector]),
            skip: init.constant([vector], 1.0),
            norm: Scale { weight: init.constant([inner], 1.0) },
            out_proj: Projection::new(inner, width, init),
            heads,
            state: self.d_state,
            both: self.direction == Direction::Both,
        })
    }
}

/// `out(mixer(in(x)))`; the mixer is [`mamba2`].
#[derive(Module, Debug)]
pub struct Mamba2 {
    /// [2·I + 2·S + H, D], rows z, x, B, C and the step sizes.
    pub in_proj: Projection,
    /// The convolution of x, B and C.
    pub conv1d: ShortFilter,
    /// [H], or [2·H] with scans both ways; so are the next two.
    pub dt_bias: Param<Tensor<1>>,
    /// Logarithms of the decay rates; `A_log` in checkpoints.
    pub a_log: Param<Tensor<1>>,
    /// Weights of the scan's input beside its output; `D` in checkpoints.
    pub skip: Param<Tensor<1>>,
    /// The norm behind the gate.
    pub norm: Scale,
    /// [D, I]
    pub out_proj: Projection,
    heads: usize,
    state: usize,
    both: bool,
}

/// A norm's weight.
#[derive(Module, Debug)]
pub struct Scale {
    /// [I]
    pub weight: Param<Tensor<1>>,
}

impl Mamba2 {
    /// [N, T, D] → [N, T, D].
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let weights = Mamba2Weights {
            filter: self.conv1d.weight.val(),
            bias: self.conv1d.bias.val(),
            dt_bias: self.dt_bias.val(),
            a_log: self.a_log.val(),
            d: self.skip.val(),
            norm: self.norm.weight.val(),
        };
        let mixer = Mixer { heads: self.heads, state: self.state, both: self.both };
        self.out_proj.forward(mamba2(self.in_proj.forward(x), weights, mixer))
    }
}
