//! Deciding a flow: the one lookup behind workers, `explain` and `replay`.

use super::{
    Action, Cause, Covers, Decision, DirectionTable, Entry, Exemption, IdentityRow, NamedPorts,
    Peer, PolicyTables, Tier, Verdict,
};
use crate::address::Address;
use crate::l7::{Conflict, L7Entry, L7Policy};
use crate::proto;
use crate::tuple::Tuple;

/// What policy knows of an address.
#[derive(Clone, Copy, Debug)]
pub struct Resolved<'t> {
    tables: &'t PolicyTables,
    address: Address,
    /// Index into [`PolicyTables::identities`].
    pub identity_index: u32,
    /// The labels' row.
    pub identity: &'t IdentityRow,
    /// Named ports, if the address is a pod's that has some.
    named_ports: Option<&'t NamedPorts>,
}

impl Resolved<'_> {
    /// Whether this is who an entry's peer stands for.
    #[must_use]
    pub fn matches(&self, peer: Peer) -> bool {
        match peer {
            Peer::Anyone => true,
            Peer::Labels(selector) => self.identity.selectors.contains(selector),
            Peer::Namespaces(selector) => {
                let namespace = self.tables.namespaces.get(self.identity.namespace);
                namespace.is_some_and(|selectors| selectors.contains(selector))
            }
            Peer::Addresses(set) => {
                let set = self.tables.address_sets.get(set.0);
                set.is_some_and(|set| self.counts(set.covers) && set.contains(self.address))
            }
        }
    }

    fn counts(&self, covers: Covers) -> bool {
        match self.identity_index {
            PolicyTables::WORLD_V4 | PolicyTables::WORLD_V6 => true,
            PolicyTables::HOST | PolicyTables::REMOTE_NODE => covers != Covers::Outsiders,
            _ => covers == Covers::Everyone,
        }
    }

    fn is_own_node(&self) -> bool {
        self.identity_index == PolicyTables::HOST
    }
}

/// The L4 side of what is decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subject {
    /// Addresses, ports and protocol in the direction of the opener.
    pub tuple: Tuple,
    /// ICMP or ICMPv6 type; unused for other protocols.
    pub icmp_type: u8,
}

impl Subject {
    /// The same for a flow in the opposite direction.
    #[must_use]
    #[inline]
    pub fn reversed(&self) -> Self {
        Self { tuple: self.tuple.reversed(), ..*self }
    }

    /// What policy calls the port: the destination port, or the ICMP type.
    #[must_use]
    #[inline]
    pub fn policy_port(&self) -> u16 {
        match self.tuple.protocol {
            proto::ICMP | proto::ICMPV6 => u16::from(self.icmp_type),
            _ => self.tuple.dst_port,
        }
    }
}

/// Who sent a flow's first packet, if its source is an address of this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeSource {
    /// The node itself.
    Node,
    /// Somebody else, as far as is known: the packet came in by a link, with a source that the
    /// kernel translated or that is forged.
    Elsewhere,
}

struct DirectionDecision {
    cause: Cause,
    l7: Vec<L7Entry>,
}

impl DirectionDecision {
    const fn plain(cause: Cause) -> Self {
        Self { cause, l7: Vec::new() }
    }
}

impl PolicyTables {
    /// Whether `address` is this node's or another one's.
    #[must_use]
    #[inline]
    pub fn is_node(&self, address: Address) -> bool {
        let nodes = [Self::HOST, Self::REMOTE_NODE];
        self.addresses.get(address).is_some_and(|row| nodes.contains(&row.identity))
    }

