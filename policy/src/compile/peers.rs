//! Numbers for the peers of rules, and what they match.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use podgate_tables::ids::SelectorId;
use podgate_tables::l7::NamePattern;
use podgate_tables::policy::{AddressScope, AddressSet, PeerMatch, SelectorSet};

use super::identities::{Identities, asks_namespace};
use super::index::SelectorIndex;
use super::interner::Interner;
use super::names::FqdnPatterns;
use super::table_builder::TableBuilder;
use crate::labels::LabelContext;
use crate::rules::{self, NetworkPeer};
use crate::selector::Selector;
use crate::store::Store;

/// What an address set is made from.
///
/// The networks of a rule have one number together, because there can be many in one rule.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum AddressSource {
    /// Networks that cover the same addresses.
    Networks(Arc<[NetworkPeer]>),
    /// A DNS name or a pattern of names.
    Name(NamePattern),
}

/// Distinct peers.
#[derive(Debug, Default)]
pub(super) struct Peers {
    selectors: Interner<Selector>,
    /// Selectors with conditions on the namespace only.
    of_namespaces: SelectorIndex,
    /// The others.
    of_identities: SelectorIndex,
    sources: Interner<AddressSource>,
    /// Those of the sources that are names, by the same numbers.
    names: FqdnPatterns,
}

/// Whether all pods of a namespace, or none, match.
fn is_for_namespaces(selector: &Selector) -> bool {
    selector.conditions().iter().all(|condition| asks_namespace(&condition.key))
}

impl Peers {
    /// The numbers of a rule's peers, for one more user of them. Identities whose selectors change
    /// are marked dirty.
    pub(super) fn acquire(
        &mut self,
        peers: Option<&[rules::PeerSelector]>,
        identities: &mut Identities,
        builder: &mut TableBuilder,
    ) -> Vec<PeerMatch> {
        let Some(peers) = peers else { return vec![PeerMatch::Any] };
        let mut numbers = Vec::new();
        let mut networks: BTreeMap<AddressScope, Vec<NetworkPeer>> = BTreeMap::new();
        for peer in peers {
            match peer {
                rules::PeerSelector::Labels(selector) => {
                    numbers.push(self.acquire_selector(selector, identities, builder));
                }
                rules::PeerSelector::Network(network) => {
                    networks.entry(network.scope).or_default().push(network.clone());
                }
                rules::PeerSelector::Name(pattern) => {
                    numbers.push(
                        self.acquire_address_source(&AddressSource::Name(pattern.clone()), builder),
                    );
                }
            }
        }
        for networks in networks.into_values() {
            numbers.push(
                self.acquire_address_source(&AddressSource::Networks(networks.into()), builder),
            );
        }
        numbers
    }

    fn acquire_selector(
        &mut self,
        selector: &Selector,
        identities: &mut Identities,
        builder: &mut TableBuilder,
    ) -> PeerMatch {
        let (id, is_new) = self.selectors.acquire(selector);
        let number = SelectorId(id);
        if is_for_namespaces(selector) {
            if is_new {
                builder.name_selector(number, Some(selector));
                self.of_namespaces.insert(id, selector);
                for row in identities.namespaces_matching(selector) {
                    builder.change_namespace(row, |set| set.with(number));
                }
            }
            return PeerMatch::Namespaces(number);
        }
        if is_new {
            builder.name_selector(number, Some(selector));
            self.of_identities.insert(id, selector);
            for identity in identities.matching(selector) {
                builder.dirty.insert(identity);
                if let Some(identity) = identities.get_mut(identity) {
                    identity.selectors = identity.selectors.with(number);
                }
            }
        }
        PeerMatch::Labels(number)
    }

    fn acquire_address_source(
        &mut self,
        source: &AddressSource,
        builder: &mut TableBuilder,
    ) -> PeerMatch {
        let (id, is_new) = self.sources.acquire(source);
        if is_new {
            let (peers, addresses) = match source {
                AddressSource::Networks(networks) => {
                    let peers = networks.iter().cloned().map(rules::PeerSelector::Network);
                    (peers.collect(), addresses_of(networks))
                }
                AddressSource::Name(pattern) => {
                    let addresses = self.names.add_pattern(id, pattern);
                    ([rules::PeerSelector::Name(pattern.clone())].into(), addresses)
                }
            };
            builder.set_addresses(SelectorId(id), peers, addresses);
        }
        PeerMatch::Addresses(SelectorId(id))
    }

