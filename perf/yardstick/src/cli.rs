//! The command line of `yardstick`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};

use crate::context::{self, Context, ROUNDS_MIN};
use crate::load::{self, ForwardArgs, LoadArgs};
use crate::memory::instructions;
use crate::report::{self, Report};
use crate::scale;
use crate::suites::{self, SUITES};
use crate::table;

const AFTER_HELP: &str = "\
Examples:
  scripts/bench
  scripts/bench --quick
  scripts/bench --only pipeline,xsk.udp64.vs_nft.10k
  jq '.[] | {id, median, unit}' target/bench/results.json

It needs root and takes both cores of the machine; what else runs there disturbs it. All traffic
stays in network namespaces that it makes and removes.

Exit codes:
  0  it was measured
  1  something could not be measured, or with --check: a bar was missed
  2  the command line is wrong";

const LOAD_HELP: &str = "\
The generator runs on core 0 and the forwarder on core 1.

Examples:
  yardstick load --seconds 30 & sleep 5; perf record -g -C 1 -- sleep 5
  yardstick load --through nft --rules 1000";

/// Measures how fast podgate is, on its own and beside its peers.
#[derive(Parser, Debug)]
#[command(name = "yardstick", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// Measure for less long: all of it within three minutes.
    #[arg(long)]
    quick: bool,
    /// Measure these only. `xsk.udp64` stands for all ids that begin so.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    only: Vec<String>,
    /// List the ids and do nothing else.
    #[arg(long)]
    list: bool,
    /// Folder for results.json and the plots.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// Rounds of each comparison [default: 5, or 3 with --quick].
    #[arg(long, value_name = "N", value_parser = rounds)]
    rounds: Option<usize>,
    /// Fail when a bar is missed.
    #[arg(long)]
    check: bool,
}

/// Parts of the program on their own, for profilers.
#[derive(Subcommand, Clone, Debug)]
enum Part {
    /// Send 64-byte UDP from pod to pod through podgate or a peer, and print what arrives.
    #[command(after_help = LOAD_HELP)]
    Load(LoadArgs),
    /// Compile policy for a cluster, change it, decide by it, and show what each took.
    Policy(scale::Args),
    /// Forward between two pods on AF_XDP with no policy, until killed: what podgate is held
    /// against.
    Forward(ForwardArgs),
    /// Rounds of a worker over established flows, and nothing else.
    #[command(hide = true)]
    Rounds,
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
        Some(Part::Rounds) => instructions::rounds().map(|()| ExitCode::SUCCESS),
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
            let message = format!("there is no {only} to measure; --list shows what there is");
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
    let well = report.failed.is_empty() && !missed;
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the suites. One that fails is told, and the others go on.
fn collect(context: &Context) -> Report {
    let (mut measurements, mut failed) = (Vec::new(), Vec::new());
    for suite in SUITES {
        let wanted: Vec<_> = suite.ids.iter().copied().filter(|id| context.wants(id)).collect();
        if wanted.is_empty() {
            continue;
        }
        match (suite.run)(context) {
            Ok(done) => {
                for one in done.into_iter().filter(|one| context.wants(&one.id)) {
                    match one.fault() {
                        Some(fault) => failed.push((one.id, fault)),
                        None => measurements.push(one),
                    }
                }
            }
            Err(error) => failed.push((wanted.join(", "), format!("{error:#}"))),
        }
        context.done(wanted.len());
    }
    let skipped = context.skipped();
    Report { quick: context.quick, rounds: context.rounds, measurements, skipped, failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn fewer_rounds_than_three_are_refused() {
        for (given, accepted) in [("2", false), ("3", true), ("x", false), ("1001", false)] {
            let args = Args::try_parse_from(["yardstick", "--rounds", given]);
            assert_eq!(args.is_ok(), accepted, "{given}");
        }
    }
}
