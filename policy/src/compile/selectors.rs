//! Numbers for the peers of rules.

use hashbrown::HashMap;
use podgate_dataplane::policy::{SelectorId, SelectorSet};

use super::identities::Identities;
use super::index::SelectorIndex;
use crate::rules::{NetworkPeer, Peer};
use crate::selector::Selector;

/// What one selector number stands for.
///
/// A peer by labels has a number of its own, because one such as "all namespaces" can be in many
/// rules, and match many identities. The networks of a rule have one number together, because
/// there can be many in one rule, and an address is in few.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Source<'s> {
    Labels(&'s Selector),
    Networks(&'s [Peer]),
}

/// Distinct selectors.
#[derive(Default)]
pub(super) struct Selectors<'s> {
    sources: Vec<Source<'s>>,
    ids: HashMap<Source<'s>, SelectorId>,
}

impl<'s> Selectors<'s> {
    /// The numbers of a rule's peers (sorted); the one `None` is anyone.
    pub(super) fn intern(&mut self, peers: Option<&'s [Peer]>) -> Vec<Option<SelectorId>> {
        let Some(peers) = peers else { return vec![None] };
        // Networks sort last.
        let (labels, networks) =
            peers.split_at(peers.partition_point(|peer| matches!(peer, Peer::Labels(_))));
        let labels = labels.iter().filter_map(|peer| match peer {
            Peer::Labels(selector) => Some(Source::Labels(selector)),
            Peer::Network(_) | Peer::Name(_) => None,
        });
        let networks = (!networks.is_empty()).then_some(Source::Networks(networks));
        labels.chain(networks).map(|source| Some(self.id(source))).collect()
    }

    fn id(&mut self, source: Source<'s>) -> SelectorId {
        let next = SelectorId(self.sources.len() as u32);
        let id = *self.ids.entry(source).or_insert(next);
        if id == next {
            self.sources.push(source);
        }
        id
    }

    fn numbered(&self) -> impl Iterator<Item = (SelectorId, Source<'s>)> + '_ {
        let sources = self.sources.iter().enumerate();
        sources.map(|(id, source)| (SelectorId(id as u32), *source))
    }

    pub(super) fn networks(&self) -> impl Iterator<Item = (SelectorId, &'s NetworkPeer)> + '_ {
        self.numbered().flat_map(|(id, source)| {
            let peers = match source {
                Source::Networks(peers) => peers,
                Source::Labels(_) => &[],
            };
            peers.iter().filter_map(move |peer| match peer {
                Peer::Network(network) => Some((id, network)),
                Peer::Labels(_) | Peer::Name(_) => None,
            })
        })
    }

    /// The selectors that match each identity.
    pub(super) fn matches_of(&self, identities: &Identities) -> Vec<SelectorSet> {
        let by_labels = self.numbered().filter_map(|(id, source)| match source {
            Source::Labels(selector) => Some((selector, id.0)),
            Source::Networks(_) => None,
        });
        let index = SelectorIndex::new(by_labels);
        let matching = |facts| SelectorSet::new(index.matching(facts).into_iter().map(SelectorId));
        identities.rows.iter().map(|identity| matching(&identity.facts)).collect()
    }
}
