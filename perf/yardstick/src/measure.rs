//! Measurements: values of several rounds, a baseline to compare with, and a bar.

use std::fmt;

/// One measurement.
#[derive(Clone, PartialEq, Debug)]
pub struct Measurement {
    /// Its name, such as `tcp.bulk.vs_ovs`.
    pub id: String,
    /// Unit of the values, such as `Mpps`.
    pub unit: &'static str,
    /// One value for each round.
    pub values: Vec<f64>,
    /// The baseline that it is compared with.
    pub baseline: Option<Baseline>,
    /// The bar that it has to meet.
    pub bar: Option<Bar>,
    /// Remarks that a reader needs to understand the values.
    pub notes: Vec<String>,
    /// Named curves, for plots only.
    pub series: Vec<Series>,
}

/// A named curve of points `(x, y)`.
pub type Series = (String, Vec<(f64, f64)>);

/// The same quantity of another forwarder or setting, measured in the same rounds.
#[derive(Clone, PartialEq, Debug)]
pub struct Baseline {
    /// Its name, such as `kernel bridge`.
    pub name: String,
    /// One value for each round, in the unit of the measurement.
    pub values: Vec<f64>,
}

/// A limit that a statistic has to meet.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bar {
    /// The statistic.
    pub of: Statistic,
    /// The limit.
    pub limit: Limit,
}

/// The statistic of a measurement to which a bar applies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Statistic {
    /// The median of its values.
    Median,
    /// The ratio to the baseline.
    Ratio,
}

/// A lower or an upper limit.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Limit {
    /// Minimum.
    AtLeast(f64),
    /// Maximum.
    AtMost(f64),
}

impl Measurement {
    /// A measurement with `values`, one for each round.
    #[must_use]
    pub fn new(id: impl Into<String>, unit: &'static str, values: Vec<f64>) -> Self {
        let (baseline, bar, notes, series) = Default::default();
        Self { id: id.into(), unit, values, baseline, bar, notes, series }
    }

    /// Adds the baseline `name`, with one value for each round.
    #[must_use]
    pub fn compared_with(mut self, name: impl Into<String>, values: Vec<f64>) -> Self {
        self.baseline = Some(Baseline { name: name.into(), values });
        self
    }

    /// Adds a bar for the median.
    #[must_use]
    pub fn bar(mut self, limit: Limit) -> Self {
        self.bar = Some(Bar { of: Statistic::Median, limit });
        self
    }

    /// Adds a bar for the ratio.
    #[must_use]
    pub fn ratio_bar(mut self, limit: Limit) -> Self {
        self.bar = Some(Bar { of: Statistic::Ratio, limit });
        self
    }

    /// Adds a remark.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Adds a curve for the plots.
    #[must_use]
    pub fn curve(mut self, name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        self.series.push((name.into(), points));
        self
    }

    /// Median of the values; NaN if there are none.
    #[must_use]
    pub fn median(&self) -> f64 {
        median(&self.values)
    }

    /// Minimum and maximum of the values.
    #[must_use]
    pub fn spread(&self) -> [f64; 2] {
        spread(&self.values)
    }

    /// Ratio to the baseline: the median of the ratios of the rounds, in which both had the same
    /// conditions. `None` without a baseline.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        let baseline = self.baseline.as_ref()?;
        let pairs = self.values.iter().zip(&baseline.values);
        Some(median(&pairs.map(|(value, against)| value / against).collect::<Vec<_>>()))
    }

    /// Whether the bar is met; `None` without a bar. NaN meets no bar.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        let Bar { of, limit } = self.bar?;
        let value = match of {
            Statistic::Median => Some(self.median()),
            Statistic::Ratio => self.ratio(),
        };
        Some(value.is_some_and(|value| limit.holds(value)))
    }

    /// Why the measurement is invalid, if it is.
    #[must_use]
    pub fn invalid(&self) -> Option<String> {
        let baseline = self.baseline.as_ref();
        let numbers = self.values.iter().chain(baseline.into_iter().flat_map(|b| &b.values));
        if self.values.is_empty() {
            Some("has no values".into())
        } else if baseline.is_some_and(|baseline| baseline.values.len() != self.values.len()) {
            Some("has a baseline with another number of values".into())
        } else if numbers.chain(&self.ratio()).any(|value| !value.is_finite()) {
            Some("has a value that is not finite".into())
        } else {
            None
        }
    }
}

