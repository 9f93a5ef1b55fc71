//! The `podgate` program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    podgate::commands::main(podgate::cli::Cli::parse())
}
