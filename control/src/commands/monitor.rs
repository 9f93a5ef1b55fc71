//! `podgate monitor`.

use anyhow::Result;
use podgate_api::{Client, FlowItem, Request};
use podgate_policy::observe::{DecidedBy, Detail, FlowEndpoint, FlowRecord, Outcome};

use super::require_answer;
use crate::cli::{MonitorArgs, MonitorType};
use crate::output::{self, exit_with_reader, print};

/// Prints events until the agent ends.
pub(super) fn run(args: &MonitorArgs) -> Result<()> {
    require_answer(&args.socket.socket)?;
    exit_with_reader();
    let mut client = Client::connect(&args.socket.socket)?;
    let request = Request::Flows { follow: true, last: args.last };
    if !args.json {
        print("Listening for events on all workers...\nPress Ctrl-C to quit\n")?;
    }
    client.stream(&request, |item: FlowItem| {
        let text = match &item {
            FlowItem::Flow(record) if is_wanted(args, record) => text(args, record)?,
            FlowItem::Flow(_) => return Ok(()),
            FlowItem::Lost(count) if args.json => format!("{{\"lost\":{count}}}\n"),
            FlowItem::Lost(count) => format!("CPU all: {count} events lost\n"),
        };
        Ok::<_, anyhow::Error>(print(&text)?)
    })
}

fn text(args: &MonitorArgs, record: &FlowRecord) -> Result<String> {
    if args.json {
        return Ok(output::escape_json(&serde_json::to_string(record)?) + "\n");
    }
    let mut text = output::escape(&line(record)) + "\n";
    if args.verbose {
        for detail in details(record) {
            text += &format!("    {}\n", output::escape(&detail));
        }
    }
    Ok(text)
}

/// The type of a record; a dropped request is a drop and a request.
fn types(record: &FlowRecord) -> Vec<MonitorType> {
    let own = match record.detail {
        Detail::PolicyVerdict { .. } => MonitorType::PolicyVerdict,
        Detail::Drop { .. } => MonitorType::Drop,
        Detail::End { .. } => MonitorType::Trace,
        _ => MonitorType::L7,
    };
    let mut types = vec![own];
    if record.verdict == Outcome::Dropped && own != MonitorType::Drop {
        types.push(MonitorType::Drop);
    }
    types
}

fn is_wanted(args: &MonitorArgs, record: &FlowRecord) -> bool {
    let is_any = |end: &FlowEndpoint, names: &[String]| {
        names.is_empty() || names.iter().any(|name| is_named(end, name))
    };
    let (source, destination) = (&record.source, &record.destination);
    let related = is_any(source, &args.related_to) || is_any(destination, &args.related_to);
    let of_type = types(record).iter().any(|kind| args.types.contains(kind));
    (args.types.is_empty() || of_type)
        && is_any(source, &args.from)
        && is_any(destination, &args.to)
        && related
}

/// Whether an end is this pod, or has this identity.
fn is_named(end: &FlowEndpoint, name: &str) -> bool {
    match name.parse::<u32>() {
        Ok(identity) => end.identity == identity,
        Err(_) => pod(end).as_deref() == Some(name),
    }
}

fn pod(end: &FlowEndpoint) -> Option<String> {
    Some(format!("{}/{}", end.namespace.as_ref()?, end.pod.as_ref()?))
}

