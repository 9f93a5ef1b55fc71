//! An artificially slow worker, to test that benchmarks notice.

use std::hint::black_box;

/// Iterations per packet. One takes at least a nanosecond: the counter is stored in memory.
const TURNS: usize = 300;

/// Wastes some hundred nanoseconds for each of `packets`.
pub(super) fn waste(packets: usize) {
    for turn in 0..packets * TURNS {
        black_box(turn);
    }
}
