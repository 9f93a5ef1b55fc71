//! Queues on memory links: packets are forwarded unchanged, and no frame leaks or is duplicated.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::mem::{FramePool, Packet};
use crate::xsk::assemble::PACKET_FRAMES_MAX;
use crate::xsk::link_queue::XskStatistics;

const SIZES: RingSizes = RingSizes { fill: 64, idle: 64, completion: 64, rx: 64, tx: 64 };
const LINK: LinkId = LinkId(1);

/// A memory link with one worker that sends back what it receives.
struct Bench {
    umem: Arc<Umem>,
    pool: FramePool,
    queue: LinkQueue,
    kernel: MemoryLink,
}

impl Bench {
    fn new(frames: u32) -> Self {
        let umem = Umem::new(frames).unwrap();
        let (mut queues, kernel) = link(&umem, LINK, 1, SIZES);
        Self { pool: umem.pool(), umem, queue: queues.remove(0), kernel }
    }

    /// Puts a part of a packet on the receive ring, not yet published.
    fn deliver(&mut self, part: &[u8], options: u32) {
        let link = self.kernel.link.upgrade().unwrap();
        self.kernel.deliver(&link, 0, part, options);
    }

    fn receive(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        let n = self.queue.receive(&mut self.pool, &mut packets, usize::MAX);
        assert_eq!(n, packets.len());
        self.check_balance(packets.iter().map(Packet::frames).sum());
        packets
    }

    /// Sends packets back and returns what the kernel got.
    fn send(&mut self, packets: Vec<Packet>) -> Vec<Vec<u8>> {
        for packet in packets {
            self.queue.transmit(&mut self.pool, packet).unwrap();
        }
        self.queue.flush();
        let mut sent = Vec::new();
        self.kernel.transmitted(0, &mut |bytes| sent.push(bytes.to_vec()));
        self.queue.service(&mut self.pool);
        self.check_balance(0);
        sent
    }

    fn echo(&mut self) -> Vec<Vec<u8>> {
        let packets = self.receive();
        self.send(packets)
    }

    /// Asserts that all frames are accounted for, with `held` by the test.
    fn check_balance(&self, held: usize) {
        assert_eq!(self.pool.outstanding(), (held + self.queue.held_frames()) as i64);
    }

