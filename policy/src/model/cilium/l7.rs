//! L7 rules of Cilium policies
//! (cilium `pkg/policy/api/{l4,http,kafka,fqdn,rule_validation}.go`).

use podgate_tables::l7::{
    HeaderMatch, HttpRule, HttpRuleSpec, KafkaRule, KafkaRuleSpec, L7Protocol, L7Rules, Mismatch,
    NamePattern, RuleError,
};
use podgate_tables::proto;

use super::RuleSection;
use crate::fields::{Field, Object};
use crate::model::names::{parse_name_match, parse_pattern};
use crate::rules::{PortMatch, PortNumbers};

const NOT_GENERIC: &str =
    "rules for protocol plug-ins were removed from Cilium in 1.20 and are not enforced";

/// The L7 rules of an element of `toPorts`.
pub(super) enum ElementL7 {
    /// The element has none: requests are not restricted.
    Unrestricted,
    /// Requests must match one of these.
    Rules(L7Rules),
    /// They can't be enforced; the reason was recorded.
    Rejected,
}

impl ElementL7 {
    fn from_parsed(rules: Option<L7Rules>) -> Self {
        rules.map_or(Self::Rejected, Self::Rules)
    }
}

/// Takes `rules` and `serverNames` from an element of `toPorts`. Removes from `ports`, those of the
/// element, the ones that its rules exclude.
pub(super) fn parse_l7(
    element: &Field<'_>,
    object: &mut Object<'_>,
    section: RuleSection,
    ports: &mut Vec<PortMatch>,
) -> ElementL7 {
    let (rules, names) = (object.take("rules"), object.take("serverNames"));
    let rules = match &rules {
        Some(field) => parse_rules(field, section, ports),
        None => ElementL7::Unrestricted,
    };
    let Some(names) = names else { return rules };
    if matches!(rules, ElementL7::Rules(_)) {
        names.reject("can't be combined with L7 rules, because TLS is not terminated");
    }
    let patterns = not_empty(&names, |name| parse_pattern(name, NamePattern::server_name));
    if patterns.is_some() {
        needs_tcp(element, ports, L7Protocol::Tls);
    }
    ElementL7::from_parsed(patterns.map(L7Rules::ServerNames))
}

/// Parses `rules`.
fn parse_rules(field: &Field<'_>, section: RuleSection, ports: &mut Vec<PortMatch>) -> ElementL7 {
    let Some(mut object) = field.object() else { return ElementL7::Rejected };
    object.reject_fields(&[("l7proto", NOT_GENERIC), ("l7", NOT_GENERIC)]);
    let (http, kafka) = (object.take("http"), object.take("kafka"));
    let dns = object.take("dns");
    object.finish();
    if [&http, &kafka, &dns].into_iter().flatten().count() > 1 {
        field.reject_with_fix("names more than one L7 protocol", "write one element for each");
        return ElementL7::Rejected;
    }
    let rules = if let Some(list) = http {
        not_empty(&list, parse_http_rule).map(L7Rules::http)
    } else if let Some(list) = kafka {
        not_empty(&list, parse_kafka_rule).map(L7Rules::Kafka)
    } else if let Some(list) = dns {
        if section == RuleSection::Ingress {
            list.reject("DNS rules are for egress only");
        }
        let names = not_empty(&list, parse_name_match);
        if names.is_some() {
            check_dns_ports(field, ports);
        }
        names.map(L7Rules::Dns)
    } else {
        return ElementL7::Unrestricted;
    };
    let Some(rules) = rules else { return ElementL7::Rejected };
    if rules.protocol() != L7Protocol::Dns {
        needs_tcp(field, ports, rules.protocol());
    }
    if ports.iter().any(|port| port.ports == PortNumbers::All) {
        field.reject_with_fix("L7 rules can't be combined with port 0", "list the ports");
    }
    ElementL7::Rules(rules)
}

/// Reads a list of rules, which must have some.
fn not_empty<T>(field: &Field<'_>, read: impl FnMut(&Field<'_>) -> Option<T>) -> Option<Vec<T>> {
    if field.is_empty_list() {
        field.reject("an empty list doesn't say what may pass");
    }
    field.list(read)
}

