//! Filters of antialiased resizing, as Pillow has them (`src/libImaging/Resample.c`, `precompute_coeffs`).

/// Output positions `first..first + len` of a side resized to `full` positions.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) full: usize,
    pub(crate) first: usize,
    pub(crate) len: usize,
}

impl Span {
    /// All positions.
    pub(crate) fn whole(full: usize) -> Self {
        Self { full, first: 0, len: full }
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Filter {
    Box,
    /// Keys' cubic with a = -0.5.
    Bicubic,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Self::Box => 0.5,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let distance = x.abs();
        match self {
            Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bicubic if distance < 1.0 => ((A + 2.0) * distance - (A + 3.0)) * distance * distance + 1.0,
            Self::Bicubic if distance < 2.0 => (((distance - 5.0) * distance + 8.0) * distance - 4.0) * A,
            Self::Bicubic => 0.0,
        }
    }
}

/// The input positions that make one output position: `first`, and a weight each.
#[derive(Clone, Debug)]
pub(crate) struct Taps<T> {
    pub(crate) first: usize,
    pub(crate) weights: Vec<T>,
}

/// Weights, which sum to one, for each position of `span`, from a side of `input` positions.
pub(crate) fn taps(input: usize, span: Span, filter: Filter) -> Vec<Taps<f64>> {
    let scale = input as f64 / span.full as f64;
    let filter_scale = scale.max(1.0);
    let support = filter.support() * filter_scale;
    let one = |position: usize| {
        let center = (position as f64 + 0.5) * scale;
        // `as usize` truncates and clamps below at zero, as Pillow's C does in two steps.
        let first = (center - support + 0.5) as usize;
        let end = ((center + support + 0.5) as usize).min(input);
        let weights: Vec<f64> =
            (first..end).map(|x| filter.weight((x as f64 - center + 0.5) * (1.0 / filter_scale))).collect();
        let total: f64 = weights.iter().sum();
        Taps { first, weights: weights.into_iter().map(|w| w / total).collect() }
    };
    (span.first..span.first + span.len).map(one).collect()
}