    /// Closes everything and asserts that every frame is free.
    fn close(self) {
        let Self { umem, mut pool, queue, kernel } = self;
        queue.close(&mut pool);
        assert_eq!(pool.outstanding(), 0);
        assert_eq!(umem.held_by(LINK), 0, "a closed link holds nothing");
        drop((pool, kernel));
        assert_eq!(umem.shared_free_frames(), umem.frames() as usize);
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

#[test]
fn packets_of_every_size_are_forwarded_unchanged() {
    let mut bench = Bench::new(256);
    for len in [1, 14, 60, 1514, 3839, 3840, 3841, 7680, 9014, 32_014, 65_535] {
        assert!(bench.kernel.inject(0, &bytes(len)));
        assert_eq!(bench.echo(), [bytes(len)], "{len} bytes");
    }
    assert_eq!(bench.queue.statistics(), XskStatistics::default());
    assert_eq!(bench.kernel.fill_level(), SIZES.fill);
    assert_eq!(bench.umem.held_by(LINK), SIZES.fill as usize);
    bench.close();
}

#[test]
fn an_incomplete_packet_is_kept_until_its_last_frame() {
    let mut bench = Bench::new(128);
    bench.kernel.inject(0, b"before");
    for part in [b"one ", b"two "] {
        bench.deliver(part, XDP_PKT_CONTD);
    }
    bench.kernel.workers[0].rx.publish();
    assert_eq!(bench.echo(), [b"before"]);
    assert_eq!(bench.queue.held_frames(), 2);
    assert!(bench.echo().is_empty());
    bench.kernel.inject(0, b"three");
    assert_eq!(bench.echo(), [b"one two three"]);
    assert_eq!(bench.queue.held_frames(), 0);
    bench.close();
}

#[test]
fn frames_of_an_incomplete_packet_are_freed_when_the_port_closes() {
    for close in [true, false] {
        let mut bench = Bench::new(128);
        bench.deliver(b"never", XDP_PKT_CONTD);
        bench.deliver(b"finished", XDP_PKT_CONTD);
        bench.kernel.workers[0].rx.publish();
        assert!(bench.receive().is_empty());
        if close {
            bench.close();
        } else {
            drop(bench.queue);
            drop(bench.pool);
            assert_eq!(bench.umem.shared_free_frames(), 128);
            let mut pool = bench.umem.pool();
            for frame in std::iter::from_fn(|| pool.alloc()).collect::<Vec<_>>() {
                assert_eq!((frame.len(), frame.capacity()), (0, FRAME_SIZE - FRAME_HEADROOM));
                pool.free(frame);
            }
        }
    }
}

#[test]
fn no_more_packets_than_the_limit_are_received_and_none_is_lost() {
    let mut bench = Bench::new(128);
    for i in 0..10_u8 {
        assert!(bench.kernel.inject_parts(0, [&[i][..], &[i]].into_iter()));
    }
    let mut got = Vec::new();
    for expected in [3, 3, 3, 1, 0] {
        assert_eq!(bench.queue.receive(&mut bench.pool, &mut got, 3), expected);
        bench.check_balance(got.len() * 2);
    }
    let expected: Vec<_> = (0..10_u8).map(|i| vec![i; 2]).collect();
    assert_eq!(bench.send(got), expected);
}

#[test]
fn false_descriptors_are_counted_and_drop_only_their_own_packet() {
    let mut bench = Bench::new(128);
    let mut elsewhere = bench.umem.pool();
    let ours = elsewhere.alloc().unwrap();
    let outside = Desc { addr: 128 * u64::from(FRAME_SIZE) + 256, len: 60, options: 0 };
    let foreign = [outside.addr, u64::MAX, ours.position() as u64].map(|a| (Some(a), 60));
    let misfits = [0, FRAME_SIZE, u32::MAX].map(|len| (None, len));
    for (round, (address, len)) in foreign.into_iter().chain(misfits).enumerate() {
        for options in [0, XDP_PKT_CONTD] {
            assert!(bench.kernel.inject(0, b"good"));
            bench.deliver(b"broken by what follows", XDP_PKT_CONTD);
            // An invalid length without an address refers to a frame from the fill ring.
            let addr = address.or_else(|| bench.kernel.fill.pop()).unwrap();
            bench.kernel.workers[0].rx.produce(1, || Some(Desc { addr, len, options }));
            if options == XDP_PKT_CONTD {
                bench.deliver(b"to be skipped", XDP_PKT_CONTD);
                bench.deliver(b"end of the broken packet", 0);
            }
            bench.kernel.workers[0].rx.publish();
            assert!(bench.kernel.inject(0, b"fine"));
            assert_eq!(bench.echo(), [b"good", b"fine"], "address {address:?}, length {len}");
        }
        assert_eq!(bench.queue.statistics().false_descriptors, 2 * (round as u64 + 1));
    }
    elsewhere.free(ours);
    drop(elsewhere);
    bench.close();
}

#[test]
fn a_frame_that_is_received_twice_is_received_once() {
    let mut bench = Bench::new(128);
    let addr = bench.kernel.fill.pop().unwrap();
    for _ in 0..2 {
        bench.kernel.workers[0].rx.produce(1, || Some(Desc { addr, len: 1, options: 0 }));
    }
    bench.kernel.workers[0].rx.publish();
    assert_eq!(bench.echo().len(), 1);
    assert_eq!(bench.queue.statistics().false_descriptors, 1);
    bench.close();
}

#[test]
fn false_completions_are_counted_and_yield_no_frame() {
    let mut bench = Bench::new(128);
    bench.kernel.inject(0, b"packet");
    let held = bench.umem.held_by(LINK);
    let ours = bench.pool.alloc().unwrap();
    for address in [u64::MAX, 128 * u64::from(FRAME_SIZE), ours.position() as u64] {
        bench.kernel.completion.produce(1, || Some(address));
    }
    bench.kernel.completion.publish();
    bench.queue.service(&mut bench.pool);
    bench.check_balance(1);
    bench.pool.free(ours);
    assert_eq!(bench.queue.statistics().false_descriptors, 3);
    assert_eq!(bench.umem.held_by(LINK), held + 1, "only the fill ring was topped up");
    assert_eq!(bench.echo(), [b"packet"]);
    bench.close();
}

#[test]
fn a_packet_of_too_many_frames_is_dropped_and_counted() {
    let mut bench = Bench::new(256);
    for (parts, passes) in [(PACKET_FRAMES_MAX, true), (PACKET_FRAMES_MAX + 1, false), (40, false)]
    {
        let before = bench.queue.statistics().oversized;
        assert!(bench.kernel.inject_parts(0, vec![&b"part"[..]; parts].into_iter()));
        assert_eq!(bench.echo(), vec![b"part".repeat(parts); usize::from(passes)]);
        let counted = bench.queue.statistics().oversized - before;
        assert_eq!(counted, u64::from(!passes));
    }
    bench.close();
}

#[test]
fn packets_are_dropped_when_the_rings_are_full() {
    let mut bench = Bench::new(SIZES.fill);
    assert!(!bench.kernel.inject(0, b""));
    assert!(!bench.kernel.inject_parts(0, vec![&b"x"[..]; 65].into_iter()));
    for _ in 0..SIZES.fill {
        assert!(bench.kernel.inject(0, b"x"));
    }
    assert!(!bench.kernel.inject(0, b"x"), "the fill ring is empty");
    // All frames are on the receive ring; none is free for the fill ring.
    bench.queue.service(&mut bench.pool);
    assert_eq!(bench.queue.statistics().starved, 1);
    assert_eq!(bench.kernel.fill_level(), 0);
    assert_eq!(bench.echo().len(), SIZES.fill as usize);
    assert_eq!(bench.kernel.fill_level(), SIZES.fill);
    bench.close();
}

#[test]
fn a_full_transmit_ring_returns_the_packet_unchanged() {
    let mut bench = Bench::new(256);
    let packet = |pool: &mut FramePool, frames: usize| {
        let mut packet = Packet::single(pool.alloc().unwrap());
        packet.head.set_len(1);
        for _ in 1..frames {
            let mut frame = pool.alloc().unwrap();
            frame.set_len(1);
            packet.tail.push(frame);
        }
        packet
    };
    for _ in 0..31 {
        let packet = packet(&mut bench.pool, 2);
        bench.queue.transmit(&mut bench.pool, packet).unwrap();
    }
    let three = packet(&mut bench.pool, 3);
    let three = bench.queue.transmit(&mut bench.pool, three).unwrap_err();
    assert_eq!((three.frames(), three.len()), (3, 3));
    bench.check_balance(3);
    let two = packet(&mut bench.pool, 2);
    bench.queue.transmit(&mut bench.pool, two).unwrap();
    let one = packet(&mut bench.pool, 1);
    let one = bench.queue.transmit(&mut bench.pool, one).unwrap_err();
    bench.check_balance(4);
    bench.queue.flush();
    assert_eq!(bench.kernel.transmitted(0, &mut |_| {}), 32);
    bench.queue.service(&mut bench.pool);
    let sent = bench.send(vec![three, one]);
    assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1]);
    bench.close();
}

