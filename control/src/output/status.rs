//! `podgate status`.

use std::fmt::Write as _;

use podgate_api::{ApiServerWrites, FlowsTakenOver, Health, LinkCounts, Status, TableFill};

use super::{escape, or_dash, row, table};

/// How much of the status is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Detail {
    /// The most important facts, and all problems.
    Normal,
    /// Everything.
    All,
}

/// Percent of its entries from which on a table is shown.
const NEARLY_FULL: u64 = 80;

/// Names of a kind that are listed without `--verbose`.
const LISTED: usize = 10;

/// `podgate status`.
#[must_use]
pub(crate) fn status(status: &Status, detail: Detail) -> String {
    let mut text = table(facts(status));
    if let Some(problem) = &status.flows_taken_over.problem {
        let _ = writeln!(text, "warning: {}", escape(problem));
    }
    for reason in &status.not_ready {
        let _ = writeln!(text, "not ready: {}", escape(reason));
    }
    for problem in status.source.problems.iter().chain(&status.problems) {
        let _ = writeln!(text, "warning: {}", escape(problem));
    }
    text.push_str(&named_problems(status, detail));
    text.push('\n');
    text.push_str(&workers(status));
    text.push_str(&tables(&status.health.tables, detail));
    if detail == Detail::All {
        text.push_str(&threads(&status.health));
    }
    if !status.drops.is_empty() {
        text.push('\n');
        let heading = row(&["DROP REASON", "PACKETS", "BYTES"]);
        let drops = status.drops.iter().map(|drop| {
            vec![drop.reason.clone(), drop.packets.to_string(), drop.bytes.to_string()]
        });
        text.push_str(&table(std::iter::once(heading).chain(drops)));
    }
    text.push_str(&links(&status.links, detail));
    text
}

/// The lines at the top.
fn facts(status: &Status) -> Vec<Vec<String>> {
    let ready = if status.ready { "ready" } else { "not ready" };
    let source = match status.source.current {
        true => format!("{}, up to date", status.source.name),
        false if status.source.synced => {
            format!("{}, out of date for {}s", status.source.name, status.health.sync_age_s)
        }
        false => format!("{}, not read yet", status.source.name),
    };
    let mut facts = vec![
        row(&["podgate", &format!("{} {ready}", status.version)]),
        row(&["uptime", &format!("{}s", status.uptime_s)]),
        row(&["epoch", &status.epoch.to_string()]),
        row(&["source", &source]),
        row(&["policies", &format!("{} enforced", status.policies)]),
        row(&["rejected", &format!("{} objects and files", status.rejected)]),
    ];
    let counts = &status.endpoints;
    let endpoints =
        format!("{} ready, {} waiting, {} gone", counts.ready, counts.waiting, counts.gone);
    facts.push(row(&["endpoints", &endpoints]));
    let health = &status.health;
    for service in &health.services {
        let address = service.address.as_ref().map(|address| format!("{address}, "));
        facts.push(row(&[&service.name, &(address.unwrap_or_default() + &service.detail)]));
    }
    let fill = |name: &str| health.tables.iter().find(|table| table.name == name);
    if let Some(TableFill { used, capacity, .. }) = fill("dns_addresses") {
        facts.push(row(&["DNS names", &format!("{used} addresses of at most {capacity}")]));
    }
    let memory = &health.memory;
    if memory.resident > 0 {
        let kernel = memory.rings + memory.pools + memory.bpf;
        let text =
            format!("{} MiB resident, {} MiB in the kernel", mib(memory.resident), mib(kernel));
        facts.push(row(&["memory", &text]));
    }
    for certificate in &health.certificates {
        let text = match (&certificate.problem, certificate.expires_s) {
            (None, Some(expires)) => expiry_words(expires),
            (problem, _) => or_dash(problem.as_deref()),
        };
        facts.push(row(&["certificate", &format!("{}: {text}", certificate.name)]));
    }
    facts.extend(api_server(status));
    facts.push(row(&["flow records lost", &status.flow_records_lost.to_string()]));
    let FlowsTakenOver { taken, left_out, .. } = &status.flows_taken_over;
    if taken + left_out > 0 {
        facts.push(row(&["flows at start", &format!("{taken} taken over, {left_out} left out")]));
    }
    facts
}

