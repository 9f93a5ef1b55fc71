//! The flow table compared with a model, with a test clock, and its eviction order.

use std::collections::HashMap;

use podgate_tables::address::Address;
use podgate_tables::tcp_flags::{ACK, FIN, RST, SYN};
use proptest::prelude::*;

use super::tcp::State;
use super::*;
use crate::packet::Tcp;

use FlowDirection::{Original, Reply};

const LINKS: FlowLinks = FlowLinks::new(LinkId(1), LinkId(2));

fn udp(n: u32) -> Tuple {
    let [_, a, b, c] = n.to_be_bytes();
    Tuple {
        src: Address::v4([10, a, b, c]),
        dst: Address::v4([10, 255, 0, 1]),
        src_port: 40_000,
        dst_port: 53,
        protocol: proto::UDP,
    }
}

fn tcp(n: u32) -> Tuple {
    Tuple { protocol: proto::TCP, dst_port: 80, ..udp(n) }
}

/// A packet with this tuple; `flags` matter for TCP alone.
fn packet(tuple: Tuple, flags: u8) -> View {
    let l4_kind = match tuple.protocol {
        proto::TCP => L4::Tcp(Tcp { seq: 0, ack: 0, flags, window: 0 }),
        proto::UDP => L4::Udp,
        proto::ICMP => L4::Icmp { kind: 8, code: 0 },
        proto::SCTP => L4::Sctp,
        _ => L4::Other,
    };
    View {
        eth_src: [0; 6],
        eth_dst: [0; 6],
        l3: 14,
        l4: 34,
        payload: 54,
        end: 114,
        ttl: 64,
        tuple,
        l4_kind,
    }
}

fn flow(tuple: Tuple, flags: u8, now: Nanos) -> Flow {
    Flow::new(&packet(tuple, flags), Epoch(1), LINKS, now)
}

fn open(table: &mut FlowTable, tuple: Tuple, now: Nanos) -> FlowIx {
    table.insert(flow(tuple, SYN, now)).unwrap()
}

/// Opens a flow and processes further packets, each with its direction and flags.
fn play(
    table: &mut FlowTable,
    tuple: Tuple,
    packets: &[(FlowDirection, u8)],
    inspector: Option<u32>,
    now: Nanos,
) -> FlowIx {
    let mut opened = flow(tuple, SYN, now);
    opened.set_inspector(inspector);
    let index = table.insert(opened).unwrap();
    for (direction, flags) in packets {
        let tuple = if *direction == Original { tuple } else { tuple.reversed() };
        table.update(index, *direction, &packet(tuple, *flags), now).unwrap();
    }
    index
}

/// Sweeps until no check is due; returns the expired flows.
fn sweep(table: &mut FlowTable, now: Nanos) -> Vec<Flow> {
    let (mut gone, mut budget) = (Vec::new(), usize::MAX);
    while let Some(index) = table.next_expired(now, &mut budget) {
        gone.push(table.remove(index));
    }
    table.check();
    gone
}

const SYN_ACK: (FlowDirection, u8) = (Reply, SYN | ACK);
const FINISHED: (FlowDirection, u8) = (Original, ACK);
const ESTABLISHED: [(FlowDirection, u8); 2] = [SYN_ACK, FINISHED];

/// Packets that put a flow into its class.
struct History {
    protocol: u8,
    packets: Vec<(FlowDirection, u8)>,
    /// Idle timeout, seconds.
    timeout: u64,
    /// Seconds of idleness until it can be evicted.
    yields_after: Option<u64>,
}

/// One for each class, in eviction order.
fn histories() -> Vec<History> {
    let over = |more: &[(FlowDirection, u8)]| (proto::TCP, [&ESTABLISHED, more].concat());
    let rows = [
        (over(&[(Reply, RST)]), 10, Some(0)),
        (over(&[(Reply, FIN | ACK), (Original, FIN | ACK)]), 120, Some(0)),
        ((proto::TCP, vec![]), 120, Some(0)),
        ((proto::TCP, vec![SYN_ACK]), 60, Some(0)),
        ((proto::UDP, vec![(Original, 0)]), 30, Some(0)),
        (over(&[(Original, FIN | ACK)]), 240, Some(10)),
        ((proto::UDP, vec![(Reply, 0)]), 120, Some(10)),
        ((proto::SCTP, vec![(Reply, 0)]), 600, Some(10)),
        (over(&[]), 7440, None),
    ];
    rows.map(|((protocol, packets), timeout, yields_after)| History {
        protocol,
        packets,
        timeout,
        yields_after,
    })
    .into()
}

