//! (3) Decisions on new flows, and those that were taken before on flows like them.
//!
//! Of a flow that it is asked about, policy looks at the addresses, the protocol, and the port or
//! ICMP type at the destination; not at the source port. Pods open flows to the same few servers
//! again and again, so nearly all of them differ in nothing else from one that was just decided.
//!
//! What is kept is what [`PolicyTables::decide`](podgate_tables::policy::PolicyTables::decide) said, causes
//! and all, and which links the ends are behind. It holds for one epoch. Flows that are to be
//! inspected are decided anew each time: their rules come with the decision.
//!
//! A pod that scans may displace what was decided for others. That costs them time and nothing
//! else, so there are no shares of this store, and nothing is counted.

use podgate_tables::address::Address;
use podgate_tables::ids::{Epoch, LinkId};
use podgate_tables::l7::L7Policy;
use podgate_tables::policy::{Cause, Decision, NodeSource, Snapshot, Subject, Verdict};

use crate::flow::{Key, Sought};
use crate::xsk::{prefer_huge_pages, prefetch};

/// Flows in a worker's table for each decision that it keeps, but that their number is rounded up
/// to a power of two: 2¹⁸ flows make 4 MiB of decisions.
const FLOWS_PER_DECISION: u32 = 4;

/// Places where a decision may be: its home, and its home's neighbours.
const WAYS: usize = 4;
const _: () = assert!(WAYS.is_power_of_two());

/// The links of a flow's source and destination, where they are local endpoints.
pub(super) type Ends = [Option<LinkId>; 2];

/// What policy looks at, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Question {
    src: Address,
    dst: Address,
    port: u16,
    protocol: u8,
    node_source: NodeSource,
    epoch: Epoch,
}

impl Question {
    fn new(subject: &Subject, node_source: NodeSource, epoch: Epoch) -> Self {
        let tuple = &subject.tuple;
        let (port, protocol) = (subject.policy_port(), tuple.protocol);
        Self { src: tuple.src, dst: tuple.dst, port, protocol, node_source, epoch }
    }

    /// Questions that differ in `node_source` only have the same hash: they are few.
    fn hash(&self, key: &Key) -> u64 {
        if let Some(addresses) = Address::as_in_v4_header(self.src, self.dst) {
            return hash_v4(key, addresses, self.port, self.protocol);
        }
        let [src, dst] = [self.src, self.dst].map(Address::bits);
        let [a, b, c, d] = [src, src >> 64, dst, dst >> 64].map(|half| half as u64);
        key.hash_words(&[a, b, c, d, rest(self.port, self.protocol)])
    }
}

/// The hash of a question over IPv4, from addresses as they lie in a packet, little-endian.
#[inline]
fn hash_v4(key: &Key, addresses: u64, port: u16, protocol: u8) -> u64 {
    key.hash_words(&[addresses, rest(port, protocol)])
}

fn rest(port: u16, protocol: u8) -> u64 {
    u64::from(protocol) << 16 | u64::from(port)
}

/// A verdict without L7 rules and the sender that it is about, in one byte.
#[derive(Clone, Copy, Debug)]
enum Answer {
    AllowNode,
    DenyNode,
    AllowElsewhere,
    DenyElsewhere,
}

impl Answer {
    /// `None` for [`Verdict::Inspect`].
    fn new(verdict: Verdict, node_source: NodeSource) -> Option<Self> {
        match (verdict, node_source) {
            (Verdict::Allow, NodeSource::Node) => Some(Self::AllowNode),
            (Verdict::Deny, NodeSource::Node) => Some(Self::DenyNode),
            (Verdict::Allow, NodeSource::Elsewhere) => Some(Self::AllowElsewhere),
            (Verdict::Deny, NodeSource::Elsewhere) => Some(Self::DenyElsewhere),
            (Verdict::Inspect, _) => None,
        }
    }

    const fn verdict(self) -> Verdict {
        match self {
            Self::AllowNode | Self::AllowElsewhere => Verdict::Allow,
            Self::DenyNode | Self::DenyElsewhere => Verdict::Deny,
        }
    }

    const fn node_source(self) -> NodeSource {
        match self {
            Self::AllowNode | Self::DenyNode => NodeSource::Node,
            Self::AllowElsewhere | Self::DenyElsewhere => NodeSource::Elsewhere,
        }
    }
}

/// A decision without L7 rules: one cache line, for which a [`Question`] in it would be too large.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Known {
    src: Address,
    dst: Address,
    port: u16,
    protocol: u8,
    answer: Answer,
    epoch: Epoch,
    ends: Ends,
    egress: Cause,
    ingress: Cause,
}

const _: () = assert!(size_of::<Option<Known>>() == 64);

impl Known {
    /// `None` for a decision with L7 rules.
    fn new(question: &Question, ends: Ends, decision: &Decision) -> Option<Self> {
        let Question { src, dst, port, protocol, node_source, epoch } = *question;
        let Decision { verdict, egress, ingress, .. } = *decision;
        let answer = Answer::new(verdict, node_source)?;
        Some(Self { src, dst, port, protocol, answer, epoch, ends, egress, ingress })
    }

