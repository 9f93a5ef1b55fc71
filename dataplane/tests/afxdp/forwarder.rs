//! The node's side: links with ports, and workers that forward packets from one link to the other.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use podgate_dataplane::mem::{FramePool, Umem};
use podgate_dataplane::xsk::{Port, RingSizes, open_link};
use podgate_tables::ids::LinkId;
use podgate_xdp_redirect::Redirect;

use crate::topology::Topology;

/// Workers of every test.
pub(crate) const WORKERS: u16 = 2;

const STOP: Token = Token(usize::MAX);

/// Two links over one UMEM, with the XDP program attached.
pub(crate) struct Node {
    pub(crate) umem: Arc<Umem>,
    redirect: Redirect,
    /// The ports of both links, in no order.
    pub(crate) ports: Vec<Port>,
}

impl Node {
    pub(crate) fn new(topology: &Topology) -> Self {
        let mut node = Self {
            umem: Umem::new(16 * 1024).unwrap(),
            redirect: Redirect::load(WORKERS, 2).unwrap(),
            ports: Vec::new(),
        };
        for link in [LinkId(0), LinkId(1)] {
            let ifindex = topology.ifindex[link.index()];
            topology.node.inside(|| node.redirect.attach(ifindex, link.0, None).unwrap());
            node.open(topology, link);
        }
        node
    }

    /// Opens a link that is attached already and adds its ports.
    pub(crate) fn open(&mut self, topology: &Topology, link: LinkId) {
        let (umem, ifindex) = (&self.umem, topology.ifindex[link.index()]);
        let ports = topology.node.inside(|| {
            open_link(umem, ifindex, link, WORKERS.into(), RingSizes::default()).unwrap()
        });
        for (worker, port) in (0..).zip(&ports) {
            self.redirect.set_socket(link.0, worker, port.fd().unwrap()).unwrap();
        }
        self.ports.extend(ports);
    }
}

/// Running workers, each with its ports of both links.
pub(crate) struct Forwarder {
    workers: Vec<Worker>,
}

struct Worker {
    /// Returns the ports, and the number of packets received.
    thread: JoinHandle<(Vec<Port>, u64)>,
    stop: Arc<Waker>,
}

impl Forwarder {
    /// `ports` holds each link's ports in the order of their workers.
    pub(crate) fn start(umem: &Arc<Umem>, ports: Vec<Port>) -> Self {
        let mut lanes: Vec<Vec<Port>> = (0..WORKERS).map(|_| Vec::new()).collect();
        let mut next = [0; 2];
        for port in ports {
            let worker = &mut next[port.link().index()];
            lanes[*worker].push(port);
            *worker += 1;
        }
        let start = |ports| {
            let poll = Poll::new().unwrap();
            let stop = Arc::new(Waker::new(poll.registry(), STOP).unwrap());
            let pool = umem.pool();
            Worker { thread: std::thread::spawn(move || forward(poll, pool, ports)), stop }
        };
        Self { workers: lanes.into_iter().map(start).collect() }
    }

    /// Stops the workers. Returns all ports and the number of packets that each worker received.
    pub(crate) fn stop(self) -> (Vec<Port>, Vec<u64>) {
        let mut all = (Vec::new(), Vec::new());
        for Worker { thread, stop } in self.workers {
            stop.wake().unwrap();
            let (ports, received) = thread.join().unwrap();
            all.0.extend(ports);
            all.1.push(received);
        }
        all
    }
}

/// Forwards packets between two ports until the waker signals a stop.
fn forward(mut poll: Poll, mut pool: FramePool, mut ports: Vec<Port>) -> (Vec<Port>, u64) {
    for (token, port) in ports.iter().enumerate() {
        let fd = port.fd().unwrap().as_raw_fd();
        poll.registry().register(&mut SourceFd(&fd), Token(token), Interest::READABLE).unwrap();
    }
    let [a, b] = &mut ports[..] else { panic!("a worker has a port on each of two links") };
    let (mut events, mut received) = (Events::with_capacity(8), 0);
    loop {
        let packets = pass(a, b, &mut pool) + pass(b, a, &mut pool);
        received += packets as u64;
        let held = a.held_frames() + b.held_frames();
        assert_eq!(pool.outstanding(), held as i64, "a frame was lost or doubled");
        if packets > 0 {
            continue;
        }
        let unsent = a.has_unsent() || b.has_unsent();
        poll.poll(&mut events, unsent.then_some(Duration::from_millis(1))).unwrap();
        if events.iter().any(|event| event.token() == STOP) {
            for port in &ports {
                let fd = port.fd().unwrap().as_raw_fd();
                poll.registry().deregister(&mut SourceFd(&fd)).unwrap();
            }
            return (ports, received);
        }
    }
}

fn pass(from: &mut Port, to: &mut Port, pool: &mut FramePool) -> usize {
    let mut packets = Vec::new();
    from.receive(pool, &mut packets, 64);
    let received = packets.len();
    for packet in packets {
        if let Err(packet) = to.transmit(pool, packet) {
            pool.free_packet(packet);
        }
    }
    to.flush();
    to.service(pool);
    from.service(pool);
    received
}
