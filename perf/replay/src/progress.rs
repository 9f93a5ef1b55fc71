//! A progress bar for what takes long, on standard error, and only on a terminal.

use indicatif::{ProgressBar, ProgressIterator, ProgressStyle};

/// Fewer steps than this are done before a bar could be read.
pub const WORTH_A_BAR: u64 = 100_000;

const TEMPLATE: &str = "{msg} {wide_bar} {human_pos}/{human_len} {eta}";

/// Goes over `steps`.
pub fn over<'s, T>(what: &'static str, steps: &'s [T]) -> impl Iterator<Item = &'s T> {
    let bar = bar(what, Some(steps.len() as u64).filter(|len| *len >= WORTH_A_BAR));
    steps.iter().progress_with(bar)
}

/// A bar of `len` steps, hidden without.
pub fn bar(what: &'static str, len: Option<u64>) -> ProgressBar {
    let Some(len) = len else { return ProgressBar::hidden() };
    // By itself the bar goes to standard error, and nowhere if that is no terminal.
    let bar = ProgressBar::new(len).with_message(what);
    match ProgressStyle::with_template(TEMPLATE) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