    /// Who is behind an address.
    ///
    /// # Panics
    /// On tables without the reserved rows: a bug of the compiler.
    #[must_use]
    #[inline]
    pub fn resolve(&self, address: Address) -> Resolved<'_> {
        let (identity_index, named_ports) = match self.addresses.get(address) {
            Some(row) => (row.identity, row.named_ports.as_ref()),
            None if address.is_v4() => (Self::WORLD_V4, None),
            None => (Self::WORLD_V6, None),
        };
        let Some(identity) = self.identities.get(identity_index) else {
            unreachable!("address rows name identities that are there")
        };
        Resolved { tables: self, address, identity_index, identity, named_ports }
    }

    /// Whoever is outside of the cluster, at `address`.
    fn world(&self, address: Address) -> Resolved<'_> {
        let world = if address.is_v4() { Self::WORLD_V4 } else { Self::WORLD_V6 };
        let Some(identity) = self.identities.get(world) else {
            unreachable!("the reserved rows are there, see `resolve`")
        };
        Resolved { tables: self, address, identity_index: world, identity, named_ports: None }
    }

    /// Decides a flow whose source is who its address says. `local` says whether source and destination are endpoints of this node: the
    /// side that isn't is judged on its own node.
    ///
    /// Allocates only when the verdict is [`Verdict::Inspect`].
    #[must_use]
    pub fn decide(&self, subject: &Subject, local: [bool; 2]) -> Decision {
        self.decide_from(subject, local, NodeSource::Node)
    }

    /// As [`Self::decide`]; but an address of this node as the source is the node only if
    /// `node_source` says so, and is world otherwise.
    #[must_use]
    pub fn decide_from(
        &self,
        subject: &Subject,
        local: [bool; 2],
        node_source: NodeSource,
    ) -> Decision {
        let mut source = self.resolve(subject.tuple.src);
        if source.is_own_node() && node_source == NodeSource::Elsewhere {
            source = self.world(subject.tuple.src);
        }
        let destination = self.resolve(subject.tuple.dst);
        if subject.tuple.src == subject.tuple.dst {
            let cause = Cause::Exempt(Exemption::ToSelf);
            return Decision {
                verdict: Verdict::Allow,
                egress: cause,
                ingress: cause,
                l7: L7Policy::default(),
            };
        }
        let egress = if !local[0] {
            DirectionDecision::plain(Cause::Exempt(Exemption::NotLocal))
        } else if destination.is_own_node() {
            DirectionDecision::plain(Cause::Exempt(Exemption::ToNode))
        } else {
            source.identity.egress.decide(subject, &destination, &destination)
        };
        let ingress = if !local[1] {
            DirectionDecision::plain(Cause::Exempt(Exemption::NotLocal))
        } else if source.is_own_node() {
            DirectionDecision::plain(Cause::Exempt(Exemption::FromNode))
        } else {
            destination.identity.ingress.decide(subject, &source, &destination)
        };
        let l7 = L7Policy { egress: egress.l7, ingress: ingress.l7 };
        let (mut egress, mut ingress) = (egress.cause, ingress.cause);
        match l7.protocol() {
            Err(Conflict::Egress(rule)) => egress = Cause::Conflicting(rule),
            Err(Conflict::Ingress(rule)) => ingress = Cause::Conflicting(rule),
            Ok(_) => {}
        }
        let verdict = match (egress.allows() && ingress.allows(), l7.is_empty()) {
            (false, _) => Verdict::Deny,
            (true, true) => Verdict::Allow,
            (true, false) => Verdict::Inspect,
        };
        Decision { verdict, egress, ingress, l7 }
    }
}

impl DirectionTable {
    /// Walks the entries of the subject's port class; the module's documentation has the order.
    fn decide(
        &self,
        subject: &Subject,
        peer: &Resolved<'_>,
        destination: &Resolved<'_>,
    ) -> DirectionDecision {
        let port = subject.policy_port();
        let protocol = subject.tuple.protocol;
        let entries = self.entries(protocol, port);
        let matches = |entry: &Entry| {
            entry.has_port(port)
                && peer.matches(entry.peer)
                && entry.port_name.is_none_or(|name| {
                    destination.named_ports.is_some_and(|p| p.names(name, protocol, port))
                })
        };
        let mut passed = None;
        let mut default_checked = false;
        for (index, entry) in entries.iter().enumerate() {
            if entry.rank.tier > Tier::Normal && !default_checked {
                default_checked = true;
                if let Some(set) = self.default_deny {
                    return DirectionDecision::plain(Cause::DefaultDeny(set));
                }
            }
            if passed == Some(entry.rank.tier) || !matches(entry) {
                continue;
            }
            match entry.action {
                Action::Deny => return DirectionDecision::plain(Cause::Denied(entry.rule)),
                Action::Pass => passed = Some(entry.rank.tier),
                Action::Allow => return Self::allow(entry, &entries[index..], matches),
            }
        }
        match self.default_deny {
            Some(set) => DirectionDecision::plain(Cause::DefaultDeny(set)),
            None => DirectionDecision::plain(Cause::Unenforced),
        }
    }

    /// `first` allows; collects the L7 rules of all allows of its rank that match too.
    fn allow(first: &Entry, rest: &[Entry], matches: impl Fn(&Entry) -> bool) -> DirectionDecision {
        let cause = Cause::Allowed(first.rule);
        let allows = || {
            let allows = |entry: &&Entry| entry.rank == first.rank && entry.action == Action::Allow;
            rest.iter().take_while(allows)
        };
        if !allows().any(|entry| entry.l7.is_some() && matches(entry)) {
            return DirectionDecision::plain(cause);
        }
        let l7 = allows().filter(|entry| matches(entry));
        let l7 = l7.map(|entry| L7Entry { rule: entry.rule, rules: entry.l7.clone() });
        DirectionDecision { cause, l7: l7.collect() }
    }
}
