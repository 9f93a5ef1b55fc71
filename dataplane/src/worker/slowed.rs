//! A worker that is slower than it has to be: the benchmark's test is that it notices.

use std::hint::black_box;

/// Turns of a loop for each packet. One takes a nanosecond or more: its counter goes by way of
/// memory.
const TURNS: usize = 300;

/// Wastes some hundred nanoseconds for each of `packets`.
pub(super) fn waste(packets: usize) {
    for turn in 0..packets * TURNS {
        black_box(turn);
    }
}