#[test]
fn a_flow_expires_after_the_idle_timeout_of_its_class() {
    for History { protocol, packets, timeout, .. } in histories() {
        let mut table = FlowTable::new(4);
        let tuple = Tuple { protocol, ..udp(1) };
        let start = Nanos(0).plus_secs(1000);
        play(&mut table, tuple, &packets, None, start);
        // Swept every second, as by a running worker.
        let mut gone_after = None;
        for second in 0..=2 * timeout {
            if !sweep(&mut table, start.plus_secs(second)).is_empty() {
                gone_after = Some(second);
                break;
            }
        }
        let gone_after = gone_after.unwrap();
        assert!(gone_after >= timeout, "{packets:?} gone after {gone_after} s");
        assert!(gone_after <= timeout + timeout / 4 + 1, "{packets:?} gone after {gone_after} s");
        assert_eq!(table.lookup(&tuple), None);
    }
}

#[test]
fn packets_of_either_direction_keep_a_flow_alive() {
    for direction in [Original, Reply] {
        let mut table = FlowTable::new(4);
        let index = open(&mut table, udp(1), Nanos(0));
        for second in (0..600).step_by(29) {
            let now = Nanos(0).plus_secs(second);
            assert!(sweep(&mut table, now).is_empty());
            table.update(index, direction, &packet(udp(1), 0), now).unwrap();
        }
        let end = Nanos(0).plus_secs(600 + 300);
        assert_eq!(sweep(&mut table, end).len(), 1);
    }
}

#[test]
fn a_reset_shortens_the_timeout_of_an_established_flow() {
    let mut table = FlowTable::new(4);
    let index = play(&mut table, tcp(1), &ESTABLISHED, None, Nanos(0));
    let hour = Nanos(0).plus_secs(3600);
    assert!(sweep(&mut table, hour).is_empty());
    table.update(index, Reply, &packet(tcp(1).reversed(), RST), hour).unwrap();
    assert!(sweep(&mut table, hour.plus_secs(9)).is_empty());
    assert_eq!(sweep(&mut table, hour.plus_secs(13)).len(), 1);
}

#[test]
fn a_sweep_does_no_more_than_its_budget() {
    let mut table = FlowTable::new(1000);
    for n in 0..1000 {
        open(&mut table, udp(n), Nanos(0));
    }
    let late = Nanos(0).plus_secs(60);
    let mut rounds = 0;
    while !table.is_empty() {
        let (mut budget, before) = (32, table.len());
        while let Some(index) = table.next_expired(late, &mut budget) {
            table.remove(index);
        }
        assert!(before - table.len() <= 32);
        rounds += 1;
    }
    // One check per flow, and at most one of each owner without due flows.
    assert!((1000 / 32..=1000 / 32 + 2).contains(&rounds), "{rounds} rounds");
}

/// The opener of all flows of these tests.
fn opener(table: &FlowTable) -> Opener {
    table.opener(LINKS.opener, udp(0).src)
}

fn evict_all(table: &mut FlowTable, now: Nanos) -> Vec<Tuple> {
    let mut evicted = Vec::new();
    while let Some(index) = table.victim(&opener(table), now, None) {
        evicted.push(table.remove(index).tuple());
        table.check();
    }
    evicted
}

#[test]
fn a_full_table_evicts_in_the_stated_order() {
    let mut table = FlowTable::new(18);
    let (mut at_once, mut when_idle) = (Vec::new(), Vec::new());
    // An inspected established connection is evictable unless its client has sent a request.
    let established = Tuple { protocol: proto::TCP, ..udp(108) };
    for (inspector, base) in [(Some(3), 100), (None, 0)] {
        for (n, history) in histories().into_iter().enumerate().rev() {
            let tuple = Tuple { protocol: history.protocol, ..udp(base + n as u32) };
            play(&mut table, tuple, &history.packets, inspector, Nanos(0));
            match history.yields_after {
                Some(0) => at_once.insert(0, tuple),
                Some(_) => when_idle.insert(0, tuple),
                None => {}
            }
        }
    }
    assert!(table.is_full());
    assert_eq!(evict_all(&mut table, Nanos(0).plus_secs(1)), at_once);
    assert_eq!(evict_all(&mut table, Nanos(0).plus_secs(9)), [established]);
    assert_eq!(evict_all(&mut table, Nanos(0).plus_secs(10)), when_idle);
    assert_eq!(table.len(), 1, "established connections stay");
    assert!(table.iter().all(|(_, flow)| flow.tcp == State::Established));
}

