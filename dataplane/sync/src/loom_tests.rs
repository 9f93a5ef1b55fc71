//! Every interleaving, as far as C11's memory model allows it, of two or three threads.

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Arc, Notify};
use loom::thread;

use crate::{DetailRing, FrameOwner, RingId, SleepFlag};

/// A worker, what is queued for it, and its eventfd.
struct Worker {
    flag: SleepFlag,
    /// Work in each queue. Weaker than any real queue: nothing but a counter.
    queued: [AtomicU32; 2],
    eventfd: Notify,
}

impl Worker {
    fn queue(&self, queue: usize) {
        self.queued[queue].store(1, Ordering::Release);
        if self.flag.must_wake() {
            self.eventfd.notify();
        }
    }

    /// Work that is queued now.
    fn work(&self) -> u32 {
        self.queued.iter().map(|queue| queue.load(Ordering::Acquire)).sum()
    }

    /// Runs until `wanted` pieces of work are seen. A lost wake-up is a deadlock, which loom
    /// reports.
    fn run(&self, wanted: u32) {
        while self.work() < wanted {
            self.flag.announce();
            if self.work() < wanted {
                self.eventfd.wait();
            }
            self.flag.clear();
        }
    }
}

#[test]
fn loom_no_wake_up_is_lost() {
    loom::model(|| {
        let worker = Arc::new(Worker {
            flag: SleepFlag::default(),
            queued: [AtomicU32::new(0), AtomicU32::new(0)],
            eventfd: Notify::new(),
        });
        let sender = Arc::clone(&worker);
        let sender = thread::spawn(move || sender.queue(0));
        worker.run(1);
        sender.join().expect("the sender ends");
    });
}

/// Two workers hand packets to a third, each by a ring of its own.
#[test]
fn loom_no_wake_up_is_lost_with_two_senders() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let worker = Arc::new(Worker {
            flag: SleepFlag::default(),
            queued: [AtomicU32::new(0), AtomicU32::new(0)],
            eventfd: Notify::new(),
        });
        let senders = [0, 1].map(|queue| {
            let worker = Arc::clone(&worker);
            thread::spawn(move || worker.queue(queue))
        });
        worker.run(2);
        for sender in senders {
            sender.join().expect("the sender ends");
        }
    });
}

#[test]
fn loom_a_reader_of_an_item_finds_its_detail() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let ring = Arc::new(DetailRing::new(1));
        let writer = Arc::clone(&ring);
        let writer = thread::spawn(move || {
            [0, 1, 2].map(|number| match number {
                1 => writer.push(number),
                _ => writer.push_with_detail(number, number),
            })
        });
        let mut popped = Vec::new();
        let mut pop = || {
            if let Some((item, detail)) = ring.pop(|number| *number != 1) {
                assert_eq!(detail, (item != 1).then_some(item));
                popped.push(item);
            }
        };
        pop();
        pop();
        let pushed = writer.join().expect("the writer ends");
        pop();
        pop();
        let expected: Vec<_> = (0..3).filter(|number| pushed[*number]).collect();
        assert_eq!(popped, expected, "each item that found room, in order");
    });
}

/// A worker writes events to its ring. The control thread takes them, and sleeps while there are
/// none; only the first one on an empty ring wakes it.
#[test]
fn loom_an_event_on_an_empty_ring_wakes_the_reader() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let shared = Arc::new((DetailRing::<u32, ()>::new(2), SleepFlag::default(), Notify::new()));
        let of_writer = Arc::clone(&shared);
        let writer = thread::spawn(move || {
            let (ring, reader, eventfd) = &*of_writer;
            for number in 0..2 {
                assert!(ring.push(number));
                if ring.must_wake(reader) {
                    eventfd.notify();
                }
            }
        });
        let (ring, reader, eventfd) = &*shared;
        let mut read = 0;
        // A lost wake-up is a deadlock, which loom reports.
        while read < 2 {
            while ring.pop(|_| false).is_some() {
                read += 1;
            }
            reader.announce();
            if read < 2 && ring.is_empty() {
                eventfd.wait();
            }
            reader.clear();
        }
        writer.join().expect("the writer ends");
    });
}

/// One worker fills a frame and gives it to the rings of a link; another one, which serves the
/// link's completion ring, takes it. The ring's entry itself orders nothing here: the owner has to.
#[test]
fn loom_a_frame_taken_back_shows_what_was_written_before_it_was_given() {
    const RINGS: RingId = RingId::of_link(3);
    loom::model(|| {
        let owner = Arc::new(FrameOwner::default());
        let frame = Arc::new(UnsafeCell::new([0_u8; 2]));
        let (giving, written) = (Arc::clone(&owner), Arc::clone(&frame));
        let giver = thread::spawn(move || {
            // loom records the access, and fails on one that is not ordered after another.
            written.with_mut(|_| ());
            giving.give(RINGS);
        });
        assert!(!owner.take(RingId::of_link(4)), "the rings of another link own nothing");
        if owner.take(RINGS) {
            frame.with_mut(|_| ());
            assert!(!owner.take(RINGS), "a frame is taken once");
        }
        giver.join().expect("the giver ends");
    });
}
