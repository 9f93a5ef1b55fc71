//! An explanation as text: the verdict first, then each direction with the nearest misses.

use std::net::SocketAddr;

use podgate_api::Explained;
use podgate_policy::explain::{
    BackendVerdict, CalledService, Criterion, DirectionExplanation, End, EndKind, Explanation,
    Failure, Miss, Outcome, RequestVerdict,
};
use podgate_policy::observe::{DecidedBy, RuleName};

use super::escape;
use super::policy::effect;

/// `podgate policy explain`.
#[must_use]
pub(crate) fn explained(explained: &Explained) -> String {
    let explanation = &explained.explanation;
    let (source, destination) = (&explanation.source, &explanation.destination);
    let mut lines = vec![verdict_line(explanation), String::new()];
    lines.push(format!("from  {}", end(source)));
    let what = called_service(explanation) + &dns_names(explanation);
    lines.push(format!("to    {}{what}", end(destination)));
    let directions = [
        ("egress of", source, &explanation.egress),
        ("ingress of", destination, &explanation.ingress),
    ];
    let is_evaluated = explanation.not_forwarded.is_none();
    for (name, whose, direction) in directions.into_iter().filter(|_| is_evaluated) {
        lines.push(String::new());
        lines.extend(direction_lines(&format!("{name} {}", short(whose)), whose, direction));
    }
    if let Some(request) = &explanation.request {
        lines.push(String::new());
        lines.extend(request_lines(request));
    }
    let backends: Vec<_> = explanation.service.iter().flat_map(backend_lines).collect();
    if !backends.is_empty() {
        lines.push(String::new());
        lines.extend(backends);
    }
    let not_forwarded = explanation
        .not_forwarded
        .iter()
        .map(|reason| format!("note: {reason}: workers don't evaluate policy for such packets"));
    let no_inspector = explanation.no_inspector.iter().map(|protocol| {
        format!("note: workers can't inspect {protocol} yet: they drop the whole flow")
    });
    let plain = explanation.service.iter().filter(|service| service.translated.is_none());
    let service = plain.map(|service| match explanation.destination.kind {
        EndKind::ThisNode => NODE_PORT_NOTE.to_owned(),
        _ => service_note(service),
    });
    let notes = explained.notes.iter().map(|note| format!("note: {note}"));
    let notes: Vec<_> = not_forwarded.chain(no_inspector).chain(service).chain(notes).collect();
    if !notes.is_empty() {
        lines.push(String::new());
        lines.extend(notes);
    }
    lines.iter().map(|line| escape(line) + "\n").collect()
}

fn verdict_line(explanation: &Explanation) -> String {
    let verdict = match explanation.verdict {
        Outcome::Allowed => "ALLOWED",
        Outcome::Inspected => "OPEN, EACH REQUEST IS DECIDED BY L7 RULES",
        Outcome::Denied => "DENIED",
    };
    // Policy may allow it, so the first line says why it is denied nevertheless.
    let why = match explanation {
        Explanation { not_forwarded: Some(_), .. } => ", AS WORKERS DON'T FORWARD IT",
        Explanation { no_inspector: Some(_), .. } => ", AS WORKERS CAN'T INSPECT IT",
        _ => "",
    };
    let request = match &explanation.request {
        Some(request) => format!("  {}", request.request),
        None => String::new(),
    };
    let [from, to] = [&explanation.source, &explanation.destination].map(short);
    format!("{verdict}{why}  {from} -> {to}  {}{request}", explanation.port)
}

/// The service that the destination is.
fn called_service(explanation: &Explanation) -> String {
    let service = explanation.service.iter();
    let text = |it: &CalledService| match it.translated {
        Some(frontend) if explanation.not_forwarded.is_some() => {
            format!("  Service {}/{} ({frontend})", it.namespace, it.name)
        }
        Some(frontend) => format!("  backend of Service {}/{} ({frontend})", it.namespace, it.name),
        None if explanation.destination.kind == EndKind::ThisNode => {
            format!("  port of Service {}/{}", it.namespace, it.name)
        }
        None => format!("  cluster IP of Service {}/{}", it.namespace, it.name),
    };
    service.map(text).collect()
}

fn dns_names(explanation: &Explanation) -> String {
    match explanation.dns_names.as_slice() {
        [] => String::new(),
        names => format!("  address of DNS name {}", names.join(", ")),
    }
}

