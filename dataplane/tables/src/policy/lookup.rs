//! The policy lookup, shared by workers, `explain` and `replay`.

use super::{
    Action, AddressScope, Cause, Decision, Entry, Exemption, IdentityRow, NamedPorts, PeerMatch,
    PolicyTables, RuleTable, Tier, Verdict,
};
use crate::address::Address;
use crate::l7::{Conflict, L7Entry, L7Policy};
use crate::proto;
use crate::service::{L4Addr, NoPort, ServiceAddress, ServicePort, is_translated};
use crate::tuple::Tuple;

/// What policy knows about an address.
#[derive(Clone, Copy, Debug)]
pub struct Resolved<'t> {
    tables: &'t PolicyTables,
    address: Address,
    /// Index into [`PolicyTables::identities`].
    pub identity_index: u32,
    /// The row of its identity.
    pub identity: &'t IdentityRow,
    /// Named container ports, if the address belongs to a pod that has any.
    named_ports: Option<&'t NamedPorts>,
}

impl Resolved<'_> {
    /// Whether an entry with this peer matches the address.
    #[must_use]
    pub fn matches(&self, peer: PeerMatch) -> bool {
        match peer {
            PeerMatch::Any => true,
            PeerMatch::Labels(selector) => self.identity.selectors.contains(selector),
            PeerMatch::Namespaces(selector) => {
                let namespace = self.tables.namespaces.get(self.identity.namespace);
                namespace.is_some_and(|selectors| selectors.contains(selector))
            }
            PeerMatch::Addresses(set) => {
                let set = self.tables.address_sets.get(set.0);
                set.is_some_and(|set| self.is_in(set.scope) && set.contains(self.address))
            }
        }
    }

    /// Whether the address is of a kind that the scope includes.
    fn is_in(&self, scope: AddressScope) -> bool {
        match self.identity_index {
            PolicyTables::WORLD_V4 | PolicyTables::WORLD_V6 => true,
            PolicyTables::HOST | PolicyTables::REMOTE_NODE => scope != AddressScope::World,
            _ => scope == AddressScope::All,
        }
    }

    fn is_own_node(&self) -> bool {
        self.identity_index == PolicyTables::HOST
    }
}

/// The flow that policy is evaluated for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subject {
    /// Addresses, ports and protocol in the original direction.
    pub tuple: Tuple,
    /// ICMP or ICMPv6 type; unused for other protocols.
    pub icmp_type: u8,
}

impl Subject {
    /// The flow that would be opened in the opposite direction.
    #[must_use]
    #[inline]
    pub fn reversed(&self) -> Self {
        Self { tuple: self.tuple.reversed(), ..*self }
    }

    /// What rules match as the port: the destination port, or the ICMP type.
    #[must_use]
    #[inline]
    pub fn policy_port(&self) -> u16 {
        match proto::is_icmp(self.tuple.protocol) {
            true => u16::from(self.icmp_type),
            false => self.tuple.dst_port,
        }
    }
}

/// Which ends of a flow are endpoints of this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalEnds {
    /// The source is.
    pub source: bool,
    /// The destination is.
    pub destination: bool,
}

impl LocalEnds {
    /// Both ends are local.
    pub const BOTH: Self = Self { source: true, destination: true };
}

/// What is proven about the sender of a flow's first packet, beyond its source address. A packet
/// from an address of this node was not necessarily sent by the node: the kernel translates sources
/// (masquerading), and a source can be forged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ProvenSender {
    /// Nothing. The sender is taken from the source address, unless that is this node's.
    Unknown = 0,
    /// This node itself.
    Node = 1,
    /// The destination pod itself: it sent to a service whose backend it is, and its address was
    /// translated.
    Destination = 2,
}

impl ProvenSender {
    /// Bits of [`Self::number`].
    pub const BITS: u8 = 3;

    /// The number that flows store, in memory and in the file of saved flows.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The sender of this number; an unknown number is [`Self::Unknown`].
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Node,
            2 => Self::Destination,
            _ => Self::Unknown,
        }
    }
}

/// The outcome at one end.
struct EndDecision {
    cause: Cause,
    l7: Vec<L7Entry>,
}

