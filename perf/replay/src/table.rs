//! The report for people.

use std::fmt::Write as _;
use std::io::{self, Write};

use podgate_policy::observe::{DecidedBy, DirectionVerdict, FlowEndpoint, Outcome, PolicyName};
use podgate_policy::terminal::escape;
use tabwriter::TabWriter;

use super::report::{
    CaptureInfo, Flow, PacketCount, Performance, ReplayReport, RequestGroup, Summary,
};

/// Prints `report` to `out`.
///
/// # Errors
/// When writing to `out` fails.
pub(super) fn print(report: &ReplayReport, out: &mut impl Write) -> io::Result<()> {
    capture(&report.capture, out)?;
    for rejected in &report.rejected {
        writeln!(out, "Rejected  {}", escape(rejected))?;
    }
    for note in &report.notes {
        writeln!(out, "Note      {}", escape(note))?;
    }
    writeln!(out)?;
    flows(&report.flows, out)?;
    writeln!(out)?;
    summary(&report.summary, out)?;
    if let Some(performance) = &report.performance {
        writeln!(out)?;
        cost(performance, out)?;
    }
    Ok(())
}

fn capture(info: &CaptureInfo, out: &mut impl Write) -> io::Result<()> {
    let CaptureInfo { file, format, packets, interfaces, duration_ns, skipped, .. } = info;
    let seconds = *duration_ns as f64 / 1e9;
    let format = format.name();
    writeln!(
        out,
        "Capture   {}: {format}, {}, {}, {seconds:.3} s",
        escape(file),
        many(*packets, "packet"),
        many(u64::from(*interfaces), "interface"),
    )?;
    let reasons = [
        (skipped.for_kernel, "not for workers (not IP, or neighbour discovery)"),
        (skipped.seen_before, "seen on another interface before"),
        (skipped.other_link_type, "of another link type than ETHERNET"),
        (skipped.truncated, "truncated"),
        (skipped.oversized, "larger than 64 KiB"),
    ];
    let left_out: Vec<_> =
        reasons.iter().filter(|(n, _)| *n > 0).map(|(n, why)| format!("{n} {why}")).collect();
    if !left_out.is_empty() {
        writeln!(out, "Left out  {}", left_out.join(", "))?;
    }
    if let Some(broken) = &info.broken {
        writeln!(out, "Broken    at byte {}: {}", broken.offset, broken.reason)?;
    }
    Ok(())
}

/// One row for each flow, followed by the causes of its verdict.
fn flows(flows: &[Flow], out: &mut impl Write) -> io::Result<()> {
    let mut rows = TabWriter::new(Vec::new()).padding(2);
    writeln!(rows, "VERDICT\tPROTOCOL\tSOURCE\tDESTINATION\tPACKETS\tBYTES\tDROPPED")?;
    for flow in flows {
        let [packets, bytes] =
            [flow.packets, flow.bytes].map(|[out, back]| format!("{out}/{back}"));
        let drops: Vec<_> = flow.dropped.iter().map(|(why, n)| format!("{n} {why}")).collect();
        let drops = if drops.is_empty() { "-".into() } else { drops.join(", ") };
        writeln!(
            rows,
            "{}\t{}\t{}\t{}\t{packets}\t{bytes}\t{drops}",
            verdict(flow.verdict),
            protocol(flow),
            end(&flow.source),
            end(&flow.destination),
        )?;
    }
    let rows = rows.into_inner().map_err(|error| io::Error::other(error.to_string()))?;
    let rows = String::from_utf8_lossy(&rows);
    let mut rows = rows.lines();
    writeln!(out, "{}", rows.next().unwrap_or_default())?;
    for (row, flow) in rows.zip(flows) {
        writeln!(out, "{}", escape(row))?;
        for line in details(flow) {
            writeln!(out, "  {}", escape(&line))?;
        }
    }
    Ok(())
}

fn verdict(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Forwarded => "FORWARDED",
        Outcome::Dropped => "DROPPED",
        Outcome::Redirected => "REDIRECTED",
    }
}

fn protocol(flow: &Flow) -> String {
    match flow.icmp_type {
        Some(number) => format!("{} type {number}", flow.protocol),
        None => flow.protocol.clone(),
    }
}

/// `ADDRESS:PORT NAMESPACE/POD`.
fn end(peer: &FlowEndpoint) -> String {
    let mut text = match peer.port {
        Some(port) => std::net::SocketAddr::new(peer.address, port).to_string(),
        None => peer.address.to_string(),
    };
    if let (Some(namespace), Some(pod)) = (&peer.namespace, &peer.pod) {
        // Writing to a string does not fail.
        let _ = write!(text, " {namespace}/{pod}");
    }
    text
}

fn details(flow: &Flow) -> Vec<String> {
    let mut lines = Vec::new();
    match (&flow.egress, &flow.ingress) {
        (Some(egress), Some(ingress)) => {
            lines.extend(verdict_line("egress ", egress));
            lines.extend(verdict_line("ingress", ingress));
        }
        _ => {
            let reason = flow.drop_reason.as_deref().unwrap_or("unknown");
            lines.push(format!("dropped before the policy lookup: {reason}"));
        }
    }
    lines.extend(flow.requests.iter().map(request));
    if flow.more_requests > 0 {
        lines.push(format!("and {} more requests", flow.more_requests));
    }
    let times = |count: u64| if count > 1 { format!(" ({count} times)") } else { String::new() };
    lines.extend(
        flow.denials
            .iter()
            .map(|(reason, count)| format!("ended by inspection{}: {reason}", times(*count))),
    );
    lines
}

