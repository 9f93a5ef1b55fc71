//! HTTP/1.1 as an inspector sees it: bytes of both directions, nothing of TCP.
//!
//! # Units
//! A request stream is body bytes, which pass unseen, and *units*, which decide something and are
//! judged as a whole: a head, a chunk-size line, the line end after a chunk, an empty trailer
//! section. [`Http1::next_request_bytes`] says which of them the next bytes are. No byte of a unit
//! may reach the server before [`Http1::decide`] has judged the unit; so a cut anywhere changes
//! nothing.
//!
//! # Strictness
//! Whatever two parsers could read in two ways is refused: bare CR or LF, folded lines, space
//! around a field's name, `Content-Length` that is repeated, signed or beside
//! `Transfer-Encoding`, any transfer coding but `chunked`, chunks that a reader with 32 bits would
//! count otherwise, trailers, a missing or repeated `Host`, and so on (RFC 9112 §11 tells why).
//! What remains has one reading, which every server that keeps to the RFC shares, however lenient
//! it is beyond.
//!
//! # Upgrades
//! A request that offers an upgrade is judged like any other. Until it has been answered, nothing
//! more of the request stream passes; the answer 101 ends the connection, since what follows it is
//! not HTTP/1.1 any more. So clients that offer HTTP/2 on their first request go on to work.

mod body;
mod request;
mod response;

pub use request::Judged;
pub use response::ResponseHead;

use std::collections::VecDeque;

use podgate_tables::l7::L7Policy;
use podgate_tables::l7::http1::Denial;
use podgate_tables::time::Nanos;

use request::Requests;
use response::Responses;

/// Requests that may wait for their responses at once; further ones are not read meanwhile.
/// Browsers and load generators stay below a tenth of it.
const OWED_MAX: usize = 128;

/// What the next bytes of a stream are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// So many bytes of body, which decide nothing. `u64::MAX` is without end.
    Pass(u64),
    /// Bytes of a unit.
    Decide,
    /// The other direction has to go on first.
    Wait,
}

/// A request whose response is not complete yet.
#[derive(Clone, Copy, Debug)]
struct Owed {
    released: Nanos,
    /// The answer to `HEAD` has no body, whatever its head says (RFC 9112 §6.3).
    head_only: bool,
}

/// The state of one connection, both directions.
#[derive(Debug, Default)]
pub struct Http1 {
    requests: Requests,
    responses: Responses,
    owed: VecDeque<Owed>,
    /// A request that offered an upgrade is not answered yet.
    upgrading: bool,
}

impl Http1 {
    /// What the next bytes from the client are.
    #[must_use]
    pub fn next_request_bytes(&self) -> Next {
        let may_begin = self.owed.len() < OWED_MAX && !self.upgrading;
        if self.requests.is_between_messages() && !may_begin {
            return Next::Wait;
        }
        self.requests.next()
    }

    /// The next `count` bytes from the client are body and passed; at most what
    /// [`Self::next_request_bytes`] said.
    pub fn pass_request_bytes(&mut self, count: u64) {
        self.requests.pass(count);
    }

    /// Looks at more bytes of the client's current unit. Returns how many of `bytes` belong to it
    /// and whether it ends with them.
    ///
    /// # Errors
    /// When the unit can't become one that is allowed.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<(usize, bool), Denial> {
        self.requests.scan(bytes)
    }

    /// Judges the client's current unit, all of which is in `unit`. `Some` if it was a head, with
    /// the verdict on it.
    ///
    /// # Errors
    /// When it may not go on and is no head.
    pub fn decide(
        &mut self,
        now: Nanos,
        unit: &[u8],
        policy: &L7Policy,
    ) -> Result<Option<Judged>, Denial> {
        let judged = self.requests.decide(unit, policy)?;
        if let Some(Judged { verdict: Ok(_), head_only, upgrade, .. }) = judged {
            self.owed.push_back(Owed { released: now, head_only });
            self.upgrading = upgrade;
        }
        Ok(judged)
    }

    /// The client's stream ends here.
    ///
    /// # Errors
    /// When that is in the middle of a unit.
    pub fn end_requests(&self) -> Result<(), Denial> {
        self.requests.end()
    }

    /// Bytes of body that come next from the server: they may pass without being shown to
    /// [`Self::respond`] if [`Self::skip_response_bytes`] counts them.
    #[must_use]
    pub fn opaque_response_bytes(&self) -> u64 {
        self.responses.opaque()
    }

    /// Bytes of streams on the heap. (What is noted of requests that are owed an answer is not
    /// counted: 2 KiB, if there are as many as there may be.)
    #[must_use]
    pub const fn heap(&self) -> usize {
        self.responses.heap()
    }

    /// The same after [`Self::respond`] has seen `bytes` more, at most.
    #[must_use]
    pub fn heap_with_response(&self, bytes: usize) -> usize {
        self.responses.heap_with(bytes)
    }

    /// How many bytes from the front of `bytes` [`Self::respond`] would follow without keeping any:
    /// up to the end of a unit that is whole.
    #[must_use]
    pub fn followed_in_place(&self, bytes: &[u8]) -> usize {
        self.responses.followed_in_place(bytes, !self.owed.is_empty())
    }

    /// Counts body bytes from the server; at most [`Self::opaque_response_bytes`].
    pub fn skip_response_bytes(&mut self, count: u64) {
        if self.responses.pass(count) {
            self.answered();
        }
    }

    /// Follows bytes from the server up to the end of the first response head in them. Returns how
    /// many were taken, which is all of them if there is no head.
    ///
    /// # Errors
    /// When the server switches to another protocol.
    pub fn respond(
        &mut self,
        now: Nanos,
        bytes: &[u8],
    ) -> Result<(usize, Option<ResponseHead>), Denial> {
        let mut taken = 0;
        while taken < bytes.len() {
            let step = self.responses.step(&bytes[taken..], self.owed.front().copied(), now)?;
            taken += step.taken;
            if step.complete {
                self.answered();
            }
            if step.head.is_some() {
                return Ok((taken, step.head));
            }
        }
        Ok((taken, None))
    }

    fn answered(&mut self) {
        self.owed.pop_front();
        self.upgrading &= !self.owed.is_empty();
    }

    /// Where the server's stream stands.
    #[must_use]
    pub fn responses(&self) -> ResponseState {
        match (self.responses.is_between_messages(), self.owed.is_empty()) {
            _ if self.responses.is_untracked() => ResponseState::Unknown,
            (true, true) => ResponseState::Complete,
            _ => ResponseState::Owed,
        }
    }
}

/// Where the server's stream stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponseState {
    /// Every request was answered to the end; an answer of ours fits in here.
    Complete,
    /// The server still has something to say.
    Owed,
    /// Not to be told.
    Unknown,
}

#[cfg(test)]
pub(in crate::l7) mod tests;
