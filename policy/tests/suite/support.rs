//! Compares the compiled tables with the oracle.

use std::collections::BTreeSet;

use podgate_policy::oracle::{self, HttpRequest, KafkaRequest, OracleRequest, OracleVerdict};
use podgate_policy::{Catalog, Compiled, Store};
use podgate_tables::l7::{self, L7Request};
use podgate_tables::policy::{Cause, Decision, LocalEnds, Subject, Verdict};

/// What one executor says of a flow, and of a request on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    /// `None` when the flow isn't open, or no request was asked about.
    pub(crate) request: Option<bool>,
}

/// The oracle's verdict.
pub(crate) fn ask_oracle(
    store: &Store,
    subject: &Subject,
    local: LocalEnds,
    request: Option<&OracleRequest>,
) -> (Answer, [BTreeSet<String>; 2]) {
    let verdicts = oracle::decide(store, subject, local);
    let open = verdicts.iter().all(OracleVerdict::allows);
    let verdict = match (open, verdicts.iter().any(OracleVerdict::inspects)) {
        (false, _) => Verdict::Deny,
        (true, false) => Verdict::Allow,
        (true, true) => Verdict::Inspect,
    };
    let passes = |request| {
        verdicts.iter().all(|verdict: &OracleVerdict<'_>| verdict.allows_request(request))
    };
    let answer = Answer { verdict, request: request.filter(|_| open).map(passes) };
    (answer, verdicts.map(|verdict| names(&verdict)))
}

/// Everything that may be given as what decided.
fn names(verdict: &OracleVerdict<'_>) -> BTreeSet<String> {
    match verdict {
        OracleVerdict::Exempt(_) => BTreeSet::from(["exempt".to_owned()]),
        OracleVerdict::Unenforced => BTreeSet::from(["unenforced".to_owned()]),
        OracleVerdict::Allowed(matches) | OracleVerdict::Denied(matches) => {
            matches.iter().map(|rule| format!("{} {}", rule.key, rule.field)).collect()
        }
        OracleVerdict::Conflicting(matches) => {
            matches.iter().map(|rule| format!("conflicting {} {}", rule.key, rule.field)).collect()
        }
        OracleVerdict::DefaultDeny(keys) => BTreeSet::from([default_deny(keys.iter())]),
    }
}

fn default_deny(keys: impl Iterator<Item = impl ToString>) -> String {
    let keys: Vec<String> = keys.map(|key| key.to_string()).collect();
    format!("default deny [{}]", keys.join(", "))
}

/// What the tables say.
pub(crate) fn ask_tables(
    compiled: &Compiled,
    subject: &Subject,
    local: LocalEnds,
    request: Option<&OracleRequest>,
) -> (Answer, [String; 2]) {
    let decision = compiled.tables.decide(subject, local);
    let request = request.filter(|_| decision.verdict != Verdict::Deny);
    let request = request.map(|request| allows(&decision, request));
    let name = |cause| name(&compiled.catalog, cause);
    let causes = [name(decision.egress), name(decision.ingress)];
    (Answer { verdict: decision.verdict, request }, causes)
}

fn name(catalog: &Catalog, cause: Cause) -> String {
    match cause {
        Cause::Unenforced => "unenforced".to_owned(),
        Cause::Exempt(_) => "exempt".to_owned(),
        Cause::Allowed(rule) | Cause::Denied(rule) => catalog.rule(rule).unwrap().to_string(),
        Cause::Conflicting(rule) => format!("conflicting {}", catalog.rule(rule).unwrap()),
        Cause::DefaultDeny(set) => default_deny(catalog.deny_set(set).iter()),
    }
}

fn allows(decision: &Decision, request: &OracleRequest) -> bool {
    let decide = |request: L7Request<'_>| decision.l7.decide(&request).is_allow();
    match request {
        OracleRequest::Http(HttpRequest { method, path, host, headers }) => {
            let headers: Vec<httparse::Header<'_>> = headers
                .iter()
                .map(|(name, value)| httparse::Header { name, value: value.as_bytes() })
                .collect();
            decide(L7Request::Http(l7::HttpRequest {
                method: method.as_bytes(),
                path: path.as_bytes(),
                path_is_normal: true,
                host: host.as_bytes(),
                headers: &headers,
            }))
        }
        OracleRequest::Kafka(KafkaRequest { api_key, api_version, client_id, topics }) => {
            let topics: Vec<&[u8]> = topics.iter().map(String::as_bytes).collect();
            decide(L7Request::Kafka(l7::KafkaRequest {
                api_key: *api_key,
                api_version: *api_version,
                client_id: client_id.as_deref().map(str::as_bytes),
                topics: &topics,
            }))
        }
        OracleRequest::Dns(name) => decide(L7Request::Dns(name.as_bytes())),
        OracleRequest::ServerName(name) => {
            let name = Some(name.as_bytes()).filter(|name| !name.is_empty());
            decide(L7Request::ServerName(name))
        }
    }
}
