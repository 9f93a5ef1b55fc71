//! All there is to measure.

use anyhow::Result;

use crate::context::Context;
use crate::measure::Measurement;

/// Measurements that are made together.
pub struct Suite {
    /// What it measures. [`Context::wants`] says which of them are asked for.
    pub ids: &'static [&'static str],
    /// Measures what is asked for.
    pub run: fn(&Context) -> Result<Vec<Measurement>>,
}

/// All suites, in the order in which they run.
pub const SUITES: &[Suite] = &[];

/// Every id there is.
pub(crate) fn ids() -> impl Iterator<Item = &'static str> {
    SUITES.iter().flat_map(|suite| suite.ids).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn an_id_stands_for_one_thing() {
        let mut seen = HashSet::new();
        for id in ids() {
            assert!(seen.insert(id), "{id} twice");
        }
    }
}
