//! The compiled tables. The policy compiler builds them; once published they do not change, and a
//! new snapshot shares all unchanged rows with the previous one.

use std::sync::Arc;

use super::Action;
use super::rows::{AddressMap, AddressSet, Rows};
use crate::ids::{DenySetId, PortNameId, RuleId, SelectorId};
use crate::l7::L7Rules;
use crate::service::ServiceTable;

/// A sorted set of selector numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SelectorSet(Arc<[u32]>);

impl SelectorSet {
    /// Sorts and deduplicates.
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

    /// The members, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = SelectorId> + '_ {
        self.0.iter().copied().map(SelectorId)
    }
}

/// Named container ports of one pod: (name, protocol, number), sorted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NamedPorts(Arc<[(PortNameId, u8, u16)]>);

impl NamedPorts {
    /// Sorts and deduplicates.
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
    pub fn contains(&self, name: PortNameId, protocol: u8, port: u16) -> bool {
        self.0.binary_search(&(name, protocol, port)).is_ok()
    }
}

/// The row of an address of a pod or node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressRow {
    /// Index into [`PolicyTables::identities`].
    pub identity: u32,
    /// Named container ports of the pod; `None` if it has none.
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

/// Which peers an entry matches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum PeerMatch {
    /// Any peer.
    Any,
    /// Pods of namespaces whose row in [`PolicyTables::namespaces`] has this selector.
    Namespaces(SelectorId),
    /// Identities whose row in [`PolicyTables::identities`] has this selector.
    Labels(SelectorId),
    /// Addresses in the set of this row of [`PolicyTables::address_sets`].
    Addresses(SelectorId),
}

/// One compiled rule in one port class.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Precedence.
    pub rank: Rank,
    /// What it does with a flow that it matches.
    pub action: Action,
    /// The peers that it matches.
    pub peer: PeerMatch,
    /// Name that the destination pod must have for the port; `None` if the port class has the port
    /// number.
    pub port_name: Option<PortNameId>,
    /// First and last port that it matches. [`Self::ALL_PORTS`] if the port class has the ports:
    /// only tables with too many distinct combinations of port ranges have them here.
    pub ports: (u16, u16),
    /// L7 rules that requests must match; `None` is no L7 restriction.
    pub l7: Option<Arc<L7Rules>>,
    /// The policy rule that it was compiled from.
    pub rule: RuleId,
}

impl Entry {
    /// All ports.
    pub const ALL_PORTS: (u16, u16) = (0, u16::MAX);

    /// Whether the entry's own port range has the port.
    #[must_use]
    #[inline]
    pub const fn has_port(&self, port: u16) -> bool {
        self.ports.0 <= port && port <= self.ports.1
    }
}

/// Port classes of one protocol: sorted pairs of (first port, class), each valid up to the next
/// pair. For ICMP the "port" is the type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortClasses {
    /// IP protocol number.
    pub protocol: u8,
    /// First port and class of each range; the first range starts at port zero.
    pub ranges: Vec<(u16, u32)>,
}

/// The rules of one identity for egress or for ingress.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RuleTable {
    /// Protocols that have entries of their own.
    pub protocols: Vec<PortClasses>,
    /// Class of all other protocols.
    pub other: Option<u32>,
    /// Entries of each class, sorted by (rank, action).
    pub classes: Vec<Arc<[Entry]>>,
    /// The policies that put the identity into default deny, if any.
    pub default_deny: Option<DenySetId>,
}

impl RuleTable {
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

/// An identity: one distinct set of labels, or a reserved one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IdentityRow {
    /// The number shown to users; reserved identities have Cilium's numbers
    /// (cilium `pkg/identity/numericidentity.go`).
    pub number: u32,
    /// Index into [`PolicyTables::namespaces`]; row zero for identities that are no pods.
    pub namespace: u32,
    /// Selectors that match the labels, except those that select by namespace only.
    pub selectors: SelectorSet,
    /// Rules for flows that the identity opens.
    pub egress: Arc<RuleTable>,
    /// Rules for flows that are opened to the identity.
    pub ingress: Arc<RuleTable>,
}

/// All compiled policy. Copies are cheap: they share unchanged rows.
#[derive(Clone, Debug, Default)]
pub struct PolicyTables {
    /// Pods and nodes by address.
    pub addresses: AddressMap<AddressRow>,
    /// Identities. The first four are `world` for IPv4, `world` for IPv6, `host` and
    /// `remote-node`.
    pub identities: Rows<IdentityRow>,
    /// For each namespace, the selectors that select by namespace only and match it. There are few
    /// namespaces and many identities, so that a new selector of all namespaces changes few rows.
    pub namespaces: Rows<SelectorSet>,
    /// Sets of networks, and of addresses of DNS names.
    pub address_sets: Rows<Arc<AddressSet>>,
    /// Services, translated before policy decides.
    pub services: ServiceTable,
}

impl PolicyTables {
    /// Row of IPv4 addresses that belong to neither pods nor nodes.
    pub const WORLD_V4: u32 = 0;
    /// Row of IPv6 addresses that belong to neither pods nor nodes.
    pub const WORLD_V6: u32 = 1;
    /// Row of this node's addresses.
    pub const HOST: u32 = 2;
    /// Row of other nodes' addresses.
    pub const REMOTE_NODE: u32 = 3;
    /// Number of reserved rows; the rows of pods follow.
    pub const RESERVED: u32 = 4;
}