#[test]
fn the_kernel_sees_nothing_before_the_flush() {
    let mut bench = Bench::new(128);
    bench.kernel.inject(0, b"held");
    for packet in bench.receive() {
        bench.queue.transmit(&mut bench.pool, packet).unwrap();
    }
    let mut sent = 0;
    bench.kernel.transmitted(0, &mut |_| sent += 1);
    assert_eq!(sent, 0);
    assert_eq!(bench.send(Vec::new()), [b"held"]);
}

#[test]
fn a_packet_that_the_kernel_would_reject_is_returned() {
    let mut bench = Bench::new(128);
    let empty = Packet::single(bench.pool.alloc().unwrap());
    let empty = bench.queue.transmit(&mut bench.pool, empty).unwrap_err();
    bench.pool.free_packet(empty);
    let mut long = Packet::single(bench.pool.alloc().unwrap());
    long.tail.extend(std::iter::from_fn(|| bench.pool.alloc()).take(PACKET_FRAMES_MAX));
    long.head.set_len(1);
    long.tail.iter_mut().for_each(|frame| frame.set_len(1));
    let mut long = bench.queue.transmit(&mut bench.pool, long).unwrap_err();
    bench.pool.free(long.tail.pop().unwrap());
    assert_eq!(bench.send(vec![long]), [vec![0; PACKET_FRAMES_MAX]]);
    bench.close();
}

