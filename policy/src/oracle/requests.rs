//! Requests, and whether L7 rules allow them.

use podgate_tables::l7::{
    HeaderMatch, HttpRuleSpec, KafkaRuleSpec, L7Protocol, L7Rules, Mismatch, NamePattern,
};
use regex::Regex;
use regex::bytes::RegexBuilder;

/// A request on a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OracleRequest {
    /// HTTP.
    Http(HttpRequest),
    /// Kafka.
    Kafka(KafkaRequest),
    /// A query for a DNS name.
    Dns(String),
    /// A TLS handshake that names this server.
    ServerName(String),
}

/// An HTTP request, as far as rules can ask about it. The path must be in normal form.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HttpRequest {
    /// Method.
    pub method: String,
    /// Path.
    pub path: String,
    /// Host.
    pub host: String,
    /// Names and values of headers.
    pub headers: Vec<(String, String)>,
}

/// A Kafka request, as far as rules can ask about it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KafkaRequest {
    /// API key.
    pub api_key: i16,
    /// Version of the API.
    pub api_version: i16,
    /// Client id.
    pub client_id: Option<String>,
    /// Topics; none if the API carries none. A topic by id is an empty name, also beside its name.
    pub topics: Vec<String>,
}

/// Names of API keys, by number (`ApiKeyMap` of Cilium's `proxy/pkg/policy/api/kafka/kafka.go`).
const KAFKA_APIS: &str = "produce fetch offsets metadata leaderandisr stopreplica updatemetadata \
    controlledshutdown offsetcommit offsetfetch findcoordinator joingroup heartbeat leavegroup \
    syncgroup describegroups listgroups saslhandshake apiversions createtopics deletetopics \
    deleterecords initproducerid offsetforleaderepoch addpartitionstotxn addoffsetstotxn endtxn \
    writetxnmarkers txnoffsetcommit describeacls createacls deleteacls describeconfigs \
    alterconfigs";

/// The number of a Kafka API by its name.
#[must_use]
pub fn kafka_api(name: &str) -> Option<i16> {
    let found = KAFKA_APIS.split_whitespace().position(|known| known.eq_ignore_ascii_case(name))?;
    i16::try_from(found).ok()
}

impl OracleRequest {
    /// The protocol that it is of.
    pub(super) const fn protocol(&self) -> L7Protocol {
        match self {
            Self::Http(_) => L7Protocol::Http,
            Self::Kafka(_) => L7Protocol::Kafka,
            Self::Dns(_) => L7Protocol::Dns,
            Self::ServerName(_) => L7Protocol::Tls,
        }
    }

    /// Whether all servers read it alike. No TLS client names a server by its address or with a
    /// trailing dot (RFC 6066 §3); the empty text stands for no name.
    pub(super) fn is_valid(&self) -> bool {
        let Self::ServerName(name) = self else { return true };
        let label = "[-_a-zA-Z0-9]+";
        let is_name = Regex::new(&format!(r"\A({label}\.)*{label}\z"));
        let ends_in_number = Regex::new(r"(\A|\.)[0-9]+\z");
        let matches =
            |regex: Result<Regex, regex::Error>| regex.is_ok_and(|regex| regex.is_match(name));
        name.is_empty() || (name.len() <= 255 && matches(is_name) && !matches(ends_in_number))
    }

    /// The parts that must be allowed one by one: a Kafka request's topics, or the request itself.
    pub(super) fn parts(&self) -> Vec<Self> {
        match self {
            Self::Kafka(request) if !request.topics.is_empty() => {
                let of_topic = |topic: &String| KafkaRequest {
                    topics: vec![topic.clone()],
                    ..request.clone()
                };
                request.topics.iter().map(|topic| Self::Kafka(of_topic(topic))).collect()
            }
            whole => vec![whole.clone()],
        }
    }
}

