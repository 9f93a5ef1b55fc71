//! The server's stream, followed to know where our frames may be inserted, and how requests ended.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{EventKind, HttpVersion, ResponseStatus};
use podgate_tables::time::Nanos;

use super::block::SCRATCH;
use super::client::{EARNED_BY_CONTENT, SETTINGS_MAX};
use super::frame::{self, FrameHeader, HEADER_LEN, Settings, flag, kind};
use super::hpack::{Decoder, Part};
use super::parts::Parts;
use super::settings::{Unacked, Unacknowledged};
use super::{Http2, InspectCtx, Op, Step, TABLE_MAX};
use crate::l7::heap::{self, grown};

/// Longest header block that is decoded, bytes. After a longer one, responses are not reported.
const BLOCK_MAX: usize = 256 * 1024;
/// Capacity kept while no frame is incomplete, bytes.
const PAYLOAD_KEPT: usize = 256;

/// What must come next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Phase {
    /// The first frame, which must be SETTINGS.
    #[default]
    Settings,
    Frames,
    /// The server does not speak HTTP/2, or not as we understand it.
    Untracked,
}

/// A header block that continues in the next frame.
#[derive(Clone, Copy, Debug)]
struct Open {
    stream: u32,
    flags: u8,
    kind: u8,
}

/// Where the server's stream is.
#[derive(Debug)]
pub(super) struct Server {
    phase: Phase,
    /// The header of a frame, as far as it has come.
    partial: [u8; HEADER_LEN],
    partial_len: usize,
    /// A frame whose payload is being collected.
    frame: Option<FrameHeader>,
    /// The payload of that frame, after the fragments of the header block in frames before.
    payload: Vec<u8>,
    /// Bytes of it that are missing.
    missing: usize,
    open: Option<Open>,
    /// A DATA frame whose last part has not begun.
    pub(super) parts: Option<Parts>,
    /// Bytes that come next, and pass: of a part that has begun.
    passing: u32,
    /// [`None`] once a block could not be decoded.
    decoder: Option<Decoder>,
    /// The server's SETTINGS frames that the client has not acknowledged.
    pub(super) settings: Unacked,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            phase: Phase::default(),
            partial: [0; HEADER_LEN],
            partial_len: 0,
            frame: None,
            payload: Vec::new(),
            missing: 0,
            open: None,
            parts: None,
            passing: 0,
            decoder: Some(Decoder::new(TABLE_MAX)),
            settings: Unacked::default(),
        }
    }
}

impl Server {
    /// Whether our frames may be inserted here.
    pub(super) fn is_between_frames(&self) -> bool {
        let is_between = self.partial_len == 0 && self.frame.is_none() && self.open.is_none();
        self.phase == Phase::Frames && is_between && self.passing == 0
    }

    /// Whether a part of a frame's header has passed: the frame can't be divided any more.
    const fn is_within_header(&self) -> bool {
        self.partial_len > 0
    }

    /// Upper bound of the content of a frame whose header has passed in part, bytes.
    pub(super) fn begun_content_max(&self) -> u32 {
        let byte = |at: usize| if at < self.partial_len { self.partial[at] } else { u8::MAX };
        match self.partial_len {
            0 => 0,
            4.. if self.partial[3] != kind::DATA => 0,
            _ => u32::from_be_bytes([0, byte(0), byte(1), byte(2)]),
        }
    }

    /// What is to be inserted in front of the next part of a frame. Empty if nothing is.
    pub(super) fn part_head(&self) -> &[u8] {
        self.parts.as_ref().map_or(b"", Parts::head)
    }

    /// [`Self::part_head`] was inserted.
    fn begin_part(&mut self) {
        if let Some(parts) = &mut self.parts {
            self.passing = parts.begin();
            if parts.is_over() {
                self.parts = None;
            }
        }
    }

    /// Length of what comes next of a part, if any. It counts as passed.
    pub(super) fn take_passing(&mut self) -> Option<u64> {
        Some(u64::from(std::mem::take(&mut self.passing))).filter(|passing| *passing > 0)
    }

    pub(super) fn is_untracked(&self) -> bool {
        self.phase == Phase::Untracked
    }

