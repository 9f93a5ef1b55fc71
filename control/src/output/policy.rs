//! Policies for people.

use std::fmt::Write as _;

use podgate_policy::explain::Effect;

use super::{escape, or_dash, row, table};
use crate::protocol::{PolicyDetail, PolicyList, PolicyWaited, PortsDetail, RuleDetail};

/// `podgate policy list`.
#[must_use]
pub(crate) fn policies(list: &PolicyList) -> String {
    let heading = row(&["KIND", "NAMESPACE", "NAME", "STATE", "PODS"]);
    let rows = list.policies.iter().map(|policy| {
        vec![
            policy.kind.clone(),
            or_dash(policy.namespace.as_deref()),
            policy.name.clone(),
            policy.state.to_string(),
            policy.pods.to_string(),
        ]
    });
    let mut text = table(std::iter::once(heading).chain(rows));
    if !list.refused.is_empty() {
        text.push_str("\nREFUSED\n");
    }
    for refused in &list.refused {
        let _ = writeln!(text, "{}", escape(&refused.to_string()));
    }
    text
}

/// `podgate policy get`.
#[must_use]
pub(crate) fn policy_details(policies: &[PolicyDetail]) -> String {
    if policies.is_empty() {
        return "there is no policy\n".into();
    }
    policies.iter().map(policy_detail).collect::<Vec<_>>().join("\n")
}

fn policy_detail(policy: &PolicyDetail) -> String {
    let status = &policy.status;
    let name = match &status.namespace {
        Some(namespace) => format!("{namespace}/{}", status.name),
        None => status.name.clone(),
    };
    let mut lines = vec![format!("{} {name}: {}", status.kind, status.state)];
    lines.extend(policy.refused.iter().map(|refused| format!("  refused: {refused}")));
    for spec in &policy.specs {
        lines.push(format!("  selects {}", spec.subject));
        if !spec.isolates.is_empty() {
            let directions = spec.isolates.join(" and ");
            lines.push(format!("  denies {directions} that no rule allows"));
        }
        for rule in &spec.rules {
            lines.extend(rule_lines(rule));
        }
    }
    let selected = match policy.selected.len() {
        0 => "none".to_owned(),
        count if count <= NAMES_MAX => policy.selected.join(", "),
        count => format!("{count}: {}, ...", policy.selected[..NAMES_MAX].join(", ")),
    };
    lines.push(format!("  pods: {selected}"));
    lines.iter().map(|line| escape(line) + "\n").collect()
}

/// Pods that are named of a policy; `-o json` has all.
const NAMES_MAX: usize = 10;

fn rule_lines(rule: &RuleDetail) -> Vec<String> {
    let way = if rule.direction == "ingress" { "from" } else { "to" };
    let rank = match rule.tier.as_str() {
        "normal" => String::new(),
        tier => format!(" (tier {tier}, priority {})", rule.priority),
    };
    let mut lines = vec![format!("  {} {}{rank}", rule.path, effect(rule.effect))];
    match &rule.peers {
        None => lines.push(format!("    {way} anyone")),
        Some(peers) if peers.is_empty() => lines.push(format!("    {way} nobody")),
        Some(peers) => lines.extend(peers.iter().map(|peer| format!("    {way} {peer}"))),
    }
    match &rule.ports {
        None => lines.push("    on any port".to_owned()),
        Some(ports) if ports.is_empty() => lines.push("    on no port".to_owned()),
        Some(ports) => lines.extend(ports.iter().flat_map(ports_lines)),
    }
    lines
}

fn ports_lines(ports: &PortsDetail) -> Vec<String> {
    let mut lines = vec![format!("    on {}", ports.ports)];
    lines.extend(ports.l7.iter().flatten().map(|rule| format!("      {rule}")));
    lines
}

pub(super) const fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::Allows => "allows",
        Effect::Denies => "denies",
        Effect::Passes => "passes on",
    }
}

/// `podgate policy wait`.
#[must_use]
pub(crate) fn waited(waited: &PolicyWaited) -> String {
    match waited.in_force {
        true => format!("revision {} is in force\n", waited.revision),
        false => format!("only revision {} is in force\n", waited.revision),
    }
}
