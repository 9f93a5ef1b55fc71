//! Reassembly: complete datagrams, limits, fair sharing and expiry.

use std::net::IpAddr;

use podgate_tables::address::Address;
use proptest::prelude::*;

use super::*;
use crate::flow::FlowTable;
use crate::packet::{L4, parse};
use crate::worker::{Shared, SharedConfig};

const LINK: LinkId = LinkId(1);
const OTHER: LinkId = LinkId(2);
const OUTSIDE: LinkId = LinkId(3);
const UDP: u8 = 17;

/// A worker's frames and its reassembly.
struct Fixture {
    egress: Egress,
    reassembly: Reassembly,
    flows: FlowTable,
    now: Nanos,
}

/// A fragment: offset, "more fragments", and data.
#[derive(Clone, Debug, PartialEq)]
struct Cut {
    offset: usize,
    more: bool,
    body: Vec<u8>,
}

impl Fixture {
    fn new(frames: u32) -> Self {
        let umem = Umem::new(frames).unwrap();
        let shared = Shared::new(SharedConfig { flows_per_worker: 1, ..Default::default() });
        let egress = Egress::new(0, &shared, umem.pool());
        let mut flows = FlowTable::new(1);
        flows.set_outside(Some(OUTSIDE));
        Self { egress, reassembly: Reassembly::new(frames, 1), flows, now: Nanos(1) }
    }

    /// Inserts a fragment; returns the bytes of the packet that it completes.
    fn insert(&mut self, link: LinkId, bytes: &[u8]) -> Result<Option<Vec<u8>>, DropReason> {
        let (umem, pool) = self.egress.frames();
        let mut frames: Vec<_> = bytes
            .chunks(3840)
            .map(|chunk| {
                let mut frame = pool.alloc().unwrap();
                frame.set_len(chunk.len() as u32);
                umem.data_mut(&mut frame).copy_from_slice(chunk);
                frame
            })
            .collect();
        let packet = Packet::new(frames.remove(0), frames.into());
        let view = match parse(umem.data(&packet.head), packet.len()) {
            Ok(view) => view,
            Err(reason) => {
                pool.free_packet(packet);
                return Err(reason);
            }
        };
        let L4::Fragment(fragment) = view.l4_kind else { panic!("no fragment: {view:?}") };
        let sender = self.flows.opener(link, view.tuple.src);
        let inserted =
            self.reassembly.insert(&mut self.egress, self.now, sender, view, fragment, packet);
        match inserted {
            Ok(None) => Ok(None),
            Ok(Some(packet)) => {
                let frames = std::iter::once(&packet.head).chain(&packet.tail);
                let umem = self.egress.umem();
                let whole = frames.flat_map(|frame| umem.data(frame).to_vec()).collect();
                let largest = usize::from(packet.largest_fragment);
                assert!(largest > 0, "the packet knows that it was fragmented");
                if !view.is_v4() {
                    assert_eq!(packet.fragment_id, fragment.id);
                }
                self.egress.free_packet(packet);
                self.check();
                Ok(Some(whole))
            }
            Err((packet, reason)) => {
                self.egress.drop_packet(link, packet, reason);
                self.check();
                Err(reason)
            }
        }
    }