    pub(super) fn heap(&self) -> usize {
        self.payload.capacity() + self.decoder.as_ref().map_or(0, Decoder::heap)
    }

    /// Upper bound of the bytes on the heap after `bytes` more came.
    pub(super) fn heap_with(&self, bytes: usize) -> usize {
        let payload = grown(self.payload.capacity(), self.payload.len() + bytes);
        payload + self.decoder.as_ref().map_or(0, Decoder::heap_max)
    }

    /// Takes the header of a frame from the front of `bytes`: the header, and how many of the bytes
    /// belong to it. [`None`] if it is not complete.
    fn peek_header(&self, bytes: &[u8]) -> (Option<FrameHeader>, usize) {
        if self.partial_len == 0 {
            return (FrameHeader::parse(bytes), bytes.len().min(HEADER_LEN));
        }
        let taken = (HEADER_LEN - self.partial_len).min(bytes.len());
        let mut whole = self.partial;
        whole[self.partial_len..self.partial_len + taken].copy_from_slice(&bytes[..taken]);
        let len = self.partial_len + taken;
        (FrameHeader::parse(&whole[..len]), taken)
    }

    /// The client has bounded the table of the server's encoder, bytes.
    pub(super) fn set_table_limit(&mut self, size: u32) {
        if let Some(decoder) = &mut self.decoder {
            decoder.set_limit(size);
        }
    }

    /// Frees all memory that is not in use.
    pub(super) fn shrink_to_fit(&mut self) {
        self.payload.shrink_to_fit();
        if let Some(decoder) = &mut self.decoder {
            decoder.shrink_to_fit();
        }
    }

    fn begin_payload(&mut self, header: FrameHeader) {
        self.frame = Some(header);
        self.missing = header.payload_len();
    }

    fn forget_payload(&mut self) {
        self.payload.clear();
        self.payload.shrink_to(PAYLOAD_KEPT);
    }
}

impl Http2 {
    pub(super) fn inspect_server(&mut self, cx: &InspectCtx<'_>, bytes: &[u8]) -> Step {
        if self.server.is_untracked() {
            return Op::Skip(u64::MAX).into();
        }
        if self.server.frame.is_some() {
            return self.collect(cx, bytes);
        }
        if self.server.parts.is_some() {
            // The rest of the frame waits for room, or for its header.
            return Op::Stall.into();
        }
        let (header, taken) = self.server.peek_header(bytes);
        let Some(header) = header else {
            // It is needed as a whole, if the frame may have to be divided.
            if self.window.differs() && !self.server.is_within_header() {
                return if cx.may_buffer { Op::More.into() } else { Op::Stall.into() };
            }
            let at = self.server.partial_len;
            self.server.partial[at..at + taken].copy_from_slice(&bytes[..taken]);
            self.server.partial_len += taken;
            return Op::Skip(taken as u64).into();
        };
        let is_first = self.server.phase == Phase::Settings;
        let continues = header.kind == kind::CONTINUATION;
        let is_expected = match self.server.open {
            Some(open) => continues && open.stream == header.stream,
            None => !continues,
        };
        let is_settings = header.kind == kind::SETTINGS && header.stream == 0;
        if !is_expected || is_first && (!is_settings || header.has(flag::ACK)) {
            return self.stop_following();
        }
        if is_settings && header.payload_len() > SETTINGS_MAX {
            return self.stop_following();
        }
        self.server_frame(cx, header, taken, &bytes[taken..])
    }

