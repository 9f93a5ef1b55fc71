//! The HTTP/2 inspector (RFC 9113), and gRPC over it.
//!
//! # What passes
//! A client's frames pass as they came: headers of frames and whole header blocks are decided
//! ([`Op::Pass`]), content passes unseen. Header blocks are decoded by a decoder that follows the
//! client's encoder, and each request is decided by the rules. The server's frames pass whatever
//! they contain; they are followed to know where a frame ends, and how a request ended.
//!
//! # Denials
//! A denied request never reaches the server: its header block is dropped, and so is all that
//! follows of its stream. It is answered by us on that stream, at the end of a frame of the server.
//! No other stream is disturbed. The state that both ends keep stays consistent:
//!
//! - *Streams.* For the server the stream was never opened, and is closed as soon as a later one
//!   is. A frame of it would be an error then, so frames of streams that are neither open nor new
//!   are dropped. No list of denied streams is needed.
//! - *Header compression.* A dropped block may have added entries to the client's table that the
//!   server's lacks. From then on, blocks that refer to entries are re-encoded without
//!   references. Others pass, as it does not matter which entries the server's table has.
//! - *Flow control.* Credit for dropped content is returned by us. Credit that the client returns
//!   for our content is taken off its next WINDOW_UPDATE frames. Until then, the client's window
//!   may have no room for a whole DATA frame of the server. Such a frame is divided: what there is
//!   room for passes as a frame of its own, and the rest when the client has returned credit. If it
//!   waited as a whole, all might wait for ever, because a client need not return credit before
//!   most of its window is used.
//!
//! # Strictness
//! What the RFC calls a malformed request is answered by 400 on its stream. A stream whose content
//! differs from its announced length, or whose trailers are malformed, is reset at both ends. What
//! the RFC calls a connection error resets the connection: a GOAWAY frame would be the server's to
//! send. Frames of unknown types are dropped, as by any intermediary (RFC 9113 §5.5).
//!
//! # Limits
//! Header blocks of [`BLOCK_MAX`] bytes and [`FRAMES_MAX`] frames; header lists of [`LIST_MAX`]
//! bytes (431 beyond) and 100 fields; [`STREAMS_MAX`] streams at once (others are refused); a table
//! of [`TABLE_MAX`] bytes. A server may offer its client a larger one: the setting passes, and a
//! client that makes use of it is reset, since rewriting the setting would cost an edit of each
//! connection, and encoders with larger tables are rare. 1,000 frames at once and 200 a second that
//! make the server work for nothing (PING, SETTINGS, PRIORITY, empty DATA, and WINDOW_UPDATE beyond
//! four for each frame of content), and as many RST_STREAM frames ("rapid reset").

mod answer;
mod block;
mod budget;
mod client;
mod frame;
pub mod hpack;
mod parts;
mod request;
mod server;
mod settings;
mod streams;
mod upgrade;
mod window;

use podgate_tables::drop_reason::DropReason;
use podgate_tables::tuple::FlowDirection;

pub use block::{BLOCK_MAX, FRAMES_MAX, LIST_MAX};
pub use frame::PREFACE;
pub use streams::STREAMS_MAX;
pub use upgrade::{Http2Upgrade, UpgradeSettings};

use super::heap::grown;
use super::inspector::{AfterInjection, Injection, InspectCtx, Inspector, Op, Step};
use answer::ANSWER_MAX;
use block::HeaderFrames;
use client::Client;
use server::Server;
use streams::Streams;
use window::Window;

/// Largest dynamic table of a client's encoder, bytes.
pub const TABLE_MAX: u32 = 64 * 1024;
/// Bytes for the client that wait for the end of a frame of the server; beyond it, no frame of the
/// client is read.
const TO_CLIENT_MAX: usize = 4 * 1024;
/// Capacity kept while nothing waits, bytes.
const WAITING_KEPT: usize = 256;

/// The state of one connection, both directions.
#[derive(Debug, Default)]
pub struct Http2 {
    client: Client,
    server: Server,
    streams: Streams,
    window: Window,
    /// Our whole frames for the client.
    to_client: Vec<u8>,
    /// Where in them the increment of a WINDOW_UPDATE frame stands.
    credit_at: Option<usize>,
    /// Our frames for the server, in place of those dropped before.
    to_server: Vec<u8>,
}

impl Inspector for Http2 {
    fn inspect(&mut self, cx: &InspectCtx<'_>, direction: FlowDirection, bytes: &[u8]) -> Step {
        match direction {
            FlowDirection::Original => self.inspect_client(cx, bytes),
            FlowDirection::Reply => self.inspect_server(cx, bytes),
        }
    }

    fn ahead(&mut self, direction: FlowDirection) -> Option<Op> {
        let count = match direction {
            FlowDirection::Original if !self.to_server.is_empty() => None,
            FlowDirection::Original => self.client.take_content(),
            FlowDirection::Reply => self.server.take_passing(),
        };
        count.map(Op::Skip)
    }

    fn end(&mut self, _: &InspectCtx<'_>, direction: FlowDirection, undecided: usize) -> Step {
        match direction {
            FlowDirection::Original if undecided > 0 => Step::reset(DropReason::L7Malformed),
            // The start of a frame that will not be complete.
            _ => Op::Pass(undecided).into(),
        }
    }

    fn timed_out(&mut self) -> Step {
        Step::reset(DropReason::L7Timeout)
    }

    fn injection(&self, direction: FlowDirection) -> Option<Injection<'_>> {
        let (bytes, may_stand) = match (direction, self.server.part_head()) {
            (FlowDirection::Original, _) => (&self.to_server[..], true),
            (FlowDirection::Reply, b"") => (&self.to_client[..], self.server.is_between_frames()),
            (FlowDirection::Reply, head) => (head, true),
        };
        let then = AfterInjection::Continue;
        (may_stand && !bytes.is_empty()).then_some(Injection { bytes, then })
    }

    fn injected(&mut self, direction: FlowDirection) {
        let bytes = match direction {
            FlowDirection::Original => &mut self.to_server,
            FlowDirection::Reply if !self.server.part_head().is_empty() => {
                return self.begin_part();
            }
            FlowDirection::Reply => {
                self.credit_at = None;
                &mut self.to_client
            }
        };
        bytes.clear();
        bytes.shrink_to(WAITING_KEPT);
    }

    fn heap(&self) -> usize {
        let waiting = self.to_client.capacity() + self.to_server.capacity();
        self.client.heap() + self.server.heap() + self.streams.heap() + waiting
    }

    fn heap_with(&self, direction: FlowDirection, bytes: usize) -> usize {
        let waiting = |vec: &Vec<u8>, more: usize| grown(vec.capacity(), vec.len() + more);
        match direction {
            FlowDirection::Original => {
                let written = match self.client.writes_blocks() {
                    true => HeaderFrames::WRITTEN_MAX,
                    false => ANSWER_MAX,
                };
                let waiting =
                    waiting(&self.to_client, ANSWER_MAX) + waiting(&self.to_server, written);
                let client = self.client.heap_max();
                client + self.server.heap() + self.streams.heap_with_one() + waiting
            }
            FlowDirection::Reply => {
                let waiting = self.to_client.capacity() + self.to_server.capacity();
                let server = self.server.heap_with(bytes);
                self.client.heap() + server + self.streams.heap() + waiting
            }
        }
    }

    fn shrink_to_fit(&mut self) {
        self.client.shrink_to_fit();
        self.server.shrink_to_fit();
        self.streams.shrink_to_fit();
        self.to_client.shrink_to_fit();
        self.to_server.shrink_to_fit();
    }
}
