//! How large the tables of one policy can become, so that none of them exhausts the compiler.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crate::fields::{FieldPath, Fix, Problem};
use crate::rules::{PeerSelector, PortNumbers, Rule, RuleSet, TrafficDirection};

/// Most table entries that one policy may need in one direction. An entry is one rule and peer in
/// one of the ranges that the policy's ports cut the port numbers into; for comparison, Cilium's
/// policy map holds 16384 entries of all policies of a pod (cilium `--bpf-policy-map-max`).
const ENTRIES_MAX: u64 = 100_000;

const ALL_PORTS: RangeInclusive<u16> = 0..=u16::MAX;

/// Rejects a policy whose tables would be too large.
pub(crate) fn check(sets: &[RuleSet]) -> Result<(), Problem> {
    for direction in TrafficDirection::ALL {
        let rules =
            sets.iter().flat_map(|set| &set.rules).filter(|rule| rule.direction == direction);
        let entries = entries(&rules.collect::<Vec<_>>());
        if entries > ENTRIES_MAX {
            let direction = match direction {
                TrafficDirection::Egress => "egress",
                TrafficDirection::Ingress => "ingress",
            };
            return Err(Problem {
                field: FieldPath::key("spec"),
                reason: format!(
                    "needs {entries} table entries for {direction} (one for each rule, peer and \
                     range of ports), at most {ENTRIES_MAX} fit"
                ),
                fix: Some(Fix::Text("join ports to ranges, or write several policies".to_owned())),
            });
        }
    }
    Ok(())
}

/// How many entries the rules need if one pod has them all.
fn entries(rules: &[&Rule]) -> u64 {
    let mut cuts: BTreeMap<u8, Vec<u16>> = BTreeMap::new();
    for (protocol, range) in rules.iter().flat_map(|rule| ports(rule)) {
        let of_protocol = cuts.entry(protocol).or_default();
        of_protocol.push(*range.start());
        of_protocol.extend(range.end().checked_add(1));
    }
    for cuts in cuts.values_mut() {
        cuts.push(0);
        cuts.sort_unstable();
        cuts.dedup();
    }
    // Each cut begins a range.
    let everywhere = 1 + cuts.values().map(Vec::len).sum::<usize>();
    let ranges_of = |rule: &Rule| match rule.ports {
        None => everywhere,
        Some(_) => ports(rule).map(|(protocol, range)| ranges_in(&cuts[&protocol], &range)).sum(),
    };
    rules.iter().map(|rule| peers(rule).saturating_mul(ranges_of(rule) as u64)).sum()
}

/// How many of the ranges that begin at `cuts` lie in `range`, whose own bounds are among the cuts.
fn ranges_in(cuts: &[u16], range: &RangeInclusive<u16>) -> usize {
    let (first, last) = (range.start(), range.end());
    cuts.partition_point(|cut| cut <= last) - cuts.partition_point(|cut| cut < first)
}

fn ports(rule: &Rule) -> impl Iterator<Item = (u8, RangeInclusive<u16>)> {
    rule.ports.iter().flatten().map(|element| {
        let range = match &element.ports.ports {
            PortNumbers::Range(range) => range.clone(),
            // A name may be any number.
            PortNumbers::All | PortNumbers::Named(_) => ALL_PORTS,
        };
        (element.ports.protocol, range)
    })
}

/// How many distinct peers the compiler counts: all networks of the same scope are one, and so are
/// those of a reference, such as to a service, even while its object does not exist.
fn peers(rule: &Rule) -> u64 {
    let Some(peers) = &rule.peers else { return 1 };
    let mut scope = BTreeSet::new();
    let counted = peers.iter().filter(|peer| match peer {
        PeerSelector::Network(network) => scope.insert(network.scope),
        _ => true,
    });
    (counted.count() as u64).max(1)
}