#[test]
fn a_full_completion_ring_stops_the_kernel_until_frames_are_reclaimed() {
    let umem = Umem::new(256).unwrap();
    let sizes = RingSizes { completion: 2, ..SIZES };
    let (mut queues, mut kernel) = link(&umem, LINK, 1, sizes);
    let (mut pool, mut queue) = (umem.pool(), queues.remove(0));
    assert!(kernel.inject_parts(0, vec![&b"abc"[..]; 5].into_iter()));
    let mut packets = Vec::new();
    queue.receive(&mut pool, &mut packets, 1);
    queue.transmit(&mut pool, packets.remove(0)).unwrap();
    queue.flush();
    let mut sent = Vec::new();
    for calls in 1..=3 {
        let packets = kernel.transmitted(0, &mut |bytes| sent.push(bytes.to_vec()));
        assert_eq!(packets, usize::from(calls == 3));
        queue.service(&mut pool);
    }
    assert_eq!(sent, [b"abc".repeat(5)]);
    assert_eq!(pool.outstanding(), 0);
}

#[test]
fn frames_are_freed_once_when_the_last_port_of_a_link_closes() {
    let umem = Umem::new(512).unwrap();
    let mut pool = umem.pool();
    let (mut queues, mut kernel) = link(&umem, LINK, 2, SIZES);
    let (other, _other_kernel) = link(&umem, LinkId(2), 1, SIZES);
    for worker in [0, 1, 1] {
        assert!(kernel.inject(worker, b"left in a receive ring"));
    }
    let mut packets = Vec::new();
    queues[1].receive(&mut pool, &mut packets, 1);
    queues[1].transmit(&mut pool, packets.remove(0)).unwrap();
    queues[1].flush();
    assert_eq!(umem.held_by(LINK), SIZES.fill as usize);
    drop(queues.pop());
    assert_eq!(umem.held_by(LINK), SIZES.fill as usize, "the link is still open");
    drop(queues);
    assert_eq!(umem.held_by(LINK), 0);
    assert!(!kernel.inject(0, b"too late"));
    assert_eq!(kernel.transmitted(1, &mut |_| {}), 0, "what was not sent is lost");
    assert_eq!(umem.held_by(LinkId(2)), SIZES.fill as usize, "another link's frames stay");
    drop((other, pool));
    assert_eq!(umem.shared_free_frames(), 512);
}

#[test]
fn a_link_number_is_free_again_when_its_last_port_is_dropped() {
    let umem = Umem::new(128).unwrap();
    let (mut queues, _kernel) = link(&umem, LINK, 2, SIZES);
    assert!(umem.claim(LINK).is_none());
    queues.pop();
    assert!(umem.claim(LINK).is_none());
    queues.pop();
    assert!(umem.claim(LINK).is_some());
}

/// As many links as an agent has by default, on as many frames.
struct Node {
    umem: Arc<Umem>,
    pool: FramePool,
    links: Vec<(LinkQueue, MemoryLink)>,
}

