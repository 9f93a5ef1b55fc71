//! A DATA frame of the server that reaches the client in parts.

use super::frame::{FrameHeader, HEADER_LEN, flag};
use super::window::Window;

/// A DATA frame for which the client's window has no room as a whole, because the server does not
/// know of our content. Its header is dropped, and each part gets one of ours. What the client's
/// window is charged stays the same: padding, with the byte of its length, is of the last part.
#[derive(Debug)]
pub(super) struct Parts {
    /// The header of the frame; its length is that of what has no room yet.
    rest: FrameHeader,
    /// The length of the padding and its field, bytes.
    padding: Option<u8>,
    /// The payload of the next part, for which there is room, bytes.
    part: u32,
    /// The header of the next part, and its Pad Length field.
    head: [u8; HEADER_LEN + 1],
    head_len: usize,
}

impl Parts {
    /// A frame with this header, and this much padding. [`None`] if there is room for no part of
    /// it, or if the padding is longer than the frame.
    pub(super) fn new(
        header: FrameHeader,
        padding: Option<u8>,
        window: &mut Window,
    ) -> Option<Self> {
        let head = [0; HEADER_LEN + 1];
        let mut parts = Self { rest: header, padding, part: 0, head, head_len: 0 };
        if parts.padding_len() > header.len {
            return None;
        }
        parts.grow(window);
        (!parts.head().is_empty()).then_some(parts)
    }

    /// Length of the padding with its field.
    fn padding_len(&self) -> u32 {
        self.padding.map_or(0, |padding| 1 + u32::from(padding))
    }

    /// Gives the next part as much as there is room for.
    pub(super) fn grow(&mut self, window: &mut Window) {
        let room = window.room_for(self.rest.len);
        let is_last = room == self.rest.len;
        let content = self.rest.len.saturating_sub(self.padding_len());
        let added = if is_last { room } else { room.min(content) };
        if added == 0 {
            return;
        }
        window.reserve(added);
        self.rest.len -= added;
        self.part += added;
        let flags = if is_last { self.rest.flags } else { 0 };
        let header = FrameHeader { len: self.part, flags, ..self.rest };
        self.head[..HEADER_LEN].copy_from_slice(&header.bytes());
        self.head_len = HEADER_LEN;
        if let Some(padding) = self.padding
            && header.has(flag::PADDED)
        {
            self.head[HEADER_LEN] = padding;
            self.head_len += 1;
        }
    }

    /// What precedes the bytes of the server in the next part. Empty while there is no room.
    pub(super) fn head(&self) -> &[u8] {
        &self.head[..self.head_len]
    }

    /// [`Self::head`] was inserted. Returns how many bytes of the server follow.
    pub(super) fn begin(&mut self) -> u32 {
        let written = self.head_len.saturating_sub(HEADER_LEN) as u32;
        self.head_len = 0;
        std::mem::take(&mut self.part) - written
    }

    /// Whether the last part has begun.
    pub(super) const fn is_over(&self) -> bool {
        self.rest.len == 0 && self.head_len == 0
    }
}
