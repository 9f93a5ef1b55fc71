//! Policies for people.

use std::fmt::Write as _;

use podgate_api::{EndpointTable, PolicyDetail, PolicyList, PolicyWaited, PortsDetail, RuleDetail};
use podgate_policy::explain::{Effect, SelectorInfo};
use podgate_policy::observe::PolicyName;

use super::{escape, or_dash, row, table};

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
    let _ = writeln!(text, "\nepoch {}", list.epoch);
    if !list.rejected.is_empty() {
        text.push_str("\nREJECTED\n");
    }
    for rejected in &list.rejected {
        let _ = writeln!(text, "{}", escape(&rejected.to_string()));
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
    lines.extend(policy.rejected.iter().map(|rejected| format!("  rejected: {rejected}")));
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

/// Most pods of a policy that are named; `-o json` has all.
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
        Some(peers) if peers.is_empty() => lines.push(format!("    {way} no peer")),
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

/// `podgate policy selectors`.
#[must_use]
pub(crate) fn selectors(selectors: &[SelectorInfo]) -> String {
    let heading = row(&["SELECTOR", "RULES", "IDENTITIES", "PODS", "ADDRESSES"]);
    let rows = selectors.iter().map(|info| {
        let count = |count: Option<usize>| or_dash(count.map(|c| c.to_string()).as_deref());
        vec![
            shortened(&info.selector),
            info.rules.to_string(),
            count(info.identities),
            count(info.pods),
            or_dash(Some(&shortened(&info.addresses))),
        ]
    });
    table(std::iter::once(heading).chain(rows))
}

/// `podgate table policy get`.
#[must_use]
pub(crate) fn endpoint_table(endpoint: &EndpointTable) -> String {
    let EndpointTable { pod, link, identity, epoch, .. } = endpoint;
    let head = format!("{pod} on link {link}, identity {identity}, epoch {epoch}");
    let heading = row(&["DIRECTION", "ACTION", "TIER", "PEER", "PORTS", "L7", "BY"]);
    let rows = endpoint.rows.iter().map(|entry| {
        let list = |list: &Option<Vec<String>>, none: &str| match list.as_deref() {
            None => none.to_owned(),
            Some(list) => shortened(list),
        };
        let by = match &entry.rule {
            Some(rule) => rule.in_full(),
            None if entry.policies.is_empty() => "default".to_owned(),
            None => {
                let names: Vec<_> = entry.policies.iter().map(PolicyName::in_full).collect();
                format!("default deny by {}", names.join(", "))
            }
        };
        vec![
            entry.direction.clone(),
            effect(entry.effect).to_owned(),
            or_dash(entry.tier.as_deref()),
            list(&entry.peers, "anyone"),
            list(&entry.ports, "any"),
            list(&entry.l7, "-"),
            by,
        ]
    });
    escape(&head) + "\n\n" + &table(std::iter::once(heading).chain(rows))
}

/// Elements of a list that are shown in a table; `-o json` has all.
const SHOWN_MAX: usize = 4;

fn shortened(list: &[impl ToString]) -> String {
    let mut shown: Vec<_> = list.iter().take(SHOWN_MAX).map(ToString::to_string).collect();
    if list.len() > SHOWN_MAX {
        shown.push(format!("and {} more", list.len() - SHOWN_MAX));
    }
    shown.join(" | ")
}

/// `podgate policy wait`.
#[must_use]
pub(crate) fn waited(waited: &PolicyWaited) -> String {
    match waited.in_force {
        true => format!("epoch {} is in force\n", waited.epoch),
        false => format!("only epoch {} is in force\n", waited.epoch),
    }
}