const ELASTIC: RingSizes = RingSizes { fill: 2048, idle: 32, completion: 2048, rx: 2048, tx: 2048 };

impl Node {
    fn new(links: u16) -> Self {
        let umem = Umem::new(16_384).unwrap();
        let open = |number| {
            let (mut queues, kernel) = link(&umem, LinkId(number), 1, ELASTIC);
            (queues.remove(0), kernel)
        };
        let links = (0..links).map(open).collect();
        Self { pool: umem.pool(), umem, links }
    }

    /// A pod sends up to `packets` at once; returns how many found a frame.
    fn burst(&mut self, link: usize, packets: usize) -> usize {
        let (_, kernel) = &mut self.links[link];
        (0..packets).take_while(|_| kernel.inject(0, b"packet")).count()
    }

    fn receive(&mut self, link: usize) -> Vec<Packet> {
        let (mut packets, (queue, _)) = (Vec::new(), &mut self.links[link]);
        queue.receive(&mut self.pool, &mut packets, 64);
        queue.service(&mut self.pool);
        packets
    }

    /// Returns how many packets the pod behind `link` got.
    fn send(&mut self, link: usize, packets: Vec<Packet>) -> usize {
        let (queue, kernel) = &mut self.links[link];
        for packet in packets {
            queue.transmit(&mut self.pool, packet).unwrap();
        }
        queue.flush();
        let sent = kernel.transmitted(0, &mut |bytes| assert_eq!(bytes, b"packet"));
        queue.service(&mut self.pool);
        sent
    }

    /// Forwards all of what `link` sent to its neighbour.
    fn forward(&mut self, link: usize) -> usize {
        let to = (link + 1) % self.links.len();
        let batches = std::iter::from_fn(|| {
            let packets = self.receive(link);
            (!packets.is_empty()).then(|| self.send(to, packets))
        });
        batches.sum()
    }

    fn fill_level(&mut self, link: usize) -> u32 {
        self.links[link].1.fill_level()
    }

    fn close(self) {
        let Self { umem, mut pool, links } = self;
        for (queue, kernel) in links {
            queue.close(&mut pool);
            drop(kernel);
        }
        assert_eq!(pool.outstanding(), 0);
        drop(pool);
        assert_eq!(umem.shared_free_frames(), umem.frames() as usize);
    }
}

#[test]
fn a_burst_to_an_idle_link_loses_what_is_beyond_its_level_once() {
    let mut node = Node::new(2);
    assert_eq!(node.burst(0, 100), 32);
    assert_eq!(node.forward(0), 32);
    for _ in 0..3 {
        assert_eq!(node.burst(0, 100), 100);
        assert_eq!(node.forward(0), 100);
    }
    node.close();
}

#[test]
fn all_of_250_links_that_are_always_busy_make_progress() {
    let mut node = Node::new(250);
    let mut forwarded = [0; 250];
    for _ in 0..20 {
        for link in 0..250 {
            node.burst(link, usize::MAX);
        }
        for (link, forwarded) in forwarded.iter_mut().enumerate() {
            let packets = node.receive(link);
            let to = (link + 1) % 250;
            *forwarded += node.send(to, packets);
        }
    }
    assert!(forwarded.iter().all(|packets| *packets >= 20 * 32), "{forwarded:?}");
    node.close();
}

#[test]
fn links_that_were_busy_once_leave_frames_to_packets_in_flight_and_to_new_links() {
    const NEW: u16 = 100;
    let mut node = Node::new(150);
    node.umem.reserve(32 * u32::from(NEW));
    for link in [0..150, 0..150].into_iter().flatten() {
        for _ in 0..10 {
            node.burst(link, usize::MAX);
            node.forward(link);
        }
    }
    let held: u32 = (0..150).map(|link| node.fill_level(link)).sum();
    assert!(held <= 16_384 - 16_384 / 4 - 32 * u32::from(NEW), "{held} of 16384");
    // What L7 inspection and reassembly may hold at most, of one link after the other.
    let mut waiting = Vec::new();
    while waiting.len() < 16_384 / 16 * 3 {
        let link = waiting.len() % 150;
        node.burst(link, 32);
        waiting.extend(node.receive(link));
    }
    for number in 150..150 + NEW {
        let (mut queues, kernel) = link(&node.umem, LinkId(number), 1, ELASTIC);
        queues[0].service(&mut node.pool);
        node.links.push((queues.remove(0), kernel));
    }
    for link in 0..250 {
        assert!(node.fill_level(link) >= 32, "link {link}");
        let sent = node.burst(link, 32);
        assert_eq!((sent, node.forward(link)), (32, 32), "link {link}");
    }
    for packet in waiting {
        node.pool.free_packet(packet);
    }
    node.close();
}

