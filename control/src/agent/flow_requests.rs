//! Which request a response answers.
//!
//! A response's event has the time since its request, so the request is the one of the same flow at
//! that time. If events were lost, a response may have no request, but never that of another.

use std::collections::{HashMap, VecDeque};

use podgate_tables::event::{Event, EventKind, RequestLine, RequestRecord, ResponseStatus};
use podgate_tables::time::Nanos;
use podgate_tables::tuple::Tuple;

/// Most requests; at the limit all are forgotten, and their responses name no request.
const REQUESTS_MAX: usize = 4096;

/// The first status code of a final response (RFC 9110 §15).
const FINAL: u16 = 200;

/// Requests that were allowed and not answered yet.
#[derive(Debug, Default)]
pub(super) struct FlowRequests {
    by_flow: HashMap<Tuple, VecDeque<(Nanos, RequestLine)>>,
    count: usize,
}

impl FlowRequests {
    /// Takes an event; for a response, returns its request.
    pub(super) fn pair(&mut self, event: &Event) -> Option<RequestLine> {
        match event.kind {
            EventKind::Request { allowed: true, request: RequestRecord::Http(line), .. } => {
                if self.count == REQUESTS_MAX {
                    *self = Self::default();
                }
                self.count += 1;
                self.by_flow.entry(event.tuple).or_default().push_back((event.time, line));
                None
            }
            EventKind::Response { status: ResponseStatus::Http { status, .. }, latency_ns } => {
                let sent = Nanos(event.time.0.saturating_sub(latency_ns));
                self.take(&event.tuple, sent, status)
            }
            EventKind::End { .. } => {
                let forgotten = self.by_flow.remove(&event.tuple);
                self.count -= forgotten.map_or(0, |requests| requests.len());
                None
            }
            _ => None,
        }
    }

    /// The request of a flow at `sent`; those before it have no response.
    fn take(&mut self, flow: &Tuple, sent: Nanos, status: u16) -> Option<RequestLine> {
        let requests = self.by_flow.get_mut(flow)?;
        let before = requests.iter().take_while(|(time, _)| *time < sent).count();
        requests.drain(..before);
        self.count -= before;
        let found = requests.front().filter(|(time, _)| *time == sent).map(|(_, line)| *line);
        // An interim response is followed by another one.
        if found.is_some() && status >= FINAL {
            requests.pop_front();
            self.count -= 1;
        }
        if requests.is_empty() {
            self.by_flow.remove(flow);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use podgate_tables::event::{HttpVersion, Text};
    use podgate_tables::ids::{Epoch, LinkId};

    use super::*;

    fn event(time: u64, port: u16, kind: EventKind) -> Event {
        let any = std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED).into();
        let tuple = Tuple { src: any, dst: any, protocol: 6, src_port: port, dst_port: 80 };
        let (time, epoch, link) = (Nanos(time), Epoch(1), LinkId(1));
        Event { time, epoch, link, tuple, frontend: None, kind }
    }

    fn request(time: u64, port: u16, path: &str) -> Event {
        let line = RequestLine { path: Text::new(path.as_bytes()), ..RequestLine::default() };
        let request = RequestRecord::Http(line);
        event(time, port, EventKind::Request { allowed: true, rule: None, reason: None, request })
    }

    fn response(time: u64, port: u16, latency_ns: u64, status: u16) -> Event {
        let status = ResponseStatus::Http { version: HttpVersion::Http11, status };
        event(time, port, EventKind::Response { status, latency_ns })
    }

    fn path(line: Option<RequestLine>) -> Option<String> {
        line.map(|line| String::from_utf8_lossy(line.path.bytes()).into_owned())
    }

    #[test]
    fn a_response_has_the_request_of_its_flow_and_time() {
        let mut requests = FlowRequests::default();
        for event in [request(10, 1, "/a"), request(10, 2, "/other"), request(20, 1, "/b")] {
            assert_eq!(requests.pair(&event), None);
        }
        let mut paired = |event: &Event| path(requests.pair(event));
        assert_eq!(paired(&response(30, 1, 20, 100)).as_deref(), Some("/a"));
        assert_eq!(paired(&response(31, 1, 21, 200)).as_deref(), Some("/a"));
        assert_eq!(paired(&response(32, 1, 12, 200)).as_deref(), Some("/b"));
        assert_eq!(paired(&response(33, 1, 13, 200)), None);
        assert_eq!(paired(&response(33, 2, 23, 200)).as_deref(), Some("/other"));
        assert_eq!((requests.count, requests.by_flow.len()), (0, 0));
    }

    #[test]
    fn lost_events_never_pair_a_response_with_another_request() {
        let mut requests = FlowRequests::default();
        // The first request's event was lost, then the second one's response's.
        requests.pair(&request(20, 1, "/b"));
        requests.pair(&request(30, 1, "/c"));
        assert_eq!(requests.pair(&response(40, 1, 30, 200)), None);
        assert_eq!(path(requests.pair(&response(50, 1, 20, 200))).as_deref(), Some("/c"));
        assert_eq!(requests.count, 0);
    }

    #[test]
    fn what_is_stored_is_bounded_and_ends_with_the_flow() {
        let mut requests = FlowRequests::default();
        requests.pair(&request(1, 7, "/a"));
        let (original, reply, decided) = Default::default();
        let end = EventKind::End { original, reply, decided };
        requests.pair(&event(2, 7, end));
        assert_eq!((requests.count, requests.by_flow.len()), (0, 0));
        for time in 0..10_000 {
            requests.pair(&request(time, (time % 100) as u16, "/a"));
        }
        assert!(requests.count <= REQUESTS_MAX, "{}", requests.count);
        let stored: usize = requests.by_flow.values().map(VecDeque::len).sum();
        assert_eq!(stored, requests.count);
    }
}
