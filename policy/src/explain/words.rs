//! L7 rules in words, and which of their fields a request does not match.

use podgate_tables::l7::rules::kafka::api_key_name;
use podgate_tables::l7::rules::{
    HeaderMatch, HttpRule, HttpRuleSpec, KafkaRule, KafkaRuleSpec, Mismatch,
};
use podgate_tables::l7::{HttpRequest, KafkaRequest, L7Request, L7Rules, RuleField};

/// Each rule in words: `GET /docs`, `topic orders`, `DNS name *.example.com`.
#[must_use]
pub fn l7_words(rules: &L7Rules) -> Vec<String> {
    match rules {
        L7Rules::Http(rules) => rules.iter().map(|rule| http(rule.spec())).collect(),
        L7Rules::Kafka(rules) => rules.iter().map(|rule| kafka(rule.spec())).collect(),
        L7Rules::Dns(names) => names.iter().map(|name| format!("DNS name {name}")).collect(),
        L7Rules::ServerNames(names) => {
            names.iter().map(|name| format!("server name {name}")).collect()
        }
    }
}

fn given(field: Option<&String>) -> Option<&str> {
    field.map(String::as_str).filter(|text| !text.is_empty())
}

fn http(spec: &HttpRuleSpec) -> String {
    let mut words: Vec<String> = Vec::new();
    words.extend(given(spec.method.as_ref()).map(str::to_owned));
    words.extend(given(spec.path.as_ref()).map(str::to_owned));
    words.extend(given(spec.host.as_ref()).map(|host| format!("host {host}")));
    words.extend(spec.headers.iter().map(|header| format!("header {header}")));
    let matches = spec.header_matches.iter().filter(|one| one.mismatch == Mismatch::Fail);
    words.extend(matches.map(|one| format!("header {}", header(&one.name, one.value.as_deref()))));
    in_words(&words)
}

fn header(name: &str, value: Option<&str>) -> String {
    match value.filter(|value| !value.is_empty()) {
        Some(value) => format!("{name}: {value}"),
        None => name.to_owned(),
    }
}

fn kafka(spec: &KafkaRuleSpec) -> String {
    let fields = [
        ("role", &spec.role),
        ("api", &spec.api_key),
        ("version", &spec.api_version),
        ("client", &spec.client_id),
        ("topic", &spec.topic),
    ];
    let words = fields.iter().filter_map(|(name, field)| Some((name, given(field.as_ref())?)));
    in_words(&words.map(|(name, text)| format!("{name} {text}")).collect::<Vec<_>>())
}

fn in_words(words: &[String]) -> String {
    if words.is_empty() { "any request".to_owned() } else { words.join(" ") }
}

/// For each rule, how many of its fields the request does not match, and why.
pub(super) fn why_not(request: &L7Request<'_>, rules: &L7Rules) -> Vec<(usize, String)> {
    let name_fails = |kind: &str, name: Option<&[u8]>, pattern: &dyn std::fmt::Display| {
        let reason = match name {
            Some(name) => format!("{kind} {} does not match {pattern}", text(name)),
            None => format!("no {kind}, but {pattern} is wanted"),
        };
        (1, reason)
    };
    let reasons: Vec<_> = match (rules, request) {
        (L7Rules::Http(rules), L7Request::Http(request)) => {
            rules.iter().map(|rule| http_fails(rule, request)).collect()
        }
        (L7Rules::Kafka(rules), L7Request::Kafka(request)) => {
            rules.iter().map(|rule| kafka_fails(rule, request)).collect()
        }
        (L7Rules::Dns(names), L7Request::Dns(name)) => {
            names.iter().map(|pattern| name_fails("DNS name", Some(name), pattern)).collect()
        }
        (L7Rules::ServerNames(names), L7Request::ServerName(name)) => {
            names.iter().map(|pattern| name_fails("server name", *name, pattern)).collect()
        }
        _ => vec![(FAR, format!("its L7 rules are for {}", rules.protocol()))],
    };
    match reasons.is_empty() {
        true => vec![(FAR, "its L7 rules allow no request".to_owned())],
        false => reasons,
    }
}

/// Distance of a rule that no change of a field would make match.
const FAR: usize = 100;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn http_fails(rule: &HttpRule, request: &HttpRequest<'_>) -> (usize, String) {
    let spec = rule.spec();
    let failing = rule.failed_fields(request);
    let pattern = |field: &Option<String>| field.clone().unwrap_or_default();
    let reasons = failing.iter().map(|field| match field {
        RuleField::Method if spec.method.is_none() => {
            "CONNECT needs a rule that names it".to_owned()
        }
        RuleField::Method => {
            format!("method {} does not match {}", text(request.method), pattern(&spec.method))
        }
        RuleField::Path if request.path.is_empty() => "a tunnel has no path".to_owned(),
        RuleField::Path if !request.path_is_normal => {
            format!(
                "path {} is not in normal form, as a rule with a path needs",
                text(request.path)
            )
        }
        RuleField::Path => {
            format!("path {} does not match {}", text(request.path), pattern(&spec.path))
        }
        RuleField::Host => {
            format!("host {} does not match {}", text(request.host), pattern(&spec.host))
        }
        RuleField::Header(index) => format!("needs header {}", spec.headers[*index]),
        RuleField::HeaderMatch(index) => {
            let HeaderMatch { name, value, .. } = &spec.header_matches[*index];
            format!("needs header {}", header(name, value.as_deref()))
        }
        other => format!("{other} does not match"),
    });
    (failing.len(), reasons.collect::<Vec<_>>().join("; "))
}

fn kafka_fails(rule: &KafkaRule, request: &KafkaRequest<'_>) -> (usize, String) {
    let spec = rule.spec();
    let failing = rule.failed_fields(request);
    let wanted = |field: &Option<String>| field.clone().unwrap_or_default();
    let api = api_key_name(request.api_key).map_or_else(|| request.api_key.to_string(), Into::into);
    let reasons = failing.iter().map(|field| match field {
        RuleField::Role => format!("API {api} is not of role {}", wanted(&spec.role)),
        RuleField::ApiKey => format!("API {api} is not {}", wanted(&spec.api_key)),
        RuleField::ApiVersion => {
            format!("version {} is not {}", request.api_version, wanted(&spec.api_version))
        }
        RuleField::ClientId => {
            let have = request.client_id.map_or_else(|| "no client".to_owned(), text);
            format!("{have} is not client {}", wanted(&spec.client_id))
        }
        RuleField::Topic => {
            let topics: Vec<_> = request.topics.iter().map(|topic| text(topic)).collect();
            format!("topic {} is not {}", topics.join(", "), wanted(&spec.topic))
        }
        other => format!("{other} does not match"),
    });
    (failing.len(), reasons.collect::<Vec<_>>().join("; "))
}
