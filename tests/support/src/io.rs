//! A [`FlowIo`] that records what an editor does.

use std::sync::Arc;

use podgate_dataplane::l7::editor::Editor;
use podgate_dataplane::l7::inspector::Inspector;
use podgate_dataplane::l7::io::FlowIo;
use podgate_dataplane::mem::{Frame, FramePool, Packet, Umem};
use podgate_dataplane::packet::checksum::Sum;
use podgate_dataplane::packet::{L4, Tcp, View, edit, parse};
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::tuple::FlowDirection;

/// A TCP packet that the editor forwarded or built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// Which way it went.
    pub direction: FlowDirection,
    /// Whether the editor built it.
    pub originated: bool,
    /// The whole frame.
    pub bytes: Vec<u8>,
    /// Its headers.
    pub view: View,
    /// Its TCP header.
    pub tcp: Tcp,
}

impl Outgoing {
    /// The TCP payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[usize::from(self.view.payload)..self.view.end as usize]
    }

    /// Whether all of these TCP flags are set.
    #[must_use]
    pub const fn is(&self, flags: u8) -> bool {
        self.tcp.has(flags)
    }

    /// The first block of a selective acknowledgement.
    #[must_use]
    pub fn sack(&self) -> Option<(u32, u32)> {
        self.two_words([5, 10])
    }

    /// Value and echo of the timestamp option.
    #[must_use]
    pub fn timestamps(&self) -> Option<(u32, u32)> {
        self.two_words([8, 10])
    }

    /// The value of the first option of this kind and length.
    fn two_words(&self, option: [u8; 2]) -> Option<(u32, u32)> {
        let options = &self.bytes[usize::from(self.view.l4) + 20..usize::from(self.view.payload)];
        let at = options.windows(2).position(|pair| pair == option)? + 2;
        let word = |at: usize| u32::from_be_bytes(options[at..at + 4].try_into().unwrap());
        Some((word(at), word(at + 4)))
    }
}

/// The worker's side of one inspected flow, with quotas that a test sets.
pub struct RecordingIo {
    umem: Arc<Umem>,
    /// Free frames.
    pub pool: FramePool,
    /// What was sent, oldest first.
    pub sent: Vec<Outgoing>,
    /// What was dropped, oldest first.
    pub dropped: Vec<DropReason>,
    /// Those of them that were reported as events of their own, oldest first.
    pub reported: Vec<DropReason>,
    /// Events, oldest first.
    pub events: Vec<EventKind>,
    /// Frames held.
    pub held_frames: usize,
    /// Frames that may be held.
    pub held_frames_max: usize,
    /// Bytes buffered.
    pub buffered_bytes: usize,
    /// Bytes that may be buffered.
    pub buffered_bytes_max: usize,
    /// Whether there are free frames for packets that the editor builds.
    pub out_of_frames: bool,
}