/// Rows about the API server.
fn api_server(status: &Status) -> Vec<Vec<String>> {
    let Some(server) = &status.api_server else { return Vec::new() };
    let mut rows = Vec::new();
    if let Some([median, p99, max]) = server.latency_us {
        let ms = |us: u64| format!("{}.{}", us / 1000, us % 1000 / 100);
        let text = format!("p50 {} ms, p99 {} ms, max {} ms", ms(median), ms(p99), ms(max));
        rows.push(row(&["change to use", &text]));
    }
    if let Some(writes) = &server.writes {
        let ApiServerWrites { statuses, events, failed, dropped, waiting, .. } = writes;
        let lost = failed + dropped;
        let text = format!("{statuses} statuses, {events} Events, {waiting} waiting, {lost} lost");
        rows.push(row(&["written to API", &text]));
    }
    rows
}

/// Bytes as whole MiB, rounded up.
const fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// When a certificate expires, by the date.
fn expiry_words(expires_s: u64) -> String {
    match jiff::Timestamp::from_second(expires_s.try_into().unwrap_or(i64::MAX)) {
        Ok(time) => format!("expires {}", time.strftime("%Y-%m-%d %H:%M UTC")),
        Err(_) => "expires never".to_owned(),
    }
}

/// Dead threads, rejected objects, and endpoints that are not ready, each with its reason.
fn named_problems(status: &Status, detail: Detail) -> String {
    let health = &status.health;
    let mut text = String::new();
    for thread in health.threads.iter().filter(|thread| !thread.alive) {
        let _ = writeln!(text, "warning: thread {} makes no progress", thread.name);
    }
    let max = if detail == Detail::All { usize::MAX } else { LISTED };
    for rejected in health.rejected.iter().take(max) {
        let _ = writeln!(text, "rejected: {}", escape(&rejected.to_string()));
    }
    if status.rejected > health.rejected.len().min(max) && !health.rejected.is_empty() {
        let more = status.rejected - health.rejected.len().min(max);
        let _ = writeln!(text, "rejected: {more} more; see podgate policy list");
    }
    for endpoint in health.endpoints_not_ready.iter().take(max) {
        let pod = endpoint.pod.as_deref().unwrap_or("unknown pod");
        let line = format!("{pod} on link {}: {}", endpoint.link, endpoint.reason);
        let _ = writeln!(text, "endpoint not ready: {}", escape(&line));
    }
    let more = health.endpoints_not_ready.len().saturating_sub(max);
    if more > 0 {
        let _ = writeln!(text, "endpoint not ready: {more} more; see podgate endpoint list");
    }
    text
}

fn workers(status: &Status) -> String {
    let heading =
        row(&["WORKER", "RECEIVED", "FORWARDED", "DROPPED", "FLOWS", "HELD FRAMES", "LOAD"]);
    let workers = status.workers.iter().map(|worker| {
        let numbers =
            [worker.received, worker.forwarded, worker.dropped, worker.flows, worker.held_frames];
        let cells = numbers.iter().map(u64::to_string);
        let name = format!("pg-worker-{}", worker.worker);
        let load = status.health.threads.iter().find(|thread| thread.name == name);
        let load = load.map_or("-".to_owned(), |thread| format!("{}%", thread.load_percent));
        std::iter::once(worker.worker.to_string()).chain(cells).chain([load]).collect()
    });
    table(std::iter::once(heading).chain(workers))
}

/// All tables, or those that are nearly full. Nothing if there are none.
fn tables(tables: &[TableFill], detail: Detail) -> String {
    let shown = |fill: &&TableFill| detail == Detail::All || fill.percent() >= NEARLY_FULL;
    let mut shown = tables.iter().filter(shown).peekable();
    if shown.peek().is_none() {
        return String::new();
    }
    let heading = row(&["TABLE", "ENTRIES", "LIMIT", "USED"]);
    let rows = shown.map(|fill| {
        let TableFill { name, used, capacity } = fill;
        vec![name.clone(), used.to_string(), capacity.to_string(), format!("{}%", fill.percent())]
    });
    format!("\n{}", table(std::iter::once(heading).chain(rows)))
}

fn threads(health: &Health) -> String {
    let heading = row(&["THREAD", "ALIVE", "CPU TIME", "LOAD"]);
    let rows = health.threads.iter().map(|thread| {
        let alive = if thread.alive { "yes" } else { "no" };
        let seconds = format!("{}.{:03}s", thread.cpu_ms / 1000, thread.cpu_ms % 1000);
        vec![thread.name.clone(), alive.into(), seconds, format!("{}%", thread.load_percent)]
    });
    format!("\n{}", table(std::iter::once(heading).chain(rows)))
}

/// Links with losses that are shown without `--verbose`; JSON has all.
const WORST_LINKS: usize = 10;