impl Limit {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(limit) => value >= limit,
            Self::AtMost(limit) => value <= limit,
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, limit) = match self.limit {
            Limit::AtLeast(limit) => ('≥', limit),
            Limit::AtMost(limit) => ('≤', limit),
        };
        let times = if self.of == Statistic::Ratio { "×" } else { "" };
        write!(f, "{sign} {limit}{times}")
    }
}

/// Median of `values`: the middle one, or the mean of the middle two; NaN if there are none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

/// Minimum and maximum of `values`; NaN if there are none.
#[must_use]
pub fn spread(values: &[f64]) -> [f64; 2] {
    [
        values.iter().copied().fold(f64::NAN, f64::min),
        values.iter().copied().fold(f64::NAN, f64::max),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(values: &[f64], baseline: &[f64]) -> Measurement {
        Measurement::new("a", "Mpps", values.to_vec()).compared_with("b", baseline.to_vec())
    }

    #[test]
    fn a_median_does_not_depend_on_the_order() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
        assert!(median(&[]).is_nan());
        assert_eq!(spread(&[3.0, 1.0, 2.0]), [1.0, 3.0]);
        assert!(spread(&[]).iter().all(|value| value.is_nan()));
    }

    #[test]
    fn a_ratio_compares_values_of_the_same_round() {
        // The machine was half as fast in the second round, for both.
        let both = compared(&[10.0, 5.0, 10.0], &[20.0, 10.0, 20.0]);
        assert_eq!(both.ratio(), Some(0.5));
        // The ratio of the medians would be 1.
        let moody = compared(&[2.0, 4.0, 6.0], &[4.0, 2.0, 12.0]);
        assert_eq!(moody.ratio(), Some(0.5));
        assert_eq!(Measurement::new("a", "s", vec![1.0]).ratio(), None);
    }

    #[test]
    fn a_bar_applies_to_the_median_or_to_the_ratio() {
        let measured = compared(&[1.0, 2.0, 9.0], &[2.0, 4.0, 18.0]);
        assert_eq!(measured.met(), None);
        let met = |measured: Measurement| measured.met();
        assert_eq!(met(measured.clone().bar(Limit::AtLeast(2.0))), Some(true));
        assert_eq!(met(measured.clone().bar(Limit::AtMost(1.9))), Some(false));
        assert_eq!(met(measured.clone().ratio_bar(Limit::AtLeast(0.6))), Some(false));
        assert_eq!(met(measured.clone().ratio_bar(Limit::AtMost(0.5))), Some(true));
        let alone = Measurement { baseline: None, ..measured };
        assert_eq!(met(alone.ratio_bar(Limit::AtMost(9.0))), Some(false));
        let nothing = Measurement::new("a", "s", Vec::new());
        assert_eq!(met(nothing.bar(Limit::AtMost(9.0))), Some(false));
    }

    #[test]
    fn a_bar_is_displayed_with_its_sign_and_unit() {
        let shown = |measured: Measurement| measured.bar.unwrap().to_string();
        let measured = Measurement::new("a", "s", Vec::new());
        assert_eq!(shown(measured.clone().bar(Limit::AtLeast(20.0))), "≥ 20");
        assert_eq!(shown(measured.ratio_bar(Limit::AtMost(1.5))), "≤ 1.5×");
    }

    #[test]
    fn invalid_measurements_are_detected() {
        assert_eq!(compared(&[1.0], &[2.0]).invalid(), None);
        assert!(compared(&[], &[]).invalid().is_some());
        assert!(compared(&[1.0, 2.0], &[2.0]).invalid().is_some());
        assert!(compared(&[f64::NAN], &[2.0]).invalid().is_some());
        assert!(compared(&[1.0], &[0.0]).invalid().is_some(), "a ratio to nothing");
    }
}
