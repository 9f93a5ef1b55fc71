//! What the stream editor asks of the worker around it.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::l7::http1::HttpLimits;
use podgate_tables::tuple::FlowDirection;

use crate::mem::{Frame, Packet, Umem};
use crate::packet::View;

/// The worker's side of an inspected flow. Every packet that the editor is given ends in exactly
/// one call of [`FlowIo::forward`], [`FlowIo::drop_packet`] or [`FlowIo::drop_counted`], or stays
/// held by the editor.
pub trait FlowIo {
    /// The memory that packets lie in.
    fn umem(&self) -> &Umem;
    /// A free frame for a packet of our own, or `None` when all are in use.
    fn alloc(&mut self) -> Option<Frame>;
    /// Frees a frame that was not used.
    fn free(&mut self, frame: Frame);
    /// Forwards a packet of the flow in its direction: TTL and MAC addresses are rewritten as for
    /// any forwarded packet, so it must look as its sender sent it. `view` has its addresses,
    /// offsets and length.
    fn forward(&mut self, direction: FlowDirection, packet: Packet, view: &View);
    /// Sends a packet that we built; otherwise like [`FlowIo::forward`].
    fn originate(&mut self, direction: FlowDirection, packet: Packet);
    /// Drops a packet of a direction, counts it, and reports it as an event.
    fn drop_packet(&mut self, direction: FlowDirection, packet: Packet, reason: DropReason);
    /// Drops and counts a packet that an event of the flow reports, as the denial of its request or
    /// the end of the connection. Or one whose bytes reach the other end in another segment.
    fn drop_counted(&mut self, packet: Packet, reason: DropReason);
    /// Reserves `frames` frames of a received packet beyond its processing. All flows together are
    /// limited well below the number of frames, or a hostile pod could starve the others; with
    /// `false` the packet has to be dropped, and its sender retransmits it.
    fn reserve_frames(&mut self, frames: usize) -> bool;
    /// Releases frames of [`Self::reserve_frames`].
    fn release_frames(&mut self, frames: usize);
    /// Reserves `bytes` more of memory for the flow's streams. As with [`FlowIo::reserve_frames`],
    /// all flows share one limit; with `false` what would need them has to wait.
    fn reserve_bytes(&mut self, bytes: usize) -> bool;
    /// Releases bytes of [`Self::reserve_bytes`].
    fn release_bytes(&mut self, bytes: usize);
    /// Limits of HTTP/1 connections.
    fn http_limits(&self) -> HttpLimits {
        HttpLimits::default()
    }
    /// Reports an event of the flow.
    fn event(&mut self, kind: EventKind);
}
