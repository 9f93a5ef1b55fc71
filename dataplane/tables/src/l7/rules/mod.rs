//! The L7 rules of one policy entry, and their matchers.
//!
//! The rules of an entry have one protocol ([`L7Protocol`]). What they match is documented in
//! [`http`], [`kafka`], and [`NamePattern`] for DNS and TLS. A request is allowed if one of the
//! rules matches it; a Kafka request needs a rule for each of its topics.
//!
//! Matching does not allocate.

pub mod http;
mod http_list;
mod index;
pub mod kafka;
mod pattern;
mod re2;

use std::fmt;

pub use http::{HeaderMatch, HttpRule, HttpRuleSpec, Mismatch};
pub use http_list::HttpRules;
pub use kafka::{KafkaRequest, KafkaRule, KafkaRuleSpec};
pub use pattern::PatternBudget;

use super::http1::HttpRequest;
use super::names::NamePattern;
use super::tls::is_server_name;
use crate::proto;

/// Protocols of L7 rules.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum L7Protocol {
    /// HTTP requests.
    Http,
    /// Kafka requests.
    Kafka,
    /// DNS queries.
    Dns,
    /// Server names in TLS handshakes (RFC 6066 §3).
    Tls,
}

impl L7Protocol {
    /// All protocols. Flows store their positions, in memory and in the file of saved flows.
    pub const ALL: [Self; 4] = [Self::Http, Self::Kafka, Self::Dns, Self::Tls];

    /// Whether workers have an inspector for the protocol over the IP protocol `carrier`. They drop
    /// flows with rules of other protocols.
    #[must_use]
    pub const fn has_inspector(self, carrier: u8) -> bool {
        match self {
            Self::Http | Self::Kafka | Self::Tls => carrier == proto::TCP,
            Self::Dns => matches!(carrier, proto::TCP | proto::UDP),
        }
    }
}

impl fmt::Display for L7Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTP",
            Self::Kafka => "Kafka",
            Self::Dns => "DNS",
            Self::Tls => "TLS",
        })
    }
}

/// The L7 rules of one policy entry: requests must match one of them. An empty list allows no
/// request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum L7Rules {
    /// HTTP requests.
    Http(HttpRules),
    /// Kafka requests.
    Kafka(Vec<KafkaRule>),
    /// Names that may be queried.
    Dns(Vec<NamePattern>),
    /// Server names that a TLS client may send.
    ServerNames(Vec<NamePattern>),
}

impl L7Rules {
    /// HTTP rules.
    #[must_use]
    pub fn http(rules: Vec<HttpRule>) -> Self {
        Self::Http(rules.into())
    }

    /// The protocol of the rules.
    #[must_use]
    pub const fn protocol(&self) -> L7Protocol {
        match self {
            Self::Http(_) => L7Protocol::Http,
            Self::Kafka(_) => L7Protocol::Kafka,
            Self::Dns(_) => L7Protocol::Dns,
            Self::ServerNames(_) => L7Protocol::Tls,
        }
    }

    /// Whether the rules allow the request. They allow no request of another protocol.
    #[must_use]
    pub fn allows(&self, request: &L7Request<'_>) -> bool {
        request.parts().all(|part| self.some_rule_matches(&part))
    }

    fn some_rule_matches(&self, part: &L7Request<'_>) -> bool {
        match (self, part) {
            (Self::Http(rules), L7Request::Http(request)) => rules.allow(request),
            (Self::Kafka(rules), L7Request::Kafka(request)) => {
                rules.iter().any(|rule| rule.matches(request))
            }
            (Self::Dns(names), L7Request::Dns(name))
            | (Self::ServerNames(names), L7Request::ServerName(Some(name))) => {
                names.iter().any(|pattern| pattern.matches(name))
            }
            _ => false,
        }
    }
}

