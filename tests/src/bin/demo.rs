//! `scripts/demo`: runs the scenario on this machine and prints each row's expected outcome beside
//! what was seen. Exits with 1 when they differ.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use podgate_tests::lab::{Agent, Lab, Outcome, interrupted, program, wait_for};
use podgate_tests::scenario::{Expected, MANIFESTS, Probe, ROWS, Row};

/// Runs podgate between pods in network namespaces and shows what passes.
#[derive(Parser)]
struct Options {
    /// Worker threads of the dataplane.
    #[arg(long, default_value_t = 2)]
    workers: u16,
    /// Then open a shell on the node, in which `podgate` reaches the agent and
    /// `pod NAMESPACE/NAME COMMAND` runs a command in a pod. The lab is removed when it ends.
    #[arg(long)]
    shell: bool,
}

fn main() -> ExitCode {
    match demo(&Options::parse()) {
        Ok(0) => {
            println!("\nAll as expected. The lab is removed.");
            ExitCode::SUCCESS
        }
        Ok(differing) => {
            eprintln!(
                "demo: {differing} of {} outcomes differ from what was expected",
                2 * ROWS.len()
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::from(if interrupted() { 130 } else { 1 })
        }
    }
}

/// Returns the number of outcomes that differ from what was expected.
fn demo(options: &Options) -> Result<usize> {
    println!("Building a node with pods from {MANIFESTS} …");
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, options.workers)?;
    println!(
        "podgate runs with {} workers. What the pods send, and what comes back:\n",
        options.workers
    );
    println!(
        "  {:<15} {:<14} {:<23} {:<11} {:<16} IPv6",
        "FROM", "TO", "SENDS", "EXPECTED", "IPv4"
    );
    let mut differing = 0;
    for row in ROWS {
        ensure!(!interrupted(), "interrupted");
        differing += show(&lab, row)?;
    }
    if options.shell {
        shell(&lab)?;
    }
    agent.assert_alive()?;
    Ok(differing)
}

/// Runs a shell on the node until the user leaves it.
fn shell(lab: &Lab) -> Result<()> {
    let podgate = program()?;
    let folder = podgate.parent().context("podgate is in no folder")?;
    let mut text = format!(
        "export PODGATE_SOCKET={} MANIFESTS={}\nPATH={}:$PATH\nPS1='node# '\n\
         pod() {{ local name=$1 netns; shift\n  case $name in\n",
        lab.state_dir().join("podgate.sock").display(),
        lab.manifests().display(),
        folder.display(),
    );
    println!("\nA shell on the node; exit ends the lab. The policies are in $MANIFESTS. Pods:\n");
    for pod in lab.pods() {
        println!("  {:<15} {}", pod.name, pod.addresses.v4);
        writeln!(text, "    {}) netns={} ;;", pod.name, pod.netns.path().display())?;
    }
    text += "    *) echo \"there is no pod $name\" >&2; return 1 ;;\n  esac\n\
             nsenter --net=\"$netns\" \"$@\"; }\n";
    let commands = lab.file("shell");
    std::fs::write(&commands, text)?;
    let mut bash = lab.node().netns.daemon("bash".as_ref());
    // How the last command in it ended doesn't matter.
    bash.arg("--rcfile").arg(commands).arg("-i").status().context("can't run bash")?;
    Ok(())
}

/// Runs and prints one row, and below it, if podgate denied it, the line of `podgate flows`.
fn show(lab: &Lab, row: &Row) -> Result<usize> {
    let seen = row.run_both(lab)?;
    let differing = seen.iter().filter(|seen| !row.is_met_by(seen)).count();
    let [v4, v6] = seen.map(|seen| cell(&seen));
    let (probe, expected) = (row.probe.to_string(), row.expected.to_string());
    let mark = if differing > 0 { "  <-- DIFFERS" } else { "" };
    println!("  {:<15} {:<14} {probe:<23} {expected:<11} {v4:<16} {v6}{mark}", row.from, row.to);
    if row.expected != Expected::Passes {
        println!("      podgate flows: {}", explanation(lab, row)?);
    }
    Ok(differing)
}

fn cell(seen: &Outcome) -> String {
    let milliseconds = |elapsed: Duration| format!("{:.1} ms", elapsed.as_secs_f64() * 1000.0);
    match seen {
        Outcome::Echo(elapsed) => format!("reply {}", milliseconds(*elapsed)),
        Outcome::Answer(answer) => format!("{}   {}", answer.status, milliseconds(answer.elapsed)),
        Outcome::NoAnswer => "no answer".to_owned(),
        Outcome::Failure(message) => message.clone(),
    }
}

/// The newest line of `podgate flows` about this row's denial, without its time.
fn explanation(lab: &Lab, row: &Row) -> Result<String> {
    const BOUND: Duration = Duration::from_secs(5);
    let peer = |name: &str| -> Result<String> {
        // `podgate flows` names pods, and gives the address of anything else.
        Ok(if name.contains('/') {
            name.to_owned()
        } else {
            lab.host(name)?.addresses.v4.to_string()
        })
    };
    let from = peer(row.from)?;
    let to = match row.probe {
        Probe::Http(_, port, _) => format!("-> {}:{port} ", peer(row.to)?),
        Probe::Ping => format!("-> {} ", peer(row.to)?),
    };
    let is_about_row = |line: &&str| {
        line.contains(&from)
            && line.contains(&to)
            && (line.contains("DENIED") || line.contains("DROPPED"))
    };
    wait_for(&format!("a flow record of {row}"), BOUND, || {
        let output = lab.podgate(&["flows", "--last", "50"])?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().rev().find(is_about_row);
        Ok(line.map(|line| line.split_once(": ").map_or(line, |(_, rest)| rest).to_owned()))
    })
}