    /// A frame begins; `rest` is what has come of its payload, and `taken` what came of its header
    /// now.
    fn server_frame(
        &mut self,
        cx: &InspectCtx<'_>,
        header: FrameHeader,
        taken: usize,
        rest: &[u8],
    ) -> Step {
        let id = header.stream;
        let ends = header.has(flag::END_STREAM);
        let is_collected = match header.kind {
            kind::SETTINGS => !header.has(flag::ACK),
            kind::HEADERS | kind::PUSH_PROMISE | kind::CONTINUATION => true,
            _ => false,
        };
        if is_collected {
            if !cx.may_buffer {
                return Op::Stall.into();
            }
            self.server.partial_len = 0;
            let is_single = header.kind == kind::SETTINGS
                || header.kind == kind::HEADERS && header.has(flag::END_HEADERS);
            return match rest.get(..header.payload_len()) {
                Some(payload) if is_single => {
                    let len = taken + payload.len();
                    let event = match self.server_payload(cx.now, header, payload) {
                        Ok(event) => event,
                        Err(reason) => return Step::reset(reason),
                    };
                    Step { op: Op::Skip(len as u64), event }
                }
                _ => {
                    self.server.begin_payload(header);
                    if header.len == 0 {
                        return self.collected(cx.now, taken);
                    }
                    Op::Skip(taken as u64).into()
                }
            };
        }
        match header.kind {
            kind::DATA => {
                if self.window.room_for(header.len) < header.len {
                    return self.divide(cx, header, rest).into();
                }
                self.window.reserve(header.len);
                self.client.earn(EARNED_BY_CONTENT);
                if ends {
                    self.streams.update(id, |stream| stream.server_ended = true);
                }
            }
            kind::RST_STREAM => self.streams.update(id, |stream| stream.is_reset = true),
            kind::SETTINGS => {
                let acknowledged = self.client.settings.pop().unwrap_or_default();
                if let Some((least, last)) = acknowledged.table_size {
                    self.server.set_table_limit(least);
                    self.server.set_table_limit(last);
                }
                if let Some(initial) = acknowledged.initial_window() {
                    self.window.initial = initial;
                }
            }
            _ => {}
        }
        self.server.partial_len = 0;
        Op::Skip(taken as u64 + u64::from(header.len)).into()
    }

    /// A DATA frame for which the client's window has no room as a whole. To wait for it could be
    /// for ever: a client may return credit only when it has received most of its window.
    fn divide(&mut self, cx: &InspectCtx<'_>, header: FrameHeader, rest: &[u8]) -> Op {
        let (padding, taken) = match (header.has(flag::PADDED), rest.first()) {
            (false, _) => (None, HEADER_LEN),
            (true, Some(padding)) => (Some(*padding), HEADER_LEN + 1),
            (true, None) if cx.may_buffer => return Op::More,
            (true, None) => return Op::Stall,
        };
        if self.server.is_within_header() {
            // Does not happen: our content leaves room for such a frame.
            return Op::Stall;
        }
        self.server.parts = Parts::new(header, padding, &mut self.window);
        if self.server.parts.is_none() {
            return Op::Stall;
        }
        if header.has(flag::END_STREAM) {
            self.streams.update(header.stream, |stream| stream.server_ended = true);
        }
        Op::Drop(taken as u64)
    }

    /// The head of a part of a DATA frame was inserted.
    pub(super) fn begin_part(&mut self) {
        self.server.begin_part();
        self.client.earn(EARNED_BY_CONTENT);
    }

    /// Collects the payload of a frame.
    fn collect(&mut self, cx: &InspectCtx<'_>, bytes: &[u8]) -> Step {
        if !cx.may_buffer {
            return Op::Stall.into();
        }
        let server = &mut self.server;
        let taken = server.missing.min(bytes.len());
        // Without a decoder, nothing of a header block is needed.
        let is_settings = server.frame.is_some_and(|frame| frame.kind == kind::SETTINGS);
        let is_needed = server.decoder.is_some() || is_settings;
        if is_needed {
            heap::append(&mut server.payload, &bytes[..taken]);
        }
        server.missing -= taken;
        if server.payload.len() > BLOCK_MAX {
            server.decoder = None;
            server.forget_payload();
        }
        match server.missing {
            0 => self.collected(cx.now, taken),
            _ => Op::Skip(taken as u64).into(),
        }
    }