/// A parsed request of any protocol, as rules match it.
#[derive(Clone, Copy, Debug)]
pub enum L7Request<'a> {
    /// An HTTP request.
    Http(HttpRequest<'a>),
    /// A Kafka request.
    Kafka(KafkaRequest<'a>),
    /// The name of a DNS query: its labels separated by dots, with or without a trailing dot. A
    /// label that contains a dot can't be written like this; such a query must not be decided.
    Dns(&'a [u8]),
    /// The server name in a TLS ClientHello; `None` if it has none. A name that is no host name
    /// ([`is_server_name`]) is denied by every policy with TLS rules.
    ServerName(Option<&'a [u8]>),
}

impl<'a> L7Request<'a> {
    /// The protocol of the request.
    #[must_use]
    pub const fn protocol(&self) -> L7Protocol {
        match self {
            Self::Http(_) => L7Protocol::Http,
            Self::Kafka(_) => L7Protocol::Kafka,
            Self::Dns(_) => L7Protocol::Dns,
            Self::ServerName(_) => L7Protocol::Tls,
        }
    }

    /// Whether all servers read the request alike. Checks only what the request's parser has not
    /// checked.
    pub(super) fn is_valid(&self) -> bool {
        match self {
            Self::ServerName(Some(name)) => is_server_name(name),
            _ => true,
        }
    }

    /// The parts of the request that are decided one by one: a Kafka request for each of its
    /// topics, any other request as a whole.
    pub(super) fn parts(self) -> impl Iterator<Item = Self> {
        let (whole, by_topic) = match self {
            Self::Kafka(request) if !request.topics.is_empty() => {
                (None, Some(request.by_topic().map(Self::Kafka)))
            }
            whole => (Some(whole), None),
        };
        whole.into_iter().chain(by_topic.into_iter().flatten())
    }
}

/// A rule that can't be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct RuleError {
    /// The invalid field.
    pub field: RuleField,
    /// What is wrong with it, for the author of the policy.
    pub reason: String,
}

/// A field of [`HttpRuleSpec`] or of [`KafkaRuleSpec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleField {
    /// `method`.
    Method,
    /// `path`.
    Path,
    /// `host`.
    Host,
    /// `headers[i]`.
    Header(usize),
    /// `headerMatches[i]`.
    HeaderMatch(usize),
    /// `role`.
    Role,
    /// `apiKey`.
    ApiKey,
    /// `apiVersion`.
    ApiVersion,
    /// `clientID`.
    ClientId,
    /// `topic`.
    Topic,
}

impl fmt::Display for RuleField {
    /// The name of the field in policies.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method => f.write_str("method"),
            Self::Path => f.write_str("path"),
            Self::Host => f.write_str("host"),
            Self::Header(index) => write!(f, "headers[{index}]"),
            Self::HeaderMatch(index) => write!(f, "headerMatches[{index}]"),
            Self::Role => f.write_str("role"),
            Self::ApiKey => f.write_str("apiKey"),
            Self::ApiVersion => f.write_str("apiVersion"),
            Self::ClientId => f.write_str("clientID"),
            Self::Topic => f.write_str("topic"),
        }
    }
}

impl RuleField {
    fn error(self, reason: impl Into<String>) -> RuleError {
        RuleError { field: self, reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(method: &str) -> HttpRule {
        let method = Some(method.to_owned());
        HttpRule::new(HttpRuleSpec { method, ..HttpRuleSpec::default() }).unwrap()
    }

    fn brew() -> L7Request<'static> {
        let (path, host) = (b"/pot", b"");
        let (path_is_normal, headers) = (true, &[]);
        L7Request::Http(HttpRequest { method: b"BREW", path, path_is_normal, host, headers })
    }

    #[test]
    fn an_empty_list_of_rules_allows_nothing_and_an_empty_rule_everything() {
        assert!(!L7Rules::http(Vec::new()).allows(&brew()));
        assert!(L7Rules::http(vec![http("")]).allows(&brew()));
        assert!(L7Rules::http(vec![http("GET"), http("BREW")]).allows(&brew()));
        let kafka = KafkaRequest { api_key: 99, api_version: 9, client_id: None, topics: &[b"t"] };
        assert!(!L7Rules::Kafka(Vec::new()).allows(&L7Request::Kafka(kafka)));
        let empty = KafkaRule::new(KafkaRuleSpec::default()).unwrap();
        assert!(L7Rules::Kafka(vec![empty]).allows(&L7Request::Kafka(kafka)));
    }

    #[test]
    fn rules_allow_no_request_of_another_protocol() {
        let any = NamePattern::dns("*").unwrap();
        let kafka = KafkaRequest { api_key: 0, api_version: 0, client_id: None, topics: &[] };
        let rules = [
            L7Rules::http(vec![http("")]),
            L7Rules::Kafka(vec![KafkaRule::new(KafkaRuleSpec::default()).unwrap()]),
            L7Rules::Dns(vec![any.clone()]),
            L7Rules::ServerNames(vec![any]),
        ];
        let requests = [
            brew(),
            L7Request::Kafka(kafka),
            L7Request::Dns(b"a.b."),
            L7Request::ServerName(Some(b"a.b")),
        ];
        for (i, rules) in rules.iter().enumerate() {
            for (j, request) in requests.iter().enumerate() {
                assert_eq!(rules.allows(request), i == j, "{rules:?} and {request:?}");
            }
        }
    }

    #[test]
    fn a_client_hello_without_a_server_name_is_never_allowed() {
        let any = L7Rules::ServerNames(vec![NamePattern::server_name("*").unwrap()]);
        assert!(!any.allows(&L7Request::ServerName(None)));
        assert!(!any.allows(&L7Request::ServerName(Some(b""))));
        assert!(any.allows(&L7Request::ServerName(Some(b"a"))));
    }
}
