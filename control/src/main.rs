//! The `podgate` program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

/// `podgate replay` tells how much is allocated for a packet.
#[global_allocator]
static ALLOCATOR: podgate_perf::alloc::Counting = podgate_perf::alloc::COUNTING;

fn main() -> ExitCode {
    podgate::commands::main(podgate::cli::Cli::parse())
}
