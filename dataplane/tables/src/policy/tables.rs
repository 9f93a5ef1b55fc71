//! The compiled tables. Built by the policy compiler, never changed after publication; what a
//! change does not touch is shared with the former snapshot.

use std::sync::Arc;

use super::Action;
use super::rows::{AddressMap, AddressSet, Rows};
use crate::ids::{DenySetId, PortNameId, RuleId, SelectorId};
use crate::l7::L7Rules;

/// A sorted set of selector numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SelectorSet(Arc<[u32]>);

impl SelectorSet {
    /// Sorts and dedups.
    #[must_use]
    pub fn new(ids: impl IntoIterator<Item = SelectorId>) -> Self {
        let mut ids: Vec<u32> = ids.into_iter().map(|id| id.0).collect();
        ids.sort_unstable();
        ids.dedup();
        Self(ids.into())
    }

    /// Whether `id` is in the set.
    #[must_use]
    pub fn contains(&self, id: SelectorId) -> bool {
        self.0.binary_search(&id.0).is_ok()
    }

    /// The set with one more member.
    #[must_use]
    pub fn with(&self, id: SelectorId) -> Self {
        Self::new(self.iter().chain([id]))
    }

    /// The set without a member.
    #[must_use]
    pub fn without(&self, id: SelectorId) -> Self {
        Self::new(self.iter().filter(|other| *other != id))
    }

    /// The members in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = SelectorId> + '_ {
        self.0.iter().copied().map(SelectorId)
    }
}

/// Named container ports of one pod: (name, protocol, number), sorted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NamedPorts(Arc<[(PortNameId, u8, u16)]>);

impl NamedPorts {
    /// Sorts and dedups.
    #[must_use]
    pub fn new(ports: impl IntoIterator<Item = (PortNameId, u8, u16)>) -> Self {
        let mut ports: Vec<_> = ports.into_iter().collect();
        ports.sort_unstable();
        ports.dedup();
        Self(ports.into())
    }

    /// Name, protocol and number of each port.
    pub fn iter(&self) -> impl Iterator<Item = (PortNameId, u8, u16)> + '_ {
        self.0.iter().copied()
    }

    /// Whether the pod has a port `name` of `protocol` with this number.
    #[must_use]
    pub fn names(&self, name: PortNameId, protocol: u8, port: u16) -> bool {
        self.0.binary_search(&(name, protocol, port)).is_ok()
    }
}

/// What is known of one pod or node address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressRow {
    /// Index into [`PolicyTables::identities`].
    pub identity: u32,
    /// Named ports of the pod behind the address; `None` if it has none.
    pub named_ports: Option<NamedPorts>,
}

/// Tiers in order of precedence (KEP-3866 ClusterNetworkPolicy; cilium
/// `pkg/policy/types/policyentry.go`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum Tier {
    /// ClusterNetworkPolicy, tier Admin.
    Admin = 0,
    /// NetworkPolicy, CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy.
    Normal = 1,
    /// ClusterNetworkPolicy, tier Baseline.
    Baseline = 2,
}

/// Precedence of an entry: tier, then order inside the tier; lower wins.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Rank {
    /// Tier.
    pub tier: Tier,
    /// Order inside the tier; all entries of the Normal tier have zero.
    pub order: u32,
}

impl Rank {
    /// The one rank of the Normal tier.
    pub const NORMAL: Self = Self { tier: Tier::Normal, order: 0 };
}

/// Who may be at the other end of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Peer {
    /// Anyone.
    Anyone,
    /// Pods of the namespaces whose row in [`PolicyTables::namespaces`] has the number.
    Namespaces(SelectorId),
    /// Identities whose row in [`PolicyTables::identities`] has the number.
    Labels(SelectorId),
    /// Addresses in this row of [`PolicyTables::address_sets`].
    Addresses(SelectorId),
}

