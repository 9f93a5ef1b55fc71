//! The program that `scripts/bench` runs.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: podgate_perf::alloc::Counting = podgate_perf::alloc::COUNTING;

fn main() -> ExitCode {
    podgate_yardstick::run()
}
