//! The compiled tables. Built by the policy compiler, never changed after publication; what a
//! change does not touch is shared with the former snapshot.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashMap};

use super::{Action, DenySetId, PortNameId, RuleId, SelectorId};
use crate::l7::L7Rules;
use crate::types::Address;

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
    /// Named ports of the pod behind the address.
    pub named_ports: NamedPorts,
}

const SHARDS: usize = 1024;

/// Exact addresses of pods and nodes.
///
/// Split into shards that are shared between snapshots, so that adding a pod copies one shard and
/// a table of pointers, not the cluster.
#[derive(Clone, Debug)]
pub struct AddressTable {
    hasher: DefaultHashBuilder,
    shards: Vec<Arc<HashMap<Address, AddressRow>>>,
}

impl Default for AddressTable {
    fn default() -> Self {
        let empty = Arc::new(HashMap::default());
        Self { hasher: DefaultHashBuilder::default(), shards: vec![empty; SHARDS] }
    }
}

impl PartialEq for AddressTable {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self.iter().all(|(address, row)| other.get(*address) == Some(row))
    }
}

impl AddressTable {
    fn shard(&self, address: Address) -> usize {
        self.hasher.hash_one(address) as usize % SHARDS
    }

    /// The row of `address`.
    #[must_use]
    pub fn get(&self, address: Address) -> Option<&AddressRow> {
        self.shards[self.shard(address)].get(&address)
    }

    /// Sets a row, copying only its shard when that is shared.
    pub fn insert(&mut self, address: Address, row: AddressRow) {
        let shard = self.shard(address);
        Arc::make_mut(&mut self.shards[shard]).insert(address, row);
    }

    /// Removes a row.
    pub fn remove(&mut self, address: Address) -> Option<AddressRow> {
        let shard = self.shard(address);
        Arc::make_mut(&mut self.shards[shard]).remove(&address)
    }

    /// Number of addresses.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All rows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Address, &AddressRow)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }
}

/// A network (CIDR) that some policy names, or the whole of an address family.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NetworkRow {
    /// Selectors that match an address of this network that is no pod and no node.
    pub outside: SelectorSet,
    /// Selectors that match it even if it belongs to a pod or a node (`NetworkPolicy` ipBlock and
    /// `ClusterNetworkPolicy` networks do, Cilium's CIDR rules don't).
    pub inside: SelectorSet,
}

/// Longest-prefix match over the networks, as sorted disjoint ranges for each family.
///
/// Policies name some hundreds of networks: ten steps of a binary search, in one cache-friendly
/// array.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetworkTable {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u32)>,
    rows: Vec<NetworkRow>,
}

impl NetworkTable {
    /// From range starts: each `(start, row)` holds up to the next start. Both lists must be
    /// sorted by start and begin with zero.
    ///
    /// # Panics
    /// When a list does not begin with zero, is not strictly sorted, or names a missing row: that
    /// is a bug of the compiler, not of its input.
    #[must_use]
    pub fn new(v4: Vec<(u32, u32)>, v6: Vec<(u128, u32)>, rows: Vec<NetworkRow>) -> Self {
        assert!(v4.first().is_some_and(|range| range.0 == 0), "v4 ranges cover everything");
        assert!(v6.first().is_some_and(|range| range.0 == 0), "v6 ranges cover everything");
        assert!(v4.is_sorted_by(|a, b| a.0 < b.0) && v6.is_sorted_by(|a, b| a.0 < b.0));
        let rows_named = v4.iter().map(|r| r.1).chain(v6.iter().map(|r| r.1));
        assert!(rows_named.max().is_some_and(|row| (row as usize) < rows.len()));
        Self { v4, v6, rows }
    }

    /// The most specific network that holds `address`.
    #[must_use]
    pub fn get(&self, address: Address) -> &NetworkRow {
        let row = match address.as_v4_bits() {
            Some(bits) => self.v4[self.v4.partition_point(|range| range.0 <= bits) - 1].1,
            None => self.v6[self.v6.partition_point(|range| range.0 <= address.bits()) - 1].1,
        };
        &self.rows[row as usize]
    }
}

impl Default for NetworkTable {
    fn default() -> Self {
        Self::new(vec![(0, 0)], vec![(0, 0)], vec![NetworkRow::default()])
    }
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

/// One way a flow can match, in one port class.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Precedence.
    pub rank: Rank,
    /// What to do.
    pub action: Action,
    /// Who must be at the other end; `None` is anyone.
    pub peer: Option<SelectorId>,
    /// The destination pod must call the port this; `None` when the class already says the port.
    pub port_name: Option<PortNameId>,
    /// Requests must match; `None` is no L7 restriction.
    pub l7: Option<Arc<L7Rules>>,
    /// Where the entry came from.
    pub rule: RuleId,
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
    pub fn entries(&self, protocol: u8, port: u16) -> &[Entry] {
        let class = match self.protocols.iter().find(|p| p.protocol == protocol) {
            Some(p) => Some(p.ranges[p.ranges.partition_point(|range| range.0 <= port) - 1].1),
            None => self.other,
        };
        class.map_or(&[], |class| &self.classes[class as usize])
    }
}

/// One distinct set of labels, or a reserved identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdentityRow {
    /// The number shown to people; Cilium's reserved numbers are kept
    /// (cilium `pkg/identity/numericidentity.go`).
    pub number: u32,
    /// Peer selectors that match the labels.
    pub selectors: SelectorSet,
    /// Rules on what the identity may open.
    pub egress: Arc<DirectionTable>,
    /// Rules on who may open flows to it.
    pub ingress: Arc<DirectionTable>,
}

/// All of compiled policy.
#[derive(Clone, PartialEq, Debug)]
pub struct PolicyTables {
    /// Pods and nodes by address.
    pub addresses: AddressTable,
    /// Networks by prefix.
    pub networks: NetworkTable,
    /// Label sets. The first four are `world` for IPv4 and for IPv6, `host` and `remote-node`.
    pub identities: Vec<Arc<IdentityRow>>,
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
}