/// One way a flow can match, in one port class.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Precedence.
    pub rank: Rank,
    /// What to do.
    pub action: Action,
    /// Who must be at the other end.
    pub peer: Peer,
    /// The destination pod must call the port this; `None` when the class already says the port.
    pub port_name: Option<PortNameId>,
    /// First and last port that it matches. All, where the port class says the ports; only a table
    /// with too many combinations of ports has them here.
    pub ports: (u16, u16),
    /// Requests must match; `None` is no L7 restriction.
    pub l7: Option<Arc<L7Rules>>,
    /// Where the entry came from.
    pub rule: RuleId,
}

impl Entry {
    /// All ports.
    pub const ALL_PORTS: (u16, u16) = (0, u16::MAX);

    /// Whether it can match the port.
    #[must_use]
    #[inline]
    pub const fn has_port(&self, port: u16) -> bool {
        self.ports.0 <= port && port <= self.ports.1
    }
}

/// Port classes of one protocol: sorted `(first port, class)`, each up to the next.
///
/// For ICMP the "port" is the type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortClasses {
    /// IP protocol number.
    pub protocol: u8,
    /// Ranges; the first starts at zero.
    pub ranges: Vec<(u16, u32)>,
}

/// The rules of one identity in one direction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DirectionTable {
    /// Protocols that some entry names.
    pub protocols: Vec<PortClasses>,
    /// Class of all other protocols, and of packets whose ports are unknown.
    pub other: Option<u32>,
    /// Entries of each class, by (rank, action).
    pub classes: Vec<Arc<[Entry]>>,
    /// Who put the identity into default deny.
    pub default_deny: Option<DenySetId>,
}

impl DirectionTable {
    /// The entries that can match `port` of `protocol`, in order of precedence.
    #[must_use]
    #[inline]
    pub fn entries(&self, protocol: u8, port: u16) -> &[Entry] {
        let class = match self.protocols.iter().find(|p| p.protocol == protocol) {
            Some(p) => Some(p.ranges[p.ranges.partition_point(|range| range.0 <= port) - 1].1),
            None => self.other,
        };
        class.map_or(&[], |class| &self.classes[class as usize])
    }
}

/// One distinct set of labels, or a reserved identity.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IdentityRow {
    /// The number shown to people; Cilium's reserved numbers are kept
    /// (cilium `pkg/identity/numericidentity.go`).
    pub number: u32,
    /// Index into [`PolicyTables::namespaces`]; row zero for what is no pod.
    pub namespace: u32,
    /// Selectors that match the labels, but for those that ask of the namespace only.
    pub selectors: SelectorSet,
    /// Rules on what the identity may open.
    pub egress: Arc<DirectionTable>,
    /// Rules on who may open flows to it.
    pub ingress: Arc<DirectionTable>,
}

/// All of compiled policy. Copies are cheap and share what they have in common.
#[derive(Clone, Debug, Default)]
pub struct PolicyTables {
    /// Pods and nodes by address.
    pub addresses: AddressMap<AddressRow>,
    /// Label sets. The first four are `world` for IPv4 and for IPv6, `host` and `remote-node`.
    pub identities: Rows<IdentityRow>,
    /// For each namespace, the selectors that match all its pods because they ask of the namespace
    /// only. There are few namespaces and many identities, so a new "all namespaces"
    /// changes little.
    pub namespaces: Rows<SelectorSet>,
    /// Lists of networks, and addresses of DNS names.
    pub address_sets: Rows<Arc<AddressSet>>,
}

impl PolicyTables {
    /// Row of every IPv4 address that is no pod and no node.
    pub const WORLD_V4: u32 = 0;
    /// Row of every IPv6 address that is no pod and no node.
    pub const WORLD_V6: u32 = 1;
    /// Row of this node's own addresses.
    pub const HOST: u32 = 2;
    /// Row of other nodes' addresses.
    pub const REMOTE_NODE: u32 = 3;
    /// Number of reserved rows: those of pods follow.
    pub const RESERVED: u32 = 4;
}
