//! Links over real AF_XDP sockets: pods in namespaces, veths, the XDP program, and a minimal loop
//! that forwards packets from one link to the other. Needs root and Linux 6.6.
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod forwarder;
mod topology;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use podgate_dataplane::mem::{FramePool, Packet, Umem};
use podgate_dataplane::xsk::{LinkQueue, LinkState, OpenError, RingSizes, open_link};
use podgate_tables::address::Address;
use podgate_tables::ids::LinkId;
use podgate_tables::proto;
use podgate_xdp_redirect::{flow_hash, worker_of};

use forwarder::{Forwarder, Node, WORKERS};
use topology::{ADDRESS, Topology, ip};

/// Echo requests of `bytes` bytes. Nearly all must be replied to: on a busy machine the kernel
/// itself drops one occasionally.
fn ping(topology: &Topology, bytes: usize) {
    let pinged = topology.pods[0].inside(|| {
        Command::new("ping")
            .args(["-c", "20", "-i", "0.01", "-W", "5", "-M", "do", "-s", &bytes.to_string()])
            .arg(ADDRESS[1])
            .output()
            .expect("ping missing")
    });
    let said = String::from_utf8_lossy(&pinged.stdout);
    let answers = said.lines().filter(|line| line.contains(" bytes from ")).count();
    assert!(answers >= 15, "{bytes} bytes: {said}");
}

/// A pattern that reveals misplaced bytes, chunk by chunk.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes as u32 / 4).flat_map(|word| word.wrapping_mul(0x9e37_79b1).to_le_bytes()).collect()
}

/// Sends `bytes` from pod 0 to pod 1 and back over one connection. Returns the client's port.
fn transfer(topology: &Topology, server_port: u16, bytes: usize) -> u16 {
    let data = pattern(bytes);
    let listener =
        topology.pods[1].inside(|| TcpListener::bind((ADDRESS[1], server_port)).unwrap());
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut peer = listener.accept().unwrap().0;
            let mut received = vec![0; data.len()];
            peer.read_exact(&mut received).unwrap();
            peer.write_all(&received).unwrap();
        });
        let mut client =
            topology.pods[0].inside(|| TcpStream::connect((ADDRESS[1], server_port)).unwrap());
        client.write_all(&data).unwrap();
        let mut received = vec![0; data.len()];
        client.read_exact(&mut received).unwrap();
        server.join().unwrap();
        assert!(received == data, "bytes were changed on the way");
        client.local_addr().unwrap().port()
    })
}

/// The worker that owns a TCP flow between the pods.
fn owner(client_port: u16, server_port: u16) -> usize {
    let [src, dst] = ADDRESS.map(|a| Address::from(a.parse::<std::net::IpAddr>().unwrap()).bits());
    let hash = flow_hash(src, dst, proto::TCP, client_port, server_port);
    usize::from(worker_of(hash, WORKERS))
}

fn ping_and_tcp_pass(mtu: u32) {
    let topology = Topology::new(mtu);
    let node = Node::new(&topology);
    let forwarder = Forwarder::start(&node.umem, node.queues);
    for bytes in [0, 56, mtu as usize - 28] {
        ping(&topology, bytes);
    }
    transfer(&topology, 5000, 32 << 20);
    let (queues, _) = forwarder.stop();
    for queue in &queues {
        let statistics = queue.statistics();
        assert_eq!(statistics.false_descriptors, 0);
        assert_eq!((statistics.rx_invalid, statistics.tx_invalid), (0, 0), "{statistics:?}");
        assert_eq!((statistics.oversized, statistics.wakeup_errors), (0, 0), "{statistics:?}");
    }
    drop(queues);
    assert_all_frames_are_free(&node.umem);
}

fn assert_all_frames_are_free(umem: &Arc<Umem>) {
    for link in [0, 1, 2] {
        assert_eq!(umem.held_by(LinkId(link)), 0, "link {link} still holds frames");
    }
    let mut pool = umem.pool();
    let frames: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!(frames.len(), umem.frames() as usize);
    frames.into_iter().for_each(|frame| pool.free(frame));
}

#[test]
fn ping_and_tcp_pass_between_two_pods_with_two_workers() {
    ping_and_tcp_pass(1500);
}

#[test]
fn packets_of_several_frames_pass() {
    ping_and_tcp_pass(9000);
}

#[test]
fn the_largest_packets_pass() {
    ping_and_tcp_pass(65_535);
}

#[test]
fn each_flow_is_steered_to_the_worker_of_its_hash() {
    let topology = Topology::new(1500);
    let node = Node::new(&topology);
    let mut forwarder = Forwarder::start(&node.umem, node.queues);
    let mut owners = [0; WORKERS as usize];
    // The kernel chooses ephemeral ports: continue until both workers have had a flow.
    for server_port in 5000..5064 {
        let client_port = transfer(&topology, server_port, 100_000);
        let (queues, received) = forwarder.stop();
        let owner = owner(client_port, server_port);
        owners[owner] += 1;
        // Each direction has about 70 full segments. The other worker may still receive the end of
        // the flow before this one.
        assert!(received[owner] > 100 && received[1 - owner] < 20, "{received:?}");
        if owners.iter().all(|flows| *flows > 0) {
            return;
        }
        forwarder = Forwarder::start(&node.umem, queues);
    }
    panic!("all of 64 flows went to one worker: {owners:?}");
}

