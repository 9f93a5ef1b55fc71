//! The `podgate` program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// It returns memory to the kernel some seconds after a large change of objects; the C library's
/// allocator keeps most of it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match podgate::config::parse(std::env::args_os()) {
        Ok(cli) => podgate::commands::main(cli),
        Err(error) => podgate::commands::explain_usage(&error),
    }
}