/// The cause of the verdict in one direction; nothing if the end is no pod.
fn verdict_line(direction: &str, decided: &DirectionVerdict) -> Option<String> {
    let by = match &decided.by {
        DecidedBy::Rule { rule, .. } => rule.in_full(),
        DecidedBy::Conflict { rule } => {
            format!(
                "{}, which has another L7 protocol than another rule that matches",
                rule.in_full()
            )
        }
        DecidedBy::DefaultDeny { policies } if policies.is_empty() => "default deny".into(),
        DecidedBy::DefaultDeny { policies } => {
            let names: Vec<_> = policies.iter().map(PolicyName::in_full).collect();
            format!("no rule of {}", names.join(", "))
        }
        DecidedBy::Unenforced => "no policy selects the pod".into(),
        DecidedBy::Node => "traffic between the node and its pods".into(),
        DecidedBy::ToSelf => "traffic of the pod with itself".into(),
        DecidedBy::NotLocal => return None,
    };
    let verdict = if decided.allowed { "allowed" } else { "denied " };
    Some(format!("{direction} {verdict}  {by}"))
}

fn request(request: &RequestGroup) -> String {
    let RequestGroup { method, path, host, count, .. } = request;
    let by = match (&request.rule, &request.drop_reason) {
        (Some(rule), _) => rule.in_full(),
        (None, Some(reason)) => reason.clone(),
        (None, None) => "no rule restricts it".into(),
    };
    let verdict = verdict(request.verdict);
    let times = if *count > 1 { format!(" ({count} times)") } else { String::new() };
    format!("request {verdict}  {method} http://{host}{path}{times}: {by}")
}

fn summary(summary: &Summary, out: &mut impl Write) -> io::Result<()> {
    let Summary { flows, requests, .. } = summary;
    writeln!(
        out,
        "Flows     {} forwarded, {} redirected to inspection, {} dropped",
        flows.forwarded, flows.redirected, flows.dropped
    )?;
    if requests.forwarded + requests.dropped > 0 {
        writeln!(out, "Requests  {} forwarded, {} dropped", requests.forwarded, requests.dropped)?;
    }
    let mut rows = TabWriter::new(&mut *out).padding(2);
    writeln!(rows, "PACKETS\tNUMBER\tBYTES")?;
    let mut row = |what: &str, count: &PacketCount| {
        writeln!(rows, "{what}\t{}\t{}", count.packets, count.bytes)
    };
    row("received", &summary.received)?;
    row("forwarded", &summary.forwarded)?;
    for (reason, count) in &summary.dropped {
        row(&format!("dropped: {reason}"), count)?;
    }
    if summary.originated.packets > 0 {
        row("answers and resets sent", &summary.originated)?;
    }
    rows.flush()
}

fn cost(performance: &Performance, out: &mut impl Write) -> io::Result<()> {
    let Performance { repetitions, packets, packets_per_round, ns_per_packet: ns, .. } =
        performance;
    if performance.debug_build {
        writeln!(out, "A debug build: the figures below say nothing about podgate.")?;
    }
    writeln!(
        out,
        "Speed     {:.0} packets per second on one core",
        performance.packets_per_second
    )?;
    writeln!(
        out,
        "Time      {:.1} ns per packet; p50 {}, p99 {}, p99.9 {}, max {}",
        ns.mean, ns.p50, ns.p99, ns.p999, ns.max
    )?;
    writeln!(
        out,
        "Measured  whole rounds of one worker (rings, flow table, policy, inspection), \
         {packets_per_round:.1} packets a round;"
    )?;
    writeln!(
        out,
        "          {packets} packets in {}, each from an empty flow table; reading the clock adds",
        many(u64::from(*repetitions), "repetition")
    )?;
    writeln!(out, "          {} ns to each round", performance.clock_ns)?;
    if performance.deviating > 0 {
        writeln!(
            out,
            "Bug       {} dropped or forwarded other packets than the first pass",
            many(u64::from(performance.deviating), "repetition")
        )?;
    }
    Ok(())
}

fn many(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Latency;

    #[test]
    fn the_cost_names_what_was_measured_and_what_was_not() {
        let mut performance = Performance {
            repetitions: 1200,
            deviating: 0,
            packets: 48_000,
            packets_per_round: 2.25,
            packets_per_second: 12_345_678.9,
            ns_per_packet: Latency {
                min: 60,
                mean: 81.04,
                p50: 75,
                p99: 190,
                p999: 800,
                max: 12_345,
            },
            clock_ns: 24,
            debug_build: false,
        };
        let printed = |performance: &Performance| {
            let mut out = Vec::new();
            cost(performance, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        insta::assert_snapshot!("cost", printed(&performance));
        (performance.deviating, performance.debug_build) = (1, true);
        insta::assert_snapshot!("cost_in_doubt", printed(&performance));
    }
}
