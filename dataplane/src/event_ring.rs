//! A worker's events on their way to the control thread, through a bounded ring.

use podgate_sync::{DetailRing, SleepFlag};
use podgate_tables::event::{Event, EventKind, RequestRecord};

/// One worker's events on their way to the control thread: a bounded ring with one writer and one
/// reader.
///
/// Requests have a ring of their own beside it, in the order of the events: a request is most of an
/// event's bytes, and most events have none.
#[derive(Debug)]
pub struct EventRing {
    ring: DetailRing<Event<()>, RequestRecord>,
}

impl EventRing {
    /// Room for this many events.
    ///
    /// # Panics
    /// When that is zero.
    #[must_use]
    pub fn new(events: usize) -> Self {
        Self { ring: DetailRing::new(events) }
    }

    /// Events that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether no event waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Events that may wait.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    /// Puts an event without a request on the ring. False, and it is lost, if there is no room.
    #[must_use]
    pub fn push(&self, event: Event<()>) -> bool {
        debug_assert!(
            !matches!(event.kind, EventKind::Request { .. }),
            "requests go to push_with_request"
        );
        self.ring.push(event)
    }

    /// The same for any event.
    #[must_use]
    pub fn push_with_request(&self, event: Event) -> bool {
        let mut request = None;
        let event = event.map_request(|record| request = Some(record));
        match request {
            Some(record) => self.ring.push_with_detail(event, record),
            None => self.ring.push(event),
        }
    }

    /// Whether the reader has to be woken for the event that was just pushed.
    #[must_use]
    #[inline]
    pub(crate) fn must_wake(&self, reader: &SleepFlag) -> bool {
        self.ring.must_wake(reader)
    }

    /// Takes the event that has waited longest.
    #[must_use]
    pub fn pop(&self) -> Option<Event> {
        let of_request = |event: &Event<()>| matches!(event.kind, EventKind::Request { .. });
        let (event, record) = self.ring.pop(of_request)?;
        Some(event.map_request(|()| record.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use podgate_tables::address::Address;
    use podgate_tables::drop_reason::DropReason;
    use podgate_tables::event::{EventKind, RequestLine, Text};
    use podgate_tables::ids::{Epoch, LinkId};
    use podgate_tables::proto;
    use podgate_tables::time::Nanos;
    use podgate_tables::tuple::Tuple;

    use super::*;

    fn event<R>(number: u64, kind: EventKind<R>) -> Event<R> {
        let [src, dst] = [Address::v4([10, 0, 0, 1]), Address::v4([10, 0, 0, 2])];
        let tuple = Tuple { src, dst, src_port: 1, dst_port: 2, protocol: proto::TCP };
        let (time, epoch, link) = (Nanos(number), Epoch(1), LinkId(1));
        Event { time, epoch, link, tuple, frontend: None, kind }
    }

    fn request(number: u64) -> EventKind {
        let path = Text::new(number.to_string().as_bytes());
        let request = RequestRecord::Http(RequestLine { path, ..RequestLine::default() });
        EventKind::Request { allowed: true, rule: None, reason: None, request }
    }

    #[test]
    fn each_request_comes_with_its_own_line_and_what_finds_no_room_leaves_none() {
        let ring = EventRing::new(4);
        for turn in 0..5 {
            let numbers = turn * 10..turn * 10 + 6;
            let pushed = numbers.clone().filter(|number| {
                if number % 2 == 0 {
                    return ring.push_with_request(event(*number, request(*number)));
                }
                ring.push(event(*number, EventKind::Drop { reason: DropReason::Malformed }))
            });
            assert_eq!(pushed.collect::<Vec<_>>(), numbers.clone().take(4).collect::<Vec<_>>());
            assert_eq!(ring.len(), 4);
            for number in numbers.take(4) {
                let event = ring.pop().unwrap();
                assert_eq!(event.time, Nanos(number));
                match event.kind {
                    EventKind::Request { request: RequestRecord::Http(request), .. } => {
                        assert_eq!(request.path.bytes(), number.to_string().as_bytes());
                    }
                    kind => assert!(matches!(kind, EventKind::Drop { .. })),
                }
            }
            assert!(ring.is_empty() && ring.pop().is_none());
        }
    }
}
