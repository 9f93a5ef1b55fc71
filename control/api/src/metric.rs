//! Metrics as the agent reports them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One metric with all its samples.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Family {
    /// Name; that of a counter ends with `_total`.
    pub name: String,
    /// What it counts.
    pub help: String,
    /// Counter or gauge.
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
}

/// One value.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Labels by name.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: u64,
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

    /// A family of this kind without samples.
    #[must_use]
    pub fn new(kind: FamilyKind, name: &str, help: &str) -> Self {
        Self { name: name.into(), help: help.into(), kind, samples: Vec::new() }
    }

    /// Adds a sample with these labels.
    #[must_use]
    pub fn with(mut self, labels: &[(&str, &str)], value: u64) -> Self {
        let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        self.samples.push(Sample { labels: labels.collect(), value });
        self
    }

    /// The family in Prometheus' text format.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Self { name, help, samples, .. } = self;
        let kind = match self.kind {
            FamilyKind::Counter => "counter",
            FamilyKind::Gauge => "gauge",
        };
        let head = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        samples.iter().fold(head, |text, sample| {
            let value = sample.value;
            let labels = sample.labels.iter().map(|(name, value)| format!("{name}={value:?}"));
            match labels.collect::<Vec<_>>().join(",").as_str() {
                "" => format!("{text}{name} {value}\n"),
                labels => format!("{text}{name}{{{labels}}} {value}\n"),
            }
        })
    }
}