#[test]
fn a_link_can_be_reopened_and_outlives_the_umems_registrant() {
    let topology = Topology::new(1500);
    let mut node = Node::new(&topology);
    let umem = Arc::clone(&node.umem);
    for round in 0..6 {
        let forwarder = Forwarder::start(&umem, std::mem::take(&mut node.queues));
        ping(&topology, 56);
        let (mut queues, _) = forwarder.stop();
        // Link 0 registered the UMEM; in even rounds it is closed while link 1 stays open.
        let closing = LinkId(round % 2);
        queues.retain(|queue| queue.link() != closing);
        assert_eq!(umem.held_by(closing), 0);
        node.queues = queues;
        node.open(&topology, closing);
    }
    drop(node.queues);
    assert_all_frames_are_free(&umem);
}

/// Transmits a packet that no pod accepts. Returns whether the queue accepted it.
fn transmit(queue: &mut LinkQueue, pool: &mut FramePool) -> bool {
    let mut frame = pool.alloc().unwrap();
    frame.set_len(60);
    let umem = Arc::clone(pool.umem());
    umem.data_mut(&mut frame).fill(0xee);
    let result = queue.transmit(pool, Packet::single(frame));
    let taken = result.is_ok();
    result.unwrap_or_else(|packet| pool.free_packet(packet));
    assert_eq!(pool.outstanding(), 0);
    taken
}

/// As [`transmit`], with a flush. Returns the link's state, too.
fn send(queue: &mut LinkQueue, pool: &mut FramePool) -> (bool, LinkState) {
    let taken = transmit(queue, pool);
    queue.flush();
    queue.service(pool);
    assert_eq!(pool.outstanding(), 0);
    (taken, queue.state())
}

fn first_queue(node: &mut Node, link: LinkId) -> &mut LinkQueue {
    node.queues.iter_mut().find(|queue| queue.link() == link).unwrap()
}

#[test]
fn a_flush_transmits_the_whole_ring_without_needless_system_calls() {
    let topology = Topology::new(1500);
    let mut node = Node::new(&topology);
    let umem = Arc::clone(&node.umem);
    let mut pool = umem.pool();
    let queue = first_queue(&mut node, LinkId(0));
    // The pod's side drops packets while its CPU is busy with other tests, and a drop ends the
    // call. Without one, a call sends everything; before Linux 6.17, at most 32 packets.
    let sent_at_once = (0..100).any(|_| {
        let before = queue.statistics().wakeups;
        for _ in 0..200 {
            assert!(transmit(queue, &mut pool));
        }
        queue.flush();
        let at_once = !queue.has_unsent();
        for _ in 0..200 {
            queue.service(&mut pool);
        }
        assert!(!queue.has_unsent(), "a call sends or drops one packet at least");
        at_once && queue.statistics().wakeups - before <= 200_u64.div_ceil(32)
    });
    assert!(sent_at_once);
    let wakeups = queue.statistics().wakeups;
    for _ in 0..10 {
        queue.flush();
        queue.service(&mut pool);
    }
    assert_eq!(queue.statistics().wakeups, wakeups);
    let fill = RingSizes::default().fill as usize;
    // The pod's kernel may send packets of its own at any time.
    let all_is_reclaimed = (0..100).any(|_| {
        let mut received = Vec::new();
        queue.receive(&mut pool, &mut received, usize::MAX);
        received.drain(..).for_each(|packet| pool.free_packet(packet));
        queue.service(&mut pool);
        umem.held_by(LinkId(0)) == fill
    });
    assert!(all_is_reclaimed);
}

#[test]
fn a_link_that_is_down_recovers() {
    let topology = Topology::new(1500);
    let mut node = Node::new(&topology);
    let mut pool = node.umem.pool();
    let queue = first_queue(&mut node, LinkId(0));
    assert_eq!(send(queue, &mut pool), (true, LinkState::Up));
    topology.node.inside(|| ip("link set pg-0 down"));
    assert_eq!(send(queue, &mut pool), (true, LinkState::Down));
    assert!(queue.has_unsent());
    assert_eq!(send(queue, &mut pool), (false, LinkState::Down));
    topology.node.inside(|| ip("link set pg-0 up"));
    assert_eq!(send(queue, &mut pool), (false, LinkState::Up), "what had waited was sent");
    assert!(!queue.has_unsent());
    assert_eq!(send(queue, &mut pool), (true, LinkState::Up));
    assert_eq!(queue.statistics().wakeup_errors, 0);
}