    /// One user of a rule's peers less.
    pub(super) fn release(
        &mut self,
        peers: &[PeerMatch],
        identities: &mut Identities,
        builder: &mut TableBuilder,
    ) {
        for peer in peers {
            match *peer {
                PeerMatch::Any => {}
                PeerMatch::Namespaces(number) => {
                    let Some(selector) = self.selectors.release(number.0) else { continue };
                    builder.name_selector(number, None);
                    self.of_namespaces.remove(number.0);
                    for row in identities.namespaces_matching(&selector) {
                        builder.change_namespace(row, |set| set.without(number));
                    }
                }
                PeerMatch::Labels(number) => {
                    let Some(selector) = self.selectors.release(number.0) else { continue };
                    builder.name_selector(number, None);
                    self.of_identities.remove(number.0);
                    for identity in identities.matching(&selector) {
                        builder.dirty.insert(identity);
                        if let Some(identity) = identities.get_mut(identity) {
                            identity.selectors = identity.selectors.without(number);
                        }
                    }
                }
                PeerMatch::Addresses(number) => {
                    if self.sources.release(number.0).is_some() {
                        self.names.remove_pattern(number.0);
                        builder.set_addresses(number, Arc::default(), AddressSet::default());
                    }
                }
            }
        }
    }

    /// The selectors that match an identity.
    pub(super) fn of_identity(&self, label_context: &LabelContext) -> SelectorSet {
        matching(&self.of_identities, label_context)
    }

    /// The selectors that match all pods of a namespace.
    pub(super) fn of_namespace(&self, label_context: &LabelContext) -> SelectorSet {
        matching(&self.of_namespaces, label_context)
    }

    /// Brings up to date the patterns that match one of `names`; all patterns if `names` is `None`.
    pub(super) fn update_names(
        &mut self,
        names: Option<BTreeSet<Arc<str>>>,
        store: &Store,
        builder: &mut TableBuilder,
    ) {
        for (number, set) in self.names.update(names, store) {
            builder.change_addresses(SelectorId(number), set);
        }
    }

    /// Whether a rule matches the DNS name, which is in lower case without a trailing dot.
    pub(super) fn is_wanted(&self, name: &str) -> bool {
        self.names.is_wanted(name)
    }
}

fn matching(index: &SelectorIndex, label_context: &LabelContext) -> SelectorSet {
    SelectorSet::new(index.matching(label_context).into_iter().map(SelectorId))
}

fn addresses_of(networks: &[NetworkPeer]) -> AddressSet {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (range, peer) in networks.iter().flat_map(|peer| ranges(peer).map(move |r| (r, peer))) {
        match peer.network {
            IpNet::V4(_) => v4.push((range.0 as u32, range.1 as u32)),
            IpNet::V6(_) => v6.push(range),
        }
    }
    let scope = networks.first().map_or(AddressScope::World, |peer| peer.scope);
    AddressSet::new(scope, v4, v6)
}

/// First and last address of a network, as numbers.
fn bounds(network: &IpNet) -> (u128, u128) {
    match network {
        IpNet::V4(v4) => (v4.network().to_bits().into(), v4.broadcast().to_bits().into()),
        IpNet::V6(v6) => (v6.network().to_bits(), v6.broadcast().to_bits()),
    }
}

/// The network without its exceptions, as first and last addresses.
fn ranges(peer: &NetworkPeer) -> std::vec::IntoIter<(u128, u128)> {
    let (mut next, last) = bounds(&peer.network);
    let mut ranges = Vec::new();
    let mut except: Vec<(u128, u128)> = peer.except.iter().map(bounds).collect();
    except.sort_unstable();
    for (first_out, last_out) in except {
        if first_out > next {
            ranges.push((next, first_out - 1));
        }
        if last_out >= last {
            return ranges.into_iter();
        }
        next = next.max(last_out + 1);
    }
    ranges.push((next, last));
    ranges.into_iter()
}