/// Whether some rule allows a part of a request.
pub(super) fn allow(rules: &L7Rules, part: &OracleRequest) -> bool {
    match (rules, part) {
        (L7Rules::Http(rules), OracleRequest::Http(request)) => {
            rules.iter().any(|rule| http_allows(rule.spec(), request))
        }
        (L7Rules::Kafka(rules), OracleRequest::Kafka(request)) => {
            rules.iter().any(|rule| kafka_allows(rule.spec(), request))
        }
        (L7Rules::Dns(names), OracleRequest::Dns(name)) => {
            names.iter().any(|p| name_matches(p, name))
        }
        (L7Rules::ServerNames(names), OracleRequest::ServerName(name)) if !name.is_empty() => {
            names.iter().any(|pattern| name_matches(pattern, name))
        }
        _ => false,
    }
}

fn http_allows(rule: &HttpRuleSpec, request: &HttpRequest) -> bool {
    let given = |field: &Option<String>| field.as_ref().is_some_and(|text| !text.is_empty());
    let is_required = |one: &HeaderMatch| one.mismatch == Mismatch::Fail;
    let restricts = given(&rule.path)
        || given(&rule.host)
        || !rule.headers.is_empty()
        || rule.header_matches.iter().any(is_required);
    if request.method == "CONNECT" && restricts && !given(&rule.method) {
        return false;
    }
    full_match(rule.method.as_deref(), &request.method)
        && full_match(rule.path.as_deref(), &request.path)
        && full_match(rule.host.as_deref(), &request.host)
        && rule.headers.iter().all(|wanted| match wanted.split_once(':') {
            Some((name, value)) => has_header(request, name, Some(value.trim())),
            None => has_header(request, wanted, None),
        })
        && rule.header_matches.iter().all(|one| {
            let value = one.value.as_deref().filter(|value| !value.is_empty());
            one.mismatch == Mismatch::Log || has_header(request, &one.name, value)
        })
}

fn full_match(pattern: Option<&str>, text: &str) -> bool {
    let Some(pattern) = pattern.filter(|pattern| !pattern.is_empty()) else { return true };
    let anchored = format!(r"\A(?:{pattern})\z");
    let regex = RegexBuilder::new(&anchored).unicode(false).build();
    regex.is_ok_and(|regex| regex.is_match(text.as_bytes()))
}

/// A header that is there more than once has no one value.
fn has_header(request: &HttpRequest, name: &str, value: Option<&str>) -> bool {
    let same = request.headers.iter().filter(|(have, _)| have.eq_ignore_ascii_case(name));
    let values: Vec<&str> = same.map(|(_, value)| value.as_str()).collect();
    match value {
        None => !values.is_empty(),
        Some(value) => values == [value],
    }
}

fn kafka_allows(rule: &KafkaRuleSpec, request: &KafkaRequest) -> bool {
    let given = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    let role = given(&rule.role).is_none_or(|role| match role.to_lowercase().as_str() {
        "produce" => [0, 3, 18].contains(&request.api_key),
        "consume" => [1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 18].contains(&request.api_key),
        _ => false,
    });
    role && given(&rule.api_key).is_none_or(|name| kafka_api(&name) == Some(request.api_key))
        && given(&rule.api_version).is_none_or(|version| version == request.api_version.to_string())
        && given(&rule.client_id).is_none_or(|id| request.client_id == Some(id))
        && given(&rule.topic).is_none_or(|topic| request.topics.iter().all(|have| *have == topic))
}

/// Whether a DNS name matches a pattern, by the regular expression that Cilium would make of it.
pub(super) fn name_matches(pattern: &NamePattern, name: &str) -> bool {
    const LABEL: &str = "[-a-zA-Z0-9_]+";
    let pattern = pattern.to_string();
    let name = name.strip_suffix('.').unwrap_or(name);
    if pattern == "*" {
        return true;
    }
    let labels = pattern.trim_matches('.').split('.').map(|label| match label {
        "**" => format!(r"{LABEL}(?:\.{LABEL})*"),
        _ => label.replace('*', "[-a-zA-Z0-9_]*"),
    });
    let labels: Vec<String> = labels.collect();
    let is_name = full_match(Some(&format!(r"(?:{LABEL}(?:\.{LABEL})*)?")), name);
    is_name && full_match(Some(&format!("(?i:{})", labels.join(r"\."))), name)
}
