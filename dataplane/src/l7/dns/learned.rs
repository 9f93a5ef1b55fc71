//! DNS answers on their way to the control thread, which admits their addresses, and the release of
//! the answers that wait for it.
//!
//! An answer is forwarded only after it is released: then the tables that admit its addresses are
//! published, and the connection that the client opens next passes. A ring that is full loses
//! nothing: the answer is not accepted, and is not forwarded either.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;
use crossbeam::queue::ArrayQueue;
use podgate_tables::address::Address;
use podgate_tables::event::Text;
use podgate_tables::ids::LinkId;

/// Addresses in one [`DnsAnswer`], at most.
pub const ADDRESSES_MAX: usize = 32;

/// An address of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnswerAddress {
    /// The address, never an IPv4-mapped one from an AAAA record.
    pub address: Address,
    /// Seconds for which the answer may be used: the least TTL of the records that lead to the
    /// address.
    pub ttl: u32,
}

/// Addresses that a DNS answer has for the queried name. An answer with more than
/// [`ADDRESSES_MAX`] of them is split over several.
#[derive(Clone, Copy, Debug)]
pub struct DnsAnswer {
    /// Number of this answer: 1 for a worker's first one, and one more for each further one.
    pub ticket: u64,
    /// The link of the client that asked.
    pub client: LinkId,
    /// The queried name: lower case, labels separated by dots, no trailing dot. From the wire, so
    /// not necessarily UTF-8.
    pub name: Text<255>,
    /// How many addresses of the same message follow, in the worker's next tickets.
    pub more: u16,
    len: u8,
    addresses: [AnswerAddress; ADDRESSES_MAX],
}

impl DnsAnswer {
    /// Its addresses, at least one.
    #[must_use]
    pub fn addresses(&self) -> &[AnswerAddress] {
        &self.addresses[..usize::from(self.len)]
    }
}

/// How many entries of a ring an answer with `count` addresses takes.
#[must_use]
pub const fn records(count: usize) -> usize {
    count.div_ceil(ADDRESSES_MAX)
}

/// One worker's answers: a bounded ring with one writer and one reader, and how far they are
/// released.
#[derive(Debug)]
pub struct AnswerRing {
    ring: ArrayQueue<DnsAnswer>,
    /// Ticket of the last answer.
    last: AtomicU64,
    released: AtomicU64,
    /// The same, when all workers use the tables that were published before the release. Written
    /// by the worker.
    in_force: AtomicU64,
    control: Arc<AtomicWaker>,
}

impl AnswerRing {
    fn new(capacity: usize, control: &Arc<AtomicWaker>) -> Self {
        Self {
            ring: ArrayQueue::new(capacity),
            last: AtomicU64::new(0),
            released: AtomicU64::new(0),
            in_force: AtomicU64::new(0),
            control: Arc::clone(control),
        }
    }

    /// Entries that wait for the control thread, and free ones.
    #[must_use]
    pub fn waiting_and_free(&self) -> (usize, usize) {
        let waiting = self.ring.len();
        (waiting, self.ring.capacity() - waiting)
    }

    /// Gives the `count` addresses of an answer for a client of link `client` to the control
    /// thread. Returns the ticket whose release releases the answer. If the ring has no room, gives
    /// nothing and returns `None`. Only the worker may call this.
    #[must_use]
    pub fn offer(
        &self,
        client: LinkId,
        name: &[u8],
        count: usize,
        addresses: impl IntoIterator<Item = AnswerAddress>,
    ) -> Option<u64> {
        let (records, (_, free)) = (records(count), self.waiting_and_free());
        if records == 0 || free < records {
            return None;
        }
        let (name, mut left) = (Text::new(name), count);
        let mut addresses = addresses.into_iter();
        let none = AnswerAddress { address: Address::from_bits(0), ttl: 0 };
        let mut ticket = self.last.load(Ordering::Relaxed);
        for _ in 0..records {
            ticket += 1;
            let none = [none; ADDRESSES_MAX];
            let mut answer = DnsAnswer { ticket, client, name, more: 0, len: 0, addresses: none };
            for (place, address) in answer.addresses.iter_mut().zip(&mut addresses) {
                *place = address;
                answer.len += 1;
            }
            left -= usize::from(answer.len).min(left);
            answer.more = u16::try_from(left).unwrap_or(u16::MAX);
            let pushed = self.ring.push(answer);
            debug_assert!(pushed.is_ok(), "there is room, and one writer");
        }
        self.last.store(ticket, Ordering::Relaxed);
        self.control.wake();
        Some(ticket)
    }

    /// All answers up to this ticket are released. What was published before is visible to the
    /// caller.
    #[must_use]
    #[inline]
    pub fn released(&self) -> u64 {
        self.released.load(Ordering::Acquire)
    }

