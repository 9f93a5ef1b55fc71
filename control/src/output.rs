//! How answers look on a terminal.

mod explain;
mod fqdn;
mod policy;
mod services;

use std::fmt::Write as _;
use std::io::{self, Write as _};

use podgate_api::{EndpointState, EndpointStatus, FlowItem, FlowsTakenOver, LinkCounts, Status};
pub(crate) use podgate_policy::terminal::{escape, escape_json};
use tabwriter::TabWriter;

pub(crate) use self::explain::explained;
pub(crate) use self::fqdn::fqdns;
pub(crate) use self::policy::{endpoint_table, policies, policy_details, selectors, waited};
pub(crate) use self::services::services;

/// Rows with aligned columns; the first row is the heading.
fn table(rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut writer = TabWriter::new(Vec::new()).padding(3);
    for row in rows {
        let cells: Vec<_> = row.iter().map(|cell| escape(cell)).collect();
        // Writing to memory can't fail, here and below.
        let _ = writeln!(writer, "{}", cells.join("\t"));
    }
    let bytes = writer.into_inner().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// `-` where there is nothing.
fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

/// `podgate status`.
#[must_use]
pub(crate) fn status(status: &Status) -> String {
    let mut text = String::new();
    let ready = if status.ready { "ready" } else { "not ready" };
    let mut facts = vec![
        row(&["podgate", &format!("{} {ready}", status.version)]),
        row(&["uptime", &format!("{}s", status.uptime_s)]),
        row(&["epoch", &status.epoch.to_string()]),
        row(&["source", &status.source.name]),
        row(&["policies", &format!("{} enforced, {} rejected", status.policies, status.rejected)]),
    ];
    let counts = &status.endpoints;
    let endpoints =
        format!("{} ready, {} waiting, {} gone", counts.ready, counts.waiting, counts.gone);
    facts.push(row(&["endpoints", &endpoints]));
    facts.push(row(&["flow records lost", &status.flow_records_lost.to_string()]));
    let FlowsTakenOver { taken, left_out, problem } = &status.flows_taken_over;
    if taken + left_out > 0 {
        facts.push(row(&["flows at start", &format!("{taken} taken over, {left_out} left out")]));
    }
    text.push_str(&table(facts));
    if let Some(problem) = problem {
        let _ = writeln!(text, "warning: {}", escape(problem));
    }
    for reason in &status.not_ready {
        let _ = writeln!(text, "not ready: {}", escape(reason));
    }
    for problem in status.source.problems.iter().chain(&status.problems) {
        let _ = writeln!(text, "warning: {}", escape(problem));
    }
    text.push('\n');
    let heading = row(&["WORKER", "RECEIVED", "FORWARDED", "DROPPED", "FLOWS", "HELD FRAMES"]);
    let workers = status.workers.iter().map(|worker| {
        let numbers =
            [worker.received, worker.forwarded, worker.dropped, worker.flows, worker.held_frames];
        let cells = numbers.iter().map(u64::to_string);
        std::iter::once(worker.worker.to_string()).chain(cells).collect()
    });
    text.push_str(&table(std::iter::once(heading).chain(workers)));
    if !status.drops.is_empty() {
        text.push('\n');
        let heading = row(&["DROPPED FOR", "PACKETS", "BYTES"]);
        let drops = status.drops.iter().map(|drop| {
            vec![drop.reason.clone(), drop.packets.to_string(), drop.bytes.to_string()]
        });
        text.push_str(&table(std::iter::once(heading).chain(drops)));
    }
    text.push_str(&worst_links(&status.links));
    text
}

/// Links that the table of those with the most losses that are printed; JSON has all.
const WORST_LINKS: usize = 10;

/// Links that lost packets at their rings, or exceeded their quotas, the worst first.
/// Nothing if there are none.
fn worst_links(links: &[LinkCounts]) -> String {
    let weight = |link: &LinkCounts| link.ring_drops() + link.over_quota();
    let mut worst: Vec<_> = links.iter().filter(|link| weight(link) > 0).collect();
    if worst.is_empty() {
        return String::new();
    }
    worst.sort_by_key(|link| std::cmp::Reverse(weight(link)));
    let heading = row(&[
        "LINK",
        "POD",
        "RECEIVED",
        "RING DROPS",
        "OVER QUOTA: FLOWS",
        "INSPECTED",
        "BUFFERS",
        "HANDOFFS",
        "EVENTS",
    ]);
    let rows = worst.into_iter().take(WORST_LINKS).map(|link| {
        let numbers = [
            link.received,
            link.ring_drops(),
            link.over_quota_flows,
            link.over_quota_inspected,
            link.over_quota_buffers,
            link.over_quota_handoffs,
            link.over_quota_events,
        ];
        let names = [link.link.clone(), or_dash(link.pod.as_deref())];
        names.into_iter().chain(numbers.iter().map(u64::to_string)).collect()
    });
    format!("\n{}", table(std::iter::once(heading).chain(rows)))
}

/// `podgate status --brief`: one line.
#[must_use]
pub(crate) fn status_brief(status: &Status) -> String {
    if status.ready {
        return "ready\n".into();
    }
    format!("not ready: {}\n", escape(&status.not_ready.join("; ")))
}

/// `podgate endpoint list`.
#[must_use]
pub(crate) fn endpoints(endpoints: &[EndpointStatus]) -> String {
    let heading =
        row(&["LINK", "POD", "STATE", "INGRESS", "EGRESS", "IDENTITY", "ADDRESSES", "REASON"]);
    // An endpoint that is not ready is cut off, whatever the policies say.
    let enforced = |endpoint: &EndpointStatus, enforced: bool| {
        let word = match (endpoint.state, enforced) {
            (EndpointState::Ready, true) => "enforced",
            (EndpointState::Ready, false) => "open",
            _ => "-",
        };
        word.to_owned()
    };
    let rows = endpoints.iter().map(|endpoint| {
        let addresses: Vec<_> = endpoint.addresses.iter().map(ToString::to_string).collect();
        vec![
            endpoint.spec.link.clone(),
            endpoint.spec.pod.as_ref().map_or("unknown".to_owned(), ToString::to_string),
            endpoint.state.to_string(),
            enforced(endpoint, endpoint.ingress_enforced),
            enforced(endpoint, endpoint.egress_enforced),
            or_dash(endpoint.identity.map(|identity| identity.to_string()).as_deref()),
            or_dash(Some(&addresses.join(","))),
            or_dash(endpoint.reason.as_deref()),
        ]
    });
    table(std::iter::once(heading).chain(rows))
}

/// One item of `podgate flows`.
#[must_use]
pub(crate) fn flow(item: &FlowItem) -> String {
    match item {
        FlowItem::Flow(record) => record.compact() + "\n",
        FlowItem::Lost(count) => format!("{count} flow records were lost here\n"),
    }
}

/// Writes to standard output. A reader that left, as `head` does, ends the program quietly.
///
/// # Errors
/// When the output can't be written for another reason.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podgate_api::{
        DropCount, EndpointCounts, EndpointSpec, PolicyList, PolicyState, PolicyStatus,
        RejectedField, Source, SourceStatus, WorkerStatus,
    };

    fn sample_status() -> Status {
        Status {
            version: "0.1.0".into(),
            ready: true,
            not_ready: Vec::new(),
            uptime_s: 61,
            epoch: 7,
            source: SourceStatus {
                name: "kubernetes https://10.0.0.1:6443/".into(),
                synced: true,
                problems: vec!["CiliumNetworkPolicy is not installed at the API server".into()],
            },
            problems: Vec::new(),
            policies: 3,
            rejected: 1,
            endpoints: EndpointCounts { ready: 2, waiting: 1, gone: 0 },
            workers: vec![WorkerStatus {
                worker: 0,
                received: 1234,
                forwarded: 1200,
                dropped: 34,
                flows: 5,
                held_frames: 0,
            }],
            drops: vec![DropCount { reason: "policy_denied".into(), packets: 34, bytes: 2040 }],
            links: vec![
                LinkCounts { link: "veth1a".into(), received: 1000, ..LinkCounts::default() },
                LinkCounts {
                    link: "pg-xsk".into(),
                    over_quota_inspected: 5,
                    ..LinkCounts::default()
                },
                LinkCounts {
                    link: "veth2b".into(),
                    pod: Some("shop/flood".into()),
                    received: 234,
                    rx_ring_full: 70,
                    over_quota_flows: 12,
                    ..LinkCounts::default()
                },
            ],
            flow_records_lost: 0,
            flows_taken_over: FlowsTakenOver { taken: 12, left_out: 1, problem: None },
        }
    }

    fn endpoint(link: &str, pod: Option<&str>, state: EndpointState) -> EndpointStatus {
        let pod = pod.map(|pod| pod.parse().unwrap());
        let spec = EndpointSpec {
            link: link.into(),
            pod,
            netns: None,
            mac: None,
            mtu: None,
            assigned: Vec::new(),
        };
        EndpointStatus {
            spec,
            state,
            reason: None,
            addresses: Vec::new(),
            identity: None,
            ingress_enforced: false,
            egress_enforced: false,
        }
    }

    #[test]
    fn status_for_people() {
        insta::assert_snapshot!(status(&sample_status()));
    }

    #[test]
    fn brief_status_is_one_line() {
        assert_eq!(status_brief(&sample_status()), "ready\n");
        let mut waiting = sample_status();
        waiting.ready = false;
        waiting.not_ready = vec!["manifests /p has not been read yet".into()];
        assert_eq!(status_brief(&waiting), "not ready: manifests /p has not been read yet\n");
    }

    #[test]
    fn endpoints_for_people() {
        let ready = EndpointStatus {
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            identity: Some(1001),
            ingress_enforced: true,
            ..endpoint("veth1a", Some("shop/cart-0"), EndpointState::Ready)
        };
        let waiting = EndpointStatus {
            reason: Some("pod shop/web-with-a-long-name is not known".into()),
            ..endpoint("v", Some("shop/web-with-a-long-name"), EndpointState::Waiting)
        };
        insta::assert_snapshot!(endpoints(&[ready, waiting]));
    }

    #[test]
    fn an_endpoint_whose_pod_is_not_known_is_listed_as_such() {
        let list = endpoints(&[endpoint("veth9", None, EndpointState::Waiting)]);
        assert!(list.contains("veth9   unknown   waiting"), "{list}");
    }

    #[test]
    fn policies_for_people() {
        let policy = |kind: &str, namespace: Option<&str>, state| PolicyStatus {
            kind: kind.into(),
            namespace: namespace.map(str::to_owned),
            name: "web".into(),
            state,
            pods: 2,
        };
        let list = PolicyList {
            epoch: 7,
            policies: vec![
                policy("NetworkPolicy", Some("shop"), PolicyState::Enforced),
                policy("CiliumClusterwideNetworkPolicy", None, PolicyState::Outdated),
            ],
            rejected: vec![RejectedField {
                object: "CiliumClusterwideNetworkPolicy web".into(),
                source: Some(Source { file: "/p/web.yaml".into(), line: 14, column: 9 }),
                field: "spec.ingress[0].toPorts[0].port".into(),
                reason: "must be a string, but is a number".into(),
                fix: Some("write it with quotes: \"80\"".into()),
            }],
        };
        insta::assert_snapshot!(policies(&list));
    }

    #[test]
    fn a_table_can_not_be_broken_by_its_cells() {
        let text = table([row(&["A", "B"]), row(&["x\ty\n\x1b[2J", "z"])]);
        assert_eq!(text, "A             B\nx^Iy^J^[[2J   z\n");
    }
}
