//! The client's stream: requests decided, content passed, frames of denied streams dropped.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::l7::http2;
use podgate_tables::time::Nanos;

use super::block::{HeaderFrames, SCRATCH, TableSizes};
use super::budget::Budget;
use super::frame::{
    self, DEFAULT_FRAME_MAX, FrameHeader, HEADER_LEN, PREFACE, Settings, error, flag, kind,
};
use super::hpack::Decoder;
use super::settings::{Unacked, Unacknowledged};
use super::{Http2, InspectCtx, Op, Step, TABLE_MAX, TO_CLIENT_MAX};
use crate::l7::heap;

/// Longest SETTINGS frame, bytes of payload: 64 settings, of which there are fewer than 20.
pub(super) const SETTINGS_MAX: usize = 64 * 6;
/// Frames that a client may answer to one frame of content: WINDOW_UPDATE for the stream and for
/// the connection, and PING to measure the path.
pub(super) const EARNED_BY_CONTENT: u32 = 4;
/// Frames that a client may send with a request: PRIORITY and WINDOW_UPDATE.
pub(super) const EARNED_BY_REQUEST: u32 = 2;

/// What must come next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Phase {
    #[default]
    Preface,
    /// The first frame, which must be SETTINGS (RFC 9113 §3.4).
    Settings,
    Frames,
}

/// Where the client's stream is.
#[derive(Debug)]
pub(super) struct Client {
    phase: Phase,
    /// Bytes of content that come next, and pass.
    content: u64,
    /// The highest stream that was opened.
    pub(super) highest: u32,
    pub(super) decoder: Decoder,
    /// The server's table lacks entries of the client's.
    pub(super) tables_differ: bool,
    /// Sizes of the table that the server has not got.
    pub(super) lost_sizes: Option<TableSizes>,
    /// Frames that make work.
    control: Budget,
    resets: Budget,
    /// The client's SETTINGS frames that the server has not acknowledged.
    pub(super) settings: Unacked,
    /// Largest payload that the server allows, bytes.
    pub(super) frame_max: u32,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            phase: Phase::default(),
            content: 0,
            highest: 0,
            decoder: Decoder::new(TABLE_MAX),
            tables_differ: false,
            lost_sizes: None,
            control: Budget::default(),
            resets: Budget::default(),
            settings: Unacked::default(),
            frame_max: DEFAULT_FRAME_MAX,
        }
    }
}

impl Client {
    /// Length of the content that comes next, if any. It counts as passed.
    pub(super) fn take_content(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.content)).filter(|content| *content > 0)
    }

    /// Adds tokens for useful control frames that may follow.
    pub(super) fn earn(&mut self, frames: u32) {
        self.control.earn(frames);
    }

    fn spend(&mut self, now: Nanos) -> Result<(), DropReason> {
        if self.control.take(now) { Ok(()) } else { Err(DropReason::L7Limit) }
    }

    /// Whether the next header block may have to be re-encoded.
    pub(super) const fn writes_blocks(&self) -> bool {
        self.tables_differ || self.lost_sizes.is_some()
    }

    /// Frees all memory that is not in use.
    pub(super) fn shrink_to_fit(&mut self) {
        self.decoder.shrink_to_fit();
    }

    pub(super) fn heap(&self) -> usize {
        self.decoder.heap()
    }

    pub(super) fn heap_max(&self) -> usize {
        self.decoder.heap_max()
    }
}

/// Whether a stream is one that the client opens.
const fn is_of_client(stream: u32) -> bool {
    stream % 2 == 1
}

impl Http2 {
    pub(super) fn inspect_client(&mut self, cx: &InspectCtx<'_>, bytes: &[u8]) -> Step {
        let waiting = self.to_client.len();
        if !self.to_server.is_empty()
            || waiting >= TO_CLIENT_MAX
            || waiting > 0 && self.server.is_untracked()
        {
            // Nothing can be inserted into a stream that is not followed.
            let is_lost = self.server.is_untracked() && !self.to_client.is_empty();
            return if is_lost { Step::reset(DropReason::L7Malformed) } else { Op::Stall.into() };
        }
        let outcome = match (self.client.phase, FrameHeader::parse(bytes)) {
            (Phase::Preface, _) => self.preface(bytes),
            (_, None) => Ok(Op::More.into()),
            (_, Some(header)) => self.client_frame(cx, header, bytes),
        };
        outcome.unwrap_or_else(Step::reset)
    }

    fn preface(&mut self, bytes: &[u8]) -> Result<Step, DropReason> {
        let len = bytes.len().min(PREFACE.len());
        if bytes[..len] != PREFACE[..len] {
            return Err(DropReason::L7Malformed);
        }
        if len < PREFACE.len() {
            return Ok(Op::More.into());
        }
        self.client.phase = Phase::Settings;
        Ok(Op::Pass(len).into())
    }

