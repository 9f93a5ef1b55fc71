//! The client's stream.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{EventKind, KafkaRecord, RequestRecord, Text};
use podgate_tables::ids::RuleId;
use podgate_tables::l7::kafka::schema::{Api, List, TOPIC_RESOURCE};
use podgate_tables::l7::kafka::{
    self, ANSWER_HEAP, FetchSession, Found, Header, RequestNames, Walker,
};
use podgate_tables::l7::{KafkaRequest, L7Policy, L7Request, L7Verdict};
use podgate_tables::time::Nanos;

use super::sessions::Sessions;
use super::{Expected, Outstanding};
use crate::l7::heap::{self, grown};
use crate::l7::inspector::{InspectCtx, Op, Step};

/// Bytes that an undecided request may have in the editor's memory; with more it is buffered here.
const HELD_MAX: usize = 32 * 1024;
/// Bytes of an undecided request in all.
const BUFFER_MAX: usize = 2 * 1024 * 1024;
/// Time in which a buffered request must be decided, nanoseconds.
const BUFFERED_NS: u64 = 30_000_000_000;
/// Longest header, bytes.
const HEADER_MAX: usize = 8 * 1024;
/// A buffer up to this size is used again, bytes.
const BUFFER_KEPT: usize = 4 * 1024;

const PRODUCE: i16 = 0;
/// SaslHandshake, ApiVersions and SaslAuthenticate come before any other request, and name nothing.
const ALWAYS_ALLOWED: [i16; 3] = [17, 18, 36];
/// Stands for a topic whose name is not known: only rules that name no topic match it.
const UNKNOWN_TOPIC: &[u8] = b"";

/// How far the current request has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Its bytes are in the editor's memory.
    Undecided,
    /// It is undecided, and its bytes are in the buffer.
    Buffered {
        /// Since when.
        since: Nanos,
    },
    /// It is allowed, and the buffer is to be inserted.
    Released,
    /// It is denied: the rest is read for the answer, and dropped.
    Denied,
}

/// The current request.
#[derive(Clone, Copy, Debug)]
struct Current {
    api: Option<&'static Api>,
    api_key: i16,
    api_version: i16,
    correlation_id: i32,
    has_client_id: bool,
    walker: Walker,
    /// Length of its frame.
    frame: usize,
    /// Bytes of the frame that were dropped.
    dropped: usize,
    /// Offset in the frame of the first byte in the buffer.
    base: usize,
    /// Topics that were decided.
    decided: usize,
    /// At least one of them is a topic, not another resource.
    has_topic: bool,
    /// What allowed the first.
    rule: Option<RuleId>,
    /// Rules have changed since it began.
    spans_policies: bool,
    /// It is denied because it continues a fetch session that is not known.
    lacks_session: bool,
    state: State,
}

#[derive(Debug, Default)]
pub(super) struct RequestParser {
    current: Option<Current>,
    client_id: Vec<u8>,
    names: RequestNames,
    buffer: Vec<u8>,
    /// Bytes of a decided frame that pass unread.
    rest: u64,
}

/// The verdict on an undecided request.
enum Verdict {
    More,
    Allowed,
    Denied(DropReason),
    Invalid(DropReason),
}

impl RequestParser {
    pub(super) const fn is_between_frames(&self) -> bool {
        self.current.is_none()
    }

