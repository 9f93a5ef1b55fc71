//! Options of a run, and its progress.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// Default number of rounds.
const ROUNDS: usize = 5;
/// The same with `--quick`.
const ROUNDS_QUICK: usize = 3;

/// Minimum number of rounds, for a meaningful median.
pub(crate) const ROUNDS_MIN: usize = 3;

/// Options of a run, and its progress.
pub struct Context {
    /// Whether measurements are short, so that a whole run takes three minutes at most.
    pub quick: bool,
    /// Number of rounds, and so of values of each measurement.
    pub rounds: usize,
    only: Vec<String>,
    progress: ProgressBar,
    skipped: Mutex<Vec<(String, String)>>,
}

impl Context {
    pub(crate) fn new(quick: bool, rounds: Option<usize>, only: Vec<String>) -> Self {
        let rounds = rounds.unwrap_or(if quick { ROUNDS_QUICK } else { ROUNDS });
        let progress = ProgressBar::hidden();
        Self { quick, rounds, only, progress, skipped: Mutex::default() }
    }

    /// Shows progress over this number of measurements on standard error, on a terminal only.
    pub(crate) fn show_progress(&mut self, measurements: usize) {
        let style = ProgressStyle::with_template("{elapsed_precise} [{pos}/{len}] {wide_msg}");
        self.progress = ProgressBar::new(measurements as u64);
        if let Ok(style) = style {
            self.progress.set_style(style);
        }
    }

    /// Whether `id` is to be measured.
    #[must_use]
    pub fn wants(&self, id: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| matches(only, id))
    }

    /// Shows what is being done now.
    pub fn status(&self, what: impl Into<String>) {
        self.progress.set_message(what.into());
        self.progress.tick();
    }

    /// Records that `id` can't be measured on this machine, and why, for the report.
    pub fn skip(&self, id: &str, why: impl Into<String>) {
        if self.wants(id) {
            self.lock().push((id.to_owned(), why.into()));
        }
    }

    /// Measures `a` and `b` once in each round, so that other load on the machine affects both. The
    /// order alternates from round to round.
    ///
    /// # Errors
    /// Those of `a` and `b`.
    pub fn interleave(
        &self,
        id: &str,
        mut a: impl FnMut() -> Result<f64>,
        mut b: impl FnMut() -> Result<f64>,
    ) -> Result<[Vec<f64>; 2]> {
        let mut values = [Vec::new(), Vec::new()];
        for round in 0..self.rounds {
            self.status(format!("{id}: round {} of {}", round + 1, self.rounds));
            let [first, second] = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for which in [first, second] {
                values[which].push(if which == 0 { a()? } else { b()? });
            }
        }
        Ok(values)
    }

    pub(crate) fn done(&self, measurements: usize) {
        self.progress.inc(measurements as u64);
    }

    pub(crate) fn finish(&self) {
        self.progress.finish_and_clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(String, String)>> {
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Skipped ids, and why.
    pub(crate) fn skipped(&self) -> Vec<(String, String)> {
        self.lock().clone()
    }
}

/// Whether `only` is `id`, or a prefix of `id` up to a dot.
pub(crate) fn matches(only: &str, id: &str) -> bool {
    id.strip_prefix(only).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn an_id_is_selected_by_itself_or_by_a_prefix_up_to_a_dot() {
        let some = Context::new(true, None, vec!["pipeline".into(), "xsk.udp64.vs_nft.10".into()]);
        for wanted in ["pipeline.new_flow.10k", "pipeline", "xsk.udp64.vs_nft.10"] {
            assert!(some.wants(wanted), "{wanted}");
        }
        for unwanted in ["xsk.udp64.vs_nft.10k", "xsk.udp64", "pipelines.a", "flow.bytes"] {
            assert!(!some.wants(unwanted), "{unwanted}");
        }
        assert!(Context::new(true, None, Vec::new()).wants("anything"));
    }

    #[test]
    fn interleaved_measurements_alternate_their_order() {
        let order = RefCell::new(Vec::new());
        let measure = |who: char, value: f64| {
            order.borrow_mut().push(who);
            Ok(value)
        };
        let context = Context::new(true, Some(3), Vec::new());
        let values = context.interleave("a", || measure('a', 1.0), || measure('b', 2.0)).unwrap();
        assert_eq!(values, [vec![1.0; 3], vec![2.0; 3]]);
        assert_eq!(String::from_iter(order.into_inner()), "abbaab");
    }

    #[test]
    fn an_unwanted_id_is_not_reported_as_skipped() {
        let context = Context::new(true, None, vec!["flow".into()]);
        context.skip("flow.bytes", "no memory");
        context.skip("tcp.rr.p50", "no sockperf");
        assert_eq!(context.skipped(), [("flow.bytes".to_owned(), "no memory".to_owned())]);
    }
}