#[test]
fn inspected_connections_are_evictable_once_denied_but_not_with_a_request() {
    let mut table = FlowTable::new(4);
    let start = Nanos(0).plus_secs(1);
    let [used, answered, reset] =
        [1, 2, 3].map(|n| play(&mut table, tcp(n), &ESTABLISHED, Some(n), start));
    table.set_requested(used, start);
    table.set_answered(answered, start);
    table.set_reset(reset, start);
    table.check();
    assert_eq!(evict_all(&mut table, start), [tcp(3), tcp(2)]);
    assert_eq!(evict_all(&mut table, start.plus_secs(7000)), []);
}

#[test]
fn an_owner_with_a_full_share_evicts_only_its_own_flows() {
    let mut table = FlowTable::new(90);
    let [greedy, late] = [LinkId(1), LinkId(7)];
    let now = Nanos(0).plus_secs(1);
    let open = |table: &mut FlowTable, link: LinkId, tuple: Tuple| {
        let opener = table.opener(link, tuple.src);
        let mut victims = Vec::new();
        if table.must_evict(&opener) {
            let victim = table.victim(&opener, now, None).unwrap();
            victims.push(table.remove(victim).link(Original));
        }
        let flow = Flow::new(&packet(tuple, SYN), Epoch(1), FlowLinks::new(link, LinkId(2)), now);
        table.insert(flow).unwrap();
        table.check();
        victims
    };
    for n in 0..20 {
        assert_eq!(open(&mut table, late, udp(n)), []);
    }
    let victims: Vec<_> = (100..300).flat_map(|n| open(&mut table, greedy, udp(n))).collect();
    // Of the 70 entries that the other link left.
    assert_eq!(victims, vec![greedy; 200 - 35]);
    assert_eq!(table.len(), 55);
    // A flow that moved to another link is evicted for that link.
    let (index, _) = table.lookup(&udp(0)).unwrap();
    table.set_links(index, FlowLinks::new(greedy, LinkId(2)));
    table.check();
    assert_eq!(open(&mut table, greedy, udp(400)), [greedy]);
}

#[test]
fn sources_from_outside_leave_entries_to_other_sources_and_to_pods() {
    let mut table = FlowTable::new(90_000);
    let [outside, pod] = [LinkId(0), LinkId(1)];
    table.set_outside(Some(outside));
    let now = Nanos(0).plus_secs(1);
    // Opens established connections until the next one would have to evict.
    let mut port = 0_u32;
    let mut fill = |table: &mut FlowTable, link: LinkId, src: Address, limit: u32| {
        let mut opened = 0;
        while opened < limit && !table.must_evict(&table.opener(link, src)) {
            port += 1;
            let tuple = Tuple {
                src,
                dst: Address::v4((0x0a00_0000 + port / 50_000).to_be_bytes()),
                src_port: (port % 50_000) as u16,
                dst_port: 80,
                protocol: proto::TCP,
            };
            let flow =
                Flow::new(&packet(tuple, ACK), Epoch(1), FlowLinks::new(link, LinkId(2)), now);
            table.insert(flow).unwrap();
            opened += 1;
        }
        opened
    };
    let source = |n: u8| Address::v4([192, 0, 2, n]);
    assert_eq!(fill(&mut table, outside, source(1), u32::MAX), 30_000);
    // Sources that share no group by chance.
    let owner = |n: u8| table.opener(outside, source(n)).owner;
    let mut others: Vec<u8> = (2..20).filter(|n| owner(*n) != owner(1)).collect();
    let first = owner(others[0]);
    let second = others.iter().position(|n| owner(*n) != first).unwrap();
    others.swap(1, second);
    assert_eq!(fill(&mut table, outside, source(others[0]), 100), 100);
    let of_pod = fill(&mut table, pod, source(200), u32::MAX);
    assert!((29_900..=30_000).contains(&of_pod), "{of_pod}");
    let of_another_pod = fill(&mut table, LinkId(3), source(201), u32::MAX);
    assert!(of_another_pod > 10_000, "{of_another_pod}");
    // Pods have left fewer entries than outside flows use; a new source still gets one.
    let free = 90_000 - table.len();
    let of_late = fill(&mut table, outside, source(others[1]), u32::MAX) as usize;
    assert!(of_late > 0 && of_late.abs_diff(free / 2 / SOURCES) <= 1, "{of_late} of {free}");
    // One IPv6 network is one source.
    let v6 = |last: u8| Address::v6([0xfd, 0, 0, 0, 0, 0, 0, 1, last, 0, 0, 0, 0, 0, 0, last]);
    let [one, other] = [1, 2].map(|n| table.opener(outside, v6(n)).owner);
    assert_eq!(one, other);
}