    /// The payload of a frame is complete, with `taken` more bytes.
    fn collected(&mut self, now: Nanos, taken: usize) -> Step {
        let op = Op::Skip(taken as u64);
        let Some(header) = self.server.frame.take() else { return op.into() };
        if header.kind == kind::SETTINGS {
            let payload = std::mem::take(&mut self.server.payload);
            let outcome = self.server_payload(now, header, &payload);
            self.server.payload = payload;
            self.server.forget_payload();
            return outcome.map_or_else(Step::reset, |event| Step { op, event });
        }
        let first = Open { stream: header.stream, flags: header.flags, kind: header.kind };
        let open = *self.server.open.get_or_insert(first);
        if header.kind != kind::CONTINUATION {
            self.strip_first(header);
        }
        if !header.has(flag::END_HEADERS) {
            return op.into();
        }
        self.server.open = None;
        let block = std::mem::take(&mut self.server.payload);
        let event = self.server_block(now, open.stream, open.kind, open.flags, &block);
        self.server.payload = block;
        self.server.forget_payload();
        Step { op, event }
    }

    /// Removes what is not of the header block from the payload of its first frame.
    fn strip_first(&mut self, header: FrameHeader) {
        let payload = &self.server.payload;
        let Some(block) = first_fragment(header, payload) else {
            self.server.decoder = None;
            return self.server.forget_payload();
        };
        let start = block.as_ptr().addr() - payload.as_ptr().addr();
        let end = start + block.len();
        self.server.payload.truncate(end);
        self.server.payload.drain(..start);
    }

    /// A whole frame: SETTINGS, or HEADERS with a whole block.
    fn server_payload(
        &mut self,
        now: Nanos,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<Option<EventKind>, DropReason> {
        if header.kind == kind::SETTINGS {
            self.server.phase = Phase::Frames;
            let settings = Settings::parse(payload);
            self.client.frame_max = self.client.frame_max.max(settings.frame_max.unwrap_or(0));
            return match self.server.settings.push(Unacknowledged::new(&settings)) {
                true => Ok(None),
                false => Err(DropReason::L7Limit),
            };
        }
        Ok(match first_fragment(header, payload) {
            Some(block) => self.server_block(now, header.stream, header.kind, header.flags, block),
            None => {
                self.server.decoder = None;
                None
            }
        })
    }

    /// A whole header block of the server.
    fn server_block(
        &mut self,
        now: Nanos,
        id: u32,
        kind: u8,
        flags: u8,
        block: &[u8],
    ) -> Option<EventKind> {
        let (mut status, mut grpc_status) = (None, None);
        if let Some(decoder) = &mut self.server.decoder {
            let decoded = SCRATCH.with_borrow_mut(|scratch| {
                decoder.decode(block, &mut scratch.decoded, |part| match part {
                    Part::Field { name: b":status", value, .. } => status = number(value),
                    Part::Field { name: b"grpc-status", value, .. } => grpc_status = number(value),
                    _ => {}
                })
            });
            if decoded.is_err() {
                self.server.decoder = None;
            }
        }
        if kind == kind::PUSH_PROMISE {
            return None;
        }
        let stream = *self.streams.get(id)?;
        if flags & flag::END_STREAM != 0 {
            self.streams.update(id, |stream| stream.server_ended = true);
        }
        let status = match (status, grpc_status) {
            (None | Some(200), Some(code)) if stream.is_grpc => ResponseStatus::Grpc(code),
            (Some(200), None) if stream.is_grpc => return None,
            (Some(status), _) => ResponseStatus::Http { version: HttpVersion::Http2, status },
            (None, _) => return None,
        };
        Some(EventKind::Response { status, latency_ns: now.since(stream.released) })
    }

    /// The server's stream can't be followed any more.
    fn stop_following(&mut self) -> Step {
        self.server.phase = Phase::Untracked;
        self.server.forget_payload();
        self.server.decoder = None;
        match self.to_client.is_empty() {
            true => Op::Skip(u64::MAX).into(),
            false => Step::reset(DropReason::L7Malformed),
        }
    }
}

/// The fragment of the header block in the payload of a HEADERS or PUSH_PROMISE frame.
fn first_fragment(header: FrameHeader, payload: &[u8]) -> Option<&[u8]> {
    match header.kind {
        kind::HEADERS => frame::split_headers(header, payload).map(|(_, block)| block),
        // The promised stream comes first (RFC 9113 §6.6).
        _ => frame::without_padding(header, payload)?.get(4..),
    }
}

/// A status code.
fn number(value: &[u8]) -> Option<u16> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
