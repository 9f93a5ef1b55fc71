//! The command line of `yardstick`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};

use crate::context::{self, Context, ROUNDS_MIN};
use crate::load::{self, ForwardArgs, LoadArgs};
use crate::memory::instructions;
use crate::report::{self, BenchReport};
use crate::scale;
use crate::suites::{self, SUITES};
use crate::table;

const AFTER_HELP: &str = "\
Examples:
  scripts/bench
  scripts/bench --quick
  scripts/bench --only pipeline,xsk.udp64.vs_nft.10k
  jq '.[] | {id, median, unit}' target/bench/results.json

It needs root and uses both cores of the machine; other load distorts the results. All traffic
stays in network namespaces, which it creates and removes.

Exit codes:
  0  everything was measured
  1  something could not be measured, or with --check: a bar was missed
  2  the command line is wrong";

const LOAD_HELP: &str = "\
The generator runs on core 0 and the forwarder on core 1.

Examples:
  yardstick load --seconds 30 & sleep 5; perf record -g -C 1 -- sleep 5
  yardstick load --through nft --rules 1000";

/// Measures podgate's performance, by itself and compared with other forwarders.
#[derive(Parser, Debug)]
#[command(name = "yardstick", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// Shorter measurements: everything within three minutes.
    #[arg(long)]
    quick: bool,
    /// Measure only these ids. `xsk.udp64` stands for all ids that begin with `xsk.udp64.`.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    only: Vec<String>,
    /// List all ids and exit.
    #[arg(long)]
    list: bool,
    /// Folder for results.json and the plots.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// Rounds of each measurement [default: 5, or 3 with --quick].
    #[arg(long, value_name = "N", value_parser = rounds)]
    rounds: Option<usize>,
    /// Exit with 1 if a bar is missed.
    #[arg(long)]
    check: bool,
}

/// Parts of the program that run separately, for profilers.
#[derive(Subcommand, Clone, Debug)]
enum Part {
    /// Send 64-byte UDP from pod to pod through podgate or another forwarder, and print the rate.
    #[command(after_help = LOAD_HELP)]
    Load(LoadArgs),
    /// Measure policy at a cluster's size: compilation, changes, decisions.
    Policy(scale::Args),
    /// Forward between two pods on AF_XDP without policy until killed: the baseline for podgate.
    Forward(ForwardArgs),
    /// Run rounds of a worker over established flows, for callgrind.
    #[command(hide = true)]
    Rounds {
        /// Flows to cluster IPs.
        #[arg(long)]
        service: bool,
    },
}

fn rounds(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(rounds) if (ROUNDS_MIN..=1000).contains(&rounds) => Ok(rounds),
        _ => Err(format!("a number from {ROUNDS_MIN} to 1000")),
    }
}

/// Runs the program.
pub(crate) fn run() -> ExitCode {
    let args = Args::parse();
    let outcome = match args.part {
        Some(Part::Load(args)) => load::load(&args).map(|()| ExitCode::SUCCESS),
        Some(Part::Policy(args)) => scale::run(&args, &mut io::stdout().lock())
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        Some(Part::Forward(args)) => load::forward(&args).map(|()| ExitCode::SUCCESS),
        Some(Part::Rounds { service }) => instructions::rounds(service).map(|()| ExitCode::SUCCESS),
        None if args.list => list(),
        None => measure(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("yardstick: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn list() -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    suites::ids().try_for_each(|id| writeln!(out, "{id}"))?;
    Ok(ExitCode::SUCCESS)
}

fn measure(args: &Args) -> anyhow::Result<ExitCode> {
    for only in &args.only {
        if !suites::ids().any(|id| context::matches(only, id)) {
            let message = format!("there is no id {only}; --list shows all ids");
            Args::command().error(ErrorKind::InvalidValue, message).exit();
        }
    }
    let begin = Instant::now();
    let mut context = Context::new(args.quick, args.rounds, args.only.clone());
    context.show_progress(suites::ids().filter(|id| context.wants(id)).count());
    let report = collect(&context);
    context.finish();
    table::print(&report, &mut io::stdout().lock())?;
    let files = report::write(&report, &args.out)?;
    println!("\n{:.0} s; wrote {}", begin.elapsed().as_secs_f64(), files.join(", "));
    let missed = args.check && report.measurements.iter().any(|one| one.met() == Some(false));
    let succeeded = report.failed.is_empty() && !missed;
    Ok(if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the suites. A failure is recorded in the report, and the other suites still run.
fn collect(context: &Context) -> BenchReport {
    let (mut measurements, mut failed) = (Vec::new(), Vec::new());
    for suite in SUITES {
        let wanted: Vec<_> = suite.ids.iter().copied().filter(|id| context.wants(id)).collect();
        if wanted.is_empty() {
            continue;
        }
        match (suite.run)(context) {
            Ok(done) => {
                for one in done.into_iter().filter(|one| context.wants(&one.id)) {
                    match one.invalid() {
                        Some(reason) => failed.push((one.id, reason)),
                        None => measurements.push(one),
                    }
                }
            }
            Err(error) => failed.push((wanted.join(", "), format!("{error:#}"))),
        }
        context.done(wanted.len());
    }
    let skipped = context.skipped();
    BenchReport { quick: context.quick, rounds: context.rounds, measurements, skipped, failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn fewer_rounds_than_three_are_rejected() {
        for (given, accepted) in [("2", false), ("3", true), ("x", false), ("1001", false)] {
            let args = Args::try_parse_from(["yardstick", "--rounds", given]);
            assert_eq!(args.is_ok(), accepted, "{given}");
        }
    }
}
