//! The same program with a worker that wastes time: see `tests/honest.rs`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: podgate_perf::alloc::Counting = podgate_perf::alloc::COUNTING;

fn main() -> ExitCode {
    podgate_yardstick::run()
}
