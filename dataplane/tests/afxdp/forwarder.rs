//! The node's side: links with queues, and workers that forward packets from one link to the other.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use podgate_dataplane::mem::{FramePool, Umem};
use podgate_dataplane::xsk::{LinkQueue, RingSizes, open_link};
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
    /// The queues of both links, in no order.
    pub(crate) queues: Vec<LinkQueue>,
}

impl Node {
    pub(crate) fn new(topology: &Topology) -> Self {
        let mut node = Self {
            umem: Umem::new(16 * 1024).unwrap(),
            redirect: Redirect::load(WORKERS, 2).unwrap(),
            queues: Vec::new(),
        };
        for link in [LinkId(0), LinkId(1)] {
            let ifindex = topology.ifindex[link.index()];
            topology.node.inside(|| node.redirect.attach(ifindex, link.0, None).unwrap());
            node.open(topology, link);
        }
        node
    }

    /// Opens a link that is attached already and adds its queues.
    pub(crate) fn open(&mut self, topology: &Topology, link: LinkId) {
        let (umem, ifindex) = (&self.umem, topology.ifindex[link.index()]);
        let queues = topology.node.inside(|| {
            open_link(umem, ifindex, link, WORKERS.into(), RingSizes::default()).unwrap()
        });
        for (worker, queue) in (0..).zip(&queues) {
            self.redirect.set_socket(link.0, worker, queue.fd().unwrap()).unwrap();
        }
        self.queues.extend(queues);
    }
}

/// Running workers, each with its queues of both links.
pub(crate) struct Forwarder {
    workers: Vec<Worker>,
}

struct Worker {
    /// Returns the queues, and the number of packets received.
    thread: JoinHandle<(Vec<LinkQueue>, u64)>,
    stop: Arc<Waker>,
}

impl Forwarder {
    /// `queues` holds each link's queues in the order of their workers.
    pub(crate) fn start(umem: &Arc<Umem>, queues: Vec<LinkQueue>) -> Self {
        let mut by_worker: Vec<Vec<LinkQueue>> = (0..WORKERS).map(|_| Vec::new()).collect();
        let mut next = [0; 2];
        for queue in queues {
            let worker = &mut next[queue.link().index()];
            by_worker[*worker].push(queue);
            *worker += 1;
        }
        let start = |queues| {
            let poll = Poll::new().unwrap();
            let stop = Arc::new(Waker::new(poll.registry(), STOP).unwrap());
            let pool = umem.pool();
            Worker { thread: std::thread::spawn(move || forward(poll, pool, queues)), stop }
        };
        Self { workers: by_worker.into_iter().map(start).collect() }
    }

    /// Stops the workers. Returns all queues and the number of packets that each worker received.
    pub(crate) fn stop(self) -> (Vec<LinkQueue>, Vec<u64>) {
        let mut all = (Vec::new(), Vec::new());
        for Worker { thread, stop } in self.workers {
            stop.wake().unwrap();
            let (queues, received) = thread.join().unwrap();
            all.0.extend(queues);
            all.1.push(received);
        }
        all
    }
}

/// Forwards packets between two queues until the waker signals a stop.
fn forward(
    mut poll: Poll,
    mut pool: FramePool,
    mut queues: Vec<LinkQueue>,
) -> (Vec<LinkQueue>, u64) {
    for (token, queue) in queues.iter().enumerate() {
        let fd = queue.fd().unwrap().as_raw_fd();
        poll.registry().register(&mut SourceFd(&fd), Token(token), Interest::READABLE).unwrap();
    }
    let [a, b] = &mut queues[..] else { panic!("a worker has a queue on each of two links") };
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
            for queue in &queues {
                let fd = queue.fd().unwrap().as_raw_fd();
                poll.registry().deregister(&mut SourceFd(&fd)).unwrap();
            }
            return (queues, received);
        }
    }
}

fn pass(from: &mut LinkQueue, to: &mut LinkQueue, pool: &mut FramePool) -> usize {
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
