//! Progress bars on standard error, on a terminal only.

use indicatif::{ProgressBar, ProgressIterator, ProgressStyle};

/// Minimum number of steps for a progress bar.
pub const STEPS_MIN: u64 = 100_000;

const TEMPLATE: &str = "{msg} {wide_bar} {human_pos}/{human_len} {eta}";

/// Iterates over `steps` with a progress bar.
pub fn over<'s, T>(what: &'static str, steps: &'s [T]) -> impl Iterator<Item = &'s T> {
    let bar = bar(what, Some(steps.len() as u64).filter(|len| *len >= STEPS_MIN));
    steps.iter().progress_with(bar)
}

/// A progress bar of `len` steps, hidden if `None`.
pub fn bar(what: &'static str, len: Option<u64>) -> ProgressBar {
    let Some(len) = len else { return ProgressBar::hidden() };
    // Draws to standard error, and only if that is a terminal.
    let bar = ProgressBar::new(len).with_message(what);
    match ProgressStyle::with_template(TEMPLATE) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
