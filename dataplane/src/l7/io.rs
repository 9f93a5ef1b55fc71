//! What the stream editor asks of the worker around it.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::l7::http1::HttpLimits;
use podgate_tables::tuple::FlowDirection;

use crate::mem::{Frame, Packet, Umem};
use crate::packet::View;

/// The worker's side of an inspected flow. Every packet that the editor is given ends in exactly
/// one call of [`FlowIo::forward`] or [`FlowIo::discard`], or stays held by the editor.
pub trait FlowIo {
    /// The memory that packets lie in.
    fn umem(&self) -> &Umem;
    /// A free frame for a packet of our own, or `None` when all are in use.
    fn alloc(&mut self) -> Option<Frame>;
    /// Gives back a frame that was not used.
    fn free(&mut self, frame: Frame);
    /// Sends a packet of the flow on, in its direction: TTL and MAC addresses are rewritten as for
    /// any forwarded packet, so it must look as its sender sent it. `view` has its addresses,
    /// offsets and length.
    fn forward(&mut self, direction: FlowDirection, packet: Packet, view: &View);
    /// Sends a packet that we built; otherwise like [`FlowIo::forward`].
    fn originate(&mut self, direction: FlowDirection, packet: Packet);
    /// Drops a packet and counts it.
    fn discard(&mut self, packet: Packet, reason: DropReason);
    /// Asks to keep `frames` frames of a received packet until later. What all flows keep together
    /// has to stay well below what there is, or a hostile pod could starve the others; with `false`
    /// the packet is dropped, and its sender sends it again.
    fn hold(&mut self, frames: usize) -> bool;
    /// So many frames are kept no longer.
    fn release(&mut self, frames: usize);
    /// Asks to keep `bytes` more of the flow's streams in memory of our own. As with
    /// [`FlowIo::hold`], all flows share what there is; with `false` what would need them has to
    /// wait.
    fn keep(&mut self, bytes: usize) -> bool;
    /// So many bytes are kept no longer.
    fn forget(&mut self, bytes: usize);
    /// Limits of HTTP/1 connections.
    fn http_limits(&self) -> HttpLimits {
        HttpLimits::default()
    }
    /// Tells an event about the flow.
    fn event(&mut self, kind: EventKind);
}