    /// All answers up to this ticket may be forwarded: they are released, and every worker uses
    /// tables that admit their addresses.
    #[must_use]
    #[inline]
    pub fn in_force(&self) -> u64 {
        self.in_force.load(Ordering::Relaxed)
    }

    /// Sets [`Self::in_force`]. Only the worker may call this.
    pub fn set_in_force(&self, ticket: u64) {
        self.in_force.store(ticket, Ordering::Relaxed);
    }
}

/// The answers of all workers.
#[derive(Debug)]
pub struct Answers {
    rings: Vec<Arc<AnswerRing>>,
    control: Arc<AtomicWaker>,
}

impl Answers {
    /// A ring of `capacity` answers for each of `workers` workers.
    ///
    /// # Panics
    /// When `capacity` is zero.
    #[must_use]
    pub fn new(workers: u16, capacity: usize) -> Self {
        let control = Arc::default();
        let rings = (0..workers).map(|_| Arc::new(AnswerRing::new(capacity, &control))).collect();
        Self { rings, control }
    }

    /// The ring of a worker.
    #[must_use]
    pub fn ring(&self, worker: u16) -> &Arc<AnswerRing> {
        &self.rings[usize::from(worker)]
    }

    /// Ready when an answer waits on a ring. One task may wait.
    pub fn poll_waiting(&self, cx: &mut Context<'_>) -> Poll<()> {
        let waits = || self.rings.iter().any(|ring| !ring.ring.is_empty());
        if waits() {
            return Poll::Ready(());
        }
        self.control.register(cx.waker());
        // An answer that came before the registration did not wake the task.
        if waits() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes all answers from the rings, each with its worker's number. Each must be released.
    pub fn drain(&self, mut take: impl FnMut(u16, DnsAnswer)) {
        for (worker, ring) in self.rings.iter().enumerate() {
            // Bounded by the ring's capacity, so that a busy worker can't detain the caller.
            for _ in 0..ring.ring.capacity() {
                let Some(answer) = ring.ring.pop() else { break };
                take(worker as u16, answer);
            }
        }
    }

    /// Marks all answers of `worker` up to `ticket` as released.
    pub(crate) fn release(&self, worker: u16, ticket: u64) {
        self.rings[usize::from(worker)].released.fetch_max(ticket, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    use super::*;

    const CLIENT: LinkId = LinkId(3);

    fn address(last: u8, ttl: u32) -> AnswerAddress {
        AnswerAddress { address: Address::v4([192, 0, 2, last]), ttl }
    }

    #[test]
    fn an_answer_with_many_addresses_is_split_and_none_is_lost() {
        let answers = Answers::new(2, 4);
        let all: Vec<_> = (0..70).map(|last| address(last, 30)).collect();
        let ticket = answers.ring(1).offer(CLIENT, b"a.b", all.len(), all.iter().copied());
        assert_eq!(ticket, Some(3));
        let mut taken = Vec::new();
        answers.drain(|worker, answer| {
            assert_eq!((worker, answer.name.bytes()), (1, &b"a.b"[..]));
            assert_eq!(answer.client, CLIENT);
            assert_eq!(usize::from(answer.more), 70 - taken.len() - answer.addresses().len());
            taken.extend(answer.addresses().to_vec());
        });
        assert_eq!(taken, all);
    }

    #[test]
    fn a_ring_without_room_takes_no_part_of_an_answer() {
        let answers = Answers::new(1, 2);
        let ring = answers.ring(0);
        let all = || (0..33).map(|last| address(last, 30));
        assert_eq!(ring.offer(CLIENT, b"a", 1, all().take(1)), Some(1));
        assert_eq!(ring.offer(CLIENT, b"b", 33, all()), None);
        assert_eq!(ring.offer(CLIENT, b"c", 32, all().take(32)), Some(2));
        let mut names = Vec::new();
        answers.drain(|_, answer| names.push(answer.name.bytes().to_vec()));
        assert_eq!(names, [b"a", b"c"]);
    }

    #[test]
    fn a_release_never_goes_back() {
        let answers = Answers::new(1, 2);
        answers.release(0, 5);
        answers.release(0, 3);
        assert_eq!(answers.ring(0).released(), 5);
    }

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn an_answer_wakes_whoever_waits() {
        let (answers, counted) = (Answers::new(1, 2), Arc::new(Counted::default()));
        let waker = Waker::from(Arc::clone(&counted));
        let mut cx = Context::from_waker(&waker);
        assert!(answers.poll_waiting(&mut cx).is_pending());
        assert!(answers.ring(0).offer(CLIENT, b"a", 1, [address(1, 1)]).is_some());
        assert_eq!(counted.0.load(Ordering::Relaxed), 1);
        assert!(answers.poll_waiting(&mut cx).is_ready());
    }
}