#[test]
fn an_expired_flow_is_evicted_first() {
    let mut table = FlowTable::new(2);
    play(&mut table, tcp(1), &ESTABLISHED, None, Nanos(0));
    let day = Nanos(0).plus_secs(86_400);
    play(&mut table, tcp(2), &[(Reply, RST)], None, day);
    let victim = table.victim(&opener(&table), day, None).unwrap();
    assert_eq!(table.get(victim).tuple(), tcp(1));
}

#[test]
fn a_table_full_of_established_connections_evicts_none() {
    let mut table = FlowTable::new(2);
    for n in 0..2 {
        play(&mut table, tcp(n), &ESTABLISHED, None, Nanos(0));
    }
    assert_eq!(table.victim(&opener(&table), Nanos(0).plus_secs(7439), None), None);
    let dropped = table.insert(flow(tcp(3), SYN, Nanos(0)));
    assert_eq!(dropped, Err(DropReason::FlowTableFull));
    assert_eq!(table.lookup(&tcp(3)), None);
    assert!(table.lookup(&tcp(0)).is_some() && table.lookup(&tcp(1)).is_some());
}

#[test]
fn an_idle_flow_is_evicted_before_active_ones() {
    let mut table = FlowTable::new(20);
    let indices: Vec<_> =
        (0..20).map(|n| play(&mut table, udp(n), &[(Reply, 0)], None, Nanos(0))).collect();
    // All but the last are active.
    let now = Nanos(0).plus_secs(20);
    for index in &indices[..19] {
        table.update(*index, Original, &packet(udp(0), 0), now).unwrap();
    }
    // Each call checks some of them and continues.
    let victim = (0..5).find_map(|_| table.victim(&opener(&table), now, None)).unwrap();
    assert_eq!(victim, indices[19]);
}

#[test]
fn an_invalid_segment_changes_nothing() {
    let mut table = FlowTable::new(1);
    let index = open(&mut table, tcp(1), Nanos(0));
    let dropped = table.update(index, Original, &packet(tcp(1), ACK), Nanos(0).plus_secs(5));
    assert_eq!(dropped, Err(DropReason::TcpNoFlow));
    let flow = table.get(index);
    assert_eq!((flow.tcp, flow.packets, flow.last_seen), (State::SynSent, [1, 0], Moment(0)));
}

#[test]
fn a_segment_without_syn_opens_a_picked_up_flow() {
    for (flags, state) in [
        (ACK, State::Established),
        (SYN | ACK, State::Established),
        (FIN | ACK, State::HalfClosed(Original)),
    ] {
        let flow = flow(tcp(1), flags, Nanos(0));
        assert!(flow.picked_up());
        assert_eq!(flow.tcp, state);
        assert!(flow.is_expired(Nanos(0).plus_secs(121)), "nobody has answered");
    }
    assert!(!flow(tcp(1), SYN, Nanos(0)).picked_up());
    assert!(!flow(udp(1), 0, Nanos(0)).picked_up());
}

#[test]
fn a_flow_counts_ip_bytes_per_direction() {
    let mut table = FlowTable::new(1);
    let index = play(&mut table, udp(1), &[(Reply, 0), (Reply, 0)], None, Nanos(7).plus_secs(1));
    let flow = table.remove(index);
    assert_eq!((flow.packets, flow.bytes), ([1, 2], [100, 200]));
    assert_eq!(flow.last_seen, Nanos(0).plus_secs(1).into());
    assert_eq!((flow.link(Original), flow.link(Reply)), (LINKS.opener, LINKS.responder));
    assert_eq!(flow.inspector(), None);
}