/// Links that lost packets at their rings, or exceeded their quotas, the worst first; with all
/// details every link. Nothing if there are none.
fn links(links: &[LinkCounts], detail: Detail) -> String {
    let weight = |link: &LinkCounts| link.ring_drops() + link.over_quota();
    let shown = |link: &&LinkCounts| detail == Detail::All || weight(link) > 0;
    let mut worst: Vec<_> = links.iter().filter(shown).collect();
    if worst.is_empty() {
        return String::new();
    }
    let max = if detail == Detail::All { usize::MAX } else { WORST_LINKS };
    worst.sort_by_key(|link| std::cmp::Reverse(weight(link)));
    let heading = row(&[
        "LINK",
        "POD",
        "RECEIVED",
        "RING DROPS",
        "RX RING FULL",
        "FILL EMPTY",
        "OVER QUOTA: FLOWS",
        "INSPECTED",
        "BUFFERS",
        "HANDOFFS",
        "EVENTS",
        "SERVICES",
        "AFFINITY",
        "DNS ANSWERS",
    ]);
    let rows = worst.into_iter().take(max).map(|link| {
        let numbers = [
            link.received,
            link.ring_drops(),
            link.rx_ring_full,
            link.fill_ring_empty,
            link.over_quota_flows,
            link.over_quota_inspected,
            link.over_quota_buffers,
            link.over_quota_handoffs,
            link.over_quota_events,
            link.over_quota_services,
            link.over_quota_affinity,
            link.over_quota_dns_answers,
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

/// The status of a node without links, for tests.
#[cfg(test)]
pub(crate) fn status_without_links() -> Status {
    use podgate_api::{EndpointCounts, SourceStatus};
    Status {
        version: "0.1.0".into(),
        ready: true,
        not_ready: Vec::new(),
        uptime_s: 61,
        epoch: 7,
        source: SourceStatus {
            name: "manifests /p".into(),
            synced: true,
            problems: Vec::new(),
            current: true,
            unsaved: 0,
        },
        api_server: None,
        problems: Vec::new(),
        policies: 3,
        rejected: 0,
        endpoints: EndpointCounts { ready: 2, waiting: 1, gone: 0 },
        workers: Vec::new(),
        drops: Vec::new(),
        links: Vec::new(),
        flow_records_lost: 0,
        flows_taken_over: FlowsTakenOver::default(),
        health: Health::default(),
    }
}

#[cfg(test)]
mod tests {
    use podgate_api::{
        CertificateStatus, DropCount, EndpointNotReady, MemoryUse, RejectedObject, ServiceStatus,
        SourceStatus, ThreadStatus, WorkerStatus,
    };

    use super::*;

    fn sample_status() -> Status {
        Status {
            source: SourceStatus {
                name: "kubernetes https://10.0.0.1:6443/".into(),
                synced: true,
                problems: vec!["CiliumNetworkPolicy is not installed at the API server".into()],
                current: true,
                unsaved: 0,
            },
            rejected: 1,
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
            flows_taken_over: FlowsTakenOver { taken: 12, left_out: 1, problem: None },
            health: sample_health(),
            ..status_without_links()
        }
    }

    fn sample_health() -> Health {
        let table = |name: &str, used| TableFill { name: name.into(), used, capacity: 65_536 };
        Health {
            sync_age_s: 0,
            threads: vec![
                ThreadStatus {
                    name: "pg-flows".into(),
                    alive: true,
                    cpu_ms: 1205,
                    load_percent: 2,
                },
                ThreadStatus {
                    name: "pg-worker-0".into(),
                    alive: false,
                    cpu_ms: 61_000,
                    load_percent: 97,
                },
            ],
            tables: vec![table("flows", 60_000), table("dns_addresses", 12)],
            memory: MemoryUse {
                resident: 300 << 20,
                frames: 256 << 20,
                rings: 5 << 20,
                pools: 40 << 20,
                bpf: 1 << 20,
            },
            certificates: vec![CertificateStatus {
                name: "hubble-server".into(),
                expires_s: Some(1_800_000_000),
                problem: None,
            }],
            services: vec![ServiceStatus {
                name: "metrics".into(),
                address: Some("127.0.0.1:9965".into()),
                detail: "12 scrapes, 0 connections rejected, 0 failed".into(),
            }],
            rejected: vec![RejectedObject {
                object: "NetworkPolicy shop/web".into(),
                reason: "spec.ingress[0].ports[0].port: must be 1 to 65535".into(),
            }],
            endpoints_not_ready: vec![EndpointNotReady {
                link: "veth3".into(),
                pod: Some("shop/new".into()),
                reason: "pod shop/new is not known".into(),
            }],
        }
    }

    #[test]
    fn status_for_people() {
        insta::assert_snapshot!(status(&sample_status(), Detail::Normal));
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
    fn everything_of_the_status() {
        insta::assert_snapshot!(status(&sample_status(), Detail::All));
    }
}