    /// Bytes that pass next without being read, if any. They count as passed.
    pub(super) fn take_rest(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.rest)).filter(|rest| *rest > 0)
    }

    /// A buffered request that is allowed.
    pub(super) fn released(&self) -> Option<&[u8]> {
        let current = self.current.as_ref()?;
        (current.state == State::Released).then_some(&self.buffer)
    }

    /// [`Self::released`] was inserted.
    pub(super) fn was_released(&mut self) {
        if let Some(current) = self.current.take() {
            self.rest = (current.frame - current.dropped) as u64;
        }
        self.clear_buffer();
    }

    /// Other rules apply from now on.
    pub(super) const fn policy_changed(&mut self) {
        if let Some(current) = &mut self.current {
            current.spans_policies = true;
        }
    }

    fn clear_buffer(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT);
    }

    pub(super) fn heap(&self) -> usize {
        self.client_id.capacity() + self.names.heap() + self.buffer.capacity()
    }

    /// Upper bound of [`Self::heap`] and the answer after `bytes` were shown.
    pub(super) fn heap_with(&self, bytes: usize) -> usize {
        grown(self.client_id.capacity(), bytes.min(HEADER_MAX))
            + self.names.heap_with(bytes)
            + grown(self.buffer.capacity(), self.buffer.len() + bytes)
            + ANSWER_HEAP
    }

    /// Decides about the bytes at the front of the stream. Returns what the client
    /// waits for after it.
    pub(super) fn inspect(
        &mut self,
        cx: &InspectCtx<'_>,
        sessions: &mut Sessions,
        bytes: &[u8],
    ) -> (Step, Option<Outstanding>) {
        if self.current.is_none() {
            match kafka::header(bytes) {
                Ok(Some(header)) => self.begin(&header),
                Ok(None) if bytes.len() > HEADER_MAX => {
                    return (Step::reset(DropReason::L7Limit), None);
                }
                Ok(None) => return (Op::More.into(), None),
                Err(_) => return (Step::reset(DropReason::L7Malformed), None),
            }
        }
        match self.current.map(|current| current.state) {
            Some(State::Undecided) => self.undecided(cx, sessions, bytes),
            Some(State::Buffered { since }) => self.buffered(cx, sessions, since, bytes),
            Some(State::Denied) => self.denied(bytes, None),
            // Nothing may overtake it.
            Some(State::Released) | None => (Op::Stall.into(), None),
        }
    }

    fn begin(&mut self, header: &Header<'_>) {
        let Header { frame, api_key, api_version, correlation_id, client_id, len } = *header;
        self.names.clear();
        self.client_id.clear();
        heap::append(&mut self.client_id, client_id.unwrap_or_default());
        let api = Api::of(api_key).filter(|api| api.has_version(api_version));
        let fields = api.map_or(&[][..], |api| api.request);
        let flexible = api.map_or(i16::MAX, |api| api.flexible);
        self.current = Some(Current {
            api,
            api_key,
            api_version,
            correlation_id,
            has_client_id: client_id.is_some(),
            walker: Walker::new(flexible, api_version, fields, len, frame),
            frame,
            dropped: 0,
            base: 0,
            decided: 0,
            has_topic: false,
            rule: None,
            spans_policies: false,
            lacks_session: false,
            state: State::Undecided,
        });
    }

    fn undecided(
        &mut self,
        cx: &InspectCtx<'_>,
        sessions: &mut Sessions,
        bytes: &[u8],
    ) -> (Step, Option<Outstanding>) {
        match self.walk(cx.policy, sessions, &bytes[..bytes.len().min(HELD_MAX)]) {
            Verdict::Allowed => {
                let Some(current) = self.current.take() else { return (Op::Stall.into(), None) };
                let step = Step { op: Op::Pass(0), event: Some(self.event(&current, Ok(()))) };
                let passed = current.walker.at().min(current.frame).min(bytes.len());
                self.rest = (current.frame - passed) as u64;
                let outstanding = self.expected(&current, sessions, cx.now);
                (Step { op: Op::Pass(passed), ..step }, outstanding)
            }
            Verdict::Denied(reason) => self.deny(reason, bytes),
            Verdict::Invalid(reason) => (Step::reset(reason), None),
            Verdict::More if bytes.len() < HELD_MAX => (Op::More.into(), None),
            Verdict::More => {
                if let Some(current) = &mut self.current {
                    current.state = State::Buffered { since: cx.now };
                }
                self.buffered(cx, sessions, cx.now, bytes)
            }
        }
    }

    /// Buffers more of a request. The last byte stays with the editor, whose timer it keeps
    /// running.
    fn buffered(
        &mut self,
        cx: &InspectCtx<'_>,
        sessions: &mut Sessions,
        since: Nanos,
        bytes: &[u8],
    ) -> (Step, Option<Outstanding>) {
        let Some(current) = &mut self.current else { return (Op::Stall.into(), None) };
        if cx.now.since(since) > BUFFERED_NS {
            return (Step::reset(DropReason::L7Timeout), None);
        }
        let left = current.frame - current.dropped;
        let taken = if bytes.len() >= left { left } else { bytes.len() - 1 };
        let taken = taken.min(BUFFER_MAX - self.buffer.len());
        if taken == 0 {
            return (Op::More.into(), None);
        }
        heap::append(&mut self.buffer, &bytes[..taken]);
        current.dropped += taken;
        let buffer = std::mem::take(&mut self.buffer);
        let verdict = self.walk(cx.policy, sessions, &buffer);
        self.buffer = buffer;
        let is_full = self.buffer.len() >= BUFFER_MAX;
        let drop = Op::Drop(taken as u64);
        let Some(current) = &mut self.current else { return (Op::Stall.into(), None) };
        match verdict {
            Verdict::Allowed => {
                current.state = State::Released;
                let current = *current;
                let event = Some(self.event(&current, Ok(())));
                (Step { op: drop, event }, self.expected(&current, sessions, cx.now))
            }
            Verdict::More if !is_full => (drop.into(), None),
            Verdict::Invalid(reason) => (Step::reset(reason), None),
            Verdict::More => self.deny_buffered(DropReason::L7Limit, drop),
            Verdict::Denied(reason) => self.deny_buffered(reason, drop),
        }
    }

    /// Denies a buffered request. Only the unread part of the buffer is still needed.
    fn deny_buffered(&mut self, reason: DropReason, drop: Op) -> (Step, Option<Outstanding>) {
        let Some(current) = &mut self.current else { return (Op::Stall.into(), None) };
        current.state = State::Denied;
        let read = current.walker.at().min(self.buffer.len());
        self.buffer.drain(..read);
        current.base = read;
        let current = *current;
        let event = Some(self.event(&current, Err(reason)));
        if current.dropped < current.frame {
            return (Step { op: drop, event }, None);
        }
        // Nothing of it is left to arrive.
        let (step, outstanding) = self.denied(&[], event);
        let op = if matches!(step.op, Op::Drop(_)) { drop } else { step.op };
        (Step { op, event }, outstanding)
    }

    /// Denies the request whose first bytes are shown.
    fn deny(&mut self, reason: DropReason, bytes: &[u8]) -> (Step, Option<Outstanding>) {
        let Some(current) = &mut self.current else { return (Op::Stall.into(), None) };
        current.state = State::Denied;
        let current = *current;
        let event = Some(self.event(&current, Err(reason)));
        if current.api.is_none() {
            // It is not known how it is answered.
            return (Step { op: Op::Reset(DropReason::L7Unsupported), event }, None);
        }
        self.denied(bytes, event)
    }

    /// Reads and drops more of a denied request, and answers it at its end.
    fn denied(&mut self, bytes: &[u8], event: Option<EventKind>) -> (Step, Option<Outstanding>) {
        let Some(current) = &mut self.current else { return (Op::Stall.into(), None) };
        let mut taken = bytes.len().min(current.frame - current.dropped);
        let skipped = current.walker.at().saturating_sub(current.dropped).min(taken);
        if self.buffer.is_empty() {
            current.base = current.dropped + skipped;
        }
        heap::append(&mut self.buffer, &bytes[skipped..taken]);
        let found_end = loop {
            match current.walker.read(&self.buffer, current.base) {
                Ok(Some(Found::End)) => break true,
                Ok(Some(found)) => {
                    if self.names.add(found).is_err() {
                        return (Step { event, ..Step::reset(DropReason::L7Limit) }, None);
                    }
                }
                Ok(None) => break false,
                Err(_) => return (Step { event, ..Step::reset(DropReason::L7Malformed) }, None),
            }
        };
        let at = current.walker.at();
        self.buffer.drain(..(at - current.base).min(self.buffer.len()));
        current.base = at;
        if found_end {
            let left = current.frame - current.dropped;
            return self.answer(left, event);
        }
        // Nothing before is of use, whether it has arrived or not.
        taken = taken.max(at.min(current.frame) - current.dropped.min(at));
        current.dropped += taken;
        if current.dropped == current.frame {
            return (Step { event, ..Step::reset(DropReason::L7Malformed) }, None);
        }
        (Step { op: Op::Drop(taken as u64), event }, None)
    }

    /// Answers a denied request, of which `left` bytes are still to be dropped.
    fn answer(&mut self, left: usize, event: Option<EventKind>) -> (Step, Option<Outstanding>) {
        self.clear_buffer();
        let Some(current) = self.current.take() else { return (Op::Stall.into(), None) };
        let step = Step { op: Op::Drop(left as u64), event };
        if !self.names.wants_response() {
            return (step, None);
        }
        let Current { api_version: version, correlation_id: id, .. } = current;
        let answer = current.api.and_then(|api| match current.lacks_session {
            true => kafka::session_ended(api, version, id),
            false => kafka::answer(api, version, id, &self.names),
        });
        match answer {
            Some(answer) => (step, Some(Outstanding::Answer(answer))),
            None => (Step { op: Op::Reset(DropReason::L7Limit), event }, None),
        }
    }

    /// Reads an undecided request as far as it has arrived, and decides its topics.
    fn walk(&mut self, policy: &L7Policy, sessions: &Sessions, bytes: &[u8]) -> Verdict {
        let Some(mut current) = self.current else { return Verdict::More };
        if current.api.is_none() || ALWAYS_ALLOWED.contains(&current.api_key) {
            return self.decide_unread(policy, &current);
        }
        let verdict = loop {
            let found = match current.walker.read(bytes, 0) {
                Ok(Some(found)) => found,
                Ok(None) => break Verdict::More,
                Err(_) => break Verdict::Invalid(DropReason::L7Malformed),
            };
            if self.names.add(found).is_err() {
                break Verdict::Invalid(DropReason::L7Limit);
            }
            let is_last =
                found == Found::End || current.api_key == PRODUCE && self.names.has_last_topic();
            let complete = match found {
                _ if is_last => self.names.len(),
                Found::Element(List::Topics) => self.names.len() - 1,
                _ => continue,
            };
            let mut decided = self.decide_topics(policy, &mut current, complete);
            if is_last && decided.is_ok() && !current.has_topic {
                decided = self.decide_without_topics(policy, &mut current);
            }
            if is_last && decided.is_ok() {
                decided = self.decide_session(policy, sessions, &mut current);
            }
            if let Err(reason) = decided {
                break Verdict::Denied(reason);
            }
            if is_last {
                break Verdict::Allowed;
            }
        };
        self.current = Some(current);
        verdict
    }

    /// Decides a request that is not read, or passes whatever it is.
    fn decide_unread(&mut self, policy: &L7Policy, current: &Current) -> Verdict {
        if ALWAYS_ALLOWED.contains(&current.api_key) {
            return Verdict::Allowed;
        }
        match self.decide(policy, current, &[UNKNOWN_TOPIC]) {
            L7Verdict::Allow { rule } => {
                self.current = Some(Current { rule, ..*current });
                Verdict::Allowed
            }
            L7Verdict::Deny => Verdict::Denied(DropReason::L7Denied),
        }
    }

    /// Decides the topics up to `complete`. One with a name and an id must be allowed as both, as
    /// brokers may use either.
    fn decide_topics(
        &self,
        policy: &L7Policy,
        current: &mut Current,
        complete: usize,
    ) -> Result<(), DropReason> {
        while current.decided < complete {
            let topic = self.names.topic(current.decided);
            if topic.resource == TOPIC_RESOURCE {
                let both = [topic.name.unwrap_or(UNKNOWN_TOPIC), UNKNOWN_TOPIC];
                let topics = if topic.has_id() { &both[..] } else { &both[..1] };
                let rule = self.allowing_rule(policy, current, topics)?;
                current.rule = current.rule.or(rule);
                current.has_topic = true;
            }
            current.decided += 1;
        }
        Ok(())
    }

    /// Decides a complete request that names no topic.
    fn decide_without_topics(
        &self,
        policy: &L7Policy,
        current: &mut Current,
    ) -> Result<(), DropReason> {
        current.rule = self.allowing_rule(policy, current, &[])?;
        Ok(())
    }

    /// Decides whether an allowed request may also be for the topics of the session that it
    /// continues.
    fn decide_session(
        &self,
        policy: &L7Policy,
        sessions: &Sessions,
        current: &mut Current,
    ) -> Result<(), DropReason> {
        match self.names.fetch_session() {
            Some(FetchSession::Continued(id)) if !sessions.is_known(id) => {
                let allowed = self.allowing_rule(policy, current, &[UNKNOWN_TOPIC]);
                current.lacks_session = allowed.is_err();
                allowed.map(|_| ())
            }
            _ => Ok(()),
        }
    }

    fn allowing_rule(
        &self,
        policy: &L7Policy,
        current: &Current,
        topics: &[&[u8]],
    ) -> Result<Option<RuleId>, DropReason> {
        match self.decide(policy, current, topics) {
            L7Verdict::Allow { rule } => Ok(rule),
            L7Verdict::Deny => Err(DropReason::L7Denied),
        }
    }

    fn decide(&self, policy: &L7Policy, current: &Current, topics: &[&[u8]]) -> L7Verdict {
        policy.decide(&L7Request::Kafka(KafkaRequest {
            api_key: current.api_key,
            api_version: current.api_version,
            client_id: current.has_client_id.then_some(&self.client_id),
            topics,
        }))
    }

    /// The response that is expected for a request that passed.
    fn expected(
        &self,
        current: &Current,
        sessions: &mut Sessions,
        now: Nanos,
    ) -> Option<Outstanding> {
        let Current { api, api_version: version, correlation_id, .. } = *current;
        let mut opens_session = false;
        if let Some(FetchSession::Full { closed, opens }) = self.names.fetch_session() {
            sessions.remove(closed);
            opens_session = opens && !current.spans_policies;
        }
        let expected = Expected { api, version, correlation_id, released: now, opens_session };
        self.names.wants_response().then_some(Outstanding::Response(expected))
    }

    fn event(&self, current: &Current, verdict: Result<(), DropReason>) -> EventKind {
        let first = (!self.names.is_empty()).then(|| self.names.topic(0));
        let request = RequestRecord::Kafka(KafkaRecord {
            api_key: current.api_key,
            api_version: current.api_version,
            correlation_id: current.correlation_id,
            client_id: Text::new(&self.client_id),
            topic: Text::new(first.and_then(|topic| topic.name).unwrap_or_default()),
        });
        EventKind::decided(verdict.map(|()| current.rule), request)
    }
}