    /// Asserts that frames and usage are consistent.
    fn check(&self) {
        assert_eq!(self.egress.outstanding_frames(), self.reassembly.held_frames() as i64);
        let Reassembly { lists, outside, all, slots, .. } = &self.reassembly;
        let sum = |lists: &[List]| {
            let add = |sum: Usage, list: &List| Usage {
                datagrams: sum.datagrams + list.usage.datagrams,
                frames: sum.frames + list.usage.frames,
            };
            lists.iter().fold(Usage::default(), add)
        };
        assert_eq!((*all, *outside), (sum(lists), sum(&lists[..SOURCES])));
        assert_eq!(all.datagrams, self.reassembly.index.len());
        assert!(all.frames <= self.reassembly.frames_max);
        for (id, list) in lists.iter().enumerate() {
            let mut chain = Vec::new();
            let (mut before, mut at) = (None, list.ends[0]);
            while let Some(slot) = at {
                let datagram = slots[slot].as_ref().unwrap();
                assert_eq!(datagram.list, ListId(id));
                assert_eq!(datagram.neighbours[0], before);
                chain.push(datagram.began);
                (before, at) = (at, datagram.neighbours[1]);
            }
            assert_eq!((chain.len(), before), (list.usage.datagrams, list.ends[1]));
            assert!(chain.is_sorted(), "from the oldest to the newest");
        }
        let waiting: usize =
            self.reassembly.slots.iter().flatten().map(|datagram| datagram.parts.len()).sum();
        assert_eq!(self.egress.stats().fragments_waiting.get(), waiting as u64);
    }

    fn expire(&mut self) -> usize {
        let expired = || self.reassembly.drop_expired(&mut self.egress, self.now).then_some(());
        std::iter::from_fn(expired).count()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.egress.stats().dropped[reason as usize].packets.get()
    }
}

fn v4(id: u16, cut: &Cut) -> Vec<u8> {
    let position = (cut.offset / 8) as u16 | u16::from(cut.more) << 13;
    let mut header = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, UDP, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
    header[2..4].copy_from_slice(&(20 + cut.body.len() as u16).to_be_bytes());
    header[4..6].copy_from_slice(&id.to_be_bytes());
    header[6..8].copy_from_slice(&position.to_be_bytes());
    let sum = checksum::of(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&[2; 12][..], &[8, 0], &header, &cut.body].concat()
}

/// A fixed header.
fn v6_header(next_header: u8, payload_len: usize) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0, 0, 0, next_header, 64];
    header[4..6].copy_from_slice(&(payload_len as u16).to_be_bytes());
    header.extend([0x20; 16]);
    header.extend([0x21; 16]);
    header
}

fn v6(id: u32, cut: &Cut) -> Vec<u8> {
    let mut header = v6_header(44, 8 + cut.body.len());
    header.extend([UDP, 0]);
    header.extend((cut.offset as u16 | u16::from(cut.more)).to_be_bytes());
    header.extend(id.to_be_bytes());
    [&[2; 12][..], &[0x86, 0xdd], &header, &cut.body].concat()
}

/// `body` split at these multiples of eight.
fn cuts(body: &[u8], at: &[usize]) -> Vec<Cut> {
    let mut at: Vec<_> = at.iter().map(|at| at * 8).filter(|at| *at < body.len()).collect();
    at.extend([0, body.len()]);
    at.sort_unstable();
    at.dedup();
    let part = |pair: &[usize]| Cut {
        offset: pair[0],
        more: pair[1] < body.len(),
        body: body[pair[0]..pair[1]].to_vec(),
    };
    at.windows(2).map(part).collect()
}

fn body(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 256) as u8).collect()
}

/// The unfragmented packet.
fn whole(is_v4: bool, id: u16, body: &[u8]) -> Vec<u8> {
    let cut = Cut { offset: 0, more: false, body: body.to_vec() };
    if is_v4 {
        return v4(id, &cut);
    }
    let header = v6_header(UDP, body.len());
    [&[2; 12][..], &[0x86, 0xdd], &header, body].concat()
}

fn any_cuts() -> impl Strategy<Value = (Vec<u8>, Vec<Cut>)> {
    let lengths = prop_oneof![9usize..600, 600usize..20_000, Just(65_507usize)];
    (lengths, prop::collection::vec(1usize..8192, 1..40)).prop_map(|(len, at)| {
        let body = body(len);
        // An unfragmented packet has no fragments.
        let at: Vec<_> =
            at.into_iter().map(|at| 1 + at % len.div_ceil(8).max(2)).chain([1]).collect();
        (body.clone(), cuts(&body, &at))
    })
}

