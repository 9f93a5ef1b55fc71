//! The report as a table.

use std::io::{self, Write};

use tabwriter::TabWriter;

use super::report::{Bar, ClusterInfo, Measurement, Memory, ScaleReport};

/// Prints `report` to `out`.
///
/// # Errors
/// When writing to `out` fails.
pub(super) fn print(report: &ScaleReport, out: &mut impl Write) -> io::Result<()> {
    if report.debug_build {
        writeln!(out, "A debug build: the figures below say nothing about podgate.")?;
    }
    cluster(&report.cluster, out)?;
    memory(&report.memory, out)?;
    if let Some(load) = report.load {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        writeln!(out, "Load      {load} on {cores} cores before it began")?;
    }
    writeln!(out)?;
    times(&report.measurements, out)?;
    writeln!(out)?;
    for decisions in &report.decisions {
        let allocations = match decisions.allocations {
            Some(n) => format!("{n} allocations"),
            None => "allocations were not counted".into(),
        };
        let (what, allowed) = (&decisions.what, decisions.allowed);
        writeln!(out, "{what}: {allowed} allowed, {} denied, {allocations}", decisions.denied)?;
    }
    writeln!(
        out,
        "Decisions are timed one by one, without the {} ns that reading the clock takes. Batches are \
         64 packets;\ntheir figures are medians over rounds. Updates came at {:.0} per second.",
        report.clock_ns, report.updates_per_second
    )
}

fn cluster(info: &ClusterInfo, out: &mut impl Write) -> io::Result<()> {
    let size = info.size;
    let labels = format!("{:?}", info.labels).to_lowercase();
    writeln!(
        out,
        "Cluster   {} NetworkPolicies, {} pods with {labels} labels, {} namespaces, seed {}",
        size.policies, size.pods, size.namespaces, info.seed
    )?;
    writeln!(
        out,
        "          {} identities, {} addresses, {} local pods",
        info.identities, info.addresses, info.local_pods
    )
}

fn memory(memory: &Memory, out: &mut impl Write) -> io::Result<()> {
    let mebibytes = |bytes: Option<u64>| match bytes {
        Some(bytes) => format!("{} MiB", bytes.div_ceil(1 << 20)),
        None => "not counted".into(),
    };
    write!(
        out,
        "Memory    objects {}, compiled {}, peak resident {}",
        mebibytes(memory.store),
        mebibytes(memory.compiled),
        mebibytes(memory.peak_resident)
    )?;
    match memory.bar {
        Some(Bar { limit, met, .. }) => {
            writeln!(out, " (bar {} MiB: {})", limit >> 20, met_or_missed(met))
        }
        None => writeln!(out),
    }
}

fn times(measurements: &[Measurement], out: &mut impl Write) -> io::Result<()> {
    let mut rows = TabWriter::new(Vec::new()).padding(2);
    writeln!(rows, "WHAT\tTIMES\tMIN\tMEDIAN\tP99\tP99.9\tMAX\tBAR\t\tPARTS")?;
    for Measurement { what, samples, ns, bar, parts } in measurements {
        let [min, p50, p99, p999, max] = [ns.min, ns.p50, ns.p99, ns.p999, ns.max].map(time);
        let (limit, met) = match bar {
            Some(bar) => (format!("{} {}", bar.statistic, time(bar.limit)), met_or_missed(bar.met)),
            None => ("-".into(), ""),
        };
        let parts: Vec<_> =
            parts.iter().map(|part| format!("{} {}", part.what, time(part.ns))).collect();
        let parts = parts.join(", ");
        writeln!(
            rows,
            "{what}\t{samples}\t{min}\t{p50}\t{p99}\t{p999}\t{max}\t{limit}\t{met}\t{parts}"
        )?;
    }
    let rows = rows.into_inner().map_err(|error| io::Error::other(error.to_string()))?;
    for row in String::from_utf8_lossy(&rows).lines() {
        writeln!(out, "{}", row.trim_end())?;
    }
    Ok(())
}

const fn met_or_missed(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

/// Three significant digits and a unit.
fn time(ns: u64) -> String {
    let ns = ns as f64;
    let (value, unit) = match ns {
        ns if ns < 1e3 => (ns, "ns"),
        ns if ns < 1e6 => (ns / 1e3, "µs"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let digits = match value {
        _ if unit == "ns" => 0,
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_significant_digits() {
        let shown = [7, 999, 1_234, 56_789, 999_400, 12_345_678, 2_000_000_000].map(time);
        let expected = ["7 ns", "999 ns", "1.23 µs", "56.8 µs", "999 µs", "12.3 ms", "2.00 s"];
        assert_eq!(shown, expected);
    }
}