#[test]
fn a_pod_that_drops_packets_costs_one_system_call_per_flush() {
    let topology = Topology::new(1500);
    let mut node = Node::new(&topology);
    let mut pool = node.umem.pool();
    topology.pods[0].inside(|| ip("link set eth0 down"));
    let queue = first_queue(&mut node, LinkId(0));
    for _ in 0..100 {
        assert!(transmit(queue, &mut pool));
    }
    queue.flush();
    assert!(queue.has_unsent());
    assert_eq!(queue.statistics().wakeups, 1);
    topology.pods[0].inside(|| ip("link set eth0 up"));
    // Packets may be dropped one by one until the link has its carrier again.
    for _ in 0..100 {
        queue.service(&mut pool);
    }
    assert!(!queue.has_unsent(), "all were sent or dropped");
    assert_eq!(queue.state(), LinkState::Up);
}

#[test]
fn a_pod_that_drops_packets_keeps_few_frames_of_others() {
    let topology = Topology::new(1500);
    let mut node = Node::new(&topology);
    let umem = Arc::clone(&node.umem);
    let mut pool = umem.pool();
    topology.pods[0].inside(|| ip("link set eth0 down"));
    let queue = first_queue(&mut node, LinkId(0));
    for _ in 0..100 {
        assert!(transmit(queue, &mut pool));
    }
    queue.flush();
    assert!(queue.has_unsent() && !queue.is_stalled(), "enough is free");
    assert!(transmit(queue, &mut pool));
    umem.reserve(u32::MAX);
    queue.flush();
    assert!(queue.has_unsent() && queue.is_stalled(), "nothing is to spare");
    assert!(!transmit(queue, &mut pool));
    for _ in 0..101 {
        queue.service(&mut pool);
    }
    assert!(!queue.is_stalled());
    assert!(transmit(queue, &mut pool));
}

#[test]
fn a_removed_link_does_no_harm() {
    let topology = Topology::new(1500);
    let mut node = Node::new(&topology);
    let umem = Arc::clone(&node.umem);
    let mut pool = umem.pool();
    topology.pods[0].inside(|| ip("link delete eth0"));
    let queue = first_queue(&mut node, LinkId(0));
    assert_eq!(send(queue, &mut pool), (true, LinkState::Gone));
    assert_eq!(send(queue, &mut pool), (false, LinkState::Gone));
    assert!(!queue.has_unsent(), "nothing keeps a worker awake");
    assert_eq!(queue.statistics().wakeup_errors, 0);
    assert_eq!(send(first_queue(&mut node, LinkId(1)), &mut pool), (true, LinkState::Up));

    // The removed link had registered the UMEM. Another one can still be opened.
    node.queues.retain(|queue| queue.link() != LinkId(1));
    node.open(&topology, LinkId(1));
    assert_eq!(send(first_queue(&mut node, LinkId(1)), &mut pool), (true, LinkState::Up));
    drop((node.queues, pool));
    assert_all_frames_are_free(&umem);
}

#[test]
fn a_flood_without_a_worker_is_dropped_and_counted() {
    let topology = Topology::new(1500);
    let mut node = Node::new(&topology);
    let umem = Arc::clone(&node.umem);
    let sender = topology.pods[0].inside(|| UdpSocket::bind((ADDRESS[0], 0)).unwrap());
    let held = umem.held_by(LinkId(0));
    let datagrams = (0..1_000_000).take_while(|_| {
        sender.send_to(&[0; 1000], (ADDRESS[1], 9)).unwrap();
        first_queue(&mut node, LinkId(0)).statistics().fill_ring_empty == 0
    });
    let datagrams = datagrams.count();
    assert!(datagrams < 1_000_000, "the fill ring never ran empty");
    assert_eq!(umem.held_by(LinkId(0)), held, "a link takes no more than its share");
    let forwarder = Forwarder::start(&umem, node.queues);
    ping(&topology, 56);
    drop(forwarder.stop());
    assert_all_frames_are_free(&umem);
}

#[test]
fn open_link_reports_why_it_fails() {
    let umem = Umem::new(1024).unwrap();
    let topology = Topology::new(1500);
    topology.node.inside(|| {
        let sizes = RingSizes::default();
        let open = |umem, ifindex, link, workers, sizes| {
            open_link(umem, ifindex, LinkId(link), workers, sizes).map(|_| ()).unwrap_err()
        };
        let ifindex = topology.ifindex[0];
        assert!(matches!(open(&umem, ifindex, 0, 0, sizes), OpenError::NoWorker));
        let odd = RingSizes { tx: 100, ..sizes };
        assert!(matches!(open(&umem, ifindex, 0, 1, odd), OpenError::RingSizes(_)));
        let error = open(&umem, 9999, 0, 1, sizes).to_string();
        assert!(error.contains("netdev 9999") && error.contains("gone"), "{error}");

        let _ports = open_link(&umem, ifindex, LinkId(0), 1, sizes).unwrap();
        assert!(matches!(
            open(&umem, topology.ifindex[1], 0, 1, sizes),
            OpenError::Open(LinkId(0))
        ));
        let error = open(&umem, ifindex, 1, 1, sizes).to_string();
        assert!(error.contains("open already"), "{error}");
        let error = open(&Umem::new(1).unwrap(), ifindex, 0, 1, sizes).to_string();
        assert!(error.contains("another program"), "{error}");
    });
    assert_all_frames_are_free(&umem);
}