proptest! {
    #[test]
    fn fragments_in_any_order_are_reassembled(
        (body, cuts) in any_cuts(), is_v4: bool, id: u16,
        twice in any::<prop::sample::Index>(),
    ) {
        let mut fixture = Fixture::new(2048);
        let mut left = cuts.clone();
        let mut rng = u64::from(id) * 2 + 1;
        let mut result = None;
        let again = twice.index(cuts.len());
        while !left.is_empty() {
            rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let cut = left.swap_remove((rng >> 33) as usize % left.len());
            let bytes = if is_v4 { v4(id, &cut) } else { v6(id.into(), &cut) };
            prop_assert!(result.is_none(), "not before all is there");
            result = fixture.insert(LINK, &bytes).unwrap();
            if result.is_none() && cut == cuts[again] {
                prop_assert_eq!(fixture.insert(LINK, &bytes), Err(DropReason::FragmentDuplicate));
            }
        }
        prop_assert_eq!(result.unwrap(), whole(is_v4, id, &body));
        prop_assert_eq!(fixture.reassembly.held_frames(), 0);
        prop_assert_eq!(fixture.egress.stats().fragments_joined.get(), cuts.len() as u64 - 1);
    }

    #[test]
    fn a_datagram_with_an_overlap_is_never_reassembled(
        (_, cuts) in any_cuts(), is_v4: bool, at in any::<prop::sample::Index>(),
        longer in 1usize..4, before: bool,
    ) {
        let mut fixture = Fixture::new(2048);
        let at = at.index(cuts.len());
        // The same part, but starting earlier or ending later.
        let mut bad = cuts[at].clone();
        if before && bad.offset > 0 {
            bad.offset -= 8;
            bad.body.splice(..0, [0xee; 8]);
        } else {
            bad.body.truncate(bad.body.len() / 8 * 8);
            bad.body.extend(vec![0xee; 8 * longer]);
            bad.more = true;
        }
        prop_assume!(bad.offset + bad.body.len() <= 65_500);
        // With offset zero and no more fragments it would not be a fragment.
        prop_assume!(bad.offset > 0 || bad.more);
        let bytes = |cut: &Cut| if is_v4 { v4(7, cut) } else { v6(7, cut) };
        let mut done = false;
        for (index, cut) in cuts.iter().enumerate() {
            if index == at {
                done |= fixture.insert(LINK, &bytes(&bad)).is_ok_and(|whole| whole.is_some());
            }
            done |= fixture.insert(LINK, &bytes(cut)).is_ok_and(|whole| whole.is_some());
        }
        prop_assert!(!done);
        prop_assert_eq!(fixture.reassembly.held_frames(), 0, "all of it is gone");
    }

    #[test]
    fn no_input_leaks_frames_or_exceeds_limits(
        all in prop::collection::vec(
            (any::<bool>(), 0..4u16, 0usize..200, any::<bool>(), 0usize..300, 0..4u16, 0u64..4000), 1..200)
    ) {
        let mut fixture = Fixture::new(1024);
        for (is_v4, id, offset, more, len, link, wait) in all {
            let cut = Cut { offset: offset * 8, more, body: body(len) };
            if cut.offset == 0 && !more {
                continue;
            }
            let bytes = if is_v4 { v4(id, &cut) } else { v6(id.into(), &cut) };
            fixture.now = fixture.now.plus_millis(wait);
            let _ = fixture.insert(LinkId(link), &bytes);
            fixture.expire();
            fixture.check();
        }
        fixture.now = fixture.now.plus_secs(61);
        fixture.expire();
        fixture.check();
        prop_assert_eq!(fixture.reassembly.held_frames(), 0);
    }
}