#[test]
fn churn_never_exceeds_the_reserved_memory() {
    let mut table = FlowTable::new(1000);
    let reserved = table.reserved();
    for n in 0..200_000 {
        if table.is_full() {
            let victim = table.victim(&opener(&table), Nanos(u64::from(n)), None).unwrap();
            table.remove(victim);
        }
        open(&mut table, udp(n), Nanos(u64::from(n)));
    }
    table.check();
    assert_eq!(table.len(), 1000);
    assert_eq!(table.reserved(), reserved);
}

fn any_address(v4: bool) -> BoxedStrategy<Address> {
    if v4 {
        any::<[u8; 4]>().prop_map(Address::v4).boxed()
    } else {
        any::<[u8; 16]>().prop_map(Address::v6).boxed()
    }
}

pub(super) fn any_tuple() -> impl Strategy<Value = Tuple> {
    any::<bool>().prop_flat_map(|v4| {
        (any_address(v4), any_address(v4), any::<(u16, u16, u8)>()).prop_map(
            |(src, dst, (src_port, dst_port, protocol))| Tuple {
                src,
                dst,
                src_port,
                dst_port,
                protocol,
            },
        )
    })
}

/// The lookup key of an IPv4 packet with this tuple, from its bytes. `None` for IPv6.
pub(crate) fn lookup_key_v4(tuple: &Tuple) -> Option<LookupKey> {
    let addresses = [tuple.src.as_v4_bits()?, tuple.dst.as_v4_bits()?];
    let [src, dst] = addresses.map(|bits| u64::from(bits.swap_bytes()));
    let [sport, dport] = [tuple.src_port, tuple.dst_port].map(|port| u32::from(port.swap_bytes()));
    let mut key = LookupKey::default();
    key.set_v4(src | dst << 32, sport | dport << 16, tuple.protocol);
    Some(key)
}

/// Operations on a table.
#[derive(Clone, Debug)]
enum Step {
    Packet { n: u32, of_tcp: bool, reversed: bool, flags: u8 },
    Wait { seconds: u64 },
    Sweep,
}

fn any_step() -> impl Strategy<Value = Step> {
    let flags = prop::sample::select(&[SYN, SYN | ACK, ACK, FIN | ACK, RST][..]);
    prop_oneof![
        8 => (0u32..12, any::<bool>(), any::<bool>(), flags)
            .prop_map(|(n, of_tcp, reversed, flags)| Step::Packet { n, of_tcp, reversed, flags }),
        1 => prop::sample::select(&[1u64, 9, 31, 130, 8000][..])
            .prop_map(|seconds| Step::Wait { seconds }),
        1 => Just(Step::Sweep),
    ]
}

/// The opener's tuple, packets per direction and time of the last packet of each flow, by the tuple
/// in both directions.
#[derive(Default)]
struct Model(HashMap<Tuple, (Tuple, [u64; 2], Moment)>);

impl Model {
    fn set(&mut self, opener: Tuple, packets: [u64; 2], now: Nanos) {
        for name in [opener, opener.reversed()] {
            self.0.insert(name, (opener, packets, now.into()));
        }
    }

    fn remove(&mut self, flow: &Flow) {
        for name in [flow.tuple(), flow.tuple().reversed()] {
            assert!(self.0.remove(&name).is_some());
        }
    }
}

#[test]
fn packets_take_the_fast_path_while_policy_allows() {
    let fast_path = |flow: &Flow, epoch| {
        [Original, Reply].map(|to| flow.is_fast_path(to, Epoch(epoch).short()))
    };
    let mut table = FlowTable::new(4);
    let packets = [(Reply, SYN | ACK), (Original, ACK)];
    let index = play(&mut table, tcp(1), &packets, None, Nanos(0));
    assert_eq!(fast_path(table.get(index), 1), [true; 2]);
    assert_eq!(fast_path(table.get(index), 2), [false; 2], "of other tables");
    table.get_mut(index).set_permission(Epoch(2), Permission::Revoked);
    assert_eq!(fast_path(table.get(index), 2), [false; 2], "revoked");
    table.check();
    table.get_mut(index).set_permission(Epoch(3), Permission::Allowed);
    assert_eq!(fast_path(table.get(index), 3), [true; 2]);
    let inspected = play(&mut table, tcp(2), &packets, Some(0), Nanos(0));
    assert_eq!(fast_path(table.get(inspected), 1), [false; 2]);
    let unanswered = open(&mut table, udp(3), Nanos(0));
    assert_eq!(fast_path(table.get(unanswered), 1), [true, false]);
    table.check();
}