    fn client_frame(
        &mut self,
        cx: &InspectCtx<'_>,
        header: FrameHeader,
        bytes: &[u8],
    ) -> Result<Step, DropReason> {
        let is_first = self.client.phase == Phase::Settings;
        let is_valid = !is_first || header.kind == kind::SETTINGS && !header.has(flag::ACK);
        // The reserved bit of the stream must not be set (RFC 9113 §4.1).
        if !is_valid || header.stream >> 31 != 0 || header.len > self.client.frame_max {
            return Err(DropReason::L7Malformed);
        }
        match header.kind {
            kind::DATA => self.data(cx, header, bytes),
            kind::HEADERS => self.headers(cx, header, bytes),
            kind::SETTINGS
            | kind::PING
            | kind::RST_STREAM
            | kind::WINDOW_UPDATE
            | kind::PRIORITY => {
                check_control(header)?;
                match header.payload(bytes) {
                    Some(payload) => self.control(cx, header, payload).map(Step::from),
                    None => Ok(Op::More.into()),
                }
            }
            kind::GOAWAY | kind::PRIORITY_UPDATE if header.stream == 0 => {
                self.client.spend(cx.now)?;
                self.client.content = u64::from(header.len);
                Ok(Op::Pass(HEADER_LEN).into())
            }
            kind::GOAWAY | kind::PRIORITY_UPDATE | kind::PUSH_PROMISE | kind::CONTINUATION => {
                Err(DropReason::L7Malformed)
            }
            _ => {
                self.client.spend(cx.now)?;
                Ok(Op::Drop(header.frame_len() as u64).into())
            }
        }
    }

    /// Decides a control frame.
    fn control(
        &mut self,
        cx: &InspectCtx<'_>,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<Op, DropReason> {
        let id = header.stream;
        let is_new = is_of_client(id) && id > self.client.highest;
        // A stream that was denied, or that is over.
        let is_closed = is_of_client(id) && !is_new && self.streams.get(id).is_none();
        match header.kind {
            kind::SETTINGS => self.client_settings(cx, header, payload)?,
            kind::PING if header.has(flag::ACK) => {}
            kind::RST_STREAM => {
                if !self.client.resets.take(cx.now) {
                    return Err(DropReason::L7Limit);
                }
                self.streams.remove(id);
            }
            _ => self.client.spend(cx.now)?,
        }
        // Any other frame of a stream that is not open is an error (RFC 9113 §5.1).
        if is_new && header.kind != kind::PRIORITY {
            return Err(DropReason::L7Malformed);
        }
        if is_closed {
            return Ok(Op::Drop(header.frame_len() as u64));
        }
        match payload.first_chunk() {
            Some(increment) if header.kind == kind::WINDOW_UPDATE && id == 0 => {
                Ok(self.connection_window(header, u32::from_be_bytes(*increment) & u32::MAX >> 1))
            }
            _ => Ok(Op::Pass(header.frame_len())),
        }
    }

    fn client_settings(
        &mut self,
        cx: &InspectCtx<'_>,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), DropReason> {
        if header.has(flag::ACK) {
            match self.server.settings.pop() {
                Some(acknowledged) => {
                    if let Some((least, last)) = acknowledged.table_size {
                        self.client.decoder.set_limit(least);
                        self.client.decoder.set_limit(last);
                    }
                }
                None if self.server.is_untracked() => {}
                None => return Err(DropReason::L7Malformed),
            }
            return Ok(());
        }
        self.client.phase = Phase::Frames;
        self.client.spend(cx.now)?;
        let settings = Settings::parse(payload);
        match self.client.settings.push(Unacknowledged::new(&settings)) {
            true => Ok(()),
            false if self.server.is_untracked() => Ok(()),
            false => Err(DropReason::L7Limit),
        }
    }

    /// The client's window for the connection grows.
    fn connection_window(&mut self, header: FrameHeader, increment: u32) -> Op {
        let own = self.window.add(increment);
        if let Some(parts) = &mut self.server.parts {
            parts.grow(&mut self.window);
        }
        if own == 0 {
            return Op::Pass(header.frame_len());
        }
        if increment > own {
            let mut frame = std::mem::take(&mut self.to_server);
            write(&mut frame, |out| frame::write_window_update(out, increment - own));
            self.to_server = frame;
        }
        Op::Drop(header.frame_len() as u64)
    }

