//! Building the table of one identity in one direction.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use hashbrown::HashMap;
use podgate_tables::ids::{PortNameId, RuleId};
use podgate_tables::l7::L7Rules;
use podgate_tables::policy::{Entry, PeerMatch, PortClasses, Rank, RuleTable, Tier};

use crate::key::ObjectKey;
use crate::rules::{PortNumbers, Rule};

/// A rule that applies, with its numbers.
pub(super) struct NumberedRule<'s> {
    pub(super) rule: &'s Rule,
    /// The order of rules: by policy, index of the rule set in it, index in the rule set.
    pub(super) order: (&'s ObjectKey, usize, usize),
    pub(super) id: RuleId,
    /// Who may be at the other end, any of them.
    pub(super) peers: &'s [PeerMatch],
}

/// An entry, and the protocol and ports that it can match.
struct PortEntry {
    entry: Entry,
    /// `None` is every protocol.
    protocol: Option<u8>,
    ports: RangeInclusive<u16>,
}

const ALL_PORTS: RangeInclusive<u16> = 0..=u16::MAX;

/// Builds the table, all but its default deny.
pub(super) fn build_direction<'s>(
    rules: impl Iterator<Item = NumberedRule<'s>>,
    port_name: impl Fn(&str) -> Option<PortNameId>,
) -> RuleTable {
    let mut rules: Vec<NumberedRule<'_>> = rules.collect();
    rules.sort_by_key(|rule| (rule.rule.precedence, rule.order));
    let ranks = ranks(&rules);
    let mut entries: Vec<PortEntry> = Vec::new();
    for (rule, rank) in rules.iter().zip(ranks) {
        add_entries(rule, rank, &port_name, &mut entries);
    }
    // Stable: rules of one rank and action stay in their order.
    entries.sort_by_key(|p| (p.entry.rank, p.entry.action));
    let protocols: BTreeSet<u8> = entries.iter().filter_map(|p| p.protocol).collect();
    let mut classes = Classes { entries: &entries, ids: HashMap::new(), built: Vec::new() };
    let everywhere: Vec<u32> = classes.of_protocol(None).map(|(index, _)| index).collect();
    let other = (!everywhere.is_empty()).then(|| classes.intern(everywhere));
    let protocols = protocols
        .into_iter()
        .map(|protocol| PortClasses { protocol, ranges: classes.ranges(protocol) })
        .collect();
    RuleTable { protocols, other, classes: classes.built, default_deny: None }
}

/// Ranks of rules in order: the Normal tier has one, and in the others each rule has its own.
fn ranks(rules: &[NumberedRule<'_>]) -> Vec<Rank> {
    let numbered = rules.iter().enumerate();
    numbered
        .map(|(order, rule)| match rule.rule.precedence.tier {
            Tier::Normal => Rank::NORMAL,
            tier => Rank { tier, order: order as u32 },
        })
        .collect()
}

/// Adds the entries of one rule: one for each peer and each element of its ports.
fn add_entries(
    rule: &NumberedRule<'_>,
    rank: Rank,
    port_name: &impl Fn(&str) -> Option<PortNameId>,
    entries: &mut Vec<PortEntry>,
) {
    let entry = |peer: &PeerMatch, port_name, l7: Option<&Arc<L7Rules>>| Entry {
        rank,
        action: rule.rule.action,
        peer: *peer,
        port_name,
        ports: Entry::ALL_PORTS,
        l7: l7.map(Arc::clone),
        rule: rule.id,
    };
    let Some(list) = &rule.rule.ports else {
        let everywhere =
            |peer| PortEntry { entry: entry(peer, None, None), protocol: None, ports: ALL_PORTS };
        return entries.extend(rule.peers.iter().map(everywhere));
    };
    for element in list {
        let (ports, name) = match &element.ports.ports {
            PortNumbers::All => (ALL_PORTS, None),
            PortNumbers::Range(range) => (range.clone(), None),
            // The number of the name depends on the pod, so the entry covers all ports.
            PortNumbers::Named(name) => match port_name(name) {
                Some(id) => (ALL_PORTS, Some(id)),
                None => continue,
            },
        };
        entries.extend(rule.peers.iter().map(|peer| PortEntry {
            entry: entry(peer, name, element.l7.as_ref()),
            protocol: Some(element.ports.protocol),
            ports: ports.clone(),
        }));
    }
}

/// Most entries that the classes of one protocol may have together. Classes of overlapping rules
/// can grow with the square of the rules; beyond this bound, one class for all ports is used.
const LISTED_MAX: usize = 1 << 16;

/// How many entries the ranges between these changes list together.
fn listed(changes: &BTreeMap<u16, (Vec<u32>, Vec<u32>)>) -> usize {
    let mut active = 0;
    let lists = changes.values().map(|(begin, end)| {
        active = active + begin.len() - end.len();
        active
    });
    lists.sum()
}

/// Distinct lists of entries.
struct Classes<'p> {
    entries: &'p [PortEntry],
    ids: HashMap<Vec<u32>, u32>,
    built: Vec<Arc<[Entry]>>,
}

impl Classes<'_> {
    /// Entries that can match packets of `protocol`, or of a protocol that no entry names.
    fn of_protocol(&self, protocol: Option<u8>) -> impl Iterator<Item = (u32, &PortEntry)> {
        let entries = self.entries.iter().enumerate();
        entries
            .filter(move |(_, p)| p.protocol.is_none() || p.protocol == protocol)
            .map(|(index, entry)| (index as u32, entry))
    }

    /// Cuts the ports of one protocol where the list of entries changes.
    fn ranges(&mut self, protocol: u8) -> Vec<(u16, u32)> {
        let mut changes: BTreeMap<u16, (Vec<u32>, Vec<u32>)> = BTreeMap::new();
        changes.entry(0).or_default();
        for (index, entry) in self.of_protocol(Some(protocol)) {
            changes.entry(*entry.ports.start()).or_default().0.push(index);
            if let Some(after) = entry.ports.end().checked_add(1) {
                changes.entry(after).or_default().1.push(index);
            }
        }
        if listed(&changes) > LISTED_MAX {
            return vec![(0, self.uncut(protocol))];
        }
        let mut ranges: Vec<(u16, u32)> = Vec::new();
        let mut active = BTreeSet::new();
        for (start, (begin, end)) in changes {
            active.extend(begin);
            for index in end {
                active.remove(&index);
            }
            let class = self.intern(active.iter().copied().collect());
            if ranges.last().is_none_or(|last| last.1 != class) {
                ranges.push((start, class));
            }
        }
        ranges
    }

    /// One class for all ports of a protocol, whose entries have their own port ranges.
    fn uncut(&mut self, protocol: u8) -> u32 {
        let with_ports = |(_, entry): (u32, &PortEntry)| Entry {
            ports: (*entry.ports.start(), *entry.ports.end()),
            ..entry.entry.clone()
        };
        let mut entries: Vec<Entry> = self.of_protocol(Some(protocol)).map(with_ports).collect();
        entries.dedup();
        self.built.push(entries.into());
        self.built.len() as u32 - 1
    }

    fn intern(&mut self, indices: Vec<u32>) -> u32 {
        let next = self.built.len() as u32;
        if let Some(id) = self.ids.get(&indices) {
            return *id;
        }
        let mut entries: Vec<Entry> =
            indices.iter().map(|index| self.entries[*index as usize].entry.clone()).collect();
        // Overlapping ports of one rule.
        entries.dedup();
        self.built.push(entries.into());
        self.ids.insert(indices, next);
        next
    }
}
