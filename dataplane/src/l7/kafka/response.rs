//! The broker's stream.

use podgate_tables::event::{EventKind, KafkaResult, ResponseStatus};
use podgate_tables::l7::kafka::schema::Role;
use podgate_tables::l7::kafka::{Found, PREFIX, Walker, versions};
use podgate_tables::time::Nanos;

use super::Expected;
use super::sessions::Sessions;
use crate::l7::heap::{self, grown};
use crate::l7::inspector::{Op, Step};

/// Length and correlation id of a response, bytes.
const HEADER: usize = PREFIX + 4;
/// Longest response to ApiVersions that is edited, bytes.
const EDITED_MAX: usize = 64 * 1024;
const API_VERSIONS: i16 = 18;

/// The current response.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each response")]
enum Current {
    /// It is read for its error code.
    Read {
        /// API key of the request.
        api_key: i16,
        walker: Walker,
        /// Length of its frame.
        frame: usize,
        /// Bytes of it that have passed.
        passed: usize,
        /// When the request passed.
        released: Nanos,
        /// A session that it names is opened by it.
        opens_session: bool,
    },
    /// It is buffered, to be edited.
    Buffered {
        /// Length of its frame.
        frame: usize,
        version: i16,
        released: Nanos,
    },
    /// It was edited, and is to be inserted.
    Edited,
}

#[derive(Debug, Default)]
pub(super) struct Responses {
    current: Option<Current>,
    buffer: Vec<u8>,
    /// What comes back can't be followed.
    lost: bool,
}

impl Responses {
    pub(super) const fn is_between_frames(&self) -> bool {
        self.current.is_none() && !self.lost
    }

    pub(super) const fn is_lost(&self) -> bool {
        self.lost
    }

    /// The response that is to be inserted in place of the broker's.
    pub(super) fn edited(&self) -> Option<&[u8]> {
        matches!(self.current, Some(Current::Edited)).then_some(&self.buffer)
    }

    /// [`Self::edited`] was inserted.
    pub(super) fn was_edited(&mut self) {
        self.current = None;
        self.buffer = Vec::new();
    }

    pub(super) fn heap(&self) -> usize {
        self.buffer.capacity()
    }

    pub(super) fn heap_with(&self, bytes: usize) -> usize {
        grown(self.buffer.capacity(), self.buffer.len() + bytes)
    }

    /// Stops following: everything passes.
    pub(super) fn stop_following(&mut self) -> Op {
        self.lost = true;
        Op::Skip(u64::MAX)
    }

    /// The session that the current response opens is not to be used.
    pub(super) const fn ignore_session(&mut self) {
        if let Some(Current::Read { opens_session, .. }) = &mut self.current {
            *opens_session = false;
        }
    }

    /// Begins with the response at the front of the stream; `None` if more bytes are needed.
    pub(super) fn begin(&mut self, expected: &Expected, bytes: &[u8]) -> Option<Op> {
        let &[l0, l1, l2, l3, c0, c1, c2, c3] = bytes.first_chunk::<HEADER>()?;
        let len = i32::from_be_bytes([l0, l1, l2, l3]);
        let Ok(len) = usize::try_from(len) else { return Some(self.stop_following()) };
        let frame = PREFIX + len;
        if frame < HEADER || i32::from_be_bytes([c0, c1, c2, c3]) != expected.correlation_id {
            return Some(self.stop_following());
        }
        let Expected { api, version, released, opens_session, .. } = *expected;
        let Some(api) = api else { return Some(Op::Skip(frame as u64)) };
        if api.key == API_VERSIONS && frame <= EDITED_MAX {
            self.current = Some(Current::Buffered { frame, version, released });
            return Some(self.buffer_more(frame, version, bytes));
        }
        // A tagged field in the header is not known.
        let body = match version >= api.flexible && api.key != API_VERSIONS {
            true => HEADER + 1,
            false => HEADER,
        };
        if body > HEADER && bytes.get(HEADER)? != &0 {
            return Some(Op::Skip(frame as u64));
        }
        let walker = Walker::new(api.flexible, version, api.response, body, frame);
        let (api_key, passed) = (api.key, body);
        self.current =
            Some(Current::Read { walker, api_key, frame, passed, released, opens_session });
        Some(Op::Pass(body))
    }

    /// Continues with the current response. A session that it opens is added to `sessions`.
    pub(super) fn read_on(&mut self, now: Nanos, bytes: &[u8], sessions: &mut Sessions) -> Step {
        match &mut self.current {
            Some(Current::Read { walker, api_key, frame, passed, released, opens_session }) => {
                let (api_key, frame, released) = (*api_key, *frame, *released);
                let open = |id| {
                    if *opens_session {
                        sessions.add(id);
                    }
                };
                let Some(error) = first_error(walker, bytes, *passed, open) else {
                    let count = walker.at() - *passed;
                    *passed = walker.at();
                    return match count {
                        0 => Op::More.into(),
                        count if count <= bytes.len() => Op::Pass(count).into(),
                        count => Op::Skip(count as u64).into(),
                    };
                };
                let rest = (frame - *passed) as u64;
                self.current = None;
                Step { op: Op::Skip(rest), event: Some(event(now, released, api_key, error)) }
            }
            Some(Current::Buffered { frame, version, released }) => {
                let (frame, version, released) = (*frame, *version, *released);
                let op = self.buffer_more(frame, version, bytes);
                let is_complete = matches!(self.current, Some(Current::Edited));
                let event = is_complete.then(|| event(now, released, API_VERSIONS, 0));
                Step { op, event }
            }
            // Nothing may overtake it.
            Some(Current::Edited) => Op::Stall.into(),
            None => self.stop_following().into(),
        }
    }

    fn buffer_more(&mut self, frame: usize, version: i16, bytes: &[u8]) -> Op {
        let taken = bytes.len().min(frame - self.buffer.len());
        heap::append(&mut self.buffer, &bytes[..taken]);
        if self.buffer.len() == frame {
            versions::limit(&mut self.buffer, version);
            self.current = Some(Current::Edited);
        }
        Op::Drop(taken as u64)
    }
}

/// The first error code in a response; 0, if its end or what is not read comes before. `None` if
/// more bytes are needed. `session` gets the id of a fetch session, which no error precedes.
fn first_error(
    walker: &mut Walker,
    bytes: &[u8],
    base: usize,
    mut session: impl FnMut(i32),
) -> Option<i16> {
    loop {
        match walker.read(bytes, base) {
            Ok(None) => return None,
            Ok(Some(Found::Value(Role::Error, Some(&[high, low])))) => {
                match i16::from_be_bytes([high, low]) {
                    0 => {}
                    error => return Some(error),
                }
            }
            Ok(Some(Found::Value(Role::SessionId, Some(&[a, b, c, d])))) => {
                session(i32::from_be_bytes([a, b, c, d]));
            }
            Ok(Some(Found::End)) | Err(_) => return Some(0),
            Ok(Some(_)) => {}
        }
    }
}

fn event(now: Nanos, released: Nanos, api_key: i16, error_code: i16) -> EventKind {
    let status = ResponseStatus::Kafka(KafkaResult { api_key, error_code });
    EventKind::Response { status, latency_ns: now.since(released) }
}
