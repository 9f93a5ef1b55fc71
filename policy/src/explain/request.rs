//! Requests: what is asked on an open flow, read as the workers' inspectors read it.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use podgate_dataplane::l7::http1::{self, Answer, FIELDS_MAX, Refusal};
use podgate_dataplane::l7::{L7Policy, L7Rules, Request};
use podgate_dataplane::policy::RuleId;
use serde::{Deserialize, Serialize};

/// A request, as a person writes it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum RequestSpec {
    /// An HTTP request.
    Http(HttpSpec),
}

/// Head of an HTTP/1.1 request.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct HttpSpec {
    /// Method.
    pub method: String,
    /// Request target: a path with its query, or an absolute URI.
    pub target: String,
    /// `Host`; the destination's address and port if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Further fields, `Name: value` each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
}

/// `GET /path`, or `/path` alone.
impl FromStr for HttpSpec {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (method, target) = text.split_once(' ').unwrap_or(("GET", text));
        if method.is_empty() || target.is_empty() || target.contains(' ') {
            return Err("write METHOD TARGET, such as 'GET /docs'");
        }
        let (method, target) = (method.to_owned(), target.to_owned());
        Ok(Self { method, target, host: None, headers: Vec::new() })
    }
}

impl fmt::Display for RequestSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(http) => write!(f, "{} {}", http.method, http.target),
        }
    }
}

/// A request that an inspector has read.
pub(super) enum Asked<'a> {
    Http(Request<'a>),
}

/// Calls `then` with the request as the workers' inspector reads it, or with why that refuses it
/// whatever the rules say.
pub(super) fn read<T>(
    spec: &RequestSpec,
    destination: SocketAddr,
    then: impl FnOnce(Result<Asked<'_>, String>) -> T,
) -> T {
    match spec {
        RequestSpec::Http(http) => {
            let bytes = http.to_bytes(destination);
            let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
            let read = http1::read_head(&bytes, &mut fields);
            then(read.map(Asked::Http).map_err(|refusal| answer_of(&refusal).to_owned()))
        }
    }
}

impl HttpSpec {
    fn to_bytes(&self, destination: SocketAddr) -> Vec<u8> {
        let host = self.host.clone().unwrap_or_else(|| destination.to_string());
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", self.method, self.target);
        for header in &self.headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

/// What a client gets to see of a refusal.
fn answer_of(refusal: &Refusal) -> &'static str {
    match refusal.answer {
        Answer::Forbidden => "answered 403 Forbidden: the request can't be inspected",
        Answer::BadRequest => "answered 400 Bad Request: the request is malformed or ambiguous",
        Answer::Reset => "the connection is reset: this is no HTTP/1.1",
    }
}

impl Asked<'_> {
    /// Whether the rules allow the request.
    pub(super) fn is_allowed_by(&self, rules: &L7Rules) -> bool {
        match self {
            Self::Http(request) => rules.allows(request),
        }
    }

    /// Holds the request against all rules of a flow: what a worker does.
    pub(super) fn judge(&self, policy: &L7Policy) -> Option<Option<RuleId>> {
        match self {
            Self::Http(request) => policy.judge(request),
        }
    }

    /// For each rule, why it doesn't allow the request, and how many of its fields don't match.
    pub(super) fn why_not(&self, rules: &L7Rules) -> Vec<(usize, String)> {
        match self {
            Self::Http(request) => vec![(1, format!("no rule of {rules:?} allows {request:?}"))],
        }
    }

    /// What a client gets to see when no rule allows the request.
    pub(super) fn denial(&self) -> &'static str {
        match self {
            Self::Http(request) if !request.path_is_normal => {
                "answered 403 Forbidden: the path is not in normal form, so no rule with a path \
                 matches it"
            }
            Self::Http(_) => "answered 403 Forbidden",
        }
    }
}