/// The verdict on each backend of a service.
fn backend_lines(service: &CalledService) -> Vec<String> {
    let CalledService { namespace, name, verdicts, .. } = service;
    if verdicts.is_empty() {
        return Vec::new();
    }
    let all = verdicts.len() + service.further_backends;
    let mut lines = vec![format!("backends of {namespace}/{name}: {all}")];
    lines.extend(verdicts.iter().map(|BackendVerdict { backend, verdict }| {
        let verdict = match verdict {
            Outcome::Allowed => "allowed",
            Outcome::Inspected => "open, each request is decided by L7 rules",
            Outcome::Denied => "denied",
        };
        let address = backend.peer.address;
        let address = backend
            .peer
            .port
            .map_or_else(|| address.to_string(), |port| SocketAddr::new(address, port).to_string());
        match &backend.peer.pod {
            Some(_) => format!("  {address}  {verdict}  pod {}", short(backend)),
            None => format!("  {address}  {verdict}"),
        }
    }));
    if service.further_backends > 0 {
        lines.push(format!("  and {} more", service.further_backends));
    }
    lines
}

const NODE_PORT_NOTE: &str = "note: the node's kernel translates that port, or did so until the \
                              Service lost it a moment ago: a pod may not send to it just because \
                              its node has the address";

fn service_note(service: &CalledService) -> String {
    let what = "note: policy sees the cluster IP, an address outside of the cluster; the node's \
                kernel translates it to";
    if service.backends.is_empty() {
        return format!("{what} nothing, as the Service has no known backend");
    }
    let more = match service.further_backends {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "{what} one of {}{more}, whose ingress policy then sees the source: ask for that \
         too, at its own port",
        service.backends.join(", ")
    )
}

/// The pod, or the address where there is none.
fn short(end: &End) -> String {
    match (&end.peer.namespace, &end.peer.pod) {
        (Some(namespace), Some(pod)) => format!("{namespace}/{pod}"),
        _ => end.peer.address.to_string(),
    }
}

fn end(end: &End) -> String {
    let kind = match end.kind {
        EndKind::Pod => "pod",
        EndKind::ThisNode => "this node",
        EndKind::OtherNode => "another node",
        EndKind::World => "outside of the cluster",
    };
    let own = end.peer.labels.iter().filter_map(|label| label.strip_prefix("k8s:"));
    // Labels that Cilium derives are implied by the pod's name; JSON has them.
    let own: Vec<_> =
        own.filter(|label| !label.starts_with("io.c") && !is_namespace(label)).collect();
    let labels = if own.is_empty() { String::new() } else { format!("  {}", own.join(",")) };
    match end.kind {
        EndKind::Pod => format!("{}  {kind} {}{labels}", end.peer.address, short(end)),
        _ => format!("{}  {kind}", end.peer.address),
    }
}

fn is_namespace(label: &str) -> bool {
    label.starts_with("io.kubernetes.pod.namespace=")
}

fn direction_lines(title: &str, whose: &End, direction: &DirectionExplanation) -> Vec<String> {
    let open = direction.verdict.allowed;
    let word = match (open, direction.request_allowed) {
        (false, _) => "denied",
        (true, Some(false)) => "open, but the request is denied",
        (true, _) => "allowed",
    };
    let mut lines = vec![format!("{title}: {word}")];
    lines.extend(cause_lines(whose, direction));
    let decider = match &direction.verdict.by {
        DecidedBy::Rule { rule, .. } | DecidedBy::Conflict { rule } => Some(rule),
        _ => None,
    };
    let others = direction.matching.iter().filter(|matching| Some(&matching.rule) != decider);
    lines.extend(others.map(|matching| {
        format!("  also matches: {}, which {}", matching.rule.in_full(), effect(matching.effect))
    }));
    if !direction.misses.is_empty() {
        lines.push("  nearest misses:".to_owned());
        lines.extend(direction.misses.iter().flat_map(miss_lines));
        if direction.further_misses > 0 {
            lines.push(format!("    and {} more (--all)", direction.further_misses));
        }
    }
    lines
}

