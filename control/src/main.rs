//! The `podgate` program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

/// It gives memory back to the kernel some seconds after a large change of objects; the C library's
/// allocator keeps most of it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    podgate::commands::main(podgate::cli::Cli::parse())
}