impl EndDecision {
    /// Without L7 rules.
    const fn plain(cause: Cause) -> Self {
        Self { cause, l7: Vec::new() }
    }
}

impl PolicyTables {
    /// Whether `address` is an address of this or another node.
    #[must_use]
    #[inline]
    pub fn is_node(&self, address: Address) -> bool {
        let nodes = [Self::HOST, Self::REMOTE_NODE];
        self.addresses.get(address).is_some_and(|row| nodes.contains(&row.identity))
    }

    /// Whether `address` is a pod's.
    #[must_use]
    pub fn is_pod(&self, address: Address) -> bool {
        self.addresses.get(address).is_some_and(|row| row.identity >= Self::RESERVED)
    }

    /// The port of a service that a pod's packet to this destination is translated for, `NoPort` if
    /// such packets are rejected; `None` if they are not translated.
    #[must_use]
    pub fn service(&self, to: L4Addr, protocol: u8) -> Option<Result<&ServicePort, NoPort>> {
        if self.services.left_to_kernel {
            return None;
        }
        let (_, port) = self.find_service(to, protocol)?;
        match port {
            Some(port) => Some(Ok(port)).filter(|_| !port.is_left_to_kernel()),
            None => Some(Err(NoPort)),
        }
    }

    /// The row of the service that has this destination, and its port, if it has it; also if the
    /// node's kernel translates.
    ///
    /// The address of a pod belongs to no service, and that of a node is no cluster IP, whatever a
    /// Service says.
    #[must_use]
    pub fn find_service(
        &self,
        to: L4Addr,
        protocol: u8,
    ) -> Option<(ServiceAddress, Option<&ServicePort>)> {
        if self.services.is_empty() || !is_translated(protocol) {
            return None;
        }
        let row = |at| self.services.at(at).map(|row| (at, row.port(protocol, to.port)));
        let with_port = |at| row(at).filter(|(_, port)| port.is_some());
        let external = || with_port(ServiceAddress::External(to.address));
        match self.addresses.get(to.address).map(|row| row.identity) {
            None => row(ServiceAddress::ClusterIp(to.address)).or_else(external),
            Some(Self::HOST) => {
                let is_translated = |port: &ServicePort| !port.is_left_to_kernel();
                external()
                    .filter(|(_, port)| port.is_some_and(is_translated))
                    .or_else(|| with_port(ServiceAddress::Node { v4: to.address.is_v4() }))
                    .or_else(external)
            }
            Some(Self::REMOTE_NODE) => external(),
            Some(_) => None,
        }
    }

    /// Whether a destination with this node's address may be a service's. What the node's kernel
    /// makes of such packets is not known here, so that a pod may not send them just because the
    /// address is its node's.
    fn may_be_service(&self, subject: &Subject) -> bool {
        let Tuple { dst: address, dst_port: port, protocol, .. } = subject.tuple;
        self.services.is_incomplete && is_translated(protocol)
            || self.find_service(L4Addr { address, port }, protocol).is_some()
    }

