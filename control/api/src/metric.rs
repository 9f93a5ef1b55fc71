//! Metrics as the agent reports them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// One metric with all its samples.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Family {
    /// Name; that of a counter ends with `_total`.
    pub name: String,
    /// What it counts.
    pub help: String,
    /// Counter, gauge or histogram.
    pub kind: FamilyKind,
    /// Values.
    pub samples: Vec<Sample>,
}

/// Kinds of metrics.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum FamilyKind {
    /// Only increases.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by buckets of a measured quantity.
    Histogram,
}

impl fmt::Display for FamilyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

/// One value.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Sample {
    /// What follows the family's name in the sample's; empty except in histograms.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub suffix: String,
    /// Labels by name.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: Number,
}

/// A whole number, exactly, or another one.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
#[serde(untagged)]
pub enum Number {
    /// Whole.
    Whole(u64),
    /// Any.
    Real(f64),
}

impl Number {
    /// As a whole number, rounded down; zero for what is less.
    #[must_use]
    pub const fn whole(self) -> u64 {
        match self {
            Self::Whole(value) => value,
            Self::Real(value) => value as u64,
        }
    }
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => value.fmt(f),
            Self::Real(value) => value.fmt(f),
        }
    }
}

impl Family {
    /// A counter without samples.
    #[must_use]
    pub fn counter(name: &str, help: &str) -> Self {
        Self::new(FamilyKind::Counter, name, help)
    }

    /// A gauge without samples.
    #[must_use]
    pub fn gauge(name: &str, help: &str) -> Self {
        Self::new(FamilyKind::Gauge, name, help)
    }

    /// A histogram without samples.
    #[must_use]
    pub fn histogram(name: &str, help: &str) -> Self {
        Self::new(FamilyKind::Histogram, name, help)
    }

    /// A family of this kind without samples.
    #[must_use]
    pub fn new(kind: FamilyKind, name: &str, help: &str) -> Self {
        Self { name: name.into(), help: help.into(), kind, samples: Vec::new() }
    }

    /// Adds a sample with these labels.
    #[must_use]
    pub fn with(mut self, labels: &[(&str, &str)], value: impl Into<Number>) -> Self {
        self.push("", labels, value.into());
        self
    }

    /// Adds the samples of a histogram with these labels. `counts` are by bucket, not cumulative;
    /// the last bucket has no bound. `bounds` and `sum` are in the unit of the family's name.
    #[must_use]
    pub fn with_buckets(
        mut self,
        labels: &[(&str, &str)],
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
    ) -> Self {
        let mut so_far = 0;
        for (at, count) in counts.iter().enumerate() {
            so_far += count;
            let bound = bounds.get(at).map_or("+Inf".to_owned(), f64::to_string);
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.push("_bucket", &labels, so_far.into());
        }
        self.push("_sum", labels, sum.into());
        self.push("_count", labels, so_far.into());
        self
    }

    fn push(&mut self, suffix: &str, labels: &[(&str, &str)], value: Number) {
        let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        self.samples.push(Sample { suffix: suffix.into(), labels: labels.collect(), value });
    }

    /// The family in Prometheus' text format.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Self { name, help, kind, samples } = self;
        let mut text = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for Sample { suffix, labels, value } in samples {
            let labels = labels.iter().map(|(name, value)| format!("{name}={}", quoted(value)));
            let labels = labels.collect::<Vec<_>>().join(",");
            let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
            text.push_str(&format!("{name}{suffix}{labels} {value}\n"));
        }
        text
    }
}

/// A label's value as the text format has it: only these three characters are escaped.
fn quoted(value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_ends_with_sum_and_count() {
        let family = Family::histogram("a_seconds", "Help").with_buckets(
            &[("protocol", "http")],
            &[0.001, 2.5],
            &[3, 0, 1],
            10.5,
        );
        let text = "\
# HELP a_seconds Help
# TYPE a_seconds histogram
a_seconds_bucket{le=\"0.001\",protocol=\"http\"} 3
a_seconds_bucket{le=\"2.5\",protocol=\"http\"} 3
a_seconds_bucket{le=\"+Inf\",protocol=\"http\"} 4
a_seconds_sum{protocol=\"http\"} 10.5
a_seconds_count{protocol=\"http\"} 4
";
        assert_eq!(family.to_text(), text);
        let json = serde_json::to_string(&family).unwrap();
        assert_eq!(serde_json::from_str::<Family>(&json).unwrap(), family);
    }

    #[test]
    fn a_label_can_not_break_the_text() {
        let family = Family::gauge("a", "Help").with(&[("b", "x\"\\\ny é")], 1);
        assert!(family.to_text().ends_with("a{b=\"x\\\"\\\\\\ny é\"} 1\n"));
    }
}