    fn data(
        &mut self,
        cx: &InspectCtx<'_>,
        header: FrameHeader,
        bytes: &[u8],
    ) -> Result<Step, DropReason> {
        let id = header.stream;
        if !is_of_client(id) || id > self.client.highest {
            return Err(DropReason::L7Malformed);
        }
        let (head, padding) = match header.has(flag::PADDED) {
            false => (HEADER_LEN, 0),
            true if header.len == 0 => return Err(DropReason::L7Malformed),
            true => match bytes.get(HEADER_LEN) {
                None => return Ok(Op::More.into()),
                Some(padding) => (HEADER_LEN + 1, 1 + u32::from(*padding)),
            },
        };
        let content = header.len.checked_sub(padding).ok_or(DropReason::L7Malformed)?;
        let ends = header.has(flag::END_STREAM);
        if content == 0 && !ends {
            self.client.spend(cx.now)?;
        }
        let Some(stream) = self.streams.get(id) else {
            self.return_credit(header.len);
            return Ok(Op::Drop(header.frame_len() as u64).into());
        };
        if stream.client_ended {
            return Err(DropReason::L7Malformed);
        }
        if !stream.take(u64::from(content)) || ends && !stream.may_end() {
            self.return_credit(header.len);
            return Ok(self.abort_stream(id, header.frame_len()));
        }
        if ends {
            self.streams.update(id, |stream| stream.client_ended = true);
        }
        self.client.content = (header.frame_len() - head) as u64;
        Ok(Op::Pass(head).into())
    }

    fn headers(
        &mut self,
        cx: &InspectCtx<'_>,
        header: FrameHeader,
        bytes: &[u8],
    ) -> Result<Step, DropReason> {
        if !is_of_client(header.stream) {
            return Err(DropReason::L7Malformed);
        }
        let Some(frames) = HeaderFrames::read(header, bytes)? else { return Ok(Op::More.into()) };
        SCRATCH.with_borrow_mut(|scratch| {
            let block = frames.block(&mut scratch.assembled);
            let decoder = &mut self.client.decoder;
            let decoded = scratch.list.decode(decoder, block, &mut scratch.decoded);
            let decoded = decoded.map_err(|_| DropReason::L7Malformed)?;
            if header.stream > self.client.highest {
                return self.request(cx, &frames, &decoded, scratch);
            }
            let Some(stream) = self.streams.get(header.stream) else {
                return Ok(self.drop_block(&frames, &decoded).into());
            };
            if stream.client_ended {
                return Err(DropReason::L7Malformed);
            }
            let is_valid = header.has(flag::END_STREAM)
                && stream.may_end()
                && !decoded.is_too_large
                && http2::are_trailers(scratch.list.fields());
            if !is_valid {
                self.drop_block(&frames, &decoded);
                return Ok(self.abort_stream(header.stream, frames.len));
            }
            self.streams.update(header.stream, |stream| stream.client_ended = true);
            Ok(self.forward_block(&frames, &decoded, scratch).into())
        })
    }

    /// Resets an allowed stream at both ends, in place of `len` bytes of the client.
    fn abort_stream(&mut self, id: u32, len: usize) -> Step {
        self.streams.remove(id);
        write(&mut self.to_client, |out| frame::write_rst_stream(out, id, error::PROTOCOL_ERROR));
        write(&mut self.to_server, |out| frame::write_rst_stream(out, id, error::PROTOCOL_ERROR));
        let event = Some(EventKind::Drop { reason: DropReason::L7Malformed });
        Step { op: Op::Drop(len as u64), event }
    }

    /// Returns credit for content that is dropped.
    fn return_credit(&mut self, bytes: u32) {
        if bytes == 0 {
            return;
        }
        let waiting = self.credit_at.and_then(|at| self.to_client[at..].first_chunk_mut::<4>());
        if let Some(increment) = waiting {
            // Both are parts of the client's window, which is smaller than the largest increment.
            *increment = (u32::from_be_bytes(*increment) + bytes).to_be_bytes();
            return;
        }
        self.credit_at = Some(self.to_client.len() + HEADER_LEN);
        write(&mut self.to_client, |out| frame::write_window_update(out, bytes));
    }
}

/// Appends frames to a buffer, which grows by our rule.
pub(super) fn write(out: &mut Vec<u8>, frames: impl FnOnce(&mut Vec<u8>)) {
    let capacity = heap::grown(out.capacity(), out.len() + super::ANSWER_MAX);
    out.reserve_exact(capacity - out.len());
    frames(out);
}

/// Lengths and streams of control frames (RFC 9113 §6).
fn check_control(header: FrameHeader) -> Result<(), DropReason> {
    let is_valid = match header.kind {
        kind::SETTINGS if header.has(flag::ACK) => header.stream == 0 && header.len == 0,
        kind::SETTINGS => header.stream == 0 && header.len.is_multiple_of(6),
        kind::PING => header.stream == 0 && header.len == 8,
        kind::WINDOW_UPDATE => header.len == 4,
        kind::RST_STREAM => header.stream != 0 && header.len == 4,
        kind::PRIORITY => header.stream != 0 && header.len == 5,
        _ => false,
    };
    match header.payload_len() > SETTINGS_MAX {
        true => Err(DropReason::L7Limit),
        false if is_valid => Ok(()),
        false => Err(DropReason::L7Malformed),
    }
}
