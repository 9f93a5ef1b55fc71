//! The Kafka inspector.
//!
//! # Requests
//! A request is decided when all topics that it names are known, and no byte of it passes before
//! that. One Produce may be large, as topics stand between records: once the name of its last topic
//! is known, the rest passes unread. A request that is not decided after 32 KiB is buffered, up to
//! 2 MiB, beyond which it is denied.
//!
//! # Denials
//! A denied request is answered as by a broker that does not authorize it, after the responses to
//! earlier requests, and its bytes are dropped. A producer that waits for no response (`acks=0`)
//! gets none. Both ends are reset for malformed data, and for a denied request of an API or version
//! whose layout is not known.
//!
//! # Fetch sessions (KIP-227)
//! A Fetch that continues a session is also for topics that it does not name. It passes if rules
//! allow all topics, or if the session was opened on this connection by a Fetch that named all
//! topics and passed under the rules of now; which sessions these are is read from the responses.
//! Otherwise it is answered as by a broker that has no such session, so that clients name their
//! topics again.
//!
//! # Responses
//! They pass as they are, and are followed by their lengths and correlation ids; the first error
//! code of each is reported. One is edited: versions whose layout is not known, or that name topics
//! by id only, are removed from the response to ApiVersions, so that clients name topics.

mod request;
mod response;
mod sessions;

use std::collections::VecDeque;

use podgate_tables::drop_reason::DropReason;
use podgate_tables::l7::kafka::schema::Api;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;

use super::inspector::{AfterInjection, Injection, InspectCtx, Inspector, Op, Step};
use request::RequestParser;
use response::Responses;
use sessions::Sessions;

/// Requests that may wait for their responses at once; further ones are not read meanwhile.
const OUTSTANDING_MAX: usize = 256;
/// Bytes of answers that wait for their turn; while there are more, no request is read.
const ANSWERS_MAX: usize = 64 * 1024;

/// What a client waits for.
#[derive(Debug)]
enum Outstanding {
    /// The broker's response.
    Response(Expected),
    /// Our response.
    Answer(Vec<u8>),
}

/// A response that the broker has to send.
#[derive(Clone, Copy, Debug)]
struct Expected {
    /// The API, if the layout of the response is known.
    api: Option<&'static Api>,
    version: i16,
    correlation_id: i32,
    /// When the request passed.
    released: Nanos,
    /// The request named all topics of the session that the response opens, and they are allowed.
    opens_session: bool,
}

/// The state of one connection, both directions.
#[derive(Debug, Default)]
pub struct Kafka {
    requests: RequestParser,
    responses: Responses,
    outstanding: VecDeque<Outstanding>,
    /// Bytes of the answers in `outstanding`.
    answers: usize,
    sessions: Sessions,
}

impl Inspector for Kafka {
    fn inspect(&mut self, cx: &InspectCtx<'_>, direction: FlowDirection, bytes: &[u8]) -> Step {
        match direction {
            FlowDirection::Original => self.inspect_request(cx, bytes),
            FlowDirection::Reply => self.inspect_response(cx, bytes),
        }
    }

    fn ahead(&mut self, direction: FlowDirection) -> Option<Op> {
        match direction {
            FlowDirection::Original => self.requests.take_rest().map(Op::Skip),
            FlowDirection::Reply => None,
        }
    }

    fn end(&mut self, _: &InspectCtx<'_>, direction: FlowDirection, undecided: usize) -> Step {
        match direction {
            FlowDirection::Original if undecided > 0 || !self.requests.is_between_frames() => {
                Step::reset(DropReason::L7Malformed)
            }
            _ => Op::Pass(undecided).into(),
        }
    }

    fn timed_out(&mut self) -> Step {
        Step::reset(DropReason::L7Timeout)
    }

    fn policy_changed(&mut self) {
        self.sessions.clear();
        self.requests.policy_changed();
        self.responses.ignore_session();
        for outstanding in &mut self.outstanding {
            if let Outstanding::Response(expected) = outstanding {
                expected.opens_session = false;
            }
        }
    }

    fn injection(&self, direction: FlowDirection) -> Option<Injection<'_>> {
        let bytes = match direction {
            FlowDirection::Original => self.requests.released()?,
            FlowDirection::Reply => match (self.responses.edited(), self.outstanding.front()) {
                (Some(edited), _) => edited,
                (None, Some(Outstanding::Answer(answer))) if self.responses.is_between_frames() => {
                    answer
                }
                _ => return None,
            },
        };
        Some(Injection { bytes, then: AfterInjection::Continue })
    }

    fn injected(&mut self, direction: FlowDirection) {
        match direction {
            FlowDirection::Original => self.requests.was_released(),
            FlowDirection::Reply if self.responses.edited().is_some() => {
                self.responses.was_edited();
            }
            FlowDirection::Reply => {
                if let Some(Outstanding::Answer(answer)) = self.outstanding.pop_front() {
                    self.answers -= answer.capacity();
                }
            }
        }
    }

    /// What is stored of outstanding requests is not counted: it takes 16 KiB at most.
    fn heap(&self) -> usize {
        self.answers + self.requests.heap() + self.responses.heap()
    }

    fn heap_with(&self, direction: FlowDirection, bytes: usize) -> usize {
        let (requests, responses) = match direction {
            FlowDirection::Original => (self.requests.heap_with(bytes), self.responses.heap()),
            FlowDirection::Reply => (self.requests.heap(), self.responses.heap_with(bytes)),
        };
        self.answers + requests + responses
    }
}

impl Kafka {
    fn inspect_request(&mut self, cx: &InspectCtx<'_>, bytes: &[u8]) -> Step {
        let must_wait = self.outstanding.len() >= OUTSTANDING_MAX || self.answers >= ANSWERS_MAX;
        if self.requests.is_between_frames() && must_wait {
            return Op::Stall.into();
        }
        let (step, outstanding) = self.requests.inspect(cx, &mut self.sessions, bytes);
        if self.responses.is_lost() && matches!(outstanding, Some(Outstanding::Answer(_))) {
            // There is no place for an answer.
            return Step { op: Op::Reset(DropReason::L7Denied), event: step.event };
        }
        if let Some(Outstanding::Answer(answer)) = &outstanding {
            self.answers += answer.capacity();
        }
        self.outstanding.extend(outstanding);
        step
    }

    fn inspect_response(&mut self, cx: &InspectCtx<'_>, bytes: &[u8]) -> Step {
        if !self.responses.is_between_frames() {
            return self.responses.read_on(cx.now, bytes, &mut self.sessions);
        }
        match self.outstanding.front() {
            // It comes before what has arrived.
            Some(Outstanding::Answer(_)) => Op::Stall.into(),
            Some(Outstanding::Response(expected)) => match self.responses.begin(expected, bytes) {
                None => Op::More.into(),
                Some(op) => {
                    self.outstanding.pop_front();
                    op.into()
                }
            },
            None => self.responses.stop_following().into(),
        }
    }
}
