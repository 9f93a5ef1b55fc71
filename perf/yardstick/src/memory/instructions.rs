//! Instructions per packet of established flows, counted by valgrind's callgrind.
//!
//! The program runs itself under callgrind with the hidden subcommand `rounds`; callgrind counts
//! only inside of a round.

use std::env;
use std::io::ErrorKind;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::established::Traffic;
use super::small_node::Via;
use super::stopwatch::round;
use super::{BATCH, BUSY_LINKS};
use crate::context::Context;
use crate::measure::Measurement;

pub(crate) const INSTRUCTIONS: &str = "pipeline.established.instructions";
pub(crate) const SERVICE_INSTRUCTIONS: &str = "pipeline.service.instructions";

/// Number of counted rounds. Under callgrind each takes about fifty times as long.
const ROUNDS: usize = 100;
/// Number of rounds before, so that one-time work is not counted.
const ROUNDS_BEFORE: usize = 10;

/// Pattern of the function in which callgrind counts ([`round`]).
const COUNTED: &str = "*stopwatch*round*";

/// Text before the number of instructions in callgrind's output.
const COLLECTED: &str = "Collected : ";

/// The subcommand `rounds`.
///
/// # Errors
/// When the flows can't be established.
pub(crate) fn rounds(service: bool) -> Result<()> {
    let via = if service { Via::Service } else { Via::Pod };
    let mut traffic = Traffic::of_64_bytes(via)?;
    for number in 0..ROUNDS_BEFORE + ROUNDS {
        traffic.deliver();
        let rig = traffic.rig();
        let packets = if number < ROUNDS_BEFORE { rig.round() } else { round(rig) };
        ensure!(packets == BATCH * BUSY_LINKS, "a round of {packets} packets");
        rig.collect(&mut |_| {});
    }
    Ok(())
}

/// Counts instructions.
///
/// # Errors
/// When callgrind fails.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    let mut all = Vec::new();
    for (id, options) in [(INSTRUCTIONS, &[][..]), (SERVICE_INSTRUCTIONS, &["--service"])] {
        if context.wants(id) {
            all.extend(count(context, id, options)?);
        }
    }
    Ok(all)
}

fn count(context: &Context, id: &str, options: &[&str]) -> Result<Option<Measurement>> {
    context.status(format!("{id}: under callgrind"));
    let folder = tempfile::tempdir()?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", &format!("--toggle-collect={COUNTED}")]);
    command.arg(format!("--callgrind-out-file={}", folder.path().join("out").display()));
    command.arg(env::current_exe()?).arg("rounds").args(options);
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            context.skip(id, "valgrind is missing");
            return Ok(None);
        }
        Err(error) => return Err(error).context("can't start valgrind"),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let Some(instructions) = collected(&said).filter(|_| output.status.success()) else {
        bail!("callgrind counted nothing: {}", said.trim());
    };
    let each = instructions as f64 / (ROUNDS * BATCH * BUSY_LINKS) as f64;
    let measurement = Measurement::new(id, "instructions/packet", vec![each]);
    Ok(Some(measurement.note("counted once, because every run has the same count")))
}

/// The number of instructions in callgrind's output.
fn collected(said: &str) -> Option<u64> {
    let (_, after) = said.split_once(COLLECTED)?;
    after.split_whitespace().next()?.parse().ok().filter(|instructions| *instructions > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_callgrind_is_parsed() {
        let said = "==7== Events    : Ir\n==7== Collected : 12345\n==7== \n";
        assert_eq!(collected(said), Some(12345));
        assert_eq!(collected("==7== Collected : 0\n"), None, "the pattern has missed");
        assert_eq!(collected("valgrind: no such program"), None);
    }
}
