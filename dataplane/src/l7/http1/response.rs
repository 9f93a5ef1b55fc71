//! The server's stream, followed only to know which requests are answered.
//!
//! It is forwarded whatever it says, so this side is not strict: where it can't tell where a
//! response ends, it stops following (`Untracked`), and from then on the connection is ended by
//! resets instead of answers.

use podgate_tables::l7::http1::Denial;
use podgate_tables::l7::http1::head::{FIELDS_MAX, parse_length};
use podgate_tables::l7::http1::scan::{Scanner, UnitKind};
use podgate_tables::time::Nanos;

use super::body::Body;
use super::{Next, Owed};
use crate::l7::heap::{self, grown};

/// A response head passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResponseHead {
    /// Status code.
    pub status: u16,
    /// From the request's release to this head.
    pub latency_ns: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    #[default]
    Head,
    Body(Body),
    Untracked,
}

/// Capacity kept while no unit is incomplete, bytes: enough for most.
const UNIT_KEPT: usize = 2 * 1024;

/// Where the server's stream stands.
#[derive(Debug, Default)]
pub(super) struct Responses {
    state: State,
    scanner: Scanner,
    /// The current unit, if its bytes come in pieces.
    unit: Vec<u8>,
}

/// What [`Responses::step`] did.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) taken: usize,
    pub(super) head: Option<ResponseHead>,
    /// A final response is complete.
    pub(super) complete: bool,
}

impl Responses {
    pub(super) fn is_between_messages(&self) -> bool {
        self.state == State::Head && self.scanner.is_at_start()
    }

    pub(super) fn is_untracked(&self) -> bool {
        self.state == State::Untracked
    }

    pub(super) fn opaque(&self) -> u64 {
        match self.state {
            State::Head => 0,
            State::Untracked => u64::MAX,
            State::Body(body) => match body.next() {
                Next::Pass(count) => count,
                Next::Decide | Next::Wait => 0,
            },
        }
    }

    /// Bytes on the heap.
    pub(super) const fn heap(&self) -> usize {
        self.unit.capacity()
    }

    /// The same after `bytes` more came, at most.
    pub(super) fn heap_with(&self, bytes: usize) -> usize {
        // Behind a body the next response may begin.
        let units = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_sub(self.opaque());
        grown(self.unit.capacity(), self.unit.len() + units as usize)
    }

    /// How many bytes from the front of `bytes` can be followed without keeping any.
    pub(super) fn followed_in_place(&self, bytes: &[u8], owed: bool) -> usize {
        let opaque = usize::try_from(self.opaque()).unwrap_or(usize::MAX);
        if opaque > 0 {
            return opaque.min(bytes.len());
        }
        let mut scanner = self.scanner;
        match scanner.scan(self.unit_kind(), bytes) {
            _ if !owed => bytes.len(),
            Ok((taken, true)) if self.unit.is_empty() => taken,
            Ok(_) => 0,
            // It is followed no longer.
            Err(_) => bytes.len(),
        }
    }

    fn unit_kind(&self) -> UnitKind {
        match self.state {
            State::Body(body) => body.unit_kind(),
            State::Head | State::Untracked => UnitKind::Section,
        }
    }

    /// Returns whether that completed a response.
    pub(super) fn pass(&mut self, count: u64) -> bool {
        let State::Body(body) = self.state else { return false };
        let next = body.after_bytes(count);
        self.state = next.map_or(State::Head, State::Body);
        next.is_none()
    }

    /// Takes some of `bytes`, which must not be empty; `owed` is the request to be answered next.
    pub(super) fn step(
        &mut self,
        bytes: &[u8],
        owed: Option<Owed>,
        now: Nanos,
    ) -> Result<Step, Denial> {
        let opaque = self.opaque();
        if opaque > 0 {
            let taken = usize::try_from(opaque).map_or(bytes.len(), |n| n.min(bytes.len()));
            return Ok(Step { taken, head: None, complete: self.pass(taken as u64) });
        }
        // What nobody asked for (a 408 before the server closes, say) can't be told from an
        // answer to the next request.
        let Some(owed) = owed else { return Ok(self.give_up(bytes.len())) };
        let unit_kind = self.unit_kind();
        let Ok((taken, ended)) = self.scanner.scan(unit_kind, bytes) else {
            return Ok(self.give_up(bytes.len()));
        };
        if !ended || !self.unit.is_empty() {
            heap::append(&mut self.unit, &bytes[..taken]);
        }
        if !ended {
            return Ok(Step { taken, head: None, complete: false });
        }
        let mut pieces = std::mem::take(&mut self.unit);
        let unit = if pieces.is_empty() { &bytes[..taken] } else { &pieces };
        let step = self.unit_ended(unit, owed, now);
        pieces.clear();
        pieces.shrink_to(UNIT_KEPT);
        self.unit = pieces;
        step.map(|step| Step { taken, ..step })
    }

    fn unit_ended(&mut self, unit: &[u8], owed: Owed, now: Nanos) -> Result<Step, Denial> {
        let (next, head) = match self.state {
            State::Body(body) => match body.after_unit(unit) {
                Ok(next) => (next, None),
                Err(_) => return Ok(self.give_up(0)),
            },
            State::Head | State::Untracked => match parse(unit, owed.head_only) {
                Some((101, _)) => return Err(Denial::NOT_HTTP1),
                Some((status, body)) => {
                    let latency_ns = now.since(owed.released);
                    let head = Some(ResponseHead { status, latency_ns });
                    if matches!(status, 100..200) {
                        return Ok(Step { taken: 0, head, complete: false });
                    }
                    (body, head)
                }
                None => return Ok(self.give_up(0)),
            },
        };
        self.state = next.map_or(State::Head, State::Body);
        Ok(Step { taken: 0, head, complete: next.is_none() })
    }

    fn give_up(&mut self, taken: usize) -> Step {
        self.state = State::Untracked;
        self.unit = Vec::new();
        Step { taken, head: None, complete: false }
    }
}

/// Status and body of a response head; `None` where two readings are possible (RFC 9112 §6.3).
fn parse(unit: &[u8], head_only: bool) -> Option<(u16, Option<Body>)> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(unit) {
        Ok(httparse::Status::Complete(taken)) if taken == unit.len() => {}
        _ => return None,
    }
    let status = response.code?;
    if head_only || matches!(status, 100..200 | 204 | 304) {
        return Some((status, None));
    }
    let (mut length, mut coding) = (None, None);
    for field in response.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            let value = parse_length(field.value)?;
            if length.replace(value).is_some_and(|before| before != value) {
                return None;
            }
        } else if field.name.eq_ignore_ascii_case("transfer-encoding")
            && coding.replace(field.value).is_some()
        {
            return None;
        }
    }
    let body = match (length, coding) {
        (None, None) => Some(Body::UntilClose),
        (Some(0), None) => None,
        (Some(length), None) => Some(Body::Length(length)),
        (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => Some(Body::ChunkSize),
        _ => return None,
    };
    Some((status, body))
}