#[test]
fn a_link_without_frames_is_starved_until_it_gets_some() {
    let mut bench = Bench::new(SIZES.fill);
    for _ in 0..SIZES.fill {
        assert!(bench.kernel.inject(0, b"x"));
    }
    let packets = bench.receive();
    bench.queue.service(&mut bench.pool);
    assert!(bench.queue.needs_refill());
    assert_eq!(bench.kernel.fill_level(), 0);
    packets.into_iter().for_each(|packet| bench.pool.free_packet(packet));
    bench.queue.service(&mut bench.pool);
    assert!(!bench.queue.needs_refill());
    assert_eq!(bench.kernel.fill_level(), SIZES.fill);
    bench.close();
}

#[test]
fn a_ring_that_another_worker_services_is_refilled_later() {
    let mut bench = Bench::new(2 * SIZES.fill);
    for _ in 0..SIZES.fill {
        assert!(bench.kernel.inject(0, b"x"));
    }
    let mut packets = Vec::new();
    bench.queue.receive(&mut bench.pool, &mut packets, 64);
    assert_eq!(packets.len(), SIZES.fill as usize);
    bench.queue.service_beside_another(&mut bench.pool);
    assert_eq!((bench.kernel.fill_level(), bench.queue.needs_refill()), (0, true));
    bench.queue.service(&mut bench.pool);
    assert_eq!((bench.kernel.fill_level(), bench.queue.needs_refill()), (SIZES.fill, false));
    packets.into_iter().for_each(|packet| bench.pool.free_packet(packet));
    bench.close();
}

#[test]
fn a_link_that_closes_while_its_level_is_high_frees_its_frames_once() {
    let mut node = Node::new(3);
    for _ in 0..3 {
        node.burst(1, usize::MAX);
        node.forward(1);
    }
    assert_eq!(node.fill_level(1), 2048);
    node.burst(1, 1000);
    let (queue, kernel) = node.links.remove(1);
    drop((queue, kernel));
    assert_eq!(node.umem.held_by(LinkId(1)), 0);
    node.burst(1, 10);
    assert_eq!(node.forward(1), 10);
    node.close();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Packets split anywhere, in any batches, with false descriptors between and inside of them.
    #[test]
    fn any_traffic_is_forwarded_and_frames_balance(
        rounds in prop::collection::vec(
            (prop::collection::vec((prop::collection::vec(1..200_usize, 1..22), 0..8_u8), 0..6),
             0..6_usize),
            1..20,
        ),
    ) {
        let mut bench = Bench::new(300);
        let (mut expected, mut got) = (Vec::new(), Vec::new());
        let (mut false_descriptors, mut oversized) = (0, 0);
        let mut seed = 0_u8;
        for (packets, max) in rounds {
            for (lens, falsehood) in packets {
                let room = bench.kernel.workers[0].rx.free(64).min(bench.kernel.fill_level());
                if (lens.len() as u32) >= room {
                    continue;
                }
                let parts: Vec<Vec<u8>> = lens.iter().map(|len| {
                    seed = seed.wrapping_add(1);
                    vec![seed; *len]
                }).collect();
                let broken = falsehood == 0;
                let oversize = parts.len() > PACKET_FRAMES_MAX;
                for (i, part) in parts.iter().enumerate() {
                    if broken && i == 0 {
                        let options = XDP_PKT_CONTD;
                        let desc = Desc { addr: u64::MAX, len: 1, options };
                        bench.kernel.workers[0].rx.produce(1, || Some(desc));
                    }
                    let is_last = i + 1 == parts.len();
                    bench.deliver(part, if is_last { 0 } else { XDP_PKT_CONTD });
                }
                bench.kernel.workers[0].rx.publish();
                false_descriptors += u64::from(broken);
                oversized += u64::from(oversize && !broken);
                if !broken && !oversize {
                    expected.push(parts.concat());
                }
            }
            let mut packets = Vec::new();
            bench.queue.receive(&mut bench.pool, &mut packets, max);
            prop_assert!(packets.len() <= max);
            got.extend(bench.send(packets));
        }
        got.extend(bench.echo());
        prop_assert_eq!(got, expected);
        let statistics = bench.queue.statistics();
        prop_assert_eq!(statistics.false_descriptors, false_descriptors);
        prop_assert_eq!(statistics.oversized, oversized);
        bench.close();
    }
}