fn needs_tcp(field: &Field<'_>, ports: &[PortMatch], protocol: L7Protocol) {
    if ports.iter().any(|port| port.protocol != proto::TCP) {
        field.reject_with_fix(
            format!(
                "{protocol} rules need TCP, but a port of this element has another protocol or ANY"
            ),
            format!("give what speaks {protocol} an element of its own, with protocol: TCP"),
        );
    }
}

/// DNS is spoken over TCP and UDP: of ANY, SCTP is left out.
fn check_dns_ports(field: &Field<'_>, ports: &mut Vec<PortMatch>) {
    if ports.is_empty() {
        field.reject_with_fix("DNS rules need a port", "list port \"53\"");
    }
    let is_range = |ports: &PortNumbers| matches!(ports, PortNumbers::Range(range) if range.start() != range.end());
    if ports.iter().any(|port| is_range(&port.ports)) {
        field
            .reject_with_fix("DNS rules can't be combined with a range of ports", "list the ports");
    }
    let speaks_dns = |port: &PortMatch| matches!(port.protocol, proto::TCP | proto::UDP);
    let (dns, others): (Vec<_>, Vec<_>) = ports.drain(..).partition(speaks_dns);
    let is_any = |port: &PortMatch| dns.iter().any(|other| other.ports == port.ports);
    if !others.iter().all(is_any) {
        field.reject("DNS rules need TCP, UDP or ANY");
    }
    *ports = dns;
}

fn parse_http_rule(field: &Field<'_>) -> Option<HttpRule> {
    let mut object = field.object()?;
    let mut pattern = |name| object.take(name)?.string().map(str::to_owned);
    let (method, path, host) = (pattern("method"), pattern("path"), pattern("host"));
    let headers = object.take("headers");
    let headers = headers.and_then(|list| list.list(|field| field.string().map(str::to_owned)));
    let header_matches =
        object.take("headerMatches").and_then(|list| list.list(parse_header_match));
    object.finish();
    let (headers, header_matches) =
        (headers.unwrap_or_default(), header_matches.unwrap_or_default());
    let spec = HttpRuleSpec { method, path, host, headers, header_matches };
    compiled(field, HttpRule::with_budget(&mut field.pattern_budget(), spec))
}

fn parse_header_match(field: &Field<'_>) -> Option<HeaderMatch> {
    let mut object = field.object()?;
    let (name, value) = (object.take("name"), object.take("value"));
    let mismatch = object.take("mismatch");
    object.reject_fields(&[("secret", "secrets are not read")]);
    object.finish();
    let mismatch = match mismatch {
        Some(field) if field.value() == "LOG" => Mismatch::Log,
        // Cilium takes an empty text for the default: the rule does not match.
        Some(field) if field.value() != "" => {
            field.reject(
                "is not enforced: requests pass or are denied as they are, and are never changed",
            );
            Mismatch::Fail
        }
        _ => Mismatch::Fail,
    };
    let Some(name) = name else {
        field.reject("has no name");
        return None;
    };
    let value = match &value {
        Some(value) => Some(value.string()?.to_owned()),
        None => None,
    };
    Some(HeaderMatch { name: name.string()?.to_owned(), value, mismatch })
}

fn parse_kafka_rule(field: &Field<'_>) -> Option<KafkaRule> {
    let mut object = field.object()?;
    let mut text = |name| object.take(name)?.string().map(str::to_owned);
    let spec = KafkaRuleSpec {
        role: text("role"),
        api_key: text("apiKey"),
        api_version: text("apiVersion"),
        client_id: text("clientID"),
        topic: text("topic"),
    };
    object.finish();
    compiled(field, KafkaRule::new(spec))
}

fn compiled<T>(field: &Field<'_>, rule: Result<T, RuleError>) -> Option<T> {
    match rule {
        Ok(rule) => Some(rule),
        Err(error) => {
            field.reject_below(&error.field.to_string(), error.reason);
            None
        }
    }
}