/// Makes the checksum of a TCP packet partial, as a sender with checksum offload does, if it is
/// right.
pub fn make_partial(frame: &mut [u8]) {
    let Ok(view) = parse(frame, frame.len() as u32) else { return };
    let is_right = edit::l4_checksum_is_right((frame, std::iter::empty()), &view);
    if let (L4::Tcp(_), true) = (view.l4_kind, is_right) {
        let len = view.end - u32::from(view.l4);
        let (src, dst) = (view.tuple.src, view.tuple.dst);
        let sum = Sum::pseudo_header(src, dst, view.tuple.protocol, len).folded();
        let at = usize::from(view.l4) + 16;
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

impl RecordingIo {
    /// A recorder over a UMEM of `frames` frames, without quotas.
    #[must_use]
    pub fn new(frames: u32) -> Self {
        let umem = Umem::new(frames).unwrap();
        Self {
            pool: umem.pool(),
            umem,
            sent: Vec::new(),
            dropped: Vec::new(),
            reported: Vec::new(),
            events: Vec::new(),
            held_frames: 0,
            held_frames_max: usize::MAX,
            buffered_bytes: 0,
            buffered_bytes_max: usize::MAX,
            out_of_frames: false,
        }
    }

    /// A packet with these bytes, cut into frames of at most `frame` bytes. `None` when there are
    /// too few free frames.
    pub fn packet(&mut self, bytes: &[u8], frame: usize) -> Option<Packet> {
        let mut frames = Vec::new();
        for chunk in bytes.chunks(frame) {
            let Some(mut frame) = self.pool.alloc() else {
                frames.into_iter().for_each(|frame| self.pool.free(frame));
                return None;
            };
            frame.set_len(chunk.len() as u32);
            self.umem.data_mut(&mut frame).copy_from_slice(chunk);
            frames.push(frame);
        }
        let mut frames = frames.into_iter();
        Some(Packet::new(frames.next()?, frames.collect()))
    }

    /// Checks that the editor accounts for every frame and byte.
    pub fn assert_balance<I: Inspector>(&self, editor: &Editor<I>) {
        assert_eq!(self.held_frames, editor.held_frames(), "held frames");
        assert_eq!(self.buffered_bytes, editor.buffered_bytes(), "buffered bytes");
        assert_eq!(self.pool.outstanding(), self.held_frames as i64, "frames");
    }

    fn record(&mut self, direction: FlowDirection, originated: bool, mut packet: Packet) {
        let head = self.umem.data(&packet.head);
        let view = parse(head, packet.len()).expect("what is sent can be parsed");
        if !originated {
            // As the worker does with a partial one.
            edit::complete_checksum(self.umem.bytes_mut(&mut packet), &view);
        }
        let mut bytes = self.umem.data(&packet.head).to_vec();
        assert!(edit::l4_checksum_is_right(self.umem.bytes(&packet), &view), "checksum");
        packet.tail.iter().for_each(|frame| bytes.extend(self.umem.data(frame)));
        let L4::Tcp(tcp) = view.l4_kind else { panic!("what is sent is TCP") };
        self.pool.free_packet(packet);
        self.sent.push(Outgoing { direction, originated, bytes, view, tcp });
    }
}

impl FlowIo for RecordingIo {
    fn umem(&self) -> &Umem {
        &self.umem
    }

    fn alloc(&mut self) -> Option<Frame> {
        if self.out_of_frames { None } else { self.pool.alloc() }
    }

    fn free(&mut self, frame: Frame) {
        self.pool.free(frame);
    }

    fn forward(&mut self, direction: FlowDirection, packet: Packet, view: &View) {
        let sent = parse(self.umem.data(&packet.head), packet.len()).unwrap();
        let layout = |view: &View| (view.tuple, view.l3, view.l4, view.payload, view.end);
        assert_eq!(layout(view), layout(&sent), "what the worker gets with the packet");
        self.record(direction, false, packet);
    }

    fn originate(&mut self, direction: FlowDirection, packet: Packet) {
        self.record(direction, true, packet);
    }

    fn drop_packet(&mut self, _: FlowDirection, packet: Packet, reason: DropReason) {
        self.reported.push(reason);
        self.drop_counted(packet, reason);
    }

    fn drop_counted(&mut self, packet: Packet, reason: DropReason) {
        self.pool.free_packet(packet);
        self.dropped.push(reason);
    }

    fn reserve_frames(&mut self, frames: usize) -> bool {
        let fits = frames <= self.held_frames_max.saturating_sub(self.held_frames);
        self.held_frames += if fits { frames } else { 0 };
        fits
    }

    fn release_frames(&mut self, frames: usize) {
        self.held_frames -= frames;
    }

    fn reserve_bytes(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.buffered_bytes_max.saturating_sub(self.buffered_bytes);
        self.buffered_bytes += if fits { bytes } else { 0 };
        fits
    }

    fn release_bytes(&mut self, bytes: usize) {
        self.buffered_bytes -= bytes;
    }

    fn event(&mut self, kind: EventKind) {
        self.events.push(kind);
    }
}