#[test]
fn invalid_fragments_are_dropped() {
    let mut fixture = Fixture::new(1024);
    let cut = |offset, more, len| Cut { offset, more, body: body(len) };
    for (cut, why) in [
        (cut(8, true, 12), "not a multiple of eight"),
        (cut(8, false, 0), "empty"),
        (cut(65_528, false, 100), "beyond what a packet holds"),
    ] {
        let expected = Err(DropReason::FragmentMalformed);
        assert_eq!(fixture.insert(LINK, &v4(1, &cut)), expected, "{why}");
        assert_eq!(fixture.insert(LINK, &v6(1, &cut)), expected, "{why}");
    }
    assert_eq!(fixture.insert(LINK, &v4(1, &cut(0, true, 4))), Err(DropReason::FragmentTiny));
    assert_eq!(fixture.reassembly.held_frames(), 0);
}

#[test]
fn the_last_fragment_ends_the_datagram() {
    let cut = |offset, more, len| Cut { offset, more, body: body(len) };
    for second in [cut(24, true, 8), cut(24, false, 8), cut(8, false, 8)] {
        let mut fixture = Fixture::new(1024);
        assert_eq!(fixture.insert(LINK, &v4(1, &cut(16, false, 8))), Ok(None));
        assert_eq!(fixture.insert(LINK, &v4(1, &second)), Err(DropReason::FragmentMalformed));
        assert_eq!(fixture.dropped(DropReason::FragmentMalformed), 2, "both are gone");
        let first = v4(1, &cut(0, true, 16));
        assert_eq!(
            fixture.insert(LINK, &first),
            Err(DropReason::FragmentMalformed),
            "and later fragments"
        );
    }
}

#[test]
fn datagrams_time_out_after_30_s_over_ipv4_and_60_s_over_ipv6() {
    let mut fixture = Fixture::new(1024);
    let (first, second) = (&cuts(&body(40), &[2])[0], &cuts(&body(40), &[2])[1]);
    fixture.insert(LINK, &v4(1, first)).unwrap();
    fixture.insert(LINK, &v6(1, first)).unwrap();
    fixture.now = fixture.now.plus_secs(29);
    assert_eq!(fixture.expire(), 0);
    fixture.now = fixture.now.plus_secs(1);
    assert_eq!(fixture.insert(LINK, &v4(1, second)), Ok(None), "it belongs to a new datagram");
    assert_eq!(fixture.dropped(DropReason::FragmentTimeout), 1);
    assert!(fixture.insert(LINK, &v6(1, second)).unwrap().is_some());
    fixture.now = fixture.now.plus_secs(31);
    assert_eq!(fixture.expire(), 1);
    assert_eq!(fixture.dropped(DropReason::FragmentTimeout), 2);
    fixture.check();
}

#[test]
fn fragments_of_different_links_ids_or_protocols_are_not_mixed() {
    let mut fixture = Fixture::new(1024);
    let cuts = cuts(&body(40), &[2]);
    fixture.insert(LINK, &v4(1, &cuts[0])).unwrap();
    assert_eq!(fixture.insert(OTHER, &v4(1, &cuts[1])), Ok(None), "another link");
    assert_eq!(fixture.insert(LINK, &v4(2, &cuts[1])), Ok(None), "another identification");
    let mut tcp = v4(1, &cuts[1]);
    tcp[14 + 9] = 6;
    tcp[14 + 10..14 + 12].fill(0);
    let sum = checksum::of(&tcp[14..34]);
    tcp[14 + 10..14 + 12].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(fixture.insert(LINK, &tcp), Ok(None), "another protocol");
    assert!(fixture.insert(LINK, &v4(1, &cuts[1])).unwrap().is_some());
}

#[test]
fn a_link_at_its_limit_drops_its_oldest_datagram() {
    let mut fixture = Fixture::new(3072);
    let cuts = cuts(&body(40), &[2]);
    for id in 0..1000 {
        fixture.now = fixture.now.plus_millis(1);
        fixture.insert(LINK, &v4(id, &cuts[0])).unwrap();
    }
    // The limit is one in sixteen of 3072 frames; half of it is left to other links.
    assert_eq!(fixture.reassembly.held_frames(), 96);
    assert_eq!(fixture.dropped(DropReason::FragmentLimit), 904);
    assert!(fixture.insert(OTHER, &v4(1, &cuts[0])).unwrap().is_none());
    assert!(fixture.insert(OTHER, &v4(1, &cuts[1])).unwrap().is_some());
    assert!(fixture.insert(LINK, &v4(999, &cuts[1])).unwrap().is_some(), "the newest is kept");
    assert_eq!(fixture.insert(LINK, &v4(3, &cuts[1])), Ok(None), "the oldest was dropped");
}