    /// Resolves an address to its identity.
    ///
    /// # Panics
    /// If the tables lack the reserved identity rows, which is a bug of the compiler.
    #[must_use]
    #[inline]
    pub fn resolve(&self, address: Address) -> Resolved<'_> {
        let (identity_index, named_ports) = match self.addresses.get(address) {
            Some(row) => (row.identity, row.named_ports.as_ref()),
            None if address.is_v4() => (Self::WORLD_V4, None),
            None => (Self::WORLD_V6, None),
        };
        let Some(identity) = self.identities.get(identity_index) else {
            unreachable!("address rows refer to identity rows that exist")
        };
        Resolved { tables: self, address, identity_index, identity, named_ports }
    }

    /// The `world` identity, for `address`.
    fn world(&self, address: Address) -> Resolved<'_> {
        let identity_index = if address.is_v4() { Self::WORLD_V4 } else { Self::WORLD_V6 };
        let Some(identity) = self.identities.get(identity_index) else {
            unreachable!("the reserved identity rows exist")
        };
        Resolved { tables: self, address, identity_index, identity, named_ports: None }
    }

    /// Decides a flow whose source address is trusted: a packet from an address of this node counts
    /// as sent by the node. Policy of an end that is not `local` is enforced on that end's node.
    ///
    /// Allocates only if the verdict is [`Verdict::Inspect`].
    #[must_use]
    pub fn decide(&self, subject: &Subject, local: LocalEnds) -> Decision {
        self.decide_from(subject, local, ProvenSender::Node)
    }

    /// Decides a flow, see [`Self::decide`]. A source address of this node has the node's identity
    /// only if `sender` is [`ProvenSender::Node`]; else its identity is `world`.
    #[must_use]
    pub fn decide_from(
        &self,
        subject: &Subject,
        local: LocalEnds,
        sender: ProvenSender,
    ) -> Decision {
        let mut source = self.resolve(subject.tuple.src);
        if source.is_own_node() && sender != ProvenSender::Node {
            source = self.world(subject.tuple.src);
        }
        let destination = self.resolve(subject.tuple.dst);
        if subject.tuple.src == subject.tuple.dst || sender == ProvenSender::Destination {
            let cause = Cause::Exempt(Exemption::ToSelf);
            return Decision {
                verdict: Verdict::Allow,
                egress: cause,
                ingress: cause,
                l7: L7Policy::default(),
            };
        }
        let egress = if !local.source {
            EndDecision::plain(Cause::Exempt(Exemption::NotLocal))
        } else if destination.is_own_node() && !self.may_be_service(subject) {
            EndDecision::plain(Cause::Exempt(Exemption::ToNode))
        } else {
            source.identity.egress.decide(subject, &destination, &destination)
        };
        let ingress = if !local.destination {
            EndDecision::plain(Cause::Exempt(Exemption::NotLocal))
        } else if source.is_own_node() {
            EndDecision::plain(Cause::Exempt(Exemption::FromNode))
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

impl RuleTable {
    /// Evaluates the entries of the flow's port class, in the order that the module documents.
    fn decide(
        &self,
        subject: &Subject,
        peer: &Resolved<'_>,
        destination: &Resolved<'_>,
    ) -> EndDecision {
        let port = subject.policy_port();
        let protocol = subject.tuple.protocol;
        let entries = self.entries(protocol, port);
        let matches = |entry: &Entry| {
            entry.has_port(port)
                && peer.matches(entry.peer)
                && entry.port_name.is_none_or(|name| {
                    destination
                        .named_ports
                        .is_some_and(|ports| ports.contains(name, protocol, port))
                })
        };
        let mut skipped_tier = None;
        let mut default_checked = false;
        for (index, entry) in entries.iter().enumerate() {
            if entry.rank.tier > Tier::Normal && !default_checked {
                default_checked = true;
                if let Some(set) = self.default_deny {
                    return EndDecision::plain(Cause::DefaultDeny(set));
                }
            }
            if skipped_tier == Some(entry.rank.tier) || !matches(entry) {
                continue;
            }
            match entry.action {
                Action::Deny => return EndDecision::plain(Cause::Denied(entry.rule)),
                Action::Pass => skipped_tier = Some(entry.rank.tier),
                Action::Allow => return Self::allow(entry, &entries[index..], matches),
            }
        }
        match self.default_deny {
            Some(set) => EndDecision::plain(Cause::DefaultDeny(set)),
            None => EndDecision::plain(Cause::Unenforced),
        }
    }

    /// The outcome if `first` allows: with the L7 rules of all matching allows of its rank, if any
    /// of them has some. `rest` begins with `first`.
    fn allow(first: &Entry, rest: &[Entry], matches: impl Fn(&Entry) -> bool) -> EndDecision {
        let cause = Cause::Allowed(first.rule);
        let allows = || {
            let allows = |entry: &&Entry| entry.rank == first.rank && entry.action == Action::Allow;
            rest.iter().take_while(allows)
        };
        if !allows().any(|entry| entry.l7.is_some() && matches(entry)) {
            return EndDecision::plain(cause);
        }
        let l7 = allows().filter(|entry| matches(entry));
        let l7 = l7.map(|entry| L7Entry { rule: entry.rule, rules: entry.l7.clone() });
        EndDecision { cause, l7: l7.collect() }
    }
}
