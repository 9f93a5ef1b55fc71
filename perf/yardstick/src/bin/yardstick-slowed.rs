//! `yardstick` with a worker that wastes time; see `tests/honest.rs`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: podgate_yardstick::alloc::Counting = podgate_yardstick::alloc::COUNTING;

fn main() -> ExitCode {
    podgate_yardstick::run()
}