fn cause_lines(whose: &End, direction: &DirectionExplanation) -> Vec<String> {
    let opens = direction.request_allowed == Some(false);
    let by = if opens { "opened by" } else { "by" };
    let by_rule = |rule: &RuleName| format!("  {by} {}", rule.in_full());
    match &direction.verdict.by {
        DecidedBy::Rule { rule, .. } => vec![by_rule(rule)],
        DecidedBy::Conflict { rule } => vec![
            by_rule(rule),
            "  which names another L7 protocol than a rule beside it, so that no request passes"
                .to_owned(),
        ],
        DecidedBy::DefaultDeny { policies } if policies.is_empty() => {
            vec![
                "  by default: what no rule allows is denied to every pod (mode always)".to_owned(),
            ]
        }
        DecidedBy::DefaultDeny { policies } => {
            let mut lines =
                vec!["  by default: no rule allows it, and these policies isolate the pod".into()];
            lines.extend(policies.iter().map(|policy| format!("    {}", policy.in_full())));
            lines
        }
        DecidedBy::Unenforced => vec![format!("  {}", why_unenforced(whose, direction))],
        DecidedBy::Node => vec!["  a node and its own pods may always reach each other".to_owned()],
        DecidedBy::ToSelf => vec!["  a pod may always reach itself".to_owned()],
        DecidedBy::NotLocal => vec!["  its own node applies its policy".to_owned()],
    }
}

fn why_unenforced(whose: &End, direction: &DirectionExplanation) -> String {
    if whose.kind != EndKind::Pod {
        return "it is not a pod, and policies are for pods".to_owned();
    }
    match direction.policies.is_empty() {
        true => "no policy selects it in this direction".to_owned(),
        false => "no rule matches, and no policy that selects it isolates it".to_owned(),
    }
}

fn miss_lines(miss: &Miss) -> Vec<String> {
    let mut lines = vec![format!("    {} {}, but", miss.rule.in_full(), effect(miss.effect))];
    lines.extend(miss.failed.iter().flat_map(failure_lines));
    lines.extend(miss.fix.iter().map(|fix| format!("      to allow it: {fix}")));
    lines
}

fn failure_lines(failure: &Failure) -> Vec<String> {
    let criterion = match failure.criterion {
        Criterion::Peer => "peer",
        Criterion::Protocol => "protocol",
        Criterion::Port => "port",
        Criterion::Request => "request",
    };
    let mut lines: Vec<_> =
        failure.reasons.iter().map(|reason| format!("      {criterion}: {reason}")).collect();
    if failure.further_reasons > 0 {
        lines.push(format!("      {criterion}: and {} more", failure.further_reasons));
    }
    lines
}

fn request_lines(request: &RequestVerdict) -> Vec<String> {
    let name = &request.request;
    match (&request.denial, &request.rule) {
        (Some(denial), _) => vec![format!("request {name}: denied"), format!("  {denial}")],
        (None, Some(rule)) => {
            vec![format!("request {name}: allowed"), format!("  by {}", rule.in_full())]
        }
        (None, None) => vec![
            format!("request {name}: allowed"),
            "  requests of this flow are not inspected".to_owned(),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podgate_policy::explain::{Local, Query, RequestSpec, explain};
    use podgate_policy::{Store, compile, manifest};

    /// An explanation by the manifests of the end-to-end tests.
    fn shown(from: &str, to: &str, port: &str, http: Option<&str>) -> String {
        let manifests = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/manifests");
        let mut store = Store::new();
        store.sync(&manifest::load(manifests.as_ref()));
        let query = Query {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            port: Some(port.parse().unwrap()),
            request: http.map(|http| RequestSpec::Http(http.parse().unwrap())),
            misses_max: 1,
        };
        let explanation = explain(&store, &compile(&store), &query, Local::Both).unwrap();
        explained(&Explained { epoch: Some(7), notes: vec!["a note".into()], explanation })
    }

    #[test]
    fn a_default_denial_for_people() {
        insta::assert_snapshot!(shown("192.0.2.66", "backend/store", "8080/TCP", None));
    }

    #[test]
    fn a_port_that_is_missing_for_people() {
        insta::assert_snapshot!(shown("adminapp", "backend/store", "9090", None));
    }

    #[test]
    fn a_denied_request_for_people() {
        insta::assert_snapshot!(shown("adminapp", "backend/nginx", "80", Some("GET /secret")));
    }

    #[test]
    fn an_allowed_request_for_people() {
        insta::assert_snapshot!(shown("userapp", "backend/nginx", "80", Some("GET /docs")));
    }
}