proptest! {
    #[test]
    fn both_directions_find_the_flow_and_other_tuples_do_not(
        tuples in proptest::collection::vec(any_tuple(), 1..20),
    ) {
        let mut table = FlowTable::new(64);
        for tuple in &tuples {
            if table.lookup(tuple).is_none() {
                open(&mut table, *tuple, Nanos(0));
            }
        }
        for tuple in &tuples {
            let (index, direction) = table.lookup(tuple).unwrap();
            let (same, other) = table.lookup(&tuple.reversed()).unwrap();
            prop_assert_eq!(index, same);
            if *tuple != tuple.reversed() {
                prop_assert_eq!(direction, other.reverse());
            }
            let stranger = Tuple { src_port: !tuple.src_port, dst_port: !tuple.dst_port, ..*tuple };
            if !tuples.contains(&stranger) && !tuples.contains(&stranger.reversed()) {
                prop_assert_eq!(table.lookup(&stranger), None);
            }
        }
        // A batch lookup, with gaps, finds the same as single lookups.
        let mut batch = vec![LookupKey::default(); 2 * tuples.len()];
        for (tuple, key) in tuples.iter().zip(batch.iter_mut().step_by(2)) {
            *key = lookup_key_v4(tuple).unwrap_or_default();
        }
        table.lookup_batch(&mut batch);
        for (at, key) in batch.iter().enumerate() {
            let tuple = tuples[at / 2];
            let found_flow = |(flow, way): (&mut Flow, FlowDirection)| (flow.tuple(), way);
            let at_once = table.lookup_candidate(key).map(found_flow);
            let found = at_once.or_else(|| table.lookup_slow(key).map(found_flow));
            let expected = table.lookup(&tuple).map(|(index, way)| (table.get(index).tuple(), way));
            let is_v4_key = at % 2 == 0 && lookup_key_v4(&tuple).is_some();
            prop_assert_eq!(found, expected.filter(|_| is_v4_key));
        }
    }

    #[test]
    fn the_table_behaves_like_a_map_with_eviction(
        steps in proptest::collection::vec(any_step(), 1..200),
    ) {
        let mut table = FlowTable::new(8);
        let mut model = Model::default();
        let mut now = Nanos(0).plus_secs(1);
        for step in steps {
            match step {
                Step::Wait { seconds } => now = now.plus_secs(seconds),
                Step::Sweep => {
                    for flow in sweep(&mut table, now) {
                        prop_assert!(flow.is_expired(now));
                        model.remove(&flow);
                    }
                }
                Step::Packet { n, of_tcp, reversed, flags } => {
                    let tuple = if of_tcp { tcp(n) } else { udp(n) };
                    let tuple = if reversed { tuple.reversed() } else { tuple };
                    arrive(&mut table, &mut model, packet(tuple, flags), now);
                }
            }
            table.check();
            prop_assert_eq!(model.0.len(), 2 * table.len());
            for (index, flow) in table.iter() {
                let known = (flow.tuple(), flow.packets, flow.last_seen);
                prop_assert_eq!(model.0.get(&flow.tuple()), Some(&known));
                prop_assert_eq!(table.lookup(&flow.tuple()), Some((index, Original)));
            }
        }
    }
}

/// Processes a packet in the table and in the model.
fn arrive(table: &mut FlowTable, model: &mut Model, view: View, now: Nanos) {
    let found = table.lookup(&view.tuple);
    assert_eq!(found.is_some(), model.0.contains_key(&view.tuple));
    if let Some((index, direction)) = found {
        let (opener, mut packets, _) = model.0[&view.tuple];
        assert_eq!(direction == Original, opener == view.tuple);
        if table.update(index, direction, &view, now).is_ok() {
            packets[direction as usize] += 1;
            model.set(opener, packets, now);
        }
        return;
    }
    if table.is_full() {
        let Some(victim) = table.victim(&opener(table), now, None) else { return };
        let flow = table.remove(victim);
        let unanswered = flow.picked_up() && flow.packets[1] == 0;
        let established = flow.protocol() == proto::TCP && flow.tcp == State::Established;
        assert!(!established || unanswered || flow.is_expired(now));
        model.remove(&flow);
    }
    let flags = match view.l4_kind {
        L4::Tcp(segment) => segment.flags,
        _ => 0,
    };
    table.insert(flow(view.tuple, flags, now)).unwrap();
    model.set(view.tuple, [1, 0], now);
}
