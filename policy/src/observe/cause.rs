//! What decided a flow, in words.

use podgate_tables::ids::RuleId;
use podgate_tables::policy::{Cause, Exemption};

use super::names::{PolicyName, RuleName};
use crate::compile::Compiled;

/// What decided a direction of a flow, in words, by the tables that decided it:
/// `denied by NetworkPolicy shop/web spec.ingress[0]`.
#[must_use]
pub fn cause_words(cause: Cause, compiled: &Compiled) -> String {
    let rule = |rule| rule_name(rule, compiled).in_full();
    match cause {
        Cause::Allowed(by) => format!("allowed by {}", rule(by)),
        Cause::Denied(by) => format!("denied by {}", rule(by)),
        Cause::Conflicting(by) => {
            format!("denied by L7 rules of different protocols, among them {}", rule(by))
        }
        Cause::DefaultDeny(set) => {
            let policies = compiled.catalog.deny_set(set).iter().map(PolicyName::from);
            let policies: Vec<_> = policies.map(|policy| policy.in_full()).collect();
            match policies.is_empty() {
                true => "denied by default".to_owned(),
                false => {
                    format!("denied by default, as no rule of {} matches", policies.join(", "))
                }
            }
        }
        Cause::Unenforced => "allowed, as no policy selects the pod".to_owned(),
        Cause::Exempt(Exemption::FromNode | Exemption::ToNode) => {
            "allowed between the node and its pod".to_owned()
        }
        Cause::Exempt(Exemption::ToSelf) => "allowed from the pod to itself".to_owned(),
        Cause::Exempt(Exemption::NotLocal) => "decided elsewhere".to_owned(),
    }
}

/// The name of a rule, by the tables that it is of.
#[must_use]
pub fn rule_name(rule: RuleId, compiled: &Compiled) -> RuleName {
    match compiled.catalog.rule(rule) {
        Some(origin) => {
            RuleName { policy: PolicyName::from(&*origin.key), path: origin.field.clone() }
        }
        None => {
            let policy = PolicyName {
                kind: "unknown".into(),
                namespace: None,
                name: format!("rule {}", rule.0),
            };
            RuleName { policy, path: String::new() }
        }
    }
}
