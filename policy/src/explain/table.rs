//! The compiled table of one endpoint, row by row, with names.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use podgate_tables::address::Address;
use podgate_tables::policy::{Action, Entry, RuleTable, Tier};
use serde::{Deserialize, Serialize};

use super::direction::Effect;
use super::words::l7_words;
use crate::Compiled;
use crate::catalog::{Catalog, PeerName};
use crate::observe::{PolicyName, RuleName};
use crate::rules::{PortMatch, PortNumbers, TrafficDirection};

/// A row: one way in which a flow can be decided.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct TableRow {
    /// `egress` or `ingress`.
    pub direction: String,
    /// What happens to flows that match.
    pub effect: Effect,
    /// `admin`, `normal` or `baseline`; absent for the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Peers that the row matches, any of them; absent if it matches every peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<String>>,
    /// Ports; absent is any port of every protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<String>>,
    /// Requests pass by any of these; absent is no restriction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l7: Option<Vec<String>>,
    /// The rule behind the row; absent for the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleName>,
    /// The policies behind a default deny.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyName>,
}

/// The rows of the identity of the address, in the order of lookup: egress, then
/// ingress, the default where it applies.
#[must_use]
pub fn table_rows(compiled: &Compiled, address: Address) -> Vec<TableRow> {
    let identity = compiled.tables.resolve(address).identity;
    let directions = [
        (TrafficDirection::Egress, &identity.egress),
        (TrafficDirection::Ingress, &identity.ingress),
    ];
    let rows =
        directions.map(|(direction, table)| direction_rows(direction, table, &compiled.catalog));
    rows.concat()
}

fn direction_rows(
    direction: TrafficDirection,
    table: &RuleTable,
    catalog: &Catalog,
) -> Vec<TableRow> {
    let entries = distinct_entries(table);
    // The default of isolated endpoints comes before the tier Baseline, that of others after it.
    let tier_of_default = if table.default_deny.is_some() { Tier::Normal } else { Tier::Baseline };
    let before = entries.partition_point(|(entry, _)| entry.rank.tier <= tier_of_default);
    let row = |(entry, places): &(&Entry, Option<Vec<PortMatch>>)| {
        entry_row(direction, entry, places.as_deref(), catalog)
    };
    let (first, last) = entries.split_at(before);
    let default = std::iter::once(default_row(direction, table, catalog));
    first.iter().map(row).chain(default).chain(last.iter().map(row)).collect()
}

/// Each entry once, in order of precedence, with its ports: `None` is any port.
fn distinct_entries(table: &RuleTable) -> Vec<(&Entry, Option<Vec<PortMatch>>)> {
    let class = |index: u32| &*table.classes[index as usize];
    let everywhere = table.other.map_or(&[][..], class);
    let mut found: Vec<(&Entry, Option<Vec<PortMatch>>)> =
        everywhere.iter().map(|entry| (entry, None)).collect();
    let mut places: BTreeMap<usize, Vec<PortMatch>> = BTreeMap::new();
    let mut placed: Vec<&Entry> = Vec::new();
    for protocol in &table.protocols {
        let ends = protocol.ranges.iter().skip(1).map(|(start, _)| start - 1).chain([u16::MAX]);
        for ((start, index), end) in protocol.ranges.iter().zip(ends) {
            for entry in class(*index).iter().filter(|entry| !everywhere.contains(entry)) {
                let known = placed.iter().position(|other| *other == entry);
                let number = known.unwrap_or_else(|| {
                    placed.push(entry);
                    placed.len() - 1
                });
                let ports = places.entry(number).or_default();
                let (first, last) = entry.ports;
                extend(ports, protocol.protocol, first.max(*start)..=last.min(end));
            }
        }
    }
    let placed = placed.into_iter().zip(places.into_values());
    found.extend(placed.map(|(entry, ports)| (entry, Some(ports))));
    let order = |entry: &Entry| (entry.rank, entry.action, entry.rule, entry.peer);
    found.sort_by(|a, b| (order(a.0), &a.1).cmp(&(order(b.0), &b.1)));
    found
}

/// Adds a range, joining it with one that ends just before it.
fn extend(ports: &mut Vec<PortMatch>, protocol: u8, range: RangeInclusive<u16>) {
    if let Some(PortMatch { protocol: of, ports: PortNumbers::Range(last) }) = ports.last_mut()
        && *of == protocol
        && last.end().checked_add(1) == Some(*range.start())
    {
        *last = *last.start()..=*range.end();
        return;
    }
    ports.push(PortMatch { protocol, ports: PortNumbers::Range(range) });
}

fn entry_row(
    direction: TrafficDirection,
    entry: &Entry,
    places: Option<&[PortMatch]>,
    catalog: &Catalog,
) -> TableRow {
    let port = |place: &PortMatch| {
        let ports = match (entry.port_name, &place.ports) {
            (Some(name), _) => PortNumbers::Named(catalog.port_name(name).to_owned()),
            (None, PortNumbers::Range(range)) if *range == (0..=u16::MAX) => PortNumbers::All,
            (None, ports) => ports.clone(),
        };
        PortMatch { protocol: place.protocol, ports }.to_string()
    };
    let rule = catalog.rule(entry.rule).map(|origin| RuleName {
        policy: PolicyName::from(&*origin.key),
        path: origin.field.clone(),
    });
    TableRow {
        direction: direction.to_string(),
        effect: entry.action.into(),
        tier: Some(tier_name(entry.rank.tier).to_owned()),
        peers: peers(catalog.peer(entry.peer)),
        ports: places.map(|places| places.iter().map(port).collect()),
        l7: entry.l7.as_deref().map(l7_words),
        rule,
        policies: Vec::new(),
    }
}

fn peers(name: Option<PeerName<'_>>) -> Option<Vec<String>> {
    match name {
        Some(PeerName::Anyone) => None,
        Some(PeerName::Selector(selector)) => Some(vec![selector.to_string()]),
        Some(PeerName::Addresses(peers)) => Some(peers.iter().map(ToString::to_string).collect()),
        None => Some(Vec::new()),
    }
}

fn default_row(direction: TrafficDirection, table: &RuleTable, catalog: &Catalog) -> TableRow {
    let (action, policies) = match table.default_deny {
        Some(set) => (Action::Deny, catalog.deny_set(set)),
        None => (Action::Allow, &[][..]),
    };
    TableRow {
        direction: direction.to_string(),
        effect: action.into(),
        tier: None,
        peers: None,
        ports: None,
        l7: None,
        rule: None,
        policies: policies.iter().map(PolicyName::from).collect(),
    }
}

/// A tier as policies are shown.
#[must_use]
pub const fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::Admin => "admin",
        Tier::Normal => "normal",
        Tier::Baseline => "baseline",
    }
}
