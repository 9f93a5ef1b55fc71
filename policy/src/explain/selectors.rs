//! The distinct selectors of all rules, how many rules use them, and what they match.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hashbrown::HashMap;
use podgate_tables::address::Address;
use podgate_tables::ids::SelectorId;
use podgate_tables::policy::PolicyTables;
use serde::{Deserialize, Serialize};

use crate::rules::{AddressScope, PeerSelector};
use crate::selector::Selector;
use crate::{Compiled, Store};

/// One distinct peer by labels, or one distinct list of networks and DNS names.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct SelectorInfo {
    /// The selector in words; several for a list of networks and names.
    pub selector: Vec<String>,
    /// Rules that use it.
    pub rules: usize,
    /// Identities that it matches; absent for networks and names, which match addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identities: Option<usize>,
    /// Pods that it matches; absent for networks and names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<usize>,
    /// Addresses that its DNS names resolve to now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// All selectors of peers in the rules in force, in the order of their text.
///
/// `compiled` must be compiled from `store` as it is now.
#[must_use]
pub fn selectors(store: &Store, compiled: &Compiled) -> Vec<SelectorInfo> {
    let users = Users::of(store);
    let matches = Matches::of(store, &compiled.tables);
    let catalog = &compiled.catalog;
    let by_labels = catalog.selectors.iter().filter_map(|(id, selector)| {
        let selector = selector.as_deref()?;
        let (identities, pods) = matches.of_selector(SelectorId(id));
        Some(SelectorInfo {
            selector: vec![selector.to_string()],
            rules: users.of_labels.get(selector).copied()?,
            identities: Some(identities),
            pods: Some(pods),
            addresses: Vec::new(),
        })
    });
    let by_address = catalog.address_sets.iter().filter_map(|(_, peers)| {
        Some(SelectorInfo {
            selector: peers.iter().map(ToString::to_string).collect(),
            rules: users.of_addresses.get(&**peers).copied()?,
            identities: None,
            pods: None,
            addresses: learned(peers, store),
        })
    });
    let mut all: Vec<_> = by_labels.chain(by_address).collect();
    all.sort_by(|a, b| a.selector.cmp(&b.selector));
    all
}

fn learned(peers: &[PeerSelector], store: &Store) -> Vec<IpAddr> {
    let patterns = peers.iter().filter_map(|peer| match peer {
        PeerSelector::Name(pattern) => Some(pattern),
        PeerSelector::Labels(_) | PeerSelector::Network(_) => None,
    });
    let patterns: Vec<_> = patterns.collect();
    let named = |name: &str| patterns.iter().any(|pattern| pattern.matches(name.as_bytes()));
    let learned = store.learned().filter(|(name, _)| named(name));
    let addresses: BTreeSet<IpAddr> = learned.flat_map(|(_, all)| all.iter()).copied().collect();
    addresses.into_iter().collect()
}

/// How many rules use each selector.
struct Users<'s> {
    of_labels: HashMap<&'s Selector, usize>,
    of_addresses: HashMap<Vec<PeerSelector>, usize>,
}

impl<'s> Users<'s> {
    fn of(store: &'s Store) -> Self {
        let mut users = Self { of_labels: HashMap::new(), of_addresses: HashMap::new() };
        let sets = store.all_rule_sets().flat_map(|(_, sets)| sets);
        for peers in sets.flat_map(|set| &set.rules).filter_map(|rule| rule.peers.as_ref()) {
            for peer in peers {
                match peer {
                    PeerSelector::Labels(selector) => {
                        *users.of_labels.entry(selector).or_default() += 1;
                    }
                    PeerSelector::Name(_) => {
                        *users.of_addresses.entry(vec![peer.clone()]).or_default() += 1;
                    }
                    PeerSelector::Network(_) => {}
                }
            }
            // Networks that cover the same addresses are one set in the tables.
            for scope in [AddressScope::World, AddressScope::WorldAndNodes, AddressScope::All] {
                let covering = |peer: &&PeerSelector| matches!(peer, PeerSelector::Network(n) if n.scope == scope);
                let networks: Vec<PeerSelector> = peers.iter().filter(covering).cloned().collect();
                if !networks.is_empty() {
                    *users.of_addresses.entry(networks).or_default() += 1;
                }
            }
        }
        users
    }
}

/// How many identities and pods each selector matches.
#[derive(Default)]
struct Matches {
    counts: HashMap<SelectorId, (usize, usize)>,
}

impl Matches {
    fn of(store: &Store, tables: &PolicyTables) -> Self {
        let mut pods_of: HashMap<u32, usize> = HashMap::new();
        for address in store.pods().filter_map(|(_, pod)| pod.addresses().first()) {
            let identity = tables.resolve(Address::from(*address)).identity_index;
            *pods_of.entry(identity).or_default() += 1;
        }
        let mut matches = Self::default();
        let reserved = 0..PolicyTables::RESERVED;
        let used = pods_of.keys().copied().filter(|identity| *identity >= PolicyTables::RESERVED);
        for index in reserved.chain(used) {
            let Some(identity) = tables.identities.get(index) else { continue };
            let of_namespace = tables.namespaces.get(identity.namespace);
            let of_namespace = of_namespace.into_iter().flat_map(|selectors| selectors.iter());
            let pods = pods_of.get(&index).copied().unwrap_or_default();
            for selector in identity.selectors.iter().chain(of_namespace) {
                let count = matches.counts.entry(selector).or_default();
                *count = (count.0 + 1, count.1 + pods);
            }
        }
        matches
    }

    fn of_selector(&self, id: SelectorId) -> (usize, usize) {
        self.counts.get(&id).copied().unwrap_or_default()
    }
}
