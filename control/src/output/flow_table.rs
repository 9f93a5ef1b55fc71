//! Entries of flow tables, and changes of endpoints, as text.

use podgate_api::{EndpointLogEntry, EndpointState, EndpointStatus, FlowEnd, FlowEntry, FlowList};
use podgate_policy::observe::RuleName;

use super::{or_dash, row, table};

/// `podgate table flow list`.
#[must_use]
pub(crate) fn flow_table(list: &FlowList) -> String {
    let heading = row(&[
        "WORKER",
        "PROTO",
        "SOURCE",
        "DESTINATION",
        "SERVICE",
        "STATE",
        "VERDICT",
        "EXPIRES",
        "PACKETS",
        "BYTES",
        "EGRESS-RULE",
        "INGRESS-RULE",
    ]);
    let rows = list.flows.iter().map(|flow| {
        let FlowEntry { packets: [out, back], bytes: [bytes_out, bytes_back], .. } = flow;
        let rule =
            |rule: &Option<RuleName>| or_dash(rule.as_ref().map(RuleName::in_full).as_deref());
        let service = match (&flow.service, &flow.backend) {
            (Some(service), _) => service.clone(),
            (None, Some(backend)) => format!("to {backend}"),
            (None, None) => "-".to_owned(),
        };
        vec![
            flow.worker.to_string(),
            flow.protocol.clone(),
            end(&flow.source),
            end(&flow.destination),
            service,
            or_dash(flow.state.as_deref()),
            flow.verdict.clone().unwrap_or_else(|| "translated".to_owned()),
            format!("{}s", flow.expires_s),
            format!("{out}/{back}"),
            format!("{bytes_out}/{bytes_back}"),
            rule(&flow.egress),
            rule(&flow.ingress),
        ]
    });
    let text = table(std::iter::once(heading).chain(rows));
    let listed = list.flows.len() as u64;
    match list.matched > listed {
        true => format!("{text}{} more are not listed\n", list.matched - listed),
        false => text,
    }
}

fn end(end: &FlowEnd) -> String {
    let address = match (end.address, end.port) {
        (address, None) => address.to_string(),
        (std::net::IpAddr::V4(address), Some(port)) => format!("{address}:{port}"),
        (std::net::IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
    };
    match &end.pod {
        Some(pod) => format!("{address} ({pod})"),
        None => address,
    }
}

/// `podgate endpoint log`: the columns of `cilium-dbg endpoint log`.
#[must_use]
pub(crate) fn endpoint_log(entries: &[EndpointLogEntry]) -> String {
    let heading = row(&["TIMESTAMP", "STATUS", "STATE", "MESSAGE"]);
    let rows = entries.iter().map(|entry| {
        let EndpointLogEntry { time, status, state, message } = entry.clone();
        vec![time, status, state, message]
    });
    table(std::iter::once(heading).chain(rows))
}

/// `podgate endpoint health`: the lines of `cilium-dbg endpoint health`.
#[must_use]
pub(crate) fn endpoint_health(endpoint: &EndpointStatus) -> String {
    let (overall, bpf, policy, connected) = match endpoint.state {
        EndpointState::Ready => ("OK", "OK", "OK", "yes"),
        EndpointState::Waiting => ("Pending", "OK", "Pending", "no"),
        EndpointState::Gone => ("Failure", "Disabled", "Disabled", "no"),
    };
    let line = |name: &str, value: &str| vec![name.to_owned(), value.to_owned()];
    let mut rows = vec![
        line("Overall Health:", overall),
        line("BPF Health:", bpf),
        line("Policy Health:", policy),
        line("Connected:", connected),
    ];
    rows.extend(endpoint.reason.as_ref().map(|reason| line("Reason:", reason)));
    table(rows)
}

#[cfg(test)]
mod tests {
    use podgate_api::FlowEntry;
    use podgate_policy::observe::PolicyName;

    use super::*;

    #[test]
    fn an_entry_has_its_ends_its_state_and_what_allowed_it() {
        let end = |address: &str, port, pod: Option<&str>| FlowEnd {
            address: address.parse().unwrap(),
            port: Some(port),
            pod: pod.map(str::to_owned),
        };
        let policy = PolicyName {
            kind: "NetworkPolicy".into(),
            namespace: Some("shop".into()),
            name: "db".into(),
        };
        let flow = FlowEntry {
            worker: 1,
            protocol: "TCP".into(),
            source: end("10.0.0.1", 4000, Some("shop/cart-0")),
            destination: end("fd00::2", 80, None),
            service: None,
            backend: None,
            state: Some("ESTABLISHED".into()),
            verdict: Some("allowed".into()),
            egress: None,
            ingress: Some(RuleName { policy, path: "spec.ingress[0]".into() }),
            epoch: 3,
            expires_s: 7440,
            packets: [3, 2],
            bytes: [180, 120],
        };
        let text = flow_table(&FlowList { flows: vec![flow], matched: 2 });
        let mut lines = text.lines().skip(1);
        let expected = "1        TCP     10.0.0.1:4000 (shop/cart-0)   [fd00::2]:80   -         \
                        ESTABLISHED   allowed   7440s     3/2       180/120   -             \
                        NetworkPolicy shop/db spec.ingress[0]";
        assert_eq!(lines.next(), Some(expected));
        assert_eq!(lines.next(), Some("1 more are not listed"));
    }
}
