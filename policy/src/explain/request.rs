//! Requests on an open flow, read as the workers' inspectors read them.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use podgate_tables::l7::http1::{self, Denial, DenialResponse};
use podgate_tables::l7::rules::kafka;
use podgate_tables::l7::tls::is_server_name;
use podgate_tables::l7::{KafkaRequest, L7Request};
use serde::{Deserialize, Serialize};

/// A request, as a person writes it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum RequestSpec {
    /// An HTTP request.
    Http(HttpSpec),
    /// A Kafka request.
    Kafka(KafkaSpec),
    /// A DNS query for this name.
    Dns(String),
    /// The beginning of a TLS connection to the server of this name; of none, if it is empty.
    ServerName(String),
}

/// Head of an HTTP/1.1 request.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct HttpSpec {
    /// Method.
    pub method: String,
    /// Request target: a path with its query, an absolute URI, `*`, or a host and port (`CONNECT`).
    pub target: String,
    /// `Host`; the destination's address and port if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Further fields, `Name: value` each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
}

/// Parts of a Kafka request that rules match.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct KafkaSpec {
    /// API key.
    pub api_key: i16,
    /// Version of the request's form.
    pub api_version: i16,
    /// Client id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The topics that it names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<String>,
}

/// `GET /path`, or `/path` alone.
impl FromStr for HttpSpec {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (method, target) = text.split_once(' ').unwrap_or(("GET", text));
        // A method alone would pass for a target that no server understands.
        let is_authority = method == "CONNECT" && target.contains(':');
        let is_url = target == "*" || target.contains("://");
        let is_target = target.starts_with('/') || is_url || is_authority;
        if method.is_empty() || !is_target || target.contains(' ') {
            return Err("write METHOD TARGET, such as 'GET /docs'");
        }
        let (method, target) = (method.to_owned(), target.to_owned());
        Ok(Self { method, target, host: None, headers: Vec::new() })
    }
}

/// `topic=orders,api=produce`, and perhaps `version=` and `client=`; several topics are named one
/// by one, and the API by its name or number.
impl FromStr for KafkaSpec {
    type Err = String;

    fn from_str(source: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "write topic=NAME,api=NAME[,version=NUMBER][,client=NAME]";
        let mut api_key = None;
        let mut this = Self { api_key: 0, api_version: 0, client_id: None, topics: Vec::new() };
        for part in source.split(',') {
            let (name, value) = part.split_once('=').ok_or(FORM)?;
            let number = || value.parse::<i16>().ok().filter(|number| *number >= 0);
            match name {
                "topic" => this.topics.push(value.to_owned()),
                "client" => this.client_id = Some(value.to_owned()),
                "version" => {
                    this.api_version = number().ok_or("a version is a number from 0 to 32767")?;
                }
                "api" => {
                    let found = kafka::api_key(value).or_else(number);
                    api_key = Some(found.ok_or_else(|| {
                        format!("{value} is no API key; write a number, or a name such as fetch")
                    })?);
                }
                _ => return Err(format!("{name} is not known; {FORM}")),
            }
        }
        this.api_key = api_key.ok_or(FORM)?;
        Ok(this)
    }
}

impl fmt::Display for RequestSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(http) => write!(f, "{} {}", http.method, http.target),
            Self::Kafka(request) => {
                match kafka::api_key_name(request.api_key) {
                    Some(name) => write!(f, "Kafka {name}")?,
                    None => write!(f, "Kafka API {}", request.api_key)?,
                }
                match request.topics.is_empty() {
                    true => Ok(()),
                    false => write!(f, " of {}", request.topics.join(", ")),
                }
            }
            Self::Dns(name) => write!(f, "DNS query for {name}"),
            Self::ServerName(name) => write!(f, "TLS to {name}"),
        }
    }
}

/// Calls `then` with the request as the workers' inspector reads it, or with what a client sees of
/// one that is denied whatever the rules say.
pub(super) fn read<T>(
    spec: &RequestSpec,
    destination: SocketAddr,
    then: impl FnOnce(Result<L7Request<'_>, &'static str>) -> T,
) -> T {
    match spec {
        RequestSpec::Http(http) => {
            let bytes = http.to_bytes(destination);
            let mut fields = http1::no_fields();
            let head = http1::read_head(&bytes, &mut fields);
            then(head.map(L7Request::Http).map_err(|denial| denial_reason(&denial)))
        }
        RequestSpec::Kafka(spec) => {
            let topics: Vec<_> = spec.topics.iter().map(String::as_bytes).collect();
            then(Ok(L7Request::Kafka(KafkaRequest {
                api_key: spec.api_key,
                api_version: spec.api_version,
                client_id: spec.client_id.as_deref().map(str::as_bytes),
                topics: &topics,
            })))
        }
        RequestSpec::Dns(name) => then(Ok(L7Request::Dns(name.as_bytes()))),
        RequestSpec::ServerName(name) => {
            let name = Some(name.as_bytes()).filter(|name| !name.is_empty());
            then(Ok(L7Request::ServerName(name)))
        }
    }
}

impl HttpSpec {
    fn to_bytes(&self, destination: SocketAddr) -> Vec<u8> {
        // The host of a tunnel is its target.
        let default =
            if self.method == "CONNECT" { self.target.clone() } else { destination.to_string() };
        let host = self.host.clone().unwrap_or(default);
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", self.method, self.target);
        for header in &self.headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

/// What a client sees of a request that can't be inspected.
const fn denial_reason(denial: &Denial) -> &'static str {
    match denial.response {
        DenialResponse::Forbidden => "answered 403 Forbidden: such a request can't be inspected",
        DenialResponse::BadRequest(_) => "answered 400 Bad Request: it is malformed or ambiguous",
        DenialResponse::HeadTooLarge => {
            "answered 431 Request Header Fields Too Large: the head is too long by the defaults"
        }
        DenialResponse::Timeout => "answered 408 Request Timeout: it is not complete",
        DenialResponse::Reset => "the connection is reset: it is no HTTP/1.1",
    }
}

/// What a client sees of a request that no rule allows.
pub(super) fn denied(request: &L7Request<'_>) -> &'static str {
    match request {
        L7Request::Http(request) if !request.path_is_normal && !request.path.is_empty() => {
            "answered 403 Forbidden: the path is not in normal form, so no rule with a path \
             matches it"
        }
        L7Request::Http(_) => "answered 403 Forbidden: no rule allows it",
        L7Request::ServerName(Some(name)) if !is_server_name(name) => {
            "the connection is reset: it is not a host name, or has a trailing dot, or is an address"
        }
        L7Request::ServerName(_) => "the connection is reset: no rule allows it",
        L7Request::Kafka(_) | L7Request::Dns(_) => "no rule allows it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_without_a_target_is_no_request() {
        for text in ["GET", "GET docs", "", " /docs", "GET  /docs", "GET /a b"] {
            assert!(text.parse::<HttpSpec>().is_err(), "{text:?}");
        }
        for text in ["/docs", "GET /docs", "OPTIONS *", "GET http://web/docs", "CONNECT web:443"] {
            assert!(text.parse::<HttpSpec>().is_ok(), "{text:?}");
        }
    }
}
