//! How long a DNS answer waits until its addresses are admitted, in a large cluster.
//!
//! Two threads: one offers answers as a worker does, and one is the control thread, which sleeps
//! until an answer comes. The p99 includes its wakeup, the compilation and the publication.

use anyhow::{Result, ensure};

use crate::context::Context;
use crate::measure::{Limit, Measurement};
use crate::scale::{NameControl, Size};

pub(crate) const RELEASE: &str = "l7.dns.release";

/// Bar for the p99, microseconds.
const BAR_MICROS: f64 = 2000.0;

const SIZE: Size = Size { namespaces: 1000, pods: 100_000, policies: 10_000 };
const ANSWERS: u32 = 2000;
const ANSWERS_QUICK: u32 = 500;

/// Measures the p99 of each round.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    context.status(format!("{RELEASE}: a cluster with 100,000 pods"));
    let mut control = NameControl::new(SIZE, 1)?;
    let answers = if context.quick { ANSWERS_QUICK } else { ANSWERS };
    let (mut values, mut medians) = (Vec::new(), Vec::new());
    for round in 0..context.rounds {
        context.status(format!("{RELEASE}: round {} of {}", round + 1, context.rounds));
        let mut times = control.release(answers);
        ensure!(!times.is_empty(), "nothing was measured");
        times.sort_unstable();
        let micros = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e6;
        values.push(micros(99));
        medians.push(micros(50));
    }
    let note = format!(
        "10,000 policies, 1,000 of toFQDNs beside them, 10,000 names; p50 {:.0} µs",
        crate::measure::median(&medians)
    );
    let measurement = Measurement::new(RELEASE, "µs", values).bar(Limit::AtMost(BAR_MICROS));
    Ok(vec![measurement.note(note)])
}
