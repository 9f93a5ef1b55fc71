//! Holding the compiled tables against the naive interpreter.

use std::collections::BTreeSet;

use podgate_dataplane::l7::{L7Request, Request};
use podgate_dataplane::policy::{Cause, Decision, Subject, Verdict};
use podgate_policy::oracle::{self, HttpRequest, Opinion};
use podgate_policy::{Catalog, Compiled, Store};

/// What one executor says of a flow, and of a request on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    /// `None` when the flow isn't open.
    pub(crate) request: Option<bool>,
}

/// What the oracle says.
pub(crate) fn ask_oracle(
    store: &Store,
    subject: &Subject,
    local: [bool; 2],
    request: &HttpRequest,
) -> (Answer, [BTreeSet<String>; 2]) {
    let opinions = oracle::decide(store, subject, local);
    let open = opinions.iter().all(Opinion::allows);
    let verdict = match (open, opinions.iter().any(Opinion::inspects)) {
        (false, _) => Verdict::Deny,
        (true, false) => Verdict::Allow,
        (true, true) => Verdict::Inspect,
    };
    let passes = opinions.iter().all(|opinion| opinion.allows_request(request));
    let answer = Answer { verdict, request: open.then_some(passes) };
    (answer, opinions.map(|opinion| names(&opinion)))
}

/// Everything that may be given as what decided.
fn names(opinion: &Opinion<'_>) -> BTreeSet<String> {
    match opinion {
        Opinion::Exempt(_) => BTreeSet::from(["exempt".to_owned()]),
        Opinion::Unenforced => BTreeSet::from(["unenforced".to_owned()]),
        Opinion::Allowed(matches) | Opinion::Denied(matches) => {
            matches.iter().map(|rule| format!("{} {}", rule.key, rule.field)).collect()
        }
        Opinion::DefaultDeny(keys) => BTreeSet::from([default_deny(keys.iter())]),
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
    local: [bool; 2],
    request: &HttpRequest,
) -> (Answer, [String; 2]) {
    let decision = compiled.tables.decide(subject, local);
    let passes = allows(&decision, request);
    let request = (decision.verdict != Verdict::Deny).then_some(passes);
    let name = |cause| name(&compiled.catalog, cause);
    let causes = [name(decision.egress), name(decision.ingress)];
    (Answer { verdict: decision.verdict, request }, causes)
}

fn name(catalog: &Catalog, cause: Cause) -> String {
    match cause {
        Cause::Unenforced => "unenforced".to_owned(),
        Cause::Exempt(_) => "exempt".to_owned(),
        Cause::Allowed(rule) | Cause::Denied(rule) | Cause::Conflicting(rule) => {
            catalog.rule(rule).unwrap().to_string()
        }
        Cause::DefaultDeny(set) => default_deny(catalog.deny_set(set).iter()),
    }
}

fn allows(decision: &Decision, request: &HttpRequest) -> bool {
    let headers: Vec<httparse::Header<'_>> = request
        .headers
        .iter()
        .map(|(name, value)| httparse::Header { name, value: value.as_bytes() })
        .collect();
    let request = Request {
        method: request.method.as_bytes(),
        path: request.path.as_bytes(),
        path_is_normal: true,
        host: request.host.as_bytes(),
        headers: &headers,
    };
    decision.l7.judge(&L7Request::Http(request)).is_some()
}
