//! Networks as disjoint ranges of addresses.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;
use ipnet::IpNet;
use podgate_dataplane::policy::{NetworkRow, NetworkTable, SelectorId, SelectorSet};

use crate::rules::NetworkPeer;

/// A peer that begins or ends to match: its selector, and whether pods are covered.
type Claim = (SelectorId, bool);

/// What changes at an address: claims that begin, and claims that end.
type Changes = BTreeMap<u128, (Vec<Claim>, Vec<Claim>)>;

/// Builds the table of all networks that selectors name.
pub(super) fn build_networks<'s>(
    peers: impl Iterator<Item = (SelectorId, &'s NetworkPeer)>,
) -> NetworkTable {
    let (mut v4, mut v6) = (Changes::new(), Changes::new());
    for (selector, peer) in peers {
        let (changes, last) = match peer.network {
            IpNet::V4(_) => (&mut v4, u128::from(u32::MAX)),
            IpNet::V6(_) => (&mut v6, u128::MAX),
        };
        let claim = (selector, peer.covers == crate::rules::Covers::Everyone);
        for (start, end) in ranges(peer) {
            changes.entry(start).or_default().0.push(claim);
            if end != last {
                changes.entry(end + 1).or_default().1.push(claim);
            }
        }
    }
    let mut rows = Rows::default();
    let v4 = rows.sweep(v4).into_iter().map(|(start, row)| (start as u32, row)).collect();
    let v6 = rows.sweep(v6);
    NetworkTable::new(v4, v6, rows.rows)
}

/// First and last address of a network, as numbers.
fn bounds(network: &IpNet) -> (u128, u128) {
    match network {
        IpNet::V4(v4) => (v4.network().to_bits().into(), v4.broadcast().to_bits().into()),
        IpNet::V6(v6) => (v6.network().to_bits(), v6.broadcast().to_bits()),
    }
}

/// The network without its exceptions, as first and last addresses.
fn ranges(peer: &NetworkPeer) -> Vec<(u128, u128)> {
    let (mut next, last) = bounds(&peer.network);
    let mut ranges = Vec::new();
    let mut except: Vec<(u128, u128)> = peer.except.iter().map(bounds).collect();
    except.sort_unstable();
    for (first_out, last_out) in except {
        if first_out > next {
            ranges.push((next, first_out - 1));
        }
        if last_out >= last {
            return ranges;
        }
        next = next.max(last_out + 1);
    }
    ranges.push((next, last));
    ranges
}

/// Distinct rows.
#[derive(Default)]
struct Rows {
    rows: Vec<NetworkRow>,
    ids: HashMap<Vec<Claim>, u32>,
}

impl Rows {
    /// Walks the addresses in order and gives each stretch without a change its row.
    fn sweep(&mut self, mut changes: Changes) -> Vec<(u128, u32)> {
        changes.entry(0).or_default();
        let mut active: BTreeMap<Claim, u32> = BTreeMap::new();
        let mut stretches: Vec<(u128, u32)> = Vec::new();
        for (start, (begin, end)) in changes {
            for claim in begin {
                *active.entry(claim).or_default() += 1;
            }
            for claim in end {
                if let Some(count) = active.get_mut(&claim) {
                    *count -= 1;
                }
            }
            active.retain(|_, count| *count > 0);
            let row = self.intern(active.keys().copied().collect());
            if stretches.last().is_none_or(|last| last.1 != row) {
                stretches.push((start, row));
            }
        }
        stretches
    }

    fn intern(&mut self, claims: Vec<Claim>) -> u32 {
        let next = self.rows.len() as u32;
        if let Some(id) = self.ids.get(&claims) {
            return *id;
        }
        let selectors: BTreeSet<SelectorId> = claims.iter().map(|claim| claim.0).collect();
        let covering = claims.iter().filter(|claim| claim.1).map(|claim| claim.0);
        self.rows.push(NetworkRow {
            outside: SelectorSet::new(selectors),
            inside: SelectorSet::new(covering),
        });
        self.ids.insert(claims, next);
        next
    }
}
