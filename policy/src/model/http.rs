//! `rules.http` of Cilium policies (cilium `pkg/policy/api/http.go`).

use std::sync::Arc;

use podgate_dataplane::l7::{HttpRule, HttpRuleSpec, L7Rules};

use crate::fields::Field;

/// The elements of one `rules.http`.
#[derive(Clone, PartialEq, Debug)]
pub struct HttpRules {
    /// As written. Never empty.
    pub specs: Vec<HttpRuleSpec>,
    /// What requests are held against.
    pub compiled: Arc<L7Rules>,
}

impl HttpRules {
    pub(super) fn parse(field: &Field<'_>) -> Option<Self> {
        let rules = field.list(parse_rule)?;
        if field.is_empty_list() {
            field.refuse_with_fix(
                "an empty list neither allows nor denies requests",
                "write [{}] to allow every request, or leave out rules",
            );
        }
        let specs = rules.iter().map(|rule| rule.spec().clone()).collect();
        Some(Self { specs, compiled: Arc::new(L7Rules::http(rules)) })
    }
}

fn parse_rule(field: &Field<'_>) -> Option<HttpRule> {
    let mut object = field.object()?;
    object.refuse_fields(&[("headerMatches", "matches with actions are not enforced yet")]);
    let mut pattern = |name| object.take(name)?.string().map(str::to_owned);
    let (method, path, host) = (pattern("method"), pattern("path"), pattern("host"));
    let headers = match object.take("headers") {
        Some(field) => field.list(|field| field.string().map(str::to_owned))?,
        None => Vec::new(),
    };
    object.finish();
    match HttpRule::new(HttpRuleSpec { method, path, host, headers, ..HttpRuleSpec::default() }) {
        Ok(rule) => Some(rule),
        Err(error) => {
            field.refuse_below(&error.field.to_string(), error.reason);
            None
        }
    }
}