/// As [`v4`], from another source.
fn v4_from(source: u8, id: u16, cut: &Cut) -> Vec<u8> {
    let mut bytes = v4(id, cut);
    bytes[14 + 15] = source;
    bytes[14 + 10..14 + 12].fill(0);
    let sum = checksum::of(&bytes[14..34]);
    bytes[14 + 10..14 + 12].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Three sources whose groups differ.
fn sources(fixture: &Fixture) -> [u8; 3] {
    let group = |source: u8| {
        let address = Address::from(IpAddr::from([192, 0, 2, source]));
        fixture.flows.opener(OUTSIDE, address).source_group().unwrap()
    };
    let second = (2..).find(|source| group(*source) != group(1)).unwrap();
    let is_third = |source: &u8| ![group(1), group(second)].contains(&group(*source));
    [1, second, (2..).find(is_third).unwrap()]
}

#[test]
fn a_source_outside_of_the_node_drops_no_datagrams_of_others() {
    let mut fixture = Fixture::new(65_536);
    let [greedy, early, late] = sources(&fixture);
    let cuts = cuts(&body(40), &[2]);
    let first = |fixture: &mut Fixture, source, id| {
        fixture.now = fixture.now.plus_millis(1);
        fixture.insert(OUTSIDE, &v4_from(source, id, &cuts[0])).unwrap();
    };
    first(&mut fixture, early, 1);
    for id in 0..1000 {
        first(&mut fixture, greedy, id);
    }
    first(&mut fixture, late, 1);
    assert_eq!(fixture.reassembly.outside.datagrams, DATAGRAMS_MAX / 2);
    for honest in [early, late] {
        let whole = fixture.insert(OUTSIDE, &v4_from(honest, 1, &cuts[1])).unwrap();
        assert!(whole.is_some(), "source {honest}");
    }
    assert!(fixture.insert(OUTSIDE, &v4_from(greedy, 999, &cuts[1])).unwrap().is_some());
    // Many sources with one datagram each: the oldest of all goes.
    for source in 1..=250 {
        first(&mut fixture, source, 1);
    }
    assert!(fixture.insert(OUTSIDE, &v4_from(250, 1, &cuts[1])).unwrap().is_some());
    fixture.reassembly.drop_link(&mut fixture.egress, OUTSIDE);
    fixture.check();
    assert_eq!(fixture.reassembly.all, Usage::default());
}

#[test]
fn frames_are_shared_among_sources_outside_of_the_node() {
    let mut fixture = Fixture::new(3072);
    let [greedy, honest, _] = sources(&fixture);
    let fragment = |at: usize, more| Cut { offset: at * 8, more, body: body(8) };
    for at in 0..3 {
        fixture.insert(OUTSIDE, &v4_from(honest, 1, &fragment(at, true))).unwrap();
    }
    for (id, at) in (0..20).flat_map(|id| (0..60).map(move |at| (id, at))) {
        fixture.now = fixture.now.plus_millis(1);
        let _ = fixture.insert(OUTSIDE, &v4_from(greedy, id, &fragment(at, true)));
    }
    assert!(fixture.reassembly.outside.frames <= 96, "half of one in sixteen of 3072 frames");
    assert!(fixture.dropped(DropReason::FragmentLimit) > 0);
    let last = fixture.insert(OUTSIDE, &v4_from(honest, 1, &fragment(3, false))).unwrap();
    assert!(last.is_some());
}

/// Inserts all of `fragments` small fragments of a datagram but the last, which is returned.
fn insert_all_but_the_last(fixture: &mut Fixture, fragments: usize) -> Cut {
    for at in 0..fragments - 1 {
        let cut = Cut { offset: at * 8, more: true, body: body(8) };
        assert_eq!(fixture.insert(LINK, &v4(1, &cut)), Ok(None));
    }
    Cut { offset: (fragments - 1) * 8, more: false, body: body(8) }
}

#[test]
fn the_largest_datagram_is_reassembled_with_few_frames() {
    let mut fixture = Fixture::new(64);
    let last = insert_all_but_the_last(&mut fixture, 64);
    assert!(fixture.insert(LINK, &v4(1, &last)).unwrap().is_some());
}

#[test]
fn a_datagram_of_too_many_fragments_is_dropped() {
    let mut fixture = Fixture::new(65_536);
    let last = insert_all_but_the_last(&mut fixture, 65);
    assert_eq!(fixture.insert(LINK, &v4(1, &last)), Err(DropReason::FragmentLimit));
    assert_eq!(fixture.dropped(DropReason::FragmentLimit), 65);
    assert_eq!(fixture.reassembly.held_frames(), 0);
}

#[test]
fn fragments_of_a_removed_link_are_dropped() {
    let mut fixture = Fixture::new(1024);
    let first = &cuts(&body(40), &[2])[0];
    fixture.insert(LINK, &v4(1, first)).unwrap();
    fixture.insert(OTHER, &v4(1, first)).unwrap();
    fixture.reassembly.drop_link(&mut fixture.egress, LINK);
    assert_eq!((fixture.reassembly.held_frames(), fixture.dropped(DropReason::LinkGone)), (1, 1));
    fixture.check();
}

#[test]
fn a_congestion_mark_on_one_fragment_marks_the_datagram() {
    let marked = |second: u8| {
        let mut fixture = Fixture::new(1024);
        let cuts = cuts(&body(40), &[2]);
        let with = |cut: &Cut, ecn: u8| {
            let mut bytes = v6(1, cut);
            bytes[15] = ecn << 4;
            bytes
        };
        fixture.insert(LINK, &with(&cuts[0], if second == 3 { 2 } else { 0 })).unwrap();
        fixture.insert(LINK, &with(&cuts[1], second)).unwrap().map(|whole| whole[15] >> 4)
    };
    assert_eq!(marked(3), Some(3));
    assert_eq!(marked(0), Some(0));
    let mut fixture = Fixture::new(1024);
    let cuts = cuts(&body(40), &[2]);
    fixture.insert(LINK, &v6(1, &cuts[0])).unwrap();
    let mut bad = v6(1, &cuts[1]);
    bad[15] = 3 << 4;
    assert_eq!(fixture.insert(LINK, &bad), Ok(None), "a mark that its sender did not allow");
    assert_eq!(fixture.dropped(DropReason::FragmentMalformed), 2);
    fixture.check();
}

/// The frames that busy links leave free, in addition to those of idle links (half of all frames),
/// suffice for what flows and fragments of up to 24 workers hold at most, and for packets in
/// flight.
#[test]
fn fragments_of_many_workers_leave_frames_to_others() {
    let frames = 16_384;
    for workers in 1..=64 {
        let fragments = frames_max(frames, workers) as u32 * u32::from(workers);
        let left = frames / 4 + frames_beyond_share(frames, workers);
        let (inspected, in_flight) = (frames / 8, frames / 16);
        assert_eq!(fragments + inspected + in_flight <= left, workers <= 24, "{workers} workers");
        assert!(left + frames / 2 <= frames, "{workers} workers");
    }
    assert_eq!([1, 4, 8, 16, 64].map(|n| frames_max(frames, n)), [1024, 256, 128, 128, 128]);
    assert_eq!([8, 16, 64].map(|n| frames_beyond_share(frames, n)), [0, 1024, 2048]);
}