/// Two workers, each with its queue, serve one link's fill and completion rings; a third thread
/// plays the kernel.
#[test]
fn two_workers_share_a_links_frames_without_losing_any() {
    const PACKETS: u64 = 60_000;
    let umem = Umem::new(256).unwrap();
    let (queues, mut kernel) = link(&umem, LINK, 2, SIZES);
    let stop = AtomicBool::new(false);
    let sum = [AtomicU64::new(0), AtomicU64::new(0)];
    let sent = std::thread::scope(|scope| {
        for (worker, mut queue) in queues.into_iter().enumerate() {
            let (umem, stop, sum) = (&umem, &stop, &sum[worker]);
            scope.spawn(move || {
                let (mut pool, mut packets) = (umem.pool(), Vec::new());
                while !stop.load(Ordering::Acquire) {
                    let n = queue.receive(&mut pool, &mut packets, 32);
                    for packet in std::mem::take(&mut packets) {
                        let first = umem.data(&packet.head)[..8].try_into().unwrap();
                        match queue.transmit(&mut pool, packet) {
                            Ok(()) => sum.fetch_add(u64::from_le_bytes(first), Ordering::Relaxed),
                            Err(packet) => {
                                packets.push(packet);
                                0
                            }
                        };
                    }
                    queue.flush();
                    queue.service(&mut pool);
                    let held = packets.iter().map(Packet::frames).sum::<usize>();
                    assert_eq!(pool.outstanding(), (held + queue.held_frames()) as i64);
                    if n == 0 {
                        std::thread::yield_now();
                    }
                }
                assert_eq!(queue.statistics().false_descriptors, 0);
                queue.close(&mut pool);
                assert_eq!(pool.outstanding(), 0);
            });
        }
        let (mut next, mut sent) = (0_u64, [0, 0]);
        while sent[0] + sent[1] < PACKETS {
            let worker = (next % 2) as usize;
            let packet = next.to_le_bytes().repeat(1 + next as usize % 600);
            if next < PACKETS && kernel.inject(worker, &packet) {
                next += 1;
            } else {
                std::thread::yield_now();
            }
            for (worker, sent) in sent.iter_mut().enumerate() {
                *sent += kernel.transmitted(worker, &mut |bytes| {
                    let (first, rest) = bytes.split_at(8);
                    assert!(rest.chunks(8).all(|chunk| chunk == first), "bytes were mixed up");
                }) as u64;
            }
        }
        stop.store(true, Ordering::Release);
        sent
    });
    assert_eq!(sent, [PACKETS / 2, PACKETS / 2]);
    let sums = sum.each_ref().map(|sum| sum.load(Ordering::Relaxed));
    let half = PACKETS / 2;
    assert_eq!(sums, [half * (half - 1), half * half]);
    assert_eq!(umem.held_by(LINK), 0);
    assert_eq!(umem.shared_free_frames(), umem.frames() as usize);
}
