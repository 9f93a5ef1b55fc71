//! The program that `scripts/bench` runs.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: podgate_yardstick::alloc::Counting = podgate_yardstick::alloc::COUNTING;

fn main() -> ExitCode {
    podgate_yardstick::run()
}