fn address(end: &FlowEndpoint) -> String {
    match (end.address, end.port) {
        (address, None) => address.to_string(),
        (std::net::IpAddr::V4(address), Some(port)) => format!("{address}:{port}"),
        (std::net::IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
    }
}

/// A record as `cilium-dbg monitor` prints it (cilium `pkg/monitor/dissect.go`,
/// `datapath_policy.go`, `datapath_drop.go`, `logrecord.go`).
fn line(record: &FlowRecord) -> String {
    let FlowRecord { source, destination, link, .. } = record;
    let ends = format!("{} -> {}", address(source), address(destination));
    let identities = format!("{}->{}", source.identity, destination.identity);
    let protocol = record.protocol.to_lowercase();
    match &record.detail {
        Detail::PolicyVerdict { tcp_flags, .. } => {
            let lines = record.directions().into_iter().map(|(direction, verdict)| {
                let action = match (verdict.allowed, record.verdict) {
                    (false, _) => "deny",
                    (true, Outcome::Redirected) => "redirect",
                    (true, _) => "allow",
                };
                let matched = match &verdict.by {
                    DecidedBy::Rule { matched, .. } => serde_json::to_value(matched)
                        .ok()
                        .and_then(|word| word.as_str().map(str::to_owned))
                        .unwrap_or_default(),
                    _ => "none".to_owned(),
                };
                let flags = if tcp_flags.is_empty() {
                    String::new()
                } else {
                    format!(" {}", tcp_flags.join(", "))
                };
                let direction = format!("{direction:?}").to_lowercase();
                format!(
                    "Policy verdict log: link {link}, identity {identities}, proto {protocol}, \
                     {direction}, action {action}, match {matched}, {ends} {protocol}{flags}"
                )
            });
            lines.collect::<Vec<_>>().join("\n")
        }
        Detail::Drop { frame } => {
            let ends = match frame {
                Some(frame) if !frame.has_addresses => {
                    format!("{} -> {}", frame.source, frame.destination)
                }
                _ => ends,
            };
            let reason = record.drop_reason.as_deref().unwrap_or("unknown");
            format!("xx drop ({reason}) link {link}, identity {identities}: {ends} {protocol}")
        }
        Detail::End { .. } => {
            format!(
                "-> end of flow link {link}, identity {identities}: {ends} {}",
                record.summary()
            )
        }
        _ => {
            let (arrow, kind) = match record.is_reply {
                Some(true) => ("<-", "Response"),
                _ => ("->", "Request"),
            };
            let verdict = match record.verdict {
                Outcome::Dropped => "Denied",
                _ => "Forwarded",
            };
            let summary = record.summary();
            format!("{arrow} {kind} {ends}, identity {identities}, verdict {verdict} {summary}")
        }
    }
}

/// Pods, labels and rules.
fn details(record: &FlowRecord) -> Vec<String> {
    let end = |what: &str, end: &FlowEndpoint| {
        let pod = pod(end).unwrap_or_else(|| "no pod".to_owned());
        format!("{what}: {pod}, identity {}, labels {}", end.identity, end.labels.join(","))
    };
    let mut lines = vec![end("source", &record.source), end("destination", &record.destination)];
    for (direction, verdict) in record.directions() {
        let by = match &verdict.by {
            DecidedBy::Rule { rule, .. } | DecidedBy::Conflict { rule } => rule.in_full(),
            DecidedBy::DefaultDeny { policies } => {
                let policies: Vec<_> = policies.iter().map(|policy| policy.in_full()).collect();
                format!("default deny of {}", policies.join(", "))
            }
            DecidedBy::Unenforced => "no policy selects the pod".to_owned(),
            DecidedBy::Node => "the node and its own pod".to_owned(),
            DecidedBy::ToSelf => "the pod and itself".to_owned(),
            DecidedBy::NotLocal => "the pod's own node".to_owned(),
        };
        lines.push(format!("{}: {by}", format!("{direction:?}").to_lowercase()));
    }
    let denied = record.denied_by.iter();
    lines.extend(
        denied.map(|denied| format!("request matches no rule of {}", denied.rule.in_full())),
    );
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(detail: &serde_json::Value) -> FlowRecord {
        let mut record = json!({
            "time": "2026-01-02T03:04:05Z",
            "verdict": "DROPPED",
            "drop_reason": "policy_default_deny",
            "source": {"address": "10.0.0.1", "port": 4000, "identity": 300,
                       "labels": ["k8s:app=cart"], "namespace": "shop", "pod": "cart-0"},
            "destination": {"address": "10.0.0.2", "port": 80, "identity": 301,
                            "labels": [], "namespace": "shop", "pod": "db-0"},
            "protocol": "TCP",
            "link": 3,
            "epoch": 7,
        });
        record.as_object_mut().unwrap().append(&mut detail.as_object().unwrap().clone());
        serde_json::from_value(record).unwrap()
    }

    fn verdict() -> FlowRecord {
        record(&json!({
            "type": "policy-verdict",
            "egress": {"allowed": true, "by": "unenforced"},
            "ingress": {"allowed": false, "by": "default-deny", "policies": [
                {"kind": "NetworkPolicy", "namespace": "shop", "name": "db"}]},
            "tcp_flags": ["SYN"],
            "reevaluated": false,
        }))
    }

    #[test]
    fn verdicts_and_drops_as_the_users_of_cilium_know_them() {
        let expected = "Policy verdict log: link 3, identity 300->301, proto tcp, ingress, \
                        action deny, match none, 10.0.0.1:4000 -> 10.0.0.2:80 tcp SYN";
        assert_eq!(line(&verdict()), expected);
        let drop = record(&json!({"type": "drop"}));
        let expected = "xx drop (policy_default_deny) link 3, identity 300->301: \
                        10.0.0.1:4000 -> 10.0.0.2:80 tcp";
        assert_eq!(line(&drop), expected);
        let end = record(&json!({"type": "end", "packets": [3, 2], "bytes": [180, 120]}));
        let expected = "-> end of flow link 3, identity 300->301: 10.0.0.1:4000 -> 10.0.0.2:80 \
                        TCP packets 3/2 bytes 180/120";
        assert_eq!(line(&end), expected);
        let details = details(&verdict());
        assert_eq!(details[2], "ingress: default deny of NetworkPolicy shop/db");
    }

    #[test]
    fn filters_name_types_pods_and_identities() {
        use clap::Parser;
        let wanted = |arguments: &[&str]| {
            let line = ["podgate", "monitor"].iter().chain(arguments);
            let crate::cli::Command::Monitor(args) = crate::cli::Cli::parse_from(line).command
            else {
                panic!("another command");
            };
            is_wanted(&args, &verdict())
        };
        assert!(wanted(&[]) && wanted(&["-t", "drop"]) && wanted(&["-t", "policy-verdict"]));
        assert!(!wanted(&["-t", "l7"]));
        assert!(wanted(&["--from", "shop/cart-0"]) && !wanted(&["--to", "shop/cart-0"]));
        assert!(wanted(&["--related-to", "301"]) && !wanted(&["--related-to", "302"]));
    }
}