    #[inline]
    fn answers(&self, question: &Question) -> bool {
        let Self { src, dst, port, protocol, answer, epoch, .. } = *self;
        let node_source = answer.node_source();
        Question { src, dst, port, protocol, node_source, epoch } == *question
    }

    #[inline]
    fn answer(&self) -> (Ends, Decision) {
        let Self { answer, egress, ingress, .. } = *self;
        let verdict = answer.verdict();
        (self.ends, Decision { verdict, egress, ingress, l7: L7Policy::default() })
    }
}

/// A worker's decisions.
#[derive(Debug)]
pub(super) struct Decisions {
    key: Key,
    /// As many as a power of two.
    known: Box<[Option<Known>]>,
}

impl Decisions {
    /// None yet; room for those of so many flows.
    pub(super) fn new(flows: u32) -> Self {
        let capacity = ((flows / FLOWS_PER_DECISION) as usize).next_power_of_two().max(WAYS);
        let mut known = Vec::with_capacity(capacity);
        prefer_huge_pages(known.spare_capacity_mut());
        known.resize(capacity, None);
        Self { key: Key::random(), known: known.into() }
    }

    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.known.len() - 1)
    }

    /// Fetches the first two places that a packet over IPv4 will ask for if it opens a flow, and
    /// doesn't wait ([`prefetch`]): seldom are there more to look at.
    #[inline]
    pub(super) fn foresee(&self, sought: &Sought) {
        let (addresses, port, protocol) = sought.opening();
        let home = self.home(hash_v4(&self.key, addresses, port, protocol));
        prefetch(&raw const self.known[home]);
        prefetch(&raw const self.known[home ^ 1]);
    }

    /// The verdict of the tables in force, and the links of the ends.
    pub(super) fn decide(
        &mut self,
        snapshot: &Snapshot,
        subject: &Subject,
        node_source: NodeSource,
    ) -> (Ends, Decision) {
        let question = Question::new(subject, node_source, snapshot.epoch);
        let home = self.home(question.hash(&self.key));
        let mut room = None;
        for place in (0..WAYS).map(|way| home ^ way) {
            match &self.known[place] {
                Some(known) if known.answers(&question) => return known.answer(),
                Some(known) if known.epoch == question.epoch => {}
                Some(_) | None => room = room.or(Some(place)),
            }
        }
        let ends = [question.src, question.dst].map(|address| snapshot.routes.local(address));
        let local = ends.map(|end| end.is_some());
        let decision = snapshot.policy.decide_from(subject, local, node_source);
        if let Some(known) = Known::new(&question, ends, &decision) {
            self.known[room.unwrap_or(home)] = Some(known);
        }
        (ends, decision)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use podgate_tables::ids::{DenySetId, RuleId};
    use podgate_tables::l7::L7Rules;
    use podgate_tables::policy::{
        Action, AddressRow, DirectionTable, Entry, IdentityRow, Peer, PolicyTables, PortClasses,
        Rank,
    };
    use podgate_tables::proto;
    use podgate_tables::route::{Endpoint, Outlet, RouteTable};
    use podgate_tables::tuple::Tuple;
    use proptest::prelude::*;

    use super::*;
    use crate::flow::tests::sought_v4;

    const CLIENT: Address = Address::v4([10, 0, 0, 1]);
    const SERVER: Address = Address::v4([10, 0, 0, 2]);

    const NODE: Address = Address::v4([10, 0, 0, 3]);

    /// A server, 10.0.0.2, with these entries for ingress on every TCP port and ICMP type, a
    /// client, 10.0.0.1, and this node, 10.0.0.3.
    fn tables(entries: Vec<Entry>, default_deny: DenySetId) -> PolicyTables {
        let class_0 = |protocol| PortClasses { protocol, ranges: vec![(0, 0)] };
        let ingress = DirectionTable {
            protocols: vec![class_0(proto::TCP), class_0(proto::ICMP)],
            other: None,
            classes: vec![entries.into()],
            default_deny: Some(default_deny),
        };
        let mut tables = PolicyTables::default();
        for reserved_or_client in 0..5 {
            let row = IdentityRow { number: reserved_or_client, ..IdentityRow::default() };
            tables.identities.set(reserved_or_client, row);
        }
        let server = IdentityRow { number: 5, ingress: ingress.into(), ..IdentityRow::default() };
        tables.identities.set(5, server);
        let node = (NODE, PolicyTables::HOST);
        for (address, identity) in [node, (CLIENT, 4), (SERVER, 5)] {
            tables.addresses.set(address, Some(AddressRow { identity, named_ports: None }));
        }
        tables
    }

    /// Tables and routes that differ from those of any other epoch nearby: which of the server's
    /// TCP ports and ICMP types are open, by which rule, which port is inspected, and which link it
    /// is behind, if any.
    fn snapshot(epoch: u32) -> Snapshot {
        let first = epoch as u16 % 5;
        let allow = |ports, l7| Entry {
            rank: Rank::NORMAL,
            action: Action::Allow,
            peer: Peer::Anyone,
            port_name: None,
            ports,
            l7,
            rule: RuleId(epoch),
        };
        let inspected = allow((8, 8), Some(Arc::new(L7Rules::Http(Vec::new()))));
        let entries = vec![allow((first, first + 3), None), inspected];
        let policy = tables(entries, DenySetId(epoch));
        let link = LinkId(1 + first);
        let outlet = Outlet { link, mac: [2; 6], link_mac: [4; 6], mtu: 1500, path_mtu: 1500 };
        let server = Endpoint { outlet, addresses: vec![SERVER] };
        let there = !epoch.is_multiple_of(3);
        let routes = Arc::new(RouteTable::new(there.then_some(server), None).unwrap());
        Snapshot { epoch: Epoch(epoch), policy: policy.into(), routes }
    }

    fn any_subject() -> impl Strategy<Value = Subject> {
        let mapped = |last: u8| Address::v4([10, 0, 0, last]);
        let any_address = prop_oneof![
            (1..4_u8).prop_map(mapped),
            (1..3_u8).prop_map(move |last| Address::from_bits(mapped(last).bits() | 1 << 64)),
        ];
        let protocol = prop_oneof![Just(proto::TCP), Just(proto::UDP), Just(proto::ICMP)];
        let ends = (any_address.clone(), any_address, any::<u16>(), 0..9_u16);
        (ends, protocol, 0..9_u8).prop_map(
            |((src, dst, src_port, dst_port), protocol, icmp_type)| Subject {
                tuple: Tuple { src, dst, src_port, dst_port, protocol },
                icmp_type,
            },
        )
    }

    fn any_sender() -> impl Strategy<Value = NodeSource> {
        prop_oneof![Just(NodeSource::Node), Just(NodeSource::Elsewhere)]
    }

    proptest! {
        /// So few places that questions lose theirs to others.
        #[test]
        fn an_answer_is_what_the_tables_in_force_say(
            capacity in prop_oneof![Just(0), Just(64), Just(4096)],
            steps in prop::collection::vec((any_subject(), any_sender(), 0..10_u32), 0..300),
        ) {
            let mut decisions = Decisions::new(capacity);
            let mut epoch = 1;
            for (subject, sender, step) in steps {
                epoch += u32::from(step == 0);
                let snapshot = snapshot(epoch);
                let (ends, decision) = decisions.decide(&snapshot, &subject, sender);
                let tuple = &subject.tuple;
                prop_assert_eq!(ends, [tuple.src, tuple.dst].map(|end| snapshot.routes.local(end)));
                let local = ends.map(|end| end.is_some());
                let expected = snapshot.policy.decide_from(&subject, local, sender);
                prop_assert_eq!(decision.verdict, expected.verdict);
                prop_assert_eq!(decision.egress, expected.egress);
                prop_assert_eq!(decision.ingress, expected.ingress);
                if expected.verdict == Verdict::Inspect {
                    prop_assert_eq!(decision.l7.ingress.len(), expected.l7.ingress.len());
                }
            }
        }

        /// A wrong guess would fetch other lines, and nothing else would fail.
        #[test]
        fn what_is_foreseen_is_what_is_asked_for(subject in any_subject()) {
            prop_assume!(subject.tuple.protocol != proto::ICMP);
            let Some(sought) = sought_v4(&subject.tuple) else { return Ok(()) };
            let (addresses, port, protocol) = sought.opening();
            let key = Key::random();
            let question = Question::new(&subject, NodeSource::Elsewhere, Epoch(1));
            prop_assert_eq!(hash_v4(&key, addresses, port, protocol), question.hash(&key));
        }
    }

    /// Decisions are held for the epoch: tables of the same number that say another thing are not
    /// asked.
    #[test]
    fn a_flow_like_another_is_not_decided_again() {
        let tuple = |src_port| Tuple {
            src: CLIENT,
            dst: SERVER,
            src_port,
            dst_port: 2,
            protocol: proto::TCP,
        };
        let subject = |src_port| Subject { tuple: tuple(src_port), icmp_type: 0 };
        let mut decisions = Decisions::new(64);
        let mut rule_of = |src_port, snapshot: &Snapshot| {
            decisions.decide(snapshot, &subject(src_port), NodeSource::Elsewhere).1.ingress
        };
        let rule = |number| Cause::Allowed(RuleId(number));
        assert_eq!(rule_of(40_000, &snapshot(1)), rule(1));
        let other = Snapshot { epoch: Epoch(1), ..snapshot(2) };
        assert_eq!(rule_of(40_001, &other), rule(1));
        assert_eq!(rule_of(40_001, &snapshot(2)), rule(2));
    }
}
