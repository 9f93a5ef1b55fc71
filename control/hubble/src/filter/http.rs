//! Filters of requests and responses.

use super::{Tests, l7};
use crate::flow::event_type;
use crate::proto::flow::layer7::Record;
use crate::proto::flow::{Flow, FlowFilter, Http};

/// The tests of a filter's fields.
pub(super) fn tests(filter: &FlowFilter, tests: &mut Tests<'_>) -> Result<(), String> {
    let l7_fields = [
        ("http_status_code", filter.http_status_code.len()),
        ("http_method", filter.http_method.len()),
        ("http_path", filter.http_path.len()),
        ("http_url", filter.http_url.len()),
        ("http_header", filter.http_header.len()),
        ("dns_query", filter.dns_query.len()),
    ];
    let types = &filter.event_type;
    let l7_only = types.is_empty() || types.iter().any(|wanted| wanted.r#type == event_type::L7);
    for (field, _) in l7_fields.iter().filter(|(_, values)| *values > 0) {
        if !l7_only {
            return Err(format!("{field}: event_type must contain L7 events ({})", event_type::L7));
        }
    }
    tests.add_parsed("http_status_code", &filter.http_status_code, status, |flow, wanted| {
        http(flow).is_some_and(|http| http.code > 0 && wanted.contains(&http.code))
    })?;
    tests.add("http_method", &filter.http_method, |flow, method| {
        http(flow).is_some_and(|http| http.method.eq_ignore_ascii_case(method))
    })?;
    tests.add_patterns("http_path", &filter.http_path, |flow| Some(path(&request(flow)?.url)))?;
    tests.add_patterns("http_url", &filter.http_url, |flow| Some(&request(flow)?.url))?;
    tests.add("http_header", &filter.http_header, |flow, header| {
        http(flow).is_some_and(|http| http.headers.contains(header))
    })?;
    tests.add_patterns("dns_query", &filter.dns_query, |flow| match l7(flow)? {
        Record::Dns(dns) => Some(&dns.query),
        _ => None,
    })
}

/// Status codes: one, or all that begin with a digit or two.
fn status(text: &str) -> Result<std::ops::Range<u32>, String> {
    let wrong = || "is neither a status code nor its first digits with a plus, such as 4+";
    let (digits, scale) = match text.strip_suffix('+') {
        Some(prefix) if prefix.len() == 1 => (prefix, 100),
        Some(prefix) if prefix.len() == 2 => (prefix, 10),
        None if text.len() == 3 => (text, 1),
        _ => return Err(wrong().to_owned()),
    };
    let number: u32 = digits.parse().map_err(|_| wrong())?;
    let range = number * scale..(number + 1) * scale;
    ((100..600).contains(&range.start)).then_some(range).ok_or_else(|| wrong().to_owned())
}

fn http(flow: &Flow) -> Option<&Http> {
    match l7(flow)? {
        Record::Http(http) => Some(http),
        _ => None,
    }
}

/// An HTTP flow that names its URL.
fn request(flow: &Flow) -> Option<&Http> {
    http(flow).filter(|http| !http.url.is_empty())
}

/// The path of a URL, without the query.
fn path(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.find('/').map_or("", |at| &rest[at..]);
    path.split(['?', '#']).next().unwrap_or_default()
}
