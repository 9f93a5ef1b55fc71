//! Tables for two pods and their node: pod A behind link 1, pod B behind link 2, and the node
//! behind link 0.

use std::sync::Arc;

use podgate_tables::address::Address;
use podgate_tables::ids::{DenySetId, RuleId, SelectorId};
use podgate_tables::ids::{Epoch, LinkId};
use podgate_tables::l7::L7Rules;
use podgate_tables::policy::{
    Action, AddressRow, Entry, IdentityRow, PeerMatch, PolicyTables, PortClasses, Rank, RuleTable,
    SelectorSet, Snapshot,
};
use podgate_tables::proto;
use podgate_tables::route::{Endpoint, NextHop, NodeAddresses, RouteTable};

use crate::frames::{link_mac, pod_mac};

/// The host link.
pub const HOST: LinkId = LinkId(0);
/// The link of pod A.
pub const A: LinkId = LinkId(1);
/// The link of pod B.
pub const B: LinkId = LinkId(2);
/// Address of the pod behind link 1 or 2, or of the node for link 0.
pub const ADDRESSES: [[u8; 4]; 3] = [[10, 9, 0, 1], [10, 1, 0, 1], [10, 1, 0, 2]];
/// The same, IPv6.
pub const ADDRESSES_V6: [[u8; 16]; 3] = [v6(9), v6(1), v6(2)];
/// An address outside of the cluster.
pub const OUTSIDE: [u8; 4] = [192, 0, 2, 7];
/// MTU of every link that [`snapshot`] makes, bytes.
pub const MTU: u32 = 65_535;

const fn v6(last: u8) -> [u8; 16] {
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

/// Selector that matches pod A's labels.
pub const LABELS_OF_A: SelectorId = SelectorId(1);
/// The rule of allow entries.
pub const RULE: RuleId = RuleId(7);
/// The policies of a default deny.
pub const DENY_SET: DenySetId = DenySetId(3);

/// Ingress policy of pod B.
pub enum IngressOfB {
    /// No policy selects pod B.
    Open,
    /// Nothing is allowed.
    Closed,
    /// TCP port 80 from pod A, with L7 rules if given.
    FromA(Option<L7Rules>),
    /// Port 80 of this protocol from pod A.
    FromAAt(u8),
    /// TCP port 80 from any peer, with L7 rules.
    FromAnyone(L7Rules),
    /// Port 80 of this protocol from pod A, with L7 rules.
    FromAOver(u8, L7Rules),
}

impl IngressOfB {
    fn table(self) -> RuleTable {
        let peer = match self {
            Self::FromAnyone(_) => PeerMatch::Any,
            _ => PeerMatch::Labels(LABELS_OF_A),
        };
        let (protocol, l7) = match self {
            Self::Open => return RuleTable::default(),
            Self::Closed => {
                return RuleTable { default_deny: Some(DENY_SET), ..Default::default() };
            }
            Self::FromA(l7) => (proto::TCP, l7),
            Self::FromAAt(protocol) => (protocol, None),
            Self::FromAnyone(l7) => (proto::TCP, Some(l7)),
            Self::FromAOver(protocol, l7) => (protocol, Some(l7)),
        };
        let entry = Entry {
            rank: Rank::NORMAL,
            action: Action::Allow,
            peer,
            port_name: None,
            ports: Entry::ALL_PORTS,
            l7: l7.map(Arc::new),
            rule: RULE,
        };
        RuleTable {
            protocols: vec![PortClasses { protocol, ranges: vec![(0, 0), (80, 1), (81, 0)] }],
            other: None,
            classes: vec![Arc::from([]), Arc::from([entry])],
            default_deny: Some(DENY_SET),
        }
    }
}

/// Tables of this epoch; the MTU of every link is [`MTU`].
#[must_use]
pub fn snapshot(epoch: u64, ingress_of_b: IngressOfB) -> Snapshot {
    snapshot_with(epoch, ingress_of_b, [MTU; 3])
}

/// A direction in which nothing is allowed.
#[must_use]
pub fn closed() -> RuleTable {
    RuleTable { default_deny: Some(DENY_SET), ..Default::default() }
}

/// [`snapshot`] without any ingress to pod A, so that flows between the pods are allowed in one
/// direction only.
#[must_use]
pub fn guarded(epoch: u64, ingress_of_b: IngressOfB) -> Snapshot {
    const POD_A: u32 = 4;
    let mut snapshot = snapshot(epoch, ingress_of_b);
    let policy = Arc::make_mut(&mut snapshot.policy);
    let mut row = policy.identities.get(POD_A).unwrap().clone();
    row.ingress = Arc::new(closed());
    policy.identities.set(POD_A, row);
    snapshot
}

/// [`snapshot`] with these MTUs of the host link, A's and B's. The path MTU beyond the node is at
/// most 1500.
#[must_use]
pub fn snapshot_with(epoch: u64, ingress_of_b: IngressOfB, mtus: [u32; 3]) -> Snapshot {
    let identity = |number, selectors: &[SelectorId], ingress: RuleTable| IdentityRow {
        number,
        namespace: 0,
        selectors: SelectorSet::new(selectors.iter().copied()),
        egress: Arc::default(),
        ingress: Arc::new(ingress),
    };
    let mut policy = PolicyTables::default();
    let identities = [
        identity(9, &[], RuleTable::default()),
        identity(10, &[], RuleTable::default()),
        identity(1, &[], RuleTable::default()),
        identity(6, &[], RuleTable::default()),
        identity(256, &[LABELS_OF_A], RuleTable::default()),
        identity(257, &[], ingress_of_b.table()),
    ];
    for (index, identity) in identities.into_iter().enumerate() {
        policy.identities.set(index as u32, identity);
    }
    let both = |at: usize| [Address::v4(ADDRESSES[at]), Address::v6(ADDRESSES_V6[at])];
    for (at, identity) in [PolicyTables::HOST, 4, 5].into_iter().enumerate() {
        for address in both(at) {
            let row = AddressRow { identity, named_ports: None };
            policy.addresses.set(address, Some(row.clone()));
        }
    }
    let next_hop = |link: LinkId| {
        let mtu = mtus[link.index()];
        let path_mtu = if link == HOST { mtu.min(1500) } else { mtu };
        NextHop { link, mac: pod_mac(link), link_mac: link_mac(link), mtu, path_mtu }
    };
    let endpoints = [A, B]
        .map(|link| Endpoint { next_hop: next_hop(link), addresses: both(link.index()).to_vec() });
    let [v4, v6] = both(0).map(Some);
    let node = NodeAddresses { v4, v6 };
    Snapshot {
        epoch: Epoch(epoch),
        policy: Arc::new(policy),
        routes: Arc::new(RouteTable::new(endpoints, Some(next_hop(HOST))).unwrap().with_node(node)),
    }
}
