//! Axes of the charts: ranges, linear or logarithmic, with round tick marks.

/// A range of values mapped onto 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    pub low: f64,
    pub high: f64,
    pub log: bool,
}

impl Scale {
    /// The range of the finite values, exactly; `None` when there are none.
    pub fn tight(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (low, high) = range(values)?;
        if low < high { Some(Self { low, high, log: false }) } else { Some(widened(low)) }
    }

    /// The range of the finite values with a margin; logarithmic when all are positive and nearly all
    /// (98 %) span more than a factor of eight, or all more than a thousand. A short warm-up from near
    /// zero stays linear; a loss that explodes once does not flatten the rest.
    pub fn padded(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        if low == high {
            return Some(widened(low));
        }
        let cut = values.len() / 50;
        let bulk = values[values.len() - 1 - cut / 2] / values[cut - cut / 2];
        if low > 0.0 && (high / low).is_finite() && (bulk > 8.0 || high / low > 1000.0) {
            let margin = (high / low).powf(0.06);
            return Some(Self { low: low / margin, high: high * margin, log: true });
        }
        let margin = 0.08 * (high - low);
        // A margin below zero would suggest negative losses.
        let floor = if low >= 0.0 { 0.0 } else { f64::NEG_INFINITY };
        Some(Self { low: (low - margin).max(floor), high: high + margin, log: false })
    }

    /// Position of `v`, 0 at the low end and 1 at the high end.
    pub fn at(&self, v: f64) -> f64 {
        if self.log {
            (v / self.low).ln() / (self.high / self.low).ln()
        } else {
            (v - self.low) / (self.high - self.low)
        }
    }

    /// About `count` round values inside the range.
    pub fn ticks(&self, count: usize) -> Vec<f64> {
        if self.log {
            let ticks = self.log_ticks(count);
            if ticks.len() >= 2 {
                return ticks;
            }
        }
        let step = round_step((self.high - self.low) / count as f64);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last).map(|i| i as f64 * step).collect()
    }

    fn log_ticks(&self, count: usize) -> Vec<f64> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let decades = self.high.log10() - self.low.log10();
        let mantissas: &[f64] = if decades < 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let every = ((decades / count as f64).ceil() as i32).max(1);
        (first..=last)
            .filter(|e| e.rem_euclid(every) == 0)
            .flat_map(|e| mantissas.iter().map(move |m| m * 10f64.powi(e)))
            .filter(|v| (self.low..=self.high).contains(v))
            .collect()
    }
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.filter(|v| v.is_finite());
    finite.fold(None, |r, v| match r {
        None => Some((v, v)),
        Some((low, high)) => Some((low.min(v), high.max(v))),
    })
}

/// A range around a single value.
fn widened(v: f64) -> Scale {
    let half = if v == 0.0 { 1.0 } else { 0.25 * v.abs() };
    Scale { low: v - half, high: v + half, log: false }
}

/// The next of 1, 2, 5, 10, … times a power of ten.
fn round_step(raw: f64) -> f64 {
    let power = 10f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|m| m * power).find(|s| *s >= raw).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_positive_ranges_are_logarithmic() {
        let wide = Scale::padded([1.0, 1000.0, f64::NAN].into_iter()).unwrap();
        assert!(wide.log);
        assert_eq!(wide.ticks(4), [1.0, 10.0, 100.0, 1000.0]);
        assert!((wide.at(1000f64.sqrt()) - 0.5).abs() < 1e-12);
        let warm_up = (1..=200).map(|i| f64::from(i.min(3)));
        assert!(!Scale::padded(warm_up.map(|v| 0.1 + 3.0 * v - 2.9)).unwrap().log);
        let absurd = Scale::padded([f64::MIN_POSITIVE, f64::MAX].into_iter()).unwrap();
        assert!(absurd.ticks(4).len() < 10);
        let signed = Scale::padded([-1.0, 1000.0].into_iter()).unwrap();
        assert!(!signed.log);
    }

    #[test]
    fn ticks_are_round_and_inside() {
        let scale = Scale { low: 0.0, high: 1900.0, log: false };
        assert_eq!(scale.ticks(4), [0.0, 500.0, 1000.0, 1500.0]);
        let narrow = Scale { low: 0.21, high: 0.29, log: true };
        assert!(narrow.ticks(4).len() >= 2);
        assert!(narrow.ticks(4).iter().all(|v| (0.21..=0.29).contains(v)));
    }

    #[test]
    fn one_value_still_has_a_range() {
        let one = Scale::padded([3.0].into_iter()).unwrap();
        assert!(one.low < 3.0 && one.high > 3.0);
        assert_eq!(Scale::tight(std::iter::empty()), None);
    }
}
